"""How much sooner is a session done with two RPC servers than with one?  ``tuning_servers.json``.

::

    python benchmarks/tuning/bench_servers.py
    python benchmarks/tuning/bench_servers.py --trials 24 --duty 0.5 --rounds 1

Sessions with one server and with two take turns, on the same kernels, with the same seed and as
many trials. Servers run on this machine's loopback interface. A phone measures while the machine
that tunes is free to build the next candidate; servers here would take its processors from it, so
they are slowed: each is stopped (SIGSTOP) for most of every tenth of a second, and runs for the
part that ``--duty`` says. Times of kernels mean nothing then, the session's own do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from rpc_cluster import Cluster

import smartmem_tvm
from smartmem_tvm.bench.machine import environment
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.whole_files import write_json

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "tuning_servers.json"
KEY = "bench"
PERIOD_S = 0.1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="zoo:vit/micro")
    parser.add_argument("--trials", type=int, default=40, help="of every session (40)")
    parser.add_argument("--rounds", type=int, default=3, help="sessions of each kind (3)")
    parser.add_argument("--duty", type=float, default=0.25, help="part of time of a server (0.25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


@contextmanager
def slowed(pids: list[int], duty: float) -> Iterator[None]:
    """Let processes, with what they start, run for a part of the time only."""
    ended = threading.Event()

    def hold_back(server: psutil.Process) -> None:
        while not ended.is_set():
            stopped = []
            with suppress(psutil.NoSuchProcess):
                stopped = [server, *server.children(recursive=True)]
            _each(stopped, "suspend")
            ended.wait(PERIOD_S * (1 - duty))
            _each(stopped, "resume")
            ended.wait(PERIOD_S * duty)

    threads = [threading.Thread(target=hold_back, args=(psutil.Process(pid),)) for pid in pids]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _each(processes: list[psutil.Process], action: str) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            getattr(process, action)()


def session(options: argparse.Namespace, servers: int) -> dict[str, Any]:
    """Hold one session; seconds of its run and what came of its candidates."""
    cluster = Cluster()
    try:
        pids = [cluster.start(KEY).pid for _ in range(servers)]
        with tempfile.TemporaryDirectory() as folder, slowed(pids, options.duty):
            begun = time.monotonic()
            held = smartmem_tvm.tune(
                options.model,
                "cpu",
                records=Path(folder) / "records.jsonl",
                budget=smartmem_tvm.Budget(trials=options.trials),
                strategy="random",
                seed=options.seed,
                rpc=(cluster.address, KEY),
                servers=servers,
            )
            searched, whole = held.elapsed_s, time.monotonic() - begun
    finally:
        cluster.stop()
    statuses: dict[str, int] = {}
    for own in held.progress:
        for status, count in own.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "servers": servers,
        "session_s": round(searched, 1),
        "with_reading_s": round(whole, 1),
        "trials": held.trials,
        "statuses": statuses,
    }


def show(document: dict[str, Any]) -> None:
    """Print the medians and their ratio."""
    table = Table(title=f"{document['trials']} trials of {document['model']}")
    for heading in ("servers", "session, s", "each, s", "times faster"):
        table.add_column(heading, justify="right")
    times = {
        count: [run["session_s"] for run in document["sessions"] if run["servers"] == count]
        for count in (1, 2)
    }
    alone = statistics.median(times[1])
    for count, own in times.items():
        middle = statistics.median(own)
        each = ", ".join(f"{seconds:.1f}" for seconds in own)
        table.add_row(str(count), f"{middle:.1f}", each, f"{alone / middle:.2f}")
    Console().print(table)


def main() -> int:
    options = parse_arguments()
    document = {
        "model": options.model,
        "trials": options.trials,
        "duty": options.duty,
        "seed": options.seed,
        "environment": environment(None),
        "sessions": [],
    }
    try:
        for number in range(options.rounds):
            for servers in (1, 2):
                print(f"round {number + 1}, {servers} servers", file=sys.stderr, flush=True)
                document["sessions"].append(session(options, servers))
                print(json.dumps(document["sessions"][-1]), file=sys.stderr, flush=True)
                write_json(options.output, document)
    except SmartMemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
