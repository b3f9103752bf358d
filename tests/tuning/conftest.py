from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import small_tasks
from made_records import record, tile

from smartmem_tvm.devices import load_profile
from smartmem_tvm.tuning.measure import MeasureLimits, Measurer
from smartmem_tvm.tuning.records_file import RecordsFile
from smartmem_tvm.tuning.reference import host_reference, save_reference, write_task

HERE = str(Path(__file__).parent)


@pytest.fixture
def planted(monkeypatch):
    """Workers find the builders of `planted_kernels`."""
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{path}" if path else HERE)
    return "planted_kernels:build"


@pytest.fixture(scope="session")
def written_tasks(tmp_path_factory):
    """What `tasks` has, to be left as it is: references take the host a while."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, func in small_tasks.TASKS.items():
        write_task(folder, name, func, load_profile("cpu").target())
        save_reference(folder / name, host_reference(func, 0))
    return folder


@pytest.fixture
def tasks(written_tasks, tmp_path):
    """A folder of tasks with references: the functions of `small_tasks` by their names."""
    return shutil.copytree(written_tasks, tmp_path / "tasks")


@pytest.fixture
def measure(tasks):
    """Measure jobs; outcomes in the order in which they came, with their jobs."""

    def run(jobs, profile="cpu", seconds=120.0, found=None, **options):
        options.setdefault("limits", MeasureLimits(seconds=seconds))
        found = [] if found is None else found
        with Measurer(tasks, load_profile(profile), **options) as measurer:
            measurer.measure(jobs, lambda job, outcome: found.append((job, outcome)))
        return found

    return run


@pytest.fixture
def path(tmp_path):
    """Where there is no file of records yet."""
    return tmp_path / "records.jsonl"


@pytest.fixture
def three(path):
    """Three records, which the file at `path` has."""
    items = [record(trial=trial, choice=tile(trial)) for trial in range(3)]
    with RecordsFile(path) as file:
        for item in items:
            file.append(item)
    return items
