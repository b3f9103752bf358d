from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import mlp

from smartmem_tvm import checking
from smartmem_tvm.errors import DeviceError, SmartMemError


def f32(*values):
    return np.array(values, np.float32)


def test_equal_arrays_have_no_error():
    assert checking.relative_error(f32(1, -2, 0), f32(1, -2, 0)) == 0.0
    assert checking.relative_error(f32(0, 0), f32(0, 0)) == 0.0


def test_error_by_hand():
    # rms(3, 4) = sqrt(12.5); differences 0.3 and 0.
    expected = 0.3 / (3 + math.sqrt(12.5))
    error = checking.relative_error(np.array([3.3, 4.0]), np.array([3.0, 4.0]))
    assert error == pytest.approx(expected)


def test_the_worst_element_counts():
    reference = np.zeros(1000)
    reference[0] = 100.0
    ours = reference.copy()
    ours[7] = 1.0
    rms = 100 / math.sqrt(1000)
    assert checking.relative_error(ours, reference) == pytest.approx(1 / rms)


def test_difference_from_an_all_zero_reference_is_infinite():
    assert checking.relative_error(f32(0, 1e-20), f32(0, 0)) == math.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_values_must_agree(value):
    assert checking.relative_error(f32(1, value), f32(1, 2)) == math.inf
    assert checking.relative_error(f32(1, 2), f32(1, value)) == math.inf
    assert checking.relative_error(f32(1, value), f32(1, value)) == 0.0
    assert checking.relative_error(f32(1, np.inf), f32(1, -np.inf)) == math.inf


def test_agreeing_infinities_do_not_hide_other_errors():
    assert checking.relative_error(f32(np.inf, 2), f32(np.inf, 1)) == pytest.approx(0.5)


def test_integers_and_booleans_are_numbers():
    assert checking.relative_error(np.array([1, 2]), np.array([1, 2])) == 0
    assert checking.relative_error(np.array([True, False]), np.array([True, True])) > 0.4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(1e-6, 1e-2))
def test_scaling_all_elements_stays_below_the_scale(values, scale):
    reference = np.array(values)
    error = checking.relative_error(reference * (1 + scale), reference)
    assert error <= scale * 1.001


def test_shapes_and_dtypes_must_agree():
    with pytest.raises(SmartMemError, match=r"output 'y' is float32\[1, 2\].*float32\[2\]"):
        checking.output_errors({"y": f32(1, 2)[None]}, {"y": f32(1, 2)})
    with pytest.raises(SmartMemError, match="float64"):
        checking.output_errors({"y": np.ones(2)}, {"y": f32(1, 1)})
    with pytest.raises(SmartMemError, match=r"\['y'\] and the reference's are \['z'\]"):
        checking.output_errors({"y": f32(1)}, {"z": f32(1)})


@pytest.mark.device
def test_check_passes_on_a_right_model(opencl_device):
    stages = []
    result = checking.check(mlp(), repeats=3, progress=stages.append)
    assert set(result.errors) == {"y", "z"}
    assert result.passed
    assert result.max_rel_error < 1e-5
    assert result.kernels == 2
    assert result.layout_kernels == 0
    assert result.operators == 5
    assert 0 < result.latency.min <= result.latency_ms <= result.latency.max
    assert result.latency.n == 3
    assert stages[:2] == ["import", "reference"]
    assert {"legalise", "build", "run", "time"} <= set(stages)


@pytest.mark.device
def test_check_fails_on_a_wrong_result(opencl_device, monkeypatch):
    right = checking.reference_outputs
    monkeypatch.setattr(
        checking,
        "reference_outputs",
        lambda *args: {name: value * np.float32(1.01) for name, value in right(*args).items()},
    )
    result = checking.check(mlp(), repeats=1)
    assert not result.passed
    # A relative difference of 1 % of the largest element, which is several times the rms.
    assert 1e-3 < result.max_rel_error < 1e-2


@pytest.mark.device
def test_check_in_half_precision(opencl_device, opencl_info):
    if not opencl_info.fp16:
        with pytest.raises(DeviceError, match="half precision"):
            checking.check(mlp(), dtype="float16")
        return
    result = checking.check(mlp(), dtype="float16", repeats=1)
    assert result.passed
    assert result.tolerance == 2e-2
    # Storage in half precision shows: an exact result would mean that nothing was cast.
    assert result.max_rel_error > 1e-6
