from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartmem_tvm.devices import load_profile
from smartmem_tvm.tuning.measure import MeasureLimits, Measurer
from smartmem_tvm.tuning.reference import host_reference, save_reference, write_task

HERE = str(Path(__file__).parent)


@pytest.fixture
def planted(monkeypatch):
    """Workers find the builders of `planted_kernels`."""
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{path}" if path else HERE)
    return "planted_kernels:build"


@pytest.fixture
def tasks(tmp_path):
    """A folder of tasks with references: the functions of `small_tasks` by their names."""
    import small_tasks

    for name, func in small_tasks.TASKS.items():
        write_task(tmp_path, name, func, load_profile("cpu").target())
        save_reference(tmp_path / name, host_reference(func, 0))
    return tmp_path


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
