"""What a kernel is measured against: its inputs by seed, and the right outputs.

::

    TASKS/0f3a…/function.json    the PrimFunc, as it reaches the schedule rules
    TASKS/0f3a…/reference.npz    its outputs, and how they were computed

The unscheduled function computes the outputs on the host, textures as plain memory and float16 as
it says. Where that does not get done in time the package's own schedule on the device does
instead, and the facts say so: ``reference`` is ``host`` or ``untuned``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.target import Target
from tvm_ffi import structural_map

from smartmem_tvm.analysis.texels import is_texture

from ..errors import SmartMemError
from ..whole_files import replacing, write_text
from .candidate import ENTRY
from .measure_inputs import Arrays, draw, written

HOST, UNTUNED = "host", "untuned"
# Largest relative error of an output by its dtype; of any other dtype it has to be the same.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "float64": 1e-3}
_FUNCTION, _REFERENCE = "function.json", "reference.npz"
_FACTS = "facts"

Outputs = dict[int, NDArray[Any]]


@dataclass(frozen=True)
class Reference:
    """Right outputs of a kernel for the inputs of a seed.

    Attributes
    ----------
    outputs : dict[int, array]
        By the number of the parameter. Elements that are never written are as they were before.
    facts : dict[str, Any]
        ``reference`` (``host`` or ``untuned``), ``why`` not on the host, ``seed``, ``positive``
        (see :func:`smartmem_tvm.tuning.measure_inputs.draw`).
    """

    outputs: Outputs
    facts: dict[str, Any] = field(default_factory=dict)

    def inputs(self, func: tirx.PrimFunc) -> Arrays:
        """What all parameters of the function hold before a launch."""
        return draw(func, int(self.facts["seed"]), positive=bool(self.facts["positive"]))


def write_task(folder: Path, name: str, func: tirx.PrimFunc, target: Target) -> None:
    """Write a task to a folder of its name.

    Parameters
    ----------
    folder : Path
        Of all tasks.
    name : str
        The task's, such as its key.
    func : tvm.tirx.PrimFunc
        Unscheduled, of static shapes.
    target : tvm.target.Target
        What candidates are built for, with the host that launches them.
    """
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = tvm.ir.save_json(func.with_attr("target", target))
    write_text(folder / name / _FUNCTION, text)


def read_task(folder: Path) -> tuple[tirx.PrimFunc, Target]:
    """Function and target of a task in its own folder; SmartMemError where there is none."""
    try:
        func = tvm.ir.load_json((folder / _FUNCTION).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SmartMemError(
            f"'{folder}' holds no task to measure ({error}): begin a new folder."
        ) from error
    return func.without_attr("target"), func.attrs["target"]


def has_reference(folder: Path) -> bool:
    """Whether a task's reference was saved."""
    return (folder / _REFERENCE).exists()


def save_reference(folder: Path, reference: Reference) -> None:
    """Write the reference of a task, whole or not at all."""
    arrays: dict[str, Any] = {str(n): array for n, array in reference.outputs.items()}
    arrays[_FACTS] = np.array(json.dumps(reference.facts))
    with replacing(folder / _REFERENCE) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def read_reference(folder: Path) -> Reference:
    """What :func:`save_reference` wrote; SmartMemError where it cannot be read."""
    try:
        with np.load(folder / _REFERENCE) as found:
            outputs = {int(name): found[name] for name in found.files if name != _FACTS}
            return Reference(outputs, json.loads(str(found[_FACTS])))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise SmartMemError(
            f"the reference in '{folder}' cannot be read ({error}): delete it, and it is "
            "computed again."
        ) from error


def make_reference(
    func: tirx.PrimFunc, seed: int, run: Callable[[Arrays], Outputs], facts: Mapping[str, Any]
) -> Reference:
    """Draw inputs of which a kernel makes numbers, and let `run` compute the outputs.

    Parameters
    ----------
    func : tvm.tirx.PrimFunc
        The task.
    seed : int
        Of the inputs.
    run : Callable
        From what all parameters hold before to what those that are written hold after.
    facts
        How `run` computes.

    Raises
    ------
    SmartMemError
        If no element of any output is a number: nothing could be compared.
    """
    found = None
    for positive in (False, True):
        outputs = run(draw(func, seed, positive=positive))
        missing = sum(int((~np.isfinite(array)).sum()) for array in outputs.values())
        if found is None or missing < found[0]:
            found = missing, Reference(outputs, {**facts, "seed": seed, "positive": positive})
        if not missing:
            break
    if found is None or found[0] == sum(array.size for array in found[1].outputs.values()):
        raise SmartMemError(
            "no output of the kernel is a number, with normal inputs and with positive ones: its "
            "candidates cannot be compared with a reference."
        )
    return found[1]


def host_reference(func: tirx.PrimFunc, seed: int) -> Reference:
    """Reference that the unscheduled function computes on this machine."""
    plain = without_textures(func).with_attr("global_symbol", ENTRY)
    library = tvm.compile(tvm.IRModule({ENTRY: plain}), target="llvm")

    def run(arrays: Arrays) -> Outputs:
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        library[ENTRY](*tensors)
        return {number: tensors[number].numpy() for number in written(func)}

    return make_reference(func, seed, run, {"reference": HOST})


def without_textures(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with its images as plain buffers of the same shape."""
    plain = {
        param: tirx.decl_buffer(param.shape, param.dtype, param.name, layout=None)
        for param in func.params
        if isinstance(param, tirx.Buffer) and is_texture(param)
    }
    body = structural_map(func.body, (tirx.Buffer, lambda buffer: plain.get(buffer, buffer)))
    params = [plain.get(param, param) for param in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def largest_error(
    func: tirx.PrimFunc, outputs: Mapping[int, NDArray[Any]], reference: Reference
) -> tuple[float, str | None]:
    """The largest relative error of all outputs, and what is wrong; None where nothing is.

    Elements that the reference left as they were have to be so still, but for the padding of an
    image's texels: those are written as a whole.
    """
    from ..checking import relative_error  # which reads models as well, and so takes its time

    worst, wrong = 0.0, None
    for number, expected in reference.outputs.items():
        param, ours = func.params[number], outputs[number]
        if is_texture(param):
            unset = np.isnan(expected)
            padding = unset & ~unset.all(axis=-1, keepdims=True)
            ours = np.where(padding, expected, ours)
        error = relative_error(ours, expected, param.name)
        worst = max(worst, error)
        tolerance = TOLERANCE.get(str(param.dtype), 0.0)
        if error > tolerance and wrong is None:
            said = "is not finite where the reference is" if error == math.inf else f"{error:.3g}"
            wrong = f"relative error of '{param.name}': {said} (at most {tolerance:g})"
    return worst, wrong
