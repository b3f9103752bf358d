"""Runners that misbehave in one way each; workers import them through PYTHONPATH."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from smartmem_tvm.bench.arrays import read_arrays
from smartmem_tvm.bench.prepare import REFERENCE
from smartmem_tvm.bench.runners.base import Case, Facts, Runner


class Right(Runner):
    """Answers with the reference, in about a millisecond."""

    OPTIONS: ClassVar = {"fast": ("off", "on")}

    def load(self, case: Case) -> Facts:
        self.case = case
        return Facts(kernels=7, layout_kernels=2, details={"options": dict(case.options)})

    def outputs(self):
        return read_arrays(self.case.folder / REFERENCE)

    def run(self) -> float:
        return 1.0


class Wrong(Right):
    def outputs(self):
        return {name: value + np.float32(1) for name, value in super().outputs().items()}


class OtherOutputs(Right):
    def outputs(self):
        return {"nothing": np.zeros(3, np.float32)}


class Crash(Right):
    """Is killed by a signal, as a fault in a driver would."""

    def run(self) -> float:
        print("about to crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0.0


class Raises(Right):
    def load(self, case: Case) -> Facts:
        raise ValueError("this model is not supported\nsecond line")


class Talks(Right):
    """Prints to stdout, where replies go."""

    def load(self, case: Case) -> Facts:
        os.write(1, b"banner of a library\n")
        print("hello")
        return super().load(case)


class Hang(Right):
    def run(self) -> float:
        while True:
            time.sleep(0.01)


class Hog(Right):
    """Takes memory piece by piece until it is stopped, at 6 GiB by itself."""

    def load(self, case: Case) -> Facts:
        pieces = []
        for _ in range(96):
            pieces.append(np.ones(64 << 20, np.uint8))
            time.sleep(0.01)
        return super().load(case)


class Big(Right):
    """Holds 400 MiB."""

    def load(self, case: Case) -> Facts:
        self.memory = np.ones(400 << 20, np.uint8)
        return super().load(case)


class Slow(Right):
    """Says that an inference takes 30 s."""

    def run(self) -> float:
        return 30_000.0


def is_prepared(case):
    """Whether this process measures what another one prepared."""
    return (case.artefacts / "prepared.json").exists()


class Later(Right):
    """Is killed while it is measured, and not while it is prepared."""

    def run(self) -> float:
        if is_prepared(self.case):
            os.kill(os.getpid(), signal.SIGSEGV)
        return 1.0


class Unsteady(Right):
    """Is right when it is prepared and wrong when it is measured."""

    def outputs(self):
        shift = np.float32(is_prepared(self.case))
        return {name: value + shift for name, value in super().outputs().items()}


class Counted(Right):
    """Adds a line to the file named in FAKE_COUNT whenever it is prepared or loaded."""

    def prepare(self, case: Case) -> Facts:
        self._say("prepare")
        (case.artefacts / "compiled").write_text("yes")
        return Facts(kernels=5, footprint_bytes=1 << 20, details={"compiled": True})

    def load(self, case: Case) -> Facts:
        self._say("load")
        assert (case.artefacts / "compiled").read_text() == "yes"
        self.case = case
        return Facts(details={"loaded": True})

    def _say(self, what):
        with open(os.environ["FAKE_COUNT"], "a") as file:
            file.write(f"{what}\n")


class Blocked(Counted):
    """Waits on models of the name ``second`` in one of the phases, once it has written its PID."""

    def run(self) -> float:
        phase = "measure" if is_prepared(self.case) else "prepare"
        block = Path(os.environ["FAKE_BLOCK"])
        if "second" in self.case.source and block.exists() and block.read_text() == phase:
            partial = block.with_suffix(".tmp")
            partial.write_text(str(os.getpid()))
            os.replace(partial, block.with_suffix(".pid"))
            while True:
                time.sleep(0.01)
        return super().run()


class Absent(Right):
    PACKAGE = "no_such_package_anywhere"
