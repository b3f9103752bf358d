"""torch.export programs become Relax through TVM's importer; torch is only looked at if loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ModelError
from .model import ImportedModel
from .relax_module import import_relax
from .shapes import Shape

if TYPE_CHECKING:
    import torch


def is_exported_program(source: object) -> bool:
    """Whether `source` is a torch.export.ExportedProgram.

    An object of torch implies that torch is imported, so this never imports it.
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.export.ExportedProgram)


def import_torch(
    program: torch.export.ExportedProgram, name: str, shapes: Mapping[str, Shape] | None = None
) -> ImportedModel:
    """Convert a program with its parameters bound.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        As torch.export.export returns it.
    name : str
        The name of the result.
    shapes : mapping of str to tuple, optional
        Values for symbolic extents (torch.export.Dim), by input name.
    """
    from tvm.relax.frontend.torch import from_exported_program

    # Writes to state only show in the signature of the decomposed program.
    program = program.run_decompositions()
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise ModelError(
            f"the exported program changes {', '.join(map(repr, changed))} in place: export it in "
            "eval mode and without state, so that it is a function of its inputs."
        )
    try:
        mod = from_exported_program(program, unwrap_unit_return_tuple=True)
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise ModelError(f"the exported program cannot be converted: {error}") from error
    return import_relax(
        mod, name, shapes, input_names=[str(given) for given in signature.user_inputs]
    )
