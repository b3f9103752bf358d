"""From whatever a user calls a model to an :class:`ImportedModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import tvm

from .. import zoo
from ..errors import ModelError
from .limits import split_limits, with_limits
from .model import ImportedModel
from .onnx_file import read_onnx
from .onnx_import import import_onnx
from .relax_module import import_relax
from .shapes import Shape
from .torch_program import import_torch, is_exported_program

if TYPE_CHECKING:
    import torch

    Source = str | Path | onnx.ModelProto | tvm.IRModule | torch.export.ExportedProgram

ZOO = "zoo:"


def import_model(source: Source, *, shapes: Mapping[str, Shape] | None = None) -> ImportedModel:
    """Import a model into Relax with its parameters bound as constants.

    Parameters
    ----------
    source : str, Path, onnx.ModelProto, torch.export.ExportedProgram or tvm.IRModule
        A string is the path of an ONNX file, or ``zoo:NAME[/SIZE]`` for a model of the zoo.
    shapes : mapping of str to tuple, optional
        Shapes by input name. They replace what the model declares; extents that stay symbolic
        are given as strings, with an upper bound as ``"batch<=8"``. Where every symbol has one,
        kernels compute their indices in 32 bits.

    Returns
    -------
    ImportedModel

    Raises
    ------
    ModelError
        The source is no model, is damaged, holds something that cannot be converted, or does not
        take these shapes.
    """
    unbounded, limits = split_limits(shapes)
    return with_limits(_import(source, unbounded), limits)


def _import(source: Source, shapes: Mapping[str, Shape] | None) -> ImportedModel:
    if isinstance(source, str) and source.startswith(ZOO):
        name, _, size = source.removeprefix(ZOO).partition("/")
        size = size or zoo.DEFAULT_SIZE
        return import_onnx(zoo.load(name, size), f"{name}-{size}", shapes, take_over=True)
    if isinstance(source, str | Path):
        return import_onnx(read_onnx(source), Path(source).stem, shapes, take_over=True)
    if isinstance(source, onnx.ModelProto):
        return import_onnx(source, source.graph.name or "model", shapes)
    if isinstance(source, tvm.IRModule):
        return import_relax(source, "module", shapes)
    if is_exported_program(source):
        return import_torch(source, "program", shapes)
    raise ModelError(
        f"a model cannot be read from {type(source).__name__}: give the path of an ONNX file, "
        "zoo:NAME, an onnx.ModelProto, a torch.export.ExportedProgram or a tvm.IRModule."
    )
