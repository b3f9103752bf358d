"""How good the greedy choice of layouts is, what it takes, and what second copies take.

::

    python benchmarks/layout_solvers.py                          every model of the zoo, full size
    python benchmarks/layout_solvers.py --models swin/full,vit/full --device adreno-740

For each model, in a process of its own: tensors to choose for and kernels; cost by the model of
memory transactions row by row, chosen greedily, and chosen exactly (where the exact solver
finishes); seconds of stating the problem and of both solvers; bytes of second copies and of
padding, in float16. Writes results/layout_solvers.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

from limited_process import GIB, Limits, ending, last_line, run

from smartmem_tvm.whole_files import write_json

OUTPUT = Path(__file__).parent / "results" / "layout_solvers.json"
HALF = 2  # bytes of a float16


def measure(model: str, device: str) -> dict[str, Any]:
    """One row."""
    from smartmem_tvm.analysis.layout_choice import solve_exactly, solve_greedily
    from smartmem_tvm.analysis.transactions import Memory
    from smartmem_tvm.devices import resolve_profile
    from smartmem_tvm.frontend import import_model
    from smartmem_tvm.passes import SplitOutputs
    from smartmem_tvm.passes._copies import add_copies
    from smartmem_tvm.passes._emit import rewrite_blocks
    from smartmem_tvm.passes._layout_problem import ProblemBuilder
    from smartmem_tvm.passes.select_layouts import annotate
    from smartmem_tvm.pipeline import module_before

    profile = resolve_profile(device)
    mod = module_before("layouts", import_model(f"zoo:{model}").mod, profile.target())
    mod = SplitOutputs()(mod)
    row: dict[str, Any] = {"model": model, "device": device, "tensors": 0, "kernels": 0}
    totals = dict.fromkeys(("row_by_row", "greedy", "exact"), 0.0)
    seconds = dict.fromkeys(("state", "greedy", "exact"), 0.0)
    extra = {"copies": 0, "padding": 0}
    builder = ProblemBuilder(mod, Memory.of(profile))

    def solve(graph: Any) -> None:
        start = time.perf_counter()
        stated = builder.state(graph)
        seconds["state"] += time.perf_counter() - start
        row["tensors"] += len(stated.tensors)
        row["kernels"] += len(stated.kernels)
        # What no choice of a tensor's layout changes is part of each of the three costs.
        alone = sum(float(c.totals({}).min()) for c in stated.kernels if not c.free)
        plain = {buffer: layouts[0] for buffer, layouts in stated.tensors.items()}
        totals["row_by_row"] += sum(float(c.totals(plain).min()) for c in stated.kernels)
        start = time.perf_counter()
        greedy = solve_greedily(stated.problem)
        seconds["greedy"] += time.perf_counter() - start
        totals["greedy"] += stated.problem.cost(greedy) + alone
        start = time.perf_counter()
        exact = solve_exactly(stated.problem)
        seconds["exact"] += time.perf_counter() - start
        totals["exact"] += float("nan") if exact is None else stated.problem.cost(exact) + alone
        chosen = annotate(stated, greedy if exact is None else exact)
        for copy in add_copies(graph, stated, chosen):
            extra["copies"] += HALF * _elements(copy.layout.shape(_extents(copy.tensor)))
        for buffer, layout in chosen.items():
            extents = _extents(buffer)
            extra["padding"] += HALF * (_elements(layout.shape(extents)) - _elements(extents))

    rewrite_blocks(mod, solve, in_place=True)
    finished = totals["exact"] == totals["exact"]  # not so for what is not a number
    gap = totals["greedy"] / totals["exact"] - 1 if finished and totals["exact"] else None
    costs = {name: round(cost, 1) if cost == cost else None for name, cost in totals.items()}
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    return {**row, "cost": costs, "gap": gap, "seconds": rounded, "float16_bytes": extra}


def _extents(buffer: Any) -> list[int]:
    """Extents, symbolic ones as 1."""
    return [int(n.value) if hasattr(n, "value") else 1 for n in buffer.shape]


def _elements(extents: list[int]) -> int:
    return prod(extents)


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each model."""
    lines = [
        f"{'model':22}{'tensors':>8}{'plain/chosen':>13}{'greedy is worse by':>19}"
        f"{'state s':>9}{'greedy s':>9}{'exact s':>9}{'copies MB':>10}{'padding MB':>11}"
    ]
    for row in rows:
        cost, seconds, extra = row["cost"], row["seconds"], row["float16_bytes"]
        best = cost["greedy"] if cost["exact"] is None else cost["exact"]
        gap = "not finished" if row["gap"] is None else f"{row['gap']:.3%}"
        lines.append(
            f"{row['model']:22}{row['tensors']:>8}{cost['row_by_row'] / best:>13.3f}{gap:>19}"
            f"{seconds['state']:>9.2f}{seconds['greedy']:>9.2f}{seconds['exact']:>9.2f}"
            f"{extra['copies'] / 1e6:>10.2f}{extra['padding'] / 1e6:>11.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure what is asked for, keep the rest of the file, print the table."""
    from smartmem_tvm import zoo

    models = [f"{model['name']}/full" for model in zoo.list_models()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=models)
    parser.add_argument("--device", default="cpu", help="device profile (%(default)s)")
    parser.add_argument("--time-limit", type=float, default=1_800, help="seconds for each model")
    parser.add_argument("--memory-limit", type=float, default=16, help="GiB for each model")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.device)))
        return 0
    rows: dict[str, dict[str, Any]] = {}
    if options.output.exists():
        kept = json.loads(options.output.read_text(encoding="utf-8"))["rows"]
        rows = {f"{row['model']} {row['device']}": row for row in kept}
    failed = []
    for model in options.models:
        command = [sys.executable, __file__, "--worker", model, "--device", options.device]
        outcome = run(command, {}, Limits(options.time_limit, int(options.memory_limit * GIB)))
        if outcome.code or outcome.passed_limit:
            why = outcome.passed_limit or f"{ending(outcome.code)}, {last_line(outcome.stderr)}"
            failed.append(f"{model}: {why}")
            continue
        rows[f"{model} {options.device}"] = json.loads(outcome.stdout.splitlines()[-1])
        print(f"{model}: done", file=sys.stderr, flush=True)
        write_json(options.output, {"rows": [rows[key] for key in sorted(rows)]})
    print(table([rows[key] for key in sorted(rows) if rows[key]["device"] == options.device]))
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
