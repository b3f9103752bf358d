"""Bytes of activations as they are planned: ``memory_plan.json``.

For each model, of the tensors that are neither inputs, parameters nor results: TVM's default
kernels placed by TVM's planner and by ours, our kernels placed by both, and for the latter the most
bytes in use at one time, a bound of what storages at offset 0 can take, and the least that they
can: the bound where our plan reaches it, else what an integer programme finds, if it ends. Nothing
is compiled or run. Models that are in the output already are not repeated unless named.

    python benchmarks/memory_plan.py                           all models, small; swin, vit full
    python benchmarks/memory_plan.py swin/full vit/small       these, anew
    python benchmarks/memory_plan.py --table                   what there is
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from counted_models import count_models
from rich.console import Console
from rich.table import Table
from storage_optimum import optimum
from tvm import relax

from smartmem_tvm import zoo
from smartmem_tvm.analysis.liveness import read_liveness
from smartmem_tvm.analysis.memory_colouring import Item, colour, live_peak, lower_bound, total
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import as_target, module_before

OUTPUT = Path(__file__).with_name("results") / "memory_plan.json"
SCHEMA = 1
FULL = ("swin", "vit")
_SECONDS = 120.0
_KIB = 1024
_GENERIC = relax.backend.gpu_generic
_STORAGE = tvm.ir.Op.get("relax.memory.alloc_storage")


def count(name: str) -> dict[str, Any]:
    """All figures of a model."""
    mod = import_model(f"zoo:{name}").mod
    theirs = _placed(_default_kernels(mod))
    target = as_target("cpu")
    with target:
        passes = _GENERIC.dataflow_lower_passes(target)
        kernels = tvm.transform.Sequential(passes)(module_before("lower", mod, target))
    ours = _placed(kernels)
    items = ours.pop("items")
    bound = lower_bound(items)
    best = bound if ours["ours"] == bound else optimum(items, _SECONDS)
    return {
        "default_kernels": {key: theirs[key] for key in ("tensors", "tvm", "ours")},
        "kernels": {
            **ours,
            "unplanned": sum(item.bytes for item in items),
            "live": live_peak(items),
            "bound": bound,
            "optimum": best,
        },
    }


def _default_kernels(mod: tvm.IRModule) -> tvm.IRModule:
    """What TVM's default pipeline plans; schedules, which change no tensor, are left out."""
    target = tvm.target.Target("opencl", host="llvm")
    passes = [
        *_GENERIC.library_dispatch_passes(target),
        *(p for p in _GENERIC.legalize_passes(target) if p.info.name != "ApplyDefaultSchedule"),
        *_GENERIC.dataflow_lower_passes(target),
    ]
    with target:
        return tvm.transform.Sequential(passes)(mod)


def _placed(mod: tvm.IRModule) -> dict[str, Any]:
    """Bytes of the storages of ``main`` by TVM's planner and by ours, and the tensors."""
    liveness = read_liveness(mod["main"], mod)
    items = [Item(a.bytes, a.first, a.last, a.dtype) for a in liveness.allocations]
    start = time.perf_counter()
    storages = colour(items)
    seconds = time.perf_counter() - start
    return {
        "tensors": len(items),
        "tvm": _bytes_of_storages(relax.transform.StaticPlanBlockMemory()(mod)),
        "ours": total(items, storages),
        "seconds": round(seconds, 3),
        "items": items,
    }


def _bytes_of_storages(mod: tvm.IRModule) -> int:
    found: list[int] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and node.op.same_as(_STORAGE):
            found.append(int(node.args[0].values[0]))

    relax.analysis.post_order_visit(mod["main"], visit)
    return sum(found)


def table(models: dict[str, dict[str, Any]]) -> Table:
    """KiB and ratios of all models."""
    shown = Table(title="Planned bytes of activations, KiB")
    columns = ["model", "TVM", "its kernels, our plan", "our kernels, its plan", "ours", "in use"]
    columns += ["bound", "optimum", "ours/TVM", "ours/its plan", "ours/optimum", "s"]
    for column in columns:
        shown.add_column(column, justify="left" if column == "model" else "right")
    for name, found in models.items():
        default, made = found["default_kernels"], found["kernels"]
        sizes = [default["tvm"], default["ours"], made["tvm"], made["ours"], made["live"]]
        sizes += [made["bound"], made["optimum"]]
        cells = ["–" if size is None else f"{size / _KIB:.0f}" for size in sizes]
        ratios = [made["ours"] / other for other in (default["tvm"], made["tvm"])]
        cells += [f"{ratio:.3f}" for ratio in ratios]
        best = made["optimum"]
        cells.append("–" if best is None else f"{made['ours'] / best:.3f}")
        shown.add_row(name, *cells, f"{made['seconds']:.2f}")
    return shown


def _names() -> list[str]:
    small = [f"{entry['name']}/small" for entry in zoo.list_models()]
    return [*small, *(f"{name}/full" for name in FULL)]


def main(note: Callable[[str], None]) -> int:
    """Count what is missing, write after every model, print the table."""
    models = count_models(__doc__, OUTPUT, SCHEMA, _names(), count, note)
    Console(width=160).print(table(models))
    return 0


if __name__ == "__main__":
    sys.exit(main(lambda text: print(text, file=sys.stderr)))
