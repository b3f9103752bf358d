"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Kernels compile once per checkout and the user's cache stays as it is. Set before the runtime
# loads.
os.environ.setdefault(
    "SMARTMEM_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "smartmem")
)


@pytest.fixture(scope="session")
def opencl_device():
    """The first OpenCL device (``SMARTMEM_OPENCL_DEVICE`` chooses another)."""
    from smartmem_tvm import runtime

    return runtime.device()


@pytest.fixture(scope="session")
def opencl_info(opencl_device):
    """What the device under test says of itself."""
    from smartmem_tvm import runtime

    return runtime.list_devices()[opencl_device.index]


def pytest_collection_modifyitems(items):
    """Mark what needs a device, so that `pytest -m device` repeats it on another driver."""
    for item in items:
        if {"opencl_device", "opencl_info"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.device)
