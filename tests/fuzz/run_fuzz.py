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
import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from fuzz_campaign import Campaign, work
from fuzz_execution import compare, kernels_of, run_on_device, run_on_host
from fuzz_graphs import Graph
from fuzz_layouts import FORMS
from fuzz_strategies import graphs


def main() -> int:
    options = _options()
    if options.again:
        return _run_again(options)
    if options.worker:
        drawn: Counter[str] = Counter()
        strategy = graphs(symbolic=True if options.symbolic else None)
        run = _runner(options, drawn)
        work(strategy, run, options.out, options.seed, options.count, lambda: drawn)
        return 0
    start = time.monotonic()
    command = [sys.executable, str(Path(__file__).resolve()), "--mode", options.mode]
    command += ["--out", str(options.out)]
    command += [f"--{name}" for name in ("symbolic", "layouts") if getattr(options, name)]
    for name in options.disable:
        command += ["--disable", name]
    again = [*command, "--again"]
    campaign = Campaign(options.out, [*command, "--worker"], again, options.timeout)
    total, failed = campaign.run(options.seed, options.count)
    kinds = sorted(key.removeprefix("op ") for key in total if key.startswith("op "))
    report = {
        "mode": options.mode,
        "seed": options.seed,
        "disable": options.disable,
        "random_layouts": {form: total[form] for form in FORMS if total[form]},
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


if __name__ == "__main__":
    sys.exit(main())
