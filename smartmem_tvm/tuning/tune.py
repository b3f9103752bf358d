"""From a model to records of its kernels: import, tasks, a session that measures on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from ..devices import DeviceProfile, choose_profile
from ..errors import SmartMemError
from ..frontend import ImportedModel, import_model
from ..linking import check_host, find_linker
from ..rpc.session import connect
from .measure import MeasureLimits, Measurer
from .records_file import RecordsFile
from .reference import write_task
from .session import Budget, TuningSession
from .strategies import DEFAULT, check_strategy
from .tasks import TuningTask, list_tasks


def tune(
    model: Any,
    device: str | PathLike[str] | DeviceProfile = "auto",
    *,
    records: str | PathLike[str],
    budget: Budget,
    watch: Callable[[TuningSession], None] | None = None,
    **options: Any,
) -> TuningSession:
    """Search schedules of a model's kernels on a device, and keep what is measured.

    Parameters
    ----------
    model, device
        As :func:`smartmem_tvm.compile` takes them.
    records : str or Path
        File of records: made where there is none, gone on from where there is one. Then
        ``smartmem_tvm.compile(model, device, records=records)``.
    budget : Budget
        When to end: trials, trials of each task, or seconds.
    watch : Callable[[TuningSession], None], optional
        Called after every outcome, to show progress.
    **options
        Of :func:`open_session`.

    Returns
    -------
    TuningSession
        The session at its end; its ``progress`` has the times of each kernel.

    Raises
    ------
    SmartMemError
        For what cannot be used, such as a model without kernels that could be tuned, records that
        another session writes, or a device that does not answer; the message says what to do.

    Examples
    --------
    ::

        session = smartmem_tvm.tune("swin.onnx", records="swin.jsonl", budget=Budget(seconds=600))
        print(session.seconds(best=False) / session.seconds(), "times faster than untuned")
    """
    with open_session(model, device, records=records, budget=budget, **options) as session:
        session.run(watch)
    return session


@contextmanager
def open_session(
    model: Any,
    device: str | PathLike[str] | DeviceProfile = "auto",
    *,
    records: str | PathLike[str],
    budget: Budget,
    strategy: str = DEFAULT,
    seed: int = 0,
    tasks: Collection[str] | None = None,
    dtype: str = "float32",
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    host: str | None = None,
    opencl_device: str | int | None = None,
    rpc: tuple[str, str] | None = None,
    rpc_timeout: float = 30.0,
    servers: int | None = None,
    limits: MeasureLimits | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[TuningSession]:
    """Open a session that has measured nothing yet; its processes end with the block.

    Parameters
    ----------
    model, device, records, budget
        As :func:`tune` takes them.
    strategy, seed : str, int
        The search (:data:`smartmem_tvm.tuning.strategies.STRATEGIES`) and its seed.
    tasks : Collection[str], optional
        Names or keys of the kernels to tune; all without.
    dtype, shapes, host, opencl_device
        As :func:`smartmem_tvm.compile` takes them.
    rpc : (str, str), optional
        Tracker (``HOST:PORT``) and key of the servers to measure on, instead of this machine.
    rpc_timeout : float
        Seconds to wait for a server that tells what its device is, where ``device`` is ``auto``.
    servers : int, optional
        How many servers to use at a time; all with the key without.
    limits : MeasureLimits, optional
        What a candidate may cost.
    progress : Callable[[str], None], optional
        Called with the name of each stage before the session.
    """
    check_strategy(strategy)
    if host is not None:
        check_host(host)
        find_linker(host, None)
    profile = _profile(device, dtype, opencl_device, rpc, rpc_timeout)
    if progress is not None:
        progress("import")
    imported = model if isinstance(model, ImportedModel) else import_model(model, shapes=shapes)
    target = profile.target(host)
    found = list_tasks(imported.mod, target, dtype, progress=progress)
    if not found.tasks:
        reasons = "; ".join(dict.fromkeys(found.left_out.values())) or "it has none at all"
        raise SmartMemError(
            f"model '{imported.name}' has no kernel that could be tuned: {reasons}."
        )
    chosen = choose_tasks(found.tasks, tasks)
    with RecordsFile(records) as file, tempfile.TemporaryDirectory(prefix="smartmem-tune-") as own:
        folder = Path(own)
        for task in chosen:
            write_task(folder, task.key, task.func, target)
        with Measurer(
            folder,
            profile,
            opencl_device=None if opencl_device is None else str(opencl_device),
            rpc=rpc,
            servers=servers,
            limits=limits,
        ) as measurer:
            yield TuningSession(
                chosen,
                measurer,
                file.append,
                str(target.attrs["model"]),
                strategy=strategy,
                seed=seed,
                budget=budget,
                known=file.earlier,
                left_out=found.left_out,
            )


def choose_tasks(
    tasks: Collection[TuningTask], names: Collection[str] | None = None
) -> list[TuningTask]:
    """Tasks of some names or keys; all without names."""
    if names is None:
        return [*tasks]
    if not names:
        raise SmartMemError("no kernel is named to be tuned: leave the names out to tune all.")
    known = {name: task for task in tasks for name in (task.key, task.name)}
    for name in names:
        if name not in known:
            listed = ", ".join(task.name for task in tasks)
            raise SmartMemError(f"there is no kernel '{name}' to tune; there are {listed}.")
    return list({known[name].key: known[name] for name in names}.values())


def _profile(
    device: str | PathLike[str] | DeviceProfile,
    dtype: str,
    opencl_device: str | int | None,
    rpc: tuple[str, str] | None,
    timeout: float,
) -> DeviceProfile:
    """Profile to tune for; where it is ``auto``, that of the device behind the tracker."""
    if rpc is None:
        return choose_profile(device, dtype, opencl_device)
    with connect(*rpc, device=int(opencl_device or 0), timeout=timeout) as remote:
        return choose_profile(device, dtype, info=remote.device_info())
