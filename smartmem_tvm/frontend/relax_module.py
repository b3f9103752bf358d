"""Relax modules are taken as they are, once their "main" is known to be a function of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

from ..errors import ModelError
from .model import ImportedModel, count_operators, fold, input_specs, output_specs
from .shapes import Shape, check_shapes


def import_relax(
    mod: tvm.IRModule,
    name: str,
    shapes: Mapping[str, Shape] | None = None,
    *,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> ImportedModel:
    """Check a module and bind the symbolic extents that `shapes` fixes.

    Parameters
    ----------
    mod : tvm.IRModule
        With a Relax function "main" whose parameters and results are tensors. Parameters that
        the function's attribute "params" has values for are bound.
    name : str
        The name of the result.
    shapes : mapping of str to tuple, optional
        Extents by input name; a static extent can only be repeated.
    input_names, output_names : list of str, optional
        Names of the source; by default those of the parameters, and output, or output_0 and on.
    """
    main = _bind_params(_main(mod))
    mod = tvm.IRModule(mod.functions, attrs=mod.attrs, global_infos=mod.global_infos)
    names = input_names or [param.name for param in main.params]
    binding = _binding(input_specs(main, names), shapes or {})
    mod["main"] = relax.utils.copy_with_new_vars(main) if not binding else main
    if binding:
        mod = relax.transform.BindSymbolicVars(binding, "main")(mod)
    mod = fold(mod)
    return ImportedModel(
        name=name,
        mod=mod,
        inputs=input_specs(mod["main"], names),
        outputs=output_specs(mod["main"], output_names),
        operators=count_operators(mod),
    )


def _main(mod: tvm.IRModule) -> relax.Function:
    functions = {var.name_hint: function for var, function in mod.functions.items()}
    main = functions.get("main")
    if not isinstance(main, relax.Function):
        found = ", ".join(f"'{name}'" for name in sorted(functions)) or "none"
        raise ModelError(
            f"the IRModule has no Relax function 'main' (functions: {found}): call the entry "
            "'main'."
        )
    if not relax.analysis.check_well_formed(mod):
        raise ModelError(
            "the IRModule is not well formed: relax.analysis.well_formed(mod) says where."
        )
    return main


def _bind_params(main: relax.Function) -> relax.Function:
    """Bind the trailing parameters whose values the importers leave in the attribute "params"."""
    values = main.attrs["params"] if main.attrs and "params" in main.attrs else []
    if not values:
        return main
    if len(values) > len(main.params):
        raise ModelError(
            f"'main' has {len(main.params)} parameters and {len(values)} values for them in its "
            "attribute 'params'."
        )
    trailing = main.params[len(main.params) - len(values) :]
    bound = main.bind_params(dict(zip(trailing, values, strict=True)))
    return bound.without_attr("params").without_attr("num_input")


def _binding(specs: list, shapes: Mapping[str, Shape]) -> dict[str, int]:
    check_shapes([spec.name for spec in specs], shapes)
    binding: dict[str, int] = {}
    for spec in specs:
        shape = shapes.get(spec.name, spec.shape)
        if len(shape) != len(spec.shape):
            raise ModelError(
                f"shapes gives input '{spec.name}' {len(shape)} dimensions, {tuple(shape)}; the "
                f"model has {len(spec.shape)}, {spec.shape}."
            )
        for declared, extent in zip(spec.shape, shape, strict=True):
            if isinstance(extent, str) or declared == extent:
                continue
            if isinstance(declared, int) or not declared.isidentifier():
                raise ModelError(
                    f"shapes gives input '{spec.name}' the shape {tuple(shape)}, but it is fixed "
                    f"as {spec.shape}: a Relax module's static extents cannot be changed."
                )
            if binding.setdefault(declared, extent) != extent:
                raise ModelError(
                    f"shapes gives the symbolic extent '{declared}' two values: "
                    f"{binding[declared]} and {extent} (input '{spec.name}')."
                )
    return binding
