"""Comparing a compiled model with a reference on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .artifact import Artifact, Latency
from .compiler import compile as compile_model
from .errors import SmartMemError
from .frontend import ImportedModel, import_model, random_inputs, reference_outputs

TOLERANCE = {"float32": 1e-3, "float16": 2e-2}

# A check is about numbers: models that take many seconds are timed fewer times.
TIMING_BUDGET_S = 20.0


@dataclass(frozen=True)
class CheckResult:
    """How far a compiled model is from its reference.

    Attributes
    ----------
    model, profile, dtype : str
        What was compiled, for which device profile, in which storage type.
    errors : dict[str, float]
        Relative error of each output; infinite where a NaN or an infinity differs.
    tolerance : float
        The largest error that passes.
    operators : int
        Operator calls of the model.
    kernels, layout_kernels : int
        Device launches in one inference, and those of them that only move data.
    latency : Latency
        Milliseconds of an inference.
    artifact : Artifact
        The compiled model.
    """

    model: str
    profile: str
    dtype: str
    errors: dict[str, float]
    tolerance: float
    operators: int
    kernels: int
    layout_kernels: int
    latency: Latency
    artifact: Artifact

    @property
    def max_rel_error(self) -> float:
        """Relative error of the worst output."""
        return max(self.errors.values())

    @property
    def passed(self) -> bool:
        """Whether the worst output is within the tolerance."""
        return self.max_rel_error <= self.tolerance

    @property
    def latency_ms(self) -> float:
        """Median milliseconds of an inference."""
        return self.latency.median


def check(
    model: Any,
    device: Any = "auto",
    *,
    dtype: str = "float32",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    repeats: int = 5,
    tolerance: float | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> CheckResult:
    """Compile a model, run it on seeded random inputs and compare it with onnxruntime.

    Parameters
    ----------
    model, device, dtype, shapes, progress, **options
        As for :func:`smartmem_tvm.compiler.compile`.
    seed : int
        Seed of the inputs.
    repeats : int
        Inferences that are timed; fewer where they take longer than 20 s together.
    tolerance : float, optional
        Largest relative error that passes; by dtype when not given.

    Returns
    -------
    CheckResult
        Errors per output, kernels and latency.
    """
    say = progress or (lambda stage: None)
    say("import")
    imported = model if isinstance(model, ImportedModel) else import_model(model, shapes=shapes)
    inputs = random_inputs(imported.inputs, seed=seed, shapes=shapes)
    say("reference")
    expected = reference_outputs(imported, inputs)
    if imported is not model:
        # The source's weights are no longer needed: large models do not fit twice.
        imported = replace(imported, onnx_model=None)
    artifact = compile_model(imported, device, dtype=dtype, progress=progress, **options)
    say("run")
    errors = output_errors(artifact.run(inputs), expected)
    say("time")
    # The run before was the warm-up.
    latency = artifact.benchmark(inputs, warmup=0, repeats=repeats, budget_s=TIMING_BUDGET_S)
    return CheckResult(
        model=imported.name,
        profile=artifact.manifest.profile_name,
        dtype=dtype,
        errors=errors,
        tolerance=TOLERANCE[dtype] if tolerance is None else tolerance,
        operators=imported.operators,
        kernels=artifact.manifest.launches,
        layout_kernels=artifact.manifest.layout_launches,
        latency=latency,
        artifact=artifact,
    )


def output_errors(
    ours: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Relative error of every output, by name.

    Raises
    ------
    SmartMemError
        If the names, shapes or dtypes of the outputs differ.
    """
    if ours.keys() != expected.keys():
        raise SmartMemError(
            f"the outputs are {sorted(ours)} and the reference's are {sorted(expected)}."
        )
    if not expected:
        raise SmartMemError("the model has no outputs: there is nothing to compare.")
    return {name: relative_error(ours[name], value, name) for name, value in expected.items()}


def relative_error(ours: np.ndarray, reference: np.ndarray, name: str = "output") -> float:
    """Largest ``|ours - reference| / (|reference| + rms(reference))`` over the elements.

    Elements that are the same infinity, or NaN in both, differ by nothing and do not enter the
    root mean square; where only one of the two is not finite the error is infinite. Integers and
    booleans are compared as numbers.

    Raises
    ------
    SmartMemError
        If shapes or dtypes differ.
    """
    if ours.shape != reference.shape or ours.dtype != reference.dtype:
        raise SmartMemError(
            f"output '{name}' is {ours.dtype}{list(ours.shape)} and the reference's is "
            f"{reference.dtype}{list(reference.shape)}."
        )
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.all(finite | same):
        return math.inf
    a, b = a[finite], b[finite]
    difference = np.abs(a - b)
    if not difference.any():
        return 0.0
    scale = np.abs(b) + math.sqrt(np.mean(np.square(b)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference == 0, 0.0, difference / scale)))
