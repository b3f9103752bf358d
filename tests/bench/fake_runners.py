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
from smartmem_tvm.bench.runners.base import Case, Loaded, Runner


class Right(Runner):
    """Answers with the reference, in about a millisecond."""

    OPTIONS: ClassVar = {"fast": ("off", "on")}

    def load(self, case: Case) -> Loaded:
        self.case = case
        return Loaded(kernels=7, layout_kernels=2, details={"options": dict(case.options)})

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
    def load(self, case: Case) -> Loaded:
        raise ValueError("this model is not supported\nsecond line")


class Talks(Right):
    """Prints to stdout, where replies go."""

    def load(self, case: Case) -> Loaded:
        os.write(1, b"banner of a library\n")
        print("hello")
        return super().load(case)


class Hang(Right):
    def run(self) -> float:
        while True:
            time.sleep(0.01)


class Hog(Right):
    """Takes memory piece by piece until it is stopped, at 6 GiB by itself."""

    def load(self, case: Case) -> Loaded:
        pieces = []
        for _ in range(96):
            pieces.append(np.ones(64 << 20, np.uint8))
            time.sleep(0.01)
        return super().load(case)


class Big(Right):
    """Holds 400 MiB."""

    def load(self, case: Case) -> Loaded:
        self.memory = np.ones(400 << 20, np.uint8)
        return super().load(case)


class Slow(Right):
    """Says that an inference takes 30 s."""

    def run(self) -> float:
        return 30_000.0


class Blocked(Right):
    """Waits on models of the name ``second`` while the file named in FAKE_BLOCK is there."""

    def run(self) -> float:
        while "second" in self.case.source and Path(os.environ["FAKE_BLOCK"]).exists():
            time.sleep(0.01)
        return super().run()


class Absent(Right):
    PACKAGE = "no_such_package_anywhere"
