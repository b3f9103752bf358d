"""Leaving a part of the pipeline out."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import mlp, mlp_input

from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.pipeline import SWITCHES, check_switches, pipeline


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_every_switch_leaves_a_right_model(name, opencl_device):
    whole, part = compile_model(mlp()), compile_model(mlp(), disable=(name,))
    assert part.manifest.launches >= whole.manifest.launches
    expected, actual = whole.run(mlp_input()), part.run(mlp_input())
    for output, value in expected.items():
        np.testing.assert_allclose(actual[output], value, rtol=1e-4, atol=1e-5)


def test_names_are_checked():
    assert check_switches(["fuse", "fuse"]) == ("fuse",)
    for use in (
        lambda: check_switches(["fuse", "no"]),
        lambda: pipeline("adreno-740", disable=("no",)),
        lambda: compile_model(mlp(), disable=("no",)),
    ):
        with pytest.raises(SmartMemError, match="no switch 'no' to disable: it has ") as raised:
            use()
        assert all(f"{name} (" in str(raised.value) for name in SWITCHES)


def test_without_fusion_there_are_more_kernels():
    launches = [
        compile_model(mlp(), disable=disable).manifest.launches for disable in ((), tuple(SWITCHES))
    ]
    assert launches[0] < launches[1]
