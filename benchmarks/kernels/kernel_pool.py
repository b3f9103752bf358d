"""The kernels of a model before they are scheduled, with and without layouts.

::

    POOL/swin-full/kernels.json     an Entry for each kernel, and how many were left out, and why
    POOL/swin-full/7.plain.json     the function with all tensors row by row
    POOL/swin-full/7.laid_out.json  the function as it reaches the stage "schedule"

Both are read off the compilation of the whole model, so that the layouts are the chosen ones. They
belong together by the calls of the model's main function, whose number and order the rewriting of
layouts does not change. Where another part of the stage changed the function itself, by splitting
an output or storing it twice, the plain function has the same outputs, and the entry says so.

Elimination and fusion leave next to no kernel that only computes element by element or moves data.
Those that a model has without these two are read into a pool of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from kernel_classes import class_of, operations_of
from tvm import relax, tirx
from tvm_ffi import structural_hash

from smartmem_tvm.analysis import is_host_function
from smartmem_tvm.analysis.computation import OpaqueReason, Stage, read_stages, structure_of
from smartmem_tvm.analysis.footprint import footprint_of
from smartmem_tvm.analysis.fused_kernel import NotAKernel, read_kernel
from smartmem_tvm.analysis.layouts import LAYOUTS, Layout, layout_of
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import pipeline_stages
from smartmem_tvm.whole_files import write_text

LISTING = "kernels.json"
UNFUSED = ("eliminate", "fuse")
_REWRITE = "smartmem.RewriteLayouts"
_CALLS = ("relax.call_tir", "relax.call_tir_inplace")


@dataclass
class Entry:
    """A kernel of a model.

    Attributes
    ----------
    model, name : str
        Whose function, and what it is called in the plain module.
    number : int
        Its files in the pool.
    key : str
        Hash of the plain function's structure.
    kind : str
        One of :data:`kernel_classes.CLASSES`.
    flop : int
        Floating-point operations, each value computed once.
    read, written : int
        Unique bytes.
    exact : bool
        False where the bytes depend on data and are a bound.
    tensors : list of (shape, dtype)
        Parameters, row by row.
    layouts : list
        Fields of the :class:`Layout` of each parameter, None for row by row.
    outputs : list of int
        Parameters that are written.
    calls : int
        How often the model calls it.
    changed : bool
        Whether its outputs were split or stored twice for their readers' layouts, or it reads
        such parts.
    fused : bool
        False for a kernel of the model without elimination and fusion.
    """

    model: str
    name: str
    number: int
    key: str
    kind: str
    flop: int
    read: int
    written: int
    exact: bool
    tensors: list[Any]
    layouts: list[dict[str, Any] | None]
    outputs: list[int]
    calls: int
    changed: bool
    fused: bool = True

    @property
    def bytes(self) -> int:
        """Unique bytes read and written together."""
        return self.read + self.written

    def layout(self, number: int) -> Layout | None:
        """Layout of a parameter, None for row by row."""
        fields = self.layouts[number]
        if fields is None:
            return None
        block = fields["block"]
        return Layout(tuple(fields["order"]), None if block is None else tuple(block))


class LeftOut(Exception):
    """Why a function is in no pool."""


def read_model(
    source: str, target: tvm.target.Target, folder: Path, model: str, fused: bool = True
) -> dict[str, int]:
    """Write the pool of a model; returns how many functions were left out, by reason.

    Without fusion only elementwise kernels are kept.
    """
    before, plain, laid_out = _modules(import_model(source).mod, target, () if fused else UNFUSED)
    stages = map(read_stages, _functions(before))
    original = {_key(own) for own in stages if not isinstance(own, OpaqueReason)}
    entries: list[Entry] = []
    left_out, seen = Counter[str](), set[str]()
    pairs = _pairs(plain, laid_out)
    calls = Counter(name for name, _ in pairs)
    moved = _view_names(laid_out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, other in dict.fromkeys(pairs):
        func, rewritten = plain[name], laid_out[other]
        if is_host_function(func, target):
            continue
        try:
            if other in moved:
                raise LeftOut("a view: no kernel")
            entry = _entry(model, name, func, rewritten, len(entries), original)
        except LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        entry.fused = fused
        if not fused and entry.kind != "elementwise":
            continue
        if entry.key in seen:
            left_out["the same function with other layouts"] += 1
            continue
        seen.add(entry.key)
        entry.calls = calls[name]
        write_text(
            folder / f"{entry.number}.plain.json", tvm.ir.save_json(func.without_attr(LAYOUTS))
        )
        write_text(folder / f"{entry.number}.laid_out.json", tvm.ir.save_json(rewritten))
        entries.append(entry)
    document = {"left_out": left_out, "kernels": [asdict(entry) for entry in entries]}
    write_text(folder / LISTING, json.dumps(document, indent=1))
    return dict(left_out)


def read_pool(folder: Path) -> list[Entry]:
    """Entries that :func:`read_model` wrote."""
    document = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    return [Entry(**fields) for fields in document["kernels"]]


def read_function(folder: Path, entry: Entry, version: str) -> tirx.PrimFunc:
    """Function of an entry: ``plain`` or ``laid_out``."""
    return tvm.ir.load_json((folder / f"{entry.number}.{version}.json").read_text("utf-8"))


def _modules(
    mod: tvm.IRModule, target: tvm.target.Target, disable: tuple[str, ...]
) -> tuple[Any, Any, Any]:
    """The module before the stage "layouts", before layouts are rewritten, and after."""
    with target:
        for _, passes in pipeline_stages(target, disable=disable):
            before = mod
            for one in passes:
                plain = mod
                mod = one(mod)
                if one.info.name == _REWRITE:
                    return before, plain, mod
    raise LookupError(f"the pipeline has no pass '{_REWRITE}'")


def _functions(mod: tvm.IRModule) -> list[tirx.PrimFunc]:
    return [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]


def _called(mod: tvm.IRModule) -> list[str]:
    """Names of the functions that main calls, in order."""
    found: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", None) in _CALLS:
            found.append(node.args[0].name_hint)

    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            visit(binding.value)
    return found


def _pairs(plain: tvm.IRModule, laid_out: tvm.IRModule) -> list[tuple[str, str]]:
    names, others = _called(plain), _called(laid_out)
    pairs = list(zip(names, others, strict=True))
    for name, other in pairs:
        if _laid_out_shapes(plain[name]) != [_shape(p) for p in laid_out[other].params]:
            raise LookupError(f"the calls of '{name}' and '{other}' do not belong together")
    return pairs


def _laid_out_shapes(func: tirx.PrimFunc) -> list[Any]:
    shapes = []
    for parameter, layout in zip(func.params, _layouts(func), strict=True):
        shape = _shape(parameter)
        if layout is not None and shape is not None:
            shape = [int(n) for n in layout.shape(shape)]
        shapes.append(shape)
    return shapes


def _layouts(func: tirx.PrimFunc) -> list[Layout | None]:
    maps = func.attrs.get(LAYOUTS) or [None] * len(func.params)
    return [None if index_map is None else layout_of(index_map) for index_map in maps]


def _shape(parameter: Any) -> list[int] | None:
    """Shape of a tensor; None where it is symbolic, or the parameter is a number."""
    shape = getattr(parameter, "shape", None)
    if shape is None or not all(isinstance(n, tirx.IntImm) for n in shape):
        return None
    return [int(n) for n in shape]


def _view_names(laid_out: tvm.IRModule) -> set[str]:
    """Functions that become views before anything is scheduled."""
    passes = [relax.transform.RewriteDataflowReshape(), relax.transform.DeadCodeElimination()]
    return set(_called(laid_out)) - set(_called(tvm.transform.Sequential(passes)(laid_out)))


def _key(stages: list[Stage]) -> str:
    structure = [structure_of(stage) for stage in stages]
    return f"{structural_hash(structure, map_free_vars=True) & (2**64 - 1):016x}"


def _entry(
    model: str,
    name: str,
    func: tirx.PrimFunc,
    rewritten: tirx.PrimFunc,
    number: int,
    original: set[str],
) -> Entry:
    shapes = [_shape(p) for p in func.params]
    if None in shapes:
        raise LeftOut("shapes are symbolic")
    stages = read_stages(func)
    if isinstance(stages, OpaqueReason):
        raise LeftOut(f"opaque: {stages.reason}")
    try:
        kernel = read_kernel(func)
        read_kernel(rewritten)
    except NotAKernel as reason:
        raise LeftOut(f"no kernel: {reason}") from reason
    footprint = footprint_of(func.body)
    if footprint is None:
        raise LeftOut("shapes are symbolic")
    written = {store.buffer for stage in stages for store in stage.stores}
    key = _key(stages)
    return Entry(
        model=model,
        name=name,
        number=number,
        key=key,
        kind=class_of(kernel),
        flop=sum(map(operations_of, stages)),
        read=footprint.read,
        written=footprint.written,
        exact=footprint.exact,
        tensors=[[shape, str(p.dtype)] for shape, p in zip(shapes, func.params, strict=True)],
        layouts=[None if layout is None else asdict(layout) for layout in _layouts(func)],
        outputs=[index for index, p in enumerate(func.params) if p in written],
        calls=0,
        changed=key not in original,
    )
