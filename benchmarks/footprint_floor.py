"""How far footprint traffic can go down without fusing two heavy operators: ``footprint.json``.

For each model: what TVM's default pipeline and this package's kernels move, and the floor, which is
the least that any fusion of light operators into the heavy ones reaches (:mod:`footprint_plan`);
then what two fusions of heavy operators would make of the floor (:mod:`footprint_variants`). Bytes
of one inference, each launch's unique reads and writes; nothing is compiled or run. Models that are
in the output already are not repeated unless named.

    python benchmarks/footprint_floor.py                        all models
    python benchmarks/footprint_floor.py swin/full vit/small    these, anew
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from counted_models import count_models
from footprint_graph import Graph, read_graph
from footprint_plan import Plan, Planner
from footprint_variants import join_attention, split_normalisations
from rich.console import Console
from rich.table import Table
from tvm import relax

from smartmem_tvm import zoo
from smartmem_tvm.analysis import list_kernels
from smartmem_tvm.analysis.traffic import compulsory, footprint
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import as_target, module_before

RESULTS = Path(__file__).with_name("results")
OUTPUT = RESULTS / "footprint.json"
SCHEMA = 1
TOO_LARGE = ("pythia", "sd-unet")
"""Models that are counted at `small`: their weights do not fit several times into memory."""
WORTH_NAMING = 1.05
_NAMED = 12
_PARAMETERS = "parameters"
_SECONDS = 120.0
_MB = 1e6


def count(name: str, known: dict[str, int]) -> dict[str, Any]:
    """All figures of a model; `known` has TVM's, by model and size."""
    target = as_target("cpu")
    mod = import_model(f"zoo:{name}").mod
    kernels = _lowered(mod, target, ())
    ours = read_graph(kernels)
    moved = {v: b for v, b in _moved(ours).items() if b}
    total = sum(moved.values())
    counted = footprint(kernels).total
    if total != counted:
        raise ValueError(f"{name}: {total} bytes by tensor, {counted} by kernel")
    light = read_graph(_lowered(mod, target, ("fuse",)))
    plan = Planner(light).solve(_SECONDS)
    attention = join_attention(light)
    variants = {
        "attention": attention,
        "normalisations": split_normalisations(light),
        "both": split_normalisations(attention),
    }
    document = {
        "tvm": known[name] if name in known else _tvm_default(mod, target),
        "ours": total,
        "compulsory": compulsory(mod).total,
        "needed": _needed(ours),
        "parts": _parts(ours),
        "floor": plan.bound,
        "plan": plan.bytes,
        "below": {key: Planner(graph).solve(_SECONDS).bound for key, graph in variants.items()},
        "kernels": len(ours.operators),
        "excess": [],
    }
    if total > WORTH_NAMING * plan.bound:
        document["excess"] = _excess(ours, light, plan)
    return document


def _lowered(mod: tvm.IRModule, target: tvm.target.Target, disable: tuple[str, ...]) -> Any:
    """The module before tensors are laid out, with reshapes that cost nothing as views."""
    views = [relax.transform.RewriteDataflowReshape(), relax.transform.DeadCodeElimination()]
    with target:
        return tvm.transform.Sequential(views)(
            module_before("layouts", mod, target, disable=disable)
        )


def _tvm_default(mod: tvm.IRModule, target: tvm.target.Target) -> int | None:
    """Footprint of the kernels that TVM's own pipeline schedules."""
    found: list[Any] = []

    @tvm.instrument.pass_instrument
    class Counter:
        def run_after_pass(self, mod: Any, info: Any) -> None:
            if info.name == "RewriteDataflowReshape":
                found[:] = list_kernels(mod)

    own = tvm.target.Target("opencl", host="llvm")
    with own, tvm.transform.PassContext(opt_level=3, instruments=[Counter()]):
        relax.get_default_pipeline(own)(mod)
    if any(kernel.footprint_bytes is None for kernel in found):
        return None
    return sum(kernel.calls * kernel.footprint_bytes for kernel in found)


def _moved(graph: Graph) -> dict[Any, int]:
    """Bytes read and written of each value."""
    moved = {value: 0 for value in graph.values}
    for operator in graph.operators:
        for value, size in operator.reads.items():
            moved[value] += size
        for value, size in operator.writes.items():
            moved[value] += size
    return moved


def _needed(graph: Graph) -> int:
    """Compulsory bytes that are touched: of a table, the rows that are looked up."""
    parts = _parts(graph)
    return parts["parameters"] + parts["inputs"] + parts["results"]


def _parts(graph: Graph) -> dict[str, int]:
    """Where the footprint goes; what is read of a tensor beyond its size is read again."""
    parts = dict.fromkeys(("parameters", "inputs", "results", "written", "read", "read_again"), 0)
    seen: dict[Any, int] = {}
    for operator in graph.operators:
        for value, size in operator.writes.items():
            parts["results" if value.result else "written"] += size
        for value, size in operator.reads.items():
            first = min(size, value.bytes - seen.get(value, 0))
            seen[value] = seen.get(value, 0) + first
            kind = {"parameter": "parameters", "input": "inputs"}.get(value.kind, "read")
            parts[kind] += first
            parts["read_again"] += size - first
    return parts


def _excess(ours: Graph, light: Graph, plan: Plan) -> list[dict[str, Any]]:
    """Tensors that move more bytes than in the plan, the most first.

    What a heavy operator makes and what light ones make of it are one tensor here: a plan may store
    either at the same cost. So are all parameters.
    """
    roots = _roots(light)
    planned: dict[str, int] = {}
    loaded = [(value, size) for (_, value), size in plan.loaded.items()]
    for value, size in [*plan.stored.items(), *loaded]:
        root = roots.get(value.name, _PARAMETERS)
        planned[root] = planned.get(root, 0) + size
    moved: dict[str, int] = {}
    members: dict[str, list[Any]] = {}
    for value, size in _moved(ours).items():
        root = _PARAMETERS if value.kind == "parameter" else roots.get(value.name, value.name)
        moved[root] = moved.get(root, 0) + size
        if size and root != _PARAMETERS:
            members.setdefault(root, []).append(value)
    excess = [
        {
            "bytes": size - planned.get(root, 0),
            "of": size,
            "tensors": [value.name for value in members.get(root, ())],
            "written_by": _names_of(ours, members.get(root, ()), "makes"),
            "read_by": _names_of(ours, members.get(root, ()), "reads"),
        }
        for root, size in moved.items()
        if size > planned.get(root, 0)
    ]
    return sorted(excess, key=lambda row: -row["bytes"])[:_NAMED]


def _roots(light: Graph) -> dict[str, str]:
    """For each tensor that is no parameter, the one of a heavy operator that it is made of last."""
    roots = {value.name: value.name for value in light.values if value.kind == "input"}
    number = {value: n for n, op in enumerate(light.operators) for value in op.makes}
    for operator in light.operators:
        made = [value for value in operator.reads if value in number]
        for value in operator.makes:
            last = None if operator.heavy or not made else max(made, key=number.__getitem__)
            roots[value.name] = value.name if last is None else roots[last.name]
    return roots


def _names_of(graph: Graph, values: Any, side: str) -> list[str]:
    return [op.name for op in graph.operators if any(v in getattr(op, side) for v in values)]


def table(models: dict[str, dict[str, Any]], activations: bool) -> Table:
    """Megabytes and ratios of all models, with geometric means."""
    title = "Activations alone (without compulsory bytes)" if activations else "Footprint traffic"
    shown = Table(title=f"{title}, MB")
    columns = ["model", "TVM", "ours", "floor", "attention", "normal.", "both"]
    ratios = ["ours/floor", "TVM/ours", "TVM/floor", "TVM/both"]
    for column in [*columns, *([] if activations else ["compulsory"]), *ratios]:
        shown.add_column(column, justify="left" if column == "model" else "right")
    rows: list[list[float]] = []
    for name, found in models.items():
        less = found["needed"] if activations else 0
        below = [found["below"][key] for key in ("attention", "normalisations", "both")]
        sizes = [n - less for n in (found["tvm"], found["ours"], found["floor"], *below)]
        tvm_bytes, ours, floor, both = sizes[0], sizes[1], sizes[2], sizes[5]
        rows.append([ours / floor, tvm_bytes / ours, tvm_bytes / floor, tvm_bytes / both])
        known = [] if activations else [f"{found['needed'] / _MB:.1f}"]
        cells = [*(f"{n / _MB:.1f}" for n in sizes), *known, *(f"{r:.2f}" for r in rows[-1])]
        shown.add_row(name, *cells)
    if rows:
        means = [
            math.exp(sum(map(math.log, column)) / len(column)) for column in zip(*rows, strict=True)
        ]
        empty = [""] * (6 if activations else 7)
        shown.add_section()
        shown.add_row("geometric mean", *empty, *(f"{mean:.2f}" for mean in means))
    return shown


def known_of_tvm() -> dict[str, int]:
    """TVM's footprints that a bench has counted."""
    models = json.loads((RESULTS / "full.json").read_text(encoding="utf-8"))["models"]
    return {
        name: record["footprint_bytes"]
        for name, entry in models.items()
        for record in entry["records"]
        if record["runner"] == "tvm" and record["footprint_bytes"] is not None
    }


def _names() -> list[str]:
    listed = [str(entry["name"]) for entry in zoo.list_models()]
    return [f"{name}/{'small' if name in TOO_LARGE else 'full'}" for name in listed]


def main(note: Callable[[str], None]) -> int:
    """Count what is missing, write after every model, print the tables."""
    known = known_of_tvm()
    models = count_models(__doc__, OUTPUT, SCHEMA, _names(), lambda name: count(name, known), note)
    console = Console(width=160)
    console.print(table(models, activations=False))
    console.print(table(models, activations=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(lambda text: print(text, file=sys.stderr, flush=True)))
