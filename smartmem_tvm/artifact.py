"""A compiled model: run it, profile it, write it to a folder and load it back."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.relax.vm_build import VMExecutable

from . import runtime
from .errors import ArtifactError, DeviceError, SmartMemError
from .execution import LocalRunner, RemoteRunner, Runner, private_copy
from .frontend import check_inputs
from .linking import link, runs_here
from .manifest import (
    LIBRARY,
    MANIFEST,
    PARAMETERS,
    SOURCES,
    Manifest,
    is_artifact,
    manifest_text,
    verify_folder,
)
from .rpc.session import Remote


@dataclass(frozen=True)
class KernelProfile:
    """What one kernel took in one inference.

    Attributes
    ----------
    name : str
        The OpenCL kernel.
    launches : int
        How often it was launched with these sizes.
    device_us : float
        Microseconds on the device, all launches together.
    global_size, local_size : tuple[int, ...]
        Work-items in all and per work-group.
    """

    name: str
    launches: int
    device_us: float
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of an inference, from launch to the device having finished."""

    median: float
    min: float
    max: float
    n: int


class Artifact:
    """A model compiled for a device profile.

    :func:`smartmem_tvm.compile` and :meth:`load` make one. Its device is opened at the first
    :meth:`run`, :meth:`profile` or :meth:`benchmark`, so compiling for a phone needs no phone.

    Several threads may call the methods of one artefact: each call holds a lock from uploading its
    inputs to downloading its outputs, because a virtual machine carries one inference at a time.
    Artefacts that share an RPC session also share its lock.

    Attributes
    ----------
    manifest : Manifest
        Names, shapes and dtypes of inputs and outputs, kernels, device profile.
    sources : Mapping[str, str]
        OpenCL sources by file name.
    """

    def __init__(
        self,
        manifest: Manifest,
        library: VMExecutable | Path,
        parameters: Mapping[str, tvm.runtime.Tensor],
        sources: Mapping[str, str],
        *,
        device: tvm.runtime.Device | str | int | None = None,
        rpc: Remote | None = None,
        linker: str | None = None,
    ) -> None:
        self.manifest = manifest
        self.sources = dict(sources)
        self._library = library
        self._parameters = dict(parameters)
        self._device = device
        self._rpc = rpc
        self._linker = linker
        self._runner: Runner | None = None
        self._opening = threading.Lock()

    def run(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, np.ndarray]:
        """Run one inference.

        Parameters
        ----------
        inputs : Mapping[str, array] or Sequence[array]
            Every input by name, or all of them in the model's order.

        Returns
        -------
        dict[str, numpy.ndarray]
            Every output by name.

        Raises
        ------
        SmartMemError
            If a name, shape or dtype is not the model's.
        """
        arrays = check_inputs(self.manifest.inputs, inputs)
        with self._bound(arrays) as runner:
            runner.invoke()
            values = runner.outputs()
        names = [spec.name for spec in self.manifest.outputs]
        return dict(zip(names, values, strict=True))

    def profile(self, inputs: Mapping[str, Any] | Sequence[Any]) -> list[KernelProfile]:
        """Time every kernel of one inference, after a first one that is not counted.

        Launches of the same kernel with the same sizes make one row; rows are in the order of
        their first launch. Other work on the same device during the call is counted as well.
        """
        arrays = check_inputs(self.manifest.inputs, inputs)
        with self._bound(arrays) as runner:
            runner.invoke()
            runner.device.sync()
            with runtime.profile(runner.device) as records:
                runner.invoke()
                runner.device.sync()
            runner.outputs()
        rows: dict[tuple[Any, ...], list[float]] = {}
        for record in records:
            sizes = (tuple(record.global_size), tuple(record.local_size))
            rows.setdefault((record.name, *sizes), []).append(record.device_us)
        return [
            KernelProfile(name, len(times), sum(times), global_size, local_size)
            for (name, global_size, local_size), times in rows.items()
        ]

    def benchmark(
        self,
        inputs: Mapping[str, Any] | Sequence[Any],
        *,
        warmup: int = 2,
        repeats: int = 5,
        budget_s: float = math.inf,
    ) -> Latency:
        """Time inferences on inputs that are already on the device.

        Uploading inputs and downloading outputs is not counted. Behind an RPC session two round
        trips are.

        Parameters
        ----------
        inputs : Mapping[str, array] or Sequence[array]
            As for :meth:`run`.
        warmup : int
            Inferences before the first that counts.
        repeats : int
            Inferences that count, at least 1.
        budget_s : float
            Start no further repeat once this many seconds are spent; one is always made. The
            number that was made is in the result.
        """
        if repeats < 1 or warmup < 0:
            raise SmartMemError(
                f"cannot time {repeats} repeats after {warmup} warm-up runs: at least 1 and 0."
            )
        arrays = check_inputs(self.manifest.inputs, inputs)
        times = []
        deadline = time.perf_counter() + budget_s
        with self._bound(arrays) as runner:
            for index in range(warmup + repeats):
                if times and time.perf_counter() > deadline:
                    break
                runner.device.sync()
                start = time.perf_counter()
                runner.invoke()
                runner.device.sync()
                if index >= warmup:
                    times.append((time.perf_counter() - start) * 1e3)
            runner.outputs()
        return Latency(statistics.median(times), min(times), max(times), len(times))

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the artefact to a folder.

        The files are written to a temporary folder beside it, which is then renamed: ``folder``
        holds either what it held before or the whole artefact. An artefact that is already there
        is replaced; anything else is left alone.

        Raises
        ------
        ArtifactError
            If ``folder`` exists and is neither empty nor an artefact, or cannot be written.
        """
        target = Path(folder)
        if target.is_symlink() or (target.exists() and not _replaceable(target)):
            raise ArtifactError(
                f"'{target}' exists and is not an artefact: it is left alone. Give another folder "
                "or remove it."
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as error:
            raise ArtifactError(f"cannot write '{target}': {error.strerror}.") from error
        try:
            fresh = workspace / "new"
            self._write(fresh)
            # Renaming a folder over a non-empty one is no operation of POSIX: the old one is moved
            # aside first, and back if the new one cannot take its place.
            if target.exists():
                target.rename(workspace / "old")
            try:
                fresh.rename(target)
            except OSError:
                if (workspace / "old").exists():
                    (workspace / "old").rename(target)
                raise
        except OSError as error:
            raise ArtifactError(f"cannot write '{target}': {error}.") from error
        finally:
            shutil.rmtree(workspace)
        return target

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        device: tvm.runtime.Device | str | int | None = None,
        rpc: Remote | None = None,
    ) -> Artifact:
        """Verify an artefact's folder and load it.

        Parameters
        ----------
        folder : str or os.PathLike
            What :meth:`export` wrote.
        device : tvm.runtime.Device or str or int, optional
            The OpenCL device to run on, itself or a selector of ``smartmem_tvm.runtime.device``.
        rpc : Remote, optional
            Run on this session's device instead (``smartmem_tvm.rpc.session.connect``).

        Raises
        ------
        ArtifactError
            If the folder is no artefact, is damaged or incomplete, or is from another version.
            Nothing of it is loaded then.
        """
        path = Path(folder)
        manifest = verify_folder(path)
        parameters = tvm.runtime.load_param_dict_from_file(str(path / PARAMETERS))
        sources = {
            source.name: source.read_text(encoding="utf-8")
            for source in sorted((path / SOURCES).glob("*.cl"))
        }
        return cls(manifest, path, parameters, sources, device=device, rpc=rpc)

    def _write(self, folder: Path) -> None:
        (folder / SOURCES).mkdir(parents=True)
        if isinstance(self._library, Path):
            verify_folder(self._library)
            shutil.copyfile(self._library / LIBRARY, folder / LIBRARY)
        else:
            link(self._library, folder / LIBRARY, self.manifest.host, self._linker)
        tvm.runtime.save_param_dict_to_file(self._parameters, str(folder / PARAMETERS))
        for name, text in self.sources.items():
            (folder / SOURCES / name).write_text(text, encoding="utf-8")
        files = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file()
        }
        (folder / MANIFEST).write_text(manifest_text(self.manifest, files), encoding="utf-8")

    @contextmanager
    def _bound(self, arrays: list[np.ndarray]) -> Iterator[Runner]:
        """Give the runner with these inputs uploaded, to this thread alone."""
        with self._opening:
            if self._runner is None:
                self._runner = self._open()
            runner = self._runner
        with runner.lock:
            runner.bind(arrays)
            yield runner

    def _open(self) -> Runner:
        if self._rpc is not None:
            return self._open_remote(self._rpc)
        if not runs_here(self.manifest.host):
            raise DeviceError(
                f"model '{self.manifest.model}' is compiled for the host "
                f"'{self.manifest.host}', which is not this machine. Export it and run it there "
                "(--rpc HOST:PORT --key KEY), or compile it without --host."
            )
        device = self._device
        if not isinstance(device, tvm.runtime.Device):
            device = runtime.device(device)
        self._check_dtype(device)
        scopes = self.manifest.parameter_scopes
        if not isinstance(self._library, Path):
            return LocalRunner(self._library, self._parameters, device, scopes)
        with private_copy(self._library / LIBRARY) as library:
            module = tvm.runtime.load_module(str(library))
            return LocalRunner(module, self._parameters, device, scopes)

    def _open_remote(self, remote: Remote) -> Runner:
        if isinstance(self._library, Path):
            return RemoteRunner(self._library / LIBRARY, self._parameters, remote)
        with tempfile.TemporaryDirectory(prefix="smartmem-") as folder:
            library = Path(folder) / LIBRARY
            link(self._library, library, self.manifest.host, self._linker)
            return RemoteRunner(library, self._parameters, remote)

    def _check_dtype(self, device: tvm.runtime.Device) -> None:
        if self.manifest.dtype != "float16":
            return
        for info in runtime.list_devices():
            if info.index == device.index and not info.fp16:
                raise DeviceError(
                    f"model '{self.manifest.model}' is compiled in float16 and OpenCL device "
                    f"{info.index} '{info.name}' has no half precision (cl_khr_fp16). Compile it "
                    "with --dtype float32, or choose another device with --opencl-device."
                )


def load(
    folder: str | os.PathLike[str],
    device: tvm.runtime.Device | str | int | None = None,
    rpc: Remote | None = None,
) -> Artifact:
    """Load an artefact; see :meth:`Artifact.load`."""
    return Artifact.load(folder, device, rpc)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or is_artifact(folder))
