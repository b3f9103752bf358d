"""What a runner is: one framework that runs a model in a worker process.

A new one is a subclass of :class:`Runner` and a line in ``runners/__init__.py``. The module is
imported by the harness too, which asks :meth:`Runner.missing`: frameworks are imported in
``load``, not at the top.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Case:
    """What a worker is to run, and how.

    Attributes
    ----------
    folder : Path
        Scratch folder of the model, shared by its runners.
    source : str
        The model as a user names it, such as ``zoo:swin/micro``; empty for a probe.
    threads : int
        Processors the worker may use.
    device, opencl_device, dtype
        As for :func:`smartmem_tvm.compiler.compile`.
    options : Mapping[str, str]
        Switches of this runner, from ``NAME:key=value``.
    inputs : Mapping[str, numpy.ndarray]
        The model's inputs by name.
    output_names : tuple[str, ...]
        The model's outputs in order.
    """

    folder: Path
    source: str = ""
    threads: int = 2
    device: str = "auto"
    opencl_device: str | None = None
    dtype: str = "float32"
    options: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()

    @property
    def model(self) -> Path:
        """The ONNX file that every runner reads."""
        return self.folder / "model.onnx"


@dataclass(frozen=True)
class Loaded:
    """What is known once a model is loaded.

    Attributes
    ----------
    kernels, layout_kernels : int, optional
        Device launches of one inference, and those of them that only move data.
    work : float, optional
        For a probe: operations, or bytes read plus written, of one run.
    details : Mapping[str, Any]
        Version, backend and the like, for the record.
    """

    kernels: int | None = None
    layout_kernels: int | None = None
    work: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Runner:
    """One way to run a model; the worker calls ``load``, ``outputs``, then ``run`` repeatedly."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Switches and their values; the first is what holds when the switch is not given."""

    PACKAGE: ClassVar[str | None] = None
    """Module that has to be installed."""

    INSTALL: ClassVar[str] = "pip install 'smartmem-tvm[bench]'"

    @classmethod
    def missing(cls) -> str | None:
        """Why this runner cannot run here; None if it can."""
        if cls.PACKAGE is None or importlib.util.find_spec(cls.PACKAGE) is not None:
            return None
        return f"'{cls.PACKAGE}' is not installed ({cls.INSTALL})"

    @classmethod
    def dtype(cls, dtype: str, options: Mapping[str, str]) -> str:
        """Storage type in which this runner computes, where the command says ``dtype``."""
        return "float32"

    def load(self, case: Case) -> Loaded:
        """Read and compile the model and upload the inputs."""
        raise NotImplementedError

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference: every output by name."""
        raise NotImplementedError

    def run(self) -> float:
        """Milliseconds of one inference on inputs that are in place."""
        raise NotImplementedError


def milliseconds(action: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3
