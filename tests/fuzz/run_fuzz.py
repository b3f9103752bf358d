"""Random graphs by the thousand, each compared with NumPy: ``make fuzz``.

::

    python tests/fuzz/run_fuzz.py --count 2000 --seed 1              on the host, by LLVM
    python tests/fuzz/run_fuzz.py --count 100 --mode device          the whole pipeline on OpenCL
    python tests/fuzz/run_fuzz.py --count 100 --mode device --symbolic   also: 32-bit indices
    python tests/fuzz/run_fuzz.py --disable fuse --count 200
    python tests/fuzz/run_fuzz.py --layouts --count 1000             a random layout for each tensor
    python tests/fuzz/run_fuzz.py --again build/fuzz/1-17.json       one saved graph, with traceback

Graphs run in worker processes, so that a crash or a hang costs one graph. What fails is saved under
``--out``, as it was drawn and minimised. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from fuzz_execution import compare, failure, kernels_of, run_on_device, run_on_host
from fuzz_graphs import Graph
from fuzz_minimise import minimise
from fuzz_reference import IllConditionedError, reference
from fuzz_strategies import graphs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

CHUNK = 100
CURRENT = "current.json"
SUMMARY = "summary.json"


def main() -> int:
    options = _options()
    if options.again:
        return _run_again(options)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        return _work(options)
    total: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    start = time.monotonic()
    chunk = 0
    while total["ran"] < options.count:
        count = min(CHUNK, options.count - total["ran"])
        found = _run_worker(options, options.seed + chunk, count)
        total.update(found["counts"])
        failed += found["failed"]
        chunk += 1
        spent = time.monotonic() - start
        print(
            f"{total['ran']} of {options.count} graphs, {total['ill']} ill-conditioned, "
            f"{len(failed)} failed, {spent:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    kinds = sorted(key.removeprefix("op ") for key in total if key.startswith("op "))
    report = {
        "mode": options.mode,
        "seed": options.seed,
        "disable": options.disable,
        "random_layouts": {
            key.removeprefix("layout "): total[key] for key in total if key.startswith("layout ")
        },
        "graphs": total["ran"],
        "distinct": total["distinct"],
        "operators": total["operators"],
        "symbolic": total["symbolic"],
        "outputs": total["outputs"],
        "ill_conditioned": total["ill"],
        "failed": failed,
        "operators_by_kind": {kind: total[f"op {kind}"] for kind in kinds},
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(report, indent=1))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="graphs to run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=["host", "device"], default="host")
    parser.add_argument("--disable", action="append", default=[], help="a switch of the pipeline")
    parser.add_argument("--symbolic", action="store_true", help="a symbolic batch in every graph")
    parser.add_argument(
        "--layouts", action="store_true", help="random layouts in place of chosen ones"
    )
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one graph")
    parser.add_argument("--again", type=Path, help="run this saved graph alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _runner(options: argparse.Namespace, drawn: Counter[str]):
    chosen = {"disable": options.disable, "drawn": drawn if options.layouts else None}
    if options.mode == "host":
        return partial(run_on_host, **chosen)
    from smartmem_tvm import runtime

    return partial(run_on_device, device=runtime.device(), **chosen)


def _run_again(options: argparse.Namespace) -> int:
    graph = Graph.from_json(options.again.read_text(encoding="utf-8"))
    print(graph)
    drawn: Counter[str] = Counter()
    print(kernels_of(graph, options.disable, drawn if options.layouts else None).script())
    compare(graph, _runner(options, drawn)(graph))
    return 0


def _run_worker(options: argparse.Namespace, seed: int, count: int) -> dict:
    """Run a chunk in another process; one that dies or hangs has its graph saved as failed."""
    current, summary = options.out / CURRENT, options.out / SUMMARY
    for path in (current, summary):
        path.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", "--seed", str(seed)]
    command += ["--count", str(count), "--mode", options.mode, "--out", str(options.out)]
    command += [f"--{name}" for name in ("symbolic", "layouts") if getattr(options, name)]
    for name in options.disable:
        command += ["--disable", name]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    reason = _wait(process, current, options.timeout)
    if summary.exists() and not reason:
        return json.loads(summary.read_text(encoding="utf-8"))
    if not current.exists():
        raise RuntimeError(f"the worker for seed {seed} did not start: run it with --worker")
    stored = json.loads(current.read_text(encoding="utf-8"))
    path = options.out / f"{seed}-{stored['number']}.json"
    path.write_text(json.dumps(stored["graph"], indent=1), encoding="utf-8")
    counts = {"ran": stored["number"] + 1, "distinct": stored["number"] + 1}
    return {"counts": counts, "failed": [*stored["failed"], {"graph": str(path), "why": reason}]}


def _wait(process: subprocess.Popen, current: Path, timeout: float) -> str:
    """Empty once the worker is done; else why it was not."""
    last = time.monotonic()
    seen = 0
    while (code := process.poll()) is None:
        time.sleep(0.2)
        changed = current.stat().st_mtime_ns if current.exists() else 0
        if changed != seen:
            last, seen = time.monotonic(), changed
        if time.monotonic() - last > timeout:
            process.kill()
            process.wait()
            return f"no end within {timeout:.0f} s"
    return "" if code == 0 else f"the process died with {code}"


def _work(options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    distinct: set[str] = set()
    drawn: Counter[str] = Counter()
    run = _runner(options, drawn)

    @seeded(options.seed)
    @settings(
        max_examples=options.count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(symbolic=True if options.symbolic else None))
    def each(graph: Graph) -> None:
        counts["ran"] += 1
        try:
            reference(graph)
        except IllConditionedError:
            counts["ill"] += 1
            return
        text = graph.to_json()
        distinct.add(hashlib.sha256(text.encode()).hexdigest())
        for step in graph.steps:
            counts[f"op {step.op}"] += 1
        counts["operators"] += len(graph.steps)
        counts["outputs"] += len(graph.outputs)
        counts["symbolic"] += bool(graph.n)
        number = counts["ran"] - 1
        stored = {"number": number, "graph": json.loads(text), "failed": failed}
        _write(options.out / CURRENT, json.dumps(stored))
        why = failure(graph, run)
        if why:
            failed.append(_save(options, graph, f"{options.seed}-{number}", why, run))

    each()
    counts["distinct"] = len(distinct)
    counts.update({f"layout {form}": count for form, count in drawn.items()})
    _write(options.out / SUMMARY, json.dumps({"counts": counts, "failed": failed}))
    return 0


def _save(options: argparse.Namespace, graph: Graph, name: str, why: str, run) -> dict[str, str]:
    path = options.out / f"{name}.json"
    _write(path, graph.to_json())
    kind = why.split(":")[0]
    small = minimise(graph, lambda other: failure(other, run).startswith(kind), tries=60)
    _write(options.out / f"{name}.min.json", small.to_json())
    _write(options.out / f"{name}.txt", f"{why}\n\n{small}\n\n{failure(small, run)}\n")
    operators = " ".join(step.op for step in small.steps)
    return {"graph": str(path), "why": why, "minimised": operators}


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
