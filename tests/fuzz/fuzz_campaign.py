"""Random graphs by the thousand: chunks of them in worker processes, failures saved and minimised.

The parent starts a worker for each chunk, so that a crash or a hang costs one graph. A worker
writes the graph that it is about to run to ``current.json`` and what it found to ``summary.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_execution import failure
from fuzz_graphs import Graph
from fuzz_minimise import minimise
from fuzz_reference import IllConditionedError, reference
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

CHUNK = 100
CURRENT = "current.json"
SUMMARY = "summary.json"
TRIES = 60  # runs of smaller graphs

Run = Callable[[Graph], Any]


@dataclass
class Campaign:
    """Runs graphs in worker processes.

    Attributes
    ----------
    out : Path
        Folder of what failed.
    command : list of str
        Starts a worker; ``--seed`` and ``--count`` are added.
    again : list of str
        Runs one graph, whose file is added; with it the graph of a worker that died is minimised.
    counted : str
        ``ran`` where `count` is of graphs drawn, ``distinct`` where it is of different ones that
        are well conditioned.
    """

    out: Path
    command: list[str]
    again: list[str]
    timeout: float
    noun: str = "graphs"
    counted: str = "ran"
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, seed: int, count: int) -> tuple[Counter[str], list[dict[str, str]]]:
        """Counts of what ran, and an entry for each failure."""
        self.out.mkdir(parents=True, exist_ok=True)
        total: Counter[str] = Counter()
        failed: list[dict[str, str]] = []
        start, chunk = time.monotonic(), 0
        while total[self.counted] < count:
            found = self._chunk(seed + chunk, min(CHUNK, count - total[self.counted]))
            largest = max(total["largest source"], found["counts"].get("largest source", 0))
            total.update(found["counts"])
            total["largest source"] = largest
            failed += found["failed"]
            chunk += 1
            print(
                f"{total[self.counted]} of {count} {self.noun}, {total['ill']} ill-conditioned, "
                f"{len(failed)} failed, {time.monotonic() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return total, failed

    def _chunk(self, seed: int, count: int) -> dict:
        """Run a chunk in another process; one that dies or hangs has its graph saved as failed."""
        current, summary = self.out / CURRENT, self.out / SUMMARY
        for path in (current, summary):
            path.unlink(missing_ok=True)
        command = [*self.command, "--seed", str(seed), "--count", str(count)]
        process = self._start(command)
        reason = _wait(process, current, self.timeout)
        if summary.exists() and not reason:
            return json.loads(summary.read_text(encoding="utf-8"))
        if not current.exists():
            raise RuntimeError(f"the worker did not start: run {' '.join(command)}")
        stored = json.loads(current.read_text(encoding="utf-8"))
        path = self.out / f"{seed}-{stored['number']}.json"
        graph = Graph.from_json(json.dumps(stored["graph"]))
        write(path, graph.to_json())
        small = minimise(graph, self._dies, tries=TRIES // 2)
        write(path.with_suffix(".min.json"), small.to_json())
        write(path.with_suffix(".txt"), f"{reason}\n\n{small}\n")
        counts = {"ran": stored["number"] + 1, "distinct": stored["number"] + 1}
        entry = {"graph": str(path), "why": reason, "minimised": _operators(small)}
        return {"counts": counts, "failed": [*stored["failed"], entry]}

    def _start(self, command: list[str]) -> subprocess.Popen:
        environment = {**os.environ, **self.environment}
        # A crashing driver may write to either.
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env=environment)

    def _dies(self, graph: Graph) -> bool:
        """Whether a process that runs the graph is killed by a signal, or hangs."""
        path = self.out / "dying.json"
        write(path, graph.to_json())
        process = self._start([*self.again, str(path)])
        try:
            return process.wait(self.timeout) < 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True


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


def work(
    strategy: Any,
    run: Run,
    out: Path,
    seed: int,
    count: int,
    counted: Callable[[], Mapping[str, int]],
) -> None:
    """Run a chunk in this process; `counted` says in the end what `run` has counted itself."""
    counts: Counter[str] = Counter()
    failed: list[dict[str, str]] = []
    distinct: set[str] = set()

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(graph: Graph) -> None:
        counts["ran"] += 1
        try:
            reference(graph)
        except IllConditionedError:
            counts["ill"] += 1
            return
        text = graph.to_json()
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest in distinct:
            return
        distinct.add(digest)
        for step in graph.steps:
            counts[f"op {step.op}"] += 1
        counts["operators"] += len(graph.steps)
        counts["outputs"] += len(graph.outputs)
        counts["symbolic"] += bool(graph.n)
        number = counts["ran"] - 1
        stored = {"number": number, "graph": json.loads(text), "failed": failed}
        write(out / CURRENT, json.dumps(stored))
        why = failure(graph, run)
        if why:
            failed.append(_save(out, graph, f"{seed}-{number}", why, run))

    each()
    counts["distinct"] = len(distinct)
    counts.update(counted())
    write(out / SUMMARY, json.dumps({"counts": counts, "failed": failed}))


def _save(out: Path, graph: Graph, name: str, why: str, run: Run) -> dict[str, str]:
    path = out / f"{name}.json"
    write(path, graph.to_json())
    kind = why.split(":")[0]
    small = minimise(graph, lambda other: failure(other, run).startswith(kind), tries=TRIES)
    write(out / f"{name}.min.json", small.to_json())
    write(out / f"{name}.txt", f"{why}\n\n{small}\n\n{failure(small, run)}\n")
    return {"graph": str(path), "why": why, "minimised": _operators(small)}


def _operators(graph: Graph) -> str:
    return " ".join(step.op for step in graph.steps)


def write(path: Path, text: str) -> None:
    """Write a file whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
