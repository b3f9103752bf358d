"""Times the passes of the pipeline, up to the stage that eliminates, against the operator count.

Over the zoo, and over synthetic chains of 100 to 10,000 operators: *mixed* (matmuls, reductions,
elementwise operators and relayouts over tensors of many shapes, drawn with a fixed seed) and
*opaque* (each operator is one that no pass looks into). Every graph is measured in a process of
its own; seconds are those of the processor, which other work on the machine changes little.

    python benchmarks/pass_time.py                                the zoo, all chains
    python benchmarks/pass_time.py --models swin/full --lengths 100,1000

Writes results/pass_time.json, the plot results/pass_time.svg where matplotlib is installed, and a
table. A slope is that of log time over log operators from 1,000 on: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from limited_process import GIB, Limits, ending, last_line, run
from tvm import relax
from tvm.script import tirx as T

from smartmem_tvm.whole_files import replacing, write_json

OUTPUT = Path(__file__).parent / "results" / "pass_time.json"
LENGTHS = (100, 300, 1_000, 3_000, 10_000)
CHAINS = ("mixed", "opaque")
STAGES = ("simplify", "cast_to_half", "legalise", "eliminate")
LINEAR_FROM = 1_000
ELEMENTS = 1_536
SHAPES = [
    (a, b, ELEMENTS // (a * b))
    for a in (1, 2, 3, 4, 6, 8)
    for b in (4, 8, 12, 16, 32)
    if ELEMENTS % (a * b) == 0 and ELEMENTS // (a * b) >= 4
]


@T.prim_func(private=True, s_tir=True)
def running_maximum(a: T.Buffer((1, 4, 384)), b: T.Buffer((1, 4, 384))):
    """A scan: each element reads the one before it, so no pass looks into it."""
    for i, j, k in T.grid(1, 4, 384):
        with T.sblock("scan"):
            vi, vj, vk = T.axis.remap("SSS", [i, j, k])
            b[vi, vj, vk] = T.max(a[vi, vj, vk], b[vi, vj, T.max(vk - 1, 0)])


class Chain:
    """A chain of operators while it grows; its constants are shared."""

    def __init__(self) -> None:
        self.builder = relax.BlockBuilder()
        self.random = random.Random(0)
        self.constants: dict[tuple[int, ...], Any] = {}
        self.scan: Any = None
        self.operators = 0

    def module(self, kind: str, operators: int) -> tvm.IRModule:
        """A chain of about so many operators."""
        x = relax.Var("x", relax.TensorType((1, 4, 384), "float32"))
        grow = self._mixed if kind == "mixed" else self._opaque
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                last = x
                while self.operators < operators:
                    last = grow(last)
                result = self.builder.emit_output(last)
            self.builder.emit_func_output(result)
        return self.builder.finalize()

    def _emit(self, value: Any) -> Any:
        self.operators += 1
        return self.builder.emit(value)

    def _constant(self, *shape: int, number: int = 0) -> Any:
        key = (*shape, number)
        if key not in self.constants:
            values = np.random.default_rng(key).standard_normal(shape) / shape[0] ** 0.5
            self.constants[key] = relax.const(values.astype("float32"))
        return self.constants[key]

    def _opaque(self, x: Any) -> Any:
        """A function, as a user's own kernel is; TVM's scans take it a tenth of a second each."""
        if self.scan is None:
            self.scan = self.builder.add_func(running_maximum, "running_maximum")
        return self._emit(relax.call_tir(self.scan, [x], x.ty))

    def _mixed(self, x: Any) -> Any:
        """Two relayouts, something heavy and some elementwise operators."""
        choose, op = self.random.choice, relax.op
        x = self._emit(op.permute_dims(x, self.random.sample(range(3), 3)))
        x = self._emit(op.add(x, self._constant(int(x.ty.shape[2]))))
        last = int(x.ty.shape[2])
        heavy = choose(("matmul", "parallel", "softmax", "centre"))
        if heavy == "matmul":
            x = self._emit(op.matmul(x, self._constant(last, last)))
        elif heavy == "parallel":
            gate = self._emit(op.matmul(x, self._constant(last, last, number=1)))
            x = self._emit(op.matmul(x, self._constant(last, last)))
            x = self._emit(op.multiply(x, gate))
        elif heavy == "softmax":
            x = self._emit(op.nn.softmax(x, -1))
        else:
            x = self._emit(op.subtract(x, self._emit(op.mean(x, -1, keepdims=True))))
        x = self._emit(choose((op.nn.relu, op.tanh, op.sigmoid))(x))
        return self._emit(op.reshape(x, choose(SHAPES)))


def measure(graph: str) -> dict[str, Any]:
    """Seconds of each pass over ``chain:KIND/LENGTH`` or ``zoo:MODEL/SIZE``."""
    from smartmem_tvm.frontend import import_model
    from smartmem_tvm.pipeline import pipeline_stages

    origin, _, name = graph.partition(":")
    if origin == "chain":
        kind, _, length = name.partition("/")
        chain = Chain()
        mod = chain.module(kind, int(length))
        operators = chain.operators
    else:
        imported = import_model(graph)
        mod, operators = imported.mod, imported.operators
        del imported
    passes: dict[str, float] = {}
    target = tvm.target.Target("opencl", host="llvm")
    with target:
        for stage, steps in pipeline_stages(target):
            if stage not in STAGES:
                break
            for step in steps:
                start = time.process_time()
                mod = step(mod)
                name = f"{stage}: {step.info.name}"
                passes[name] = passes.get(name, 0.0) + time.process_time() - start
    functions = sum(isinstance(func, tvm.tirx.PrimFunc) for func in mod.functions.values())
    return {
        "graph": graph,
        "operators": operators,
        "functions": functions,
        "seconds": round(sum(passes.values()), 3),
        "passes": {name: round(seconds, 3) for name, seconds in passes.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for, keep the rest of the file, print the table."""
    options = _parse(arguments)
    if options.worker:
        print(json.dumps(measure(options.worker)))
        return 0
    rows = _read(options.output)
    graphs = [f"zoo:{model}" for model in options.models]
    graphs += [f"chain:{kind}/{length}" for kind in options.chains for length in options.lengths]
    limits = Limits(options.time_limit, int(options.memory_limit * GIB))
    failed = []
    for graph in graphs:
        outcome = run([sys.executable, __file__, "--worker", graph], {}, limits)
        if outcome.code or outcome.passed_limit:
            why = outcome.passed_limit or f"{ending(outcome.code)}, {last_line(outcome.stderr)}"
            failed.append(f"{graph}: {why}")
            continue
        rows[graph] = json.loads(outcome.stdout.splitlines()[-1])
        print(f"{graph}: {rows[graph]['seconds']} s", file=sys.stderr, flush=True)
        _write(options.output, rows)
    print(table(rows))
    _plot(options.output.with_suffix(".svg"), rows)
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    from smartmem_tvm import zoo

    models = [f"{model['name']}/full" for model in zoo.list_models()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=_names, default=models, metavar="NAME/SIZE,…")
    parser.add_argument("--chains", type=_names, default=list(CHAINS), metavar="KIND,…")
    parser.add_argument(
        "--lengths",
        type=lambda text: [int(length) for length in _names(text)],
        default=list(LENGTHS),
        metavar="N,…",
    )
    parser.add_argument("--time-limit", type=float, default=1_800, help="seconds for each graph")
    parser.add_argument("--memory-limit", type=float, default=12, help="GiB for each graph")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {row["graph"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def _write(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    write_json(path, {"slopes": slopes(rows), "rows": [rows[graph] for graph in sorted(rows)]})


def _series(rows: dict[str, dict[str, Any]], start: str) -> list[tuple[int, float]]:
    """Operators and seconds, by operators."""
    return sorted(
        (row["operators"], row["seconds"]) for g, row in rows.items() if g.startswith(start)
    )


def slopes(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Least-squares slope of log seconds over log operators, of each chain's long lengths."""
    found = {}
    for kind in CHAINS:
        points = [
            (math.log(count), math.log(seconds))
            for count, seconds in _series(rows, f"chain:{kind}/")
            if count >= LINEAR_FROM and seconds > 0
        ]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            found[kind] = round(float(np.polyfit(x, y, 1)[0]), 3)
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """One line for each graph, with its slowest pass, then the slopes."""
    lines = [f"{'graph':28}{'operators':>10}{'seconds':>9}{'ms/operator':>13}  slowest pass"]
    for row in sorted(rows.values(), key=lambda r: (r["graph"].split("/")[0], r["operators"])):
        slowest, seconds = max(row["passes"].items(), key=lambda item: item[1])
        each = 1e3 * row["seconds"] / row["operators"]
        lines.append(
            f"{row['graph']:28}{row['operators']:>10}{row['seconds']:>9.2f}{each:>13.2f}"
            f"  {slowest.split('.')[-1]} {seconds:.2f}"
        )
    lines += [f"slope of {kind} chains: {slope:.2f}" for kind, slope in slopes(rows).items()]
    return "\n".join(lines)


def _plot(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    # The same bytes for the same values: no date, and identifiers from a fixed seed.
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for number, name in enumerate(("zoo:", *(f"chain:{kind}/" for kind in CHAINS))):
            points = _series(rows, name)
            if points:
                style = "" if name == "zoo:" else "-"
                label = "zoo" if name == "zoo:" else f"chain, {name[6:-1]}"
                axes.plot(
                    *zip(*points, strict=True), linestyle=style, marker="o^s"[number], label=label
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operators")
        axes.set_ylabel("processor seconds of all passes")
        axes.set_title("Passes up to the stage that eliminates", fontsize=10, loc="left")
        axes.grid(color="0.9")
        axes.legend(frameon=False)
        with replacing(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    sys.exit(main())
