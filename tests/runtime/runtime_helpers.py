"""What the runtime's tests share: kernels, tensors and runs in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

from smartmem_tvm import DeviceError, runtime

ROOT = Path(__file__).parents[2]
AXES = ("blockIdx.x", "threadIdx.x")

ADD = (
    "__kernel void add(__global const float* a, __global float* b, float c) {\n"
    "  int i = get_global_id(0); b[i] = a[i] + c; }"
)


def add_kernel():
    """``add(a, b, c, groups, items)``: b = a + c."""
    return runtime.source_module(ADD, {"add": (("handle", "handle", "float32"), AXES)})["add"]


def random_array(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def on_device(array, device, scope=None):
    return tvm.runtime.empty(array.shape, str(array.dtype), device, scope).copyfrom(array)


def image_or_skip(array, device, scope):
    """*array* in an image; skips the test where the device has no such format."""
    try:
        return on_device(array, device, scope)
    except DeviceError as error:
        if "no image format" in str(error) or "has no images" in str(error):
            pytest.skip(str(error))
        raise


def skip_without_host_threads(info):
    if "Oclgrind" in info.name:
        pytest.skip("Oclgrind's simulator does not take commands from several host threads")


def run_python(code: str, *, check: bool = True, timeout: float = 120, **env: str | None):
    """Run *code* in a fresh interpreter; a variable that is None is removed."""
    full = dict(os.environ)
    for name, value in env.items():
        if value is None:
            full.pop(name, None)
        else:
            full[name] = value
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=full,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
