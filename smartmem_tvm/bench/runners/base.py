"""What a runner is: one framework that runs a model in a worker process.

A new one is a subclass of :class:`Runner` and a line in ``runners/__init__.py``. The module is
imported by the harness too, which asks :meth:`Runner.missing`: frameworks are imported in
methods, not at the top.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from ...rpc.session import Remote


@dataclass(frozen=True)
class RpcAddress:
    """Where a device behind RPC is: tracker ``HOST:PORT``, key, and seconds to wait for it."""

    tracker: str
    key: str
    timeout: float = 30.0


@dataclass(frozen=True)
class Case:
    """What a worker is to run, and how.

    Attributes
    ----------
    folder : Path
        Folder of the model, shared by its runners.
    artefacts : Path
        Folder of this runner for this model: what :meth:`Runner.prepare` leaves there is what
        :meth:`Runner.load` opens, in another process and perhaps on another day.
    source : str
        The model as a user names it, such as ``zoo:swin/micro``; empty for a probe.
    threads : int
        Processors the worker may use.
    device, opencl_device, dtype, host, linker, disable
        As for :func:`smartmem_tvm.compiler.compile`.
    rpc : RpcAddress, optional
        Run on the device there.
    options : Mapping[str, str]
        Switches of this runner, from ``NAME:key=value``.
    inputs : Mapping[str, numpy.ndarray]
        The model's inputs by name.
    output_names : tuple[str, ...]
        The model's outputs in order.
    """

    folder: Path
    artefacts: Path
    source: str = ""
    threads: int = 2
    device: str = "auto"
    opencl_device: str | None = None
    dtype: str = "float32"
    host: str | None = None
    linker: str | None = None
    disable: tuple[str, ...] = ()
    rpc: RpcAddress | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()

    @property
    def model(self) -> Path:
        """The ONNX file that every runner reads."""
        return self.folder / "model.onnx"

    def connect(self) -> Remote | None:
        """Session with the device behind RPC, open until the process ends; None without one."""
        if self.rpc is None:
            return None
        from ...rpc.session import connect

        index = int(self.opencl_device or 0)
        return connect(self.rpc.tracker, self.rpc.key, device=index, timeout=self.rpc.timeout)


@dataclass(frozen=True)
class Facts:
    """What is known of a model on a runner without timing it.

    Attributes
    ----------
    kernels, layout_kernels : int, optional
        Device launches of one inference, and those of them that only move data.
    footprint_bytes : int, optional
        Unique bytes that each launch reads and writes, summed over the launches.
    work : float, optional
        For a probe: operations, or bytes read plus written, of one run.
    details : Mapping[str, Any]
        Version, backend and the like, for the record.
    """

    kernels: int | None = None
    layout_kernels: int | None = None
    footprint_bytes: int | None = None
    work: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Runner:
    """One way to run a model.

    A worker calls ``prepare``, ``load``, ``outputs`` and ``run`` to prepare a model, and another
    one later ``load``, ``outputs`` and then ``run`` repeatedly to measure it.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Switches and their values; the first is what holds when the switch is not given. A switch
    without values takes the path of a file."""

    PACKAGE: ClassVar[str | None] = None
    """Module that has to be installed."""

    INSTALL: ClassVar[str] = "pip install 'smartmem-tvm[bench]'"

    PARTS: ClassVar[tuple[str, ...]] = ()
    """Parts of this package that decide what ``prepare`` leaves: prepared again when they change.
    The runner's own module and what reads models are parts in any case; "" is the whole package.
    A test compares them with what the runner imports, and that with what it imports in turn."""

    REMOTE: ClassVar[bool] = False
    """Whether it can run on a device behind RPC."""

    NOT_REMOTE: ClassVar[str] = "it runs on this machine's processor, the device is behind RPC"

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

    @classmethod
    def made_from(cls, options: Mapping[str, str]) -> dict[str, str]:
        """What files of switches hold: prepared again when it changes."""
        return {}

    def prepare(self, case: Case) -> Facts:
        """Do all that takes long and needs doing once, and leave the result in the folder."""
        return Facts()

    def load(self, case: Case) -> Facts:
        """Open what ``prepare`` left and put the inputs in place."""
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
