"""The real runners agree with onnxruntime on a small model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import mlp

from smartmem_tvm.bench.arrays import read_arrays
from smartmem_tvm.bench.prepare import INPUTS, REFERENCE, Prepare
from smartmem_tvm.bench.runners import PROBES, RUNNERS, load_class
from smartmem_tvm.bench.runners.base import Case, Facts

DEVICE = {"smartmem", "tvm", "tvm-adreno"}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    onnx.save(mlp(), folder / "source.onnx")
    details = Prepare().prepare(Case(folder, folder, str(folder / "source.onnx"))).details
    weights = 4 * (16 * 32 + 32 + 32 * 8)
    assert details["compulsory_bytes"] == weights + 4 * (3 * 16 + 3 * 8 + 32 * 3)
    return Case(
        folder,
        folder,
        "source.onnx",
        inputs=read_arrays(folder / INPUTS),
        output_names=tuple(read_arrays(folder / REFERENCE)),
    )


def _check(name, case):
    """Prepare, load what was left in another instance, compare and time: the facts."""
    runner = load_class(RUNNERS[name][0])
    if runner.missing() is not None:
        pytest.skip(runner.missing())
    case = replace(case, artefacts=case.folder / name)
    case.artefacts.mkdir()
    facts = runner().prepare(case)
    one = runner()
    one.load(case)
    for _ in range(2):
        outputs = one.outputs()
        expected = read_arrays(case.folder / REFERENCE)
        assert outputs.keys() == expected.keys()
        for output, value in expected.items():
            np.testing.assert_allclose(outputs[output], value, rtol=1e-4, atol=1e-4)
        assert 0 < one.run() < 5000
    return facts


@pytest.mark.parametrize("name", sorted(DEVICE))
def test_runners_on_the_device(name, case, opencl_device):
    facts = _check(name, case)
    # Two products and a transpose: what each launch reads and writes, in float32.
    first, second, last = 3 * 16 + 16 * 32 + 32 + 3 * 32, 3 * 32 + 32 * 8 + 3 * 8, 2 * 3 * 32
    plain = Facts(3, 1, 4 * (first + second + last), details=facts.details)
    if name == "smartmem":
        assert 1 <= facts.kernels <= plain.kernels
        assert 0 < facts.footprint_bytes <= plain.footprint_bytes
        assert facts.layout_kernels <= plain.layout_kernels
    else:
        assert facts == plain
        assert facts.details["image_arguments"] == 0


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runners_on_the_processor(name, case):
    assert _check(name, case).kernels is None


def test_mnn_installs_and_reports_nothing(case):
    """In a process of its own: what its wheel's command does on import must not happen."""
    if load_class(RUNNERS["mnn"][0]).missing() is not None:
        pytest.skip("MNN is not installed")
    script = (
        "import sys, pytest\n"
        f"code = pytest.main(['-q', '-p', 'no:cacheprovider', {__file__!r} + '::test_mnn_itself',"
        " '-m', 'slow'])\n"
        "assert not [name for name in sys.modules if name.startswith('MNN.tools')]\n"
        "sys.exit(int(code))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mnn_itself(case):
    assert _check("mnn", case).kernels is None


def test_copy_bandwidth(tmp_path, opencl_device):
    probe = load_class(PROBES["copy-bandwidth"][0])()
    loaded = probe.load(Case(tmp_path, tmp_path))
    assert probe.outputs() == {}
    # Between a slow memory card and what no memory reaches.
    assert 1e8 < loaded.work / probe.run() * 1e3 < 1e14


def test_numpy_gemm(tmp_path):
    probe = load_class(PROBES["numpy-gemm"][0])()
    loaded = probe.load(Case(tmp_path, tmp_path))
    assert probe.outputs() == {}
    assert 1e8 < loaded.work / probe.run() * 1e3 < 1e16
