"""ONNX's node tests through this project's pipeline and TVM's: ``make onnx-nodes``.

::

    python tests/onnx_backend/run_onnx_nodes.py                   goes on from where it was
    python tests/onnx_backend/run_onnx_nodes.py --every 4         every fourth test
    python tests/onnx_backend/run_onnx_nodes.py --only test_gelu --again

Each pipeline has a worker process of its own, which takes test after test. One that dies or hangs
is replaced and the test tried once more in the new one, so that what an earlier test broke is not
held against a later one. Results are in ``--out`` as JSON; the rates go to the standard output.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from onnx_nodes import (
    FAILED,
    NOT_IMPORTED,
    PIPELINES,
    REFUSED,
    RIGHT,
    WRONG,
    node_tests,
    run_test,
)

CRASHED, HUNG = "crashed", "hung"
OUTCOMES = (RIGHT, WRONG, REFUSED, FAILED, CRASHED, HUNG)


class Worker:
    """A process that runs tests of one pipeline."""

    def __init__(self, pipeline: str, timeout: float) -> None:
        self.pipeline, self.timeout = pipeline, timeout
        self._process: subprocess.Popen[str] | None = None
        self._answers: Queue[str | None] = Queue()

    def run(self, name: str) -> dict[str, Any]:
        """Outcome of a test, tried again in a new process if this one does not survive it."""
        fresh = self._process is None
        result = self._try(name)
        if result["outcome"] in (CRASHED, HUNG) and not fresh:
            result = self._try(name)
        return result

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _try(self, name: str) -> dict[str, Any]:
        process = self._process or self._start()
        try:
            process.stdin.write(name + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=self.timeout)
        except (BrokenPipeError, Empty) as error:
            self.close()
            hung = isinstance(error, Empty)
            reason = f"no end within {self.timeout:.0f} s" if hung else "the process had died"
            return self._died(HUNG if hung else CRASHED, reason)
        if answer is None:
            code = process.wait()
            self._process = None
            return self._died(CRASHED, f"the process died with {code}")
        return json.loads(answer)

    @staticmethod
    def _died(outcome: str, reason: str) -> dict[str, Any]:
        # No import kills a process: what did was compiling, or running, what TVM imports too.
        return {"outcome": outcome, "reason": reason, "tvm_imports": True}

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", self.pipeline]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # A queue of its own for each process: what a dead one still says is not the next one's.
        self._answers = Queue()
        threading.Thread(
            target=_forward, args=(self._process.stdout, self._answers), daemon=True
        ).start()
        return self._process


def _forward(stream, answers: Queue) -> None:
    for line in stream:
        if line.startswith("{"):
            answers.put(line)
    answers.put(None)


def main() -> int:
    options = _options()
    if options.worker:
        return _serve(options.worker)
    names = sorted(node_tests())[options.start :: options.every]
    if options.only:
        names = [name for name in sorted(node_tests()) if any(o in name for o in options.only)]
    results = {}
    if options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))["tests"]
    workers = [Worker(pipeline, options.timeout) for pipeline in options.pipelines]
    try:
        for number, name in enumerate(names, start=1):
            known = results.setdefault(name, {})
            for worker in workers:
                if options.again or worker.pipeline not in known:
                    known[worker.pipeline] = worker.run(name)
            if number % 10 == 0 or number == len(names):
                _write(options.out, results)
            if number % 50 == 0:
                print(f"{number} of {len(names)}", file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.close()
        _write(options.out, results)
    print(json.dumps(rates(results), indent=1))
    return 0


def rates(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Outcomes counted over the tests that TVM imports, and where the pipelines differ."""
    imported, beyond, differences, not_right = {}, {}, {}, {}
    for name, found in results.items():
        if any(result["tvm_imports"] for result in found.values()):
            imported[name] = found
        elif found.get("smartmem", {}).get("outcome", NOT_IMPORTED) != NOT_IMPORTED:
            beyond[name] = {"smartmem": found["smartmem"]}
    for name, found in (imported | beyond).items():
        said = {p: f"{r['outcome']}: {r['reason']}".rstrip(": ") for p, r in found.items()}
        ours = found.get("smartmem", {}).get("outcome")
        if "tvm" in found and ours not in (None, found["tvm"]["outcome"]):
            differences[name] = said
        if ours not in (None, RIGHT):
            not_right[name] = said
    on_host = [f for f in imported.values() if f.get("host", {}).get("outcome") == RIGHT]
    return {
        "tests": len(results),
        "imported": len(imported),
        "pipelines": _counted(list(imported.values())),
        # Of the others, the importer or TVM everywhere computes something else than ONNX says.
        "right_on_host": {"tests": len(on_host), "pipelines": _counted(on_host)},
        # What only this project's importer takes.
        "beyond_tvm": {"tests": len(beyond), "pipelines": _counted(list(beyond.values()))},
        "right_with_tvm_alone": sorted(
            name
            for name, found in imported.items()
            if found.get("tvm", {}).get("outcome") == RIGHT
            and found.get("smartmem", {}).get("outcome", RIGHT) != RIGHT
        ),
        "differences_from_tvm": differences,
        "not_right": not_right,
    }


def _counted(results: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    counted: dict[str, dict[str, float]] = {}
    for pipeline in PIPELINES:
        outcomes = Counter(found[pipeline]["outcome"] for found in results if pipeline in found)
        if outcomes:
            counted[pipeline] = {outcome: outcomes[outcome] for outcome in OUTCOMES}
            percent = 100 * outcomes[RIGHT] / sum(outcomes.values())
            counted[pipeline]["right_percent"] = round(percent, 2)
    return counted


def _serve(pipeline: str) -> int:
    from smartmem_tvm import runtime

    device = runtime.device()
    for line in sys.stdin:
        print(json.dumps(run_test(line.strip(), pipeline, device)), flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/onnx-nodes.json"))
    parser.add_argument("--every", type=int, default=1, help="take one test of so many")
    parser.add_argument("--start", type=int, default=0, help="the first test's number")
    parser.add_argument("--only", action="append", help="tests with this in their name")
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one test")
    parser.add_argument("--worker", choices=PIPELINES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"tests": results}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
