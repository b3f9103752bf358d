"""What the export scripts share: from a torch network to a weightless graph of the zoo.

A script says per model and size how to build a :class:`Subject` and calls :func:`run`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxscript.optimizer
import onnxscript.rewriter.onnx_fusions
import torch
from batch_norms import fold_batch_norms
from conv_weights import calibrate
from onnxscript.optimizer._constant_folding import (
    DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
    DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
)
from stand_ins import set_stand_ins
from torch import Tensor, nn
from weightless import declare, redistribute, save, strip

GRAPHS = Path(__file__).resolve().parents[1] / "graphs"


@dataclass(frozen=True)
class Folding:
    """Which operators of constants the exporter replaces by their results.

    The defaults are the exporter's. Networks whose tables lie around them say otherwise: else the
    sizes of one model would differ in their kinds of operators.

    Attributes
    ----------
    operands, results : int
        Elements of the largest operand that is read and of the largest constant that is made.
    never : collection of str
        Kinds of operators that stay.
    """

    operands: int = DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT
    results: int = DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT
    never: Collection[str] = ()


@dataclass(frozen=True)
class Subject:
    """A network to export.

    Attributes
    ----------
    network : torch.nn.Module
        Untrained; its parameters may lie on the meta device if it has no batch norm.
    inputs : mapping of str to torch.Tensor
        Examples, by the names that the graph gives them, in the order of the arguments.
    outputs : collection of str
        Names of the graph's outputs.
    source : str
        What the graph says of where it comes from.
    distributions : mapping of str to (str, str)
        By the end of a weight's name, what to draw it from instead of what `strip` chooses, and
        why.
    folding : Folding
        Which constants the exporter computes.
    """

    network: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Collection[str]
    source: str
    distributions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    folding: Folding = field(default_factory=Folding)


Builder = Callable[[], Subject]


def classifiers(
    name: str,
    sizes: Mapping[str, tuple[int, Callable[[], nn.Module]]],
    source: str,
    distributions: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, dict[str, Builder]]:
    """The models that :func:`run` takes, for networks from one square RGB image to logits.

    Parameters
    ----------
    name : str
        The model's name in the zoo.
    sizes : mapping of str to (int, callable)
        Per size, the extent of the image and what builds the network.
    source : str
        Where the network of size `full` comes from.
    distributions : mapping of str to (str, str), optional
        See :class:`Subject`.
    """

    def build(size: str) -> Subject:
        image, network = sizes[size]
        inputs = {"input": torch.randn(1, 3, image, image)}
        own = distributions or {}
        return Subject(network(), inputs, ["logits"], reduced(source, size), own)

    return {name: {size: partial(build, size) for size in sizes}}


def reduced(source: str, size: str) -> str:
    """What the graph of a size says of where it comes from."""
    return source if size == "full" else f"{source}, reduced to {size}"


def export(subject: Subject, target: Path) -> None:
    """Export a network, strip it and write it to `target`."""
    network, deviations = prepare(subject)
    trained = set_stand_ins(network)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            tuple(subject.inputs.values()),
            opset_version=18,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(subject.inputs),
            output_names=list(subject.outputs),
        )
        optimise(program, subject.folding)
    shapes = detach(program.model, trained)
    model = onnx_ir.serde.serialize_model(program.model)
    strip(model, [], provenance(subject.source, "torch.onnx.export(dynamo=True)"))
    declare(model, shapes)
    finish(model, subject, deviations, target)


def prepare(subject: Subject) -> tuple[nn.Module, dict[str, float]]:
    """The network, batch norms folded, and how large the weights before them must be."""
    network = subject.network.eval()
    inputs = tuple(subject.inputs.values())
    distributions = {name: drawn for name, (drawn, _) in subject.distributions.items()}
    folded = fold_batch_norms(network, inputs)
    return network, calibrate(network, folded, inputs, distributions)


def optimise(program: torch.onnx.ONNXProgram, folding: Folding) -> None:
    """What the exporter's ``optimize=True`` does, with limits of one's own."""
    onnxscript.optimizer.optimize_ir(
        program.model,
        input_size_limit=folding.operands,
        output_size_limit=folding.results,
        should_fold=lambda node: False if node.op_type in folding.never else None,
    )
    onnxscript.rewriter.onnx_fusions.fuse(program.model)


def detach(model: onnx_ir.Model, numbers: np.ndarray) -> dict[str, list[int]]:
    """Take the trained tensors, which hold none but these numbers, out of a graph.

    Before it is serialised: protocol buffers would hold every repetition of a number.
    """
    shapes = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < 2:
            continue
        values = tensor.numpy()
        first = values[(0,) * values.ndim]
        if first in numbers and (np.all(values == first) or np.isin(values, numbers).all()):
            shapes[name] = list(tensor.shape)
            del model.graph.initializers[name]
    return shapes


def finish(
    model: onnx.ModelProto, subject: Subject, deviations: Mapping[str, float], target: Path
) -> None:
    """Say what the calibrated and the exceptional weights are drawn from, and write the graph."""
    redistribute(model, {name: f"centred 0 {value:.6g}" for name, value in deviations.items()})
    redistribute(model, {name: drawn for name, (drawn, _) in subject.distributions.items()})
    size = save(model, target)
    print(f"{target}: {len(model.graph.node)} nodes, {size} bytes", flush=True)


def provenance(source: str, exporter: str) -> dict[str, str]:
    """The metadata that a graph keeps."""
    version = torch.__version__.partition("+")[0]
    return {"model": source, "exporter": f"torch {version} {exporter}"}


def run(models: Mapping[str, Mapping[str, Builder]], description: str | None) -> None:
    """Parse the command line of a script and export what it names, else all.

    Parameters
    ----------
    models : mapping of str to (mapping of str to callable)
        By model and size, what builds the subject.
    description : str, optional
        Of the script, for ``--help``.
    """
    parser = parser_of(models, description)
    export_chosen(models, choose(parser, parser.parse_args().names, models))


def export_chosen(
    models: Mapping[str, Mapping[str, Builder]], chosen: Iterable[tuple[str, str]]
) -> None:
    """Export these models and sizes into the zoo."""
    with exporting():
        for name, size in chosen:
            export(models[name][size](), GRAPHS / name / f"{size}.onnx.xz")


@contextmanager
def exporting() -> Iterator[None]:
    """What torch and the packages that have the networks need during an export."""
    torch.backends.mha.set_fastpath_enabled(False)
    # What torchvision registers in compiled code, which its wheel may lack.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    del library


def parser_of(
    models: Mapping[str, Mapping[str, object]], description: str | None
) -> argparse.ArgumentParser:
    """The command line that all scripts have."""
    known = ", ".join(f"{name}/{size}" for name, sizes in models.items() for size in sizes)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME[/SIZE]", help=f"what to export (default: all): {known}"
    )
    return parser


def choose(
    parser: argparse.ArgumentParser,
    names: Sequence[str],
    models: Mapping[str, Mapping[str, object]],
) -> list[tuple[str, str]]:
    """The models and sizes that `names` stand for; ends the program if there is no such one."""
    known = [(name, size) for name, sizes in models.items() for size in sizes]
    for name in names:
        if not any(name in (model, f"{model}/{size}") for model, size in known):
            parser.error(f"no model {name}: there are {', '.join('/'.join(k) for k in known)}")
    return [
        (model, size)
        for model, size in known
        if not names or model in names or f"{model}/{size}" in names
    ]
