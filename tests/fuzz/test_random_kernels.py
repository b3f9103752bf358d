"""Random kernels against NumPy: twenty on each driver, thousands by ``make fuzz-kernels``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from zlib import crc32

import fuzz_kernel_execution
import numpy as np
import pytest
import tvm
from fuzz_execution import compare
from fuzz_graphs import Graph, Step, Tensor
from fuzz_kernel_execution import (
    IllegalKernelError,
    Setting,
    pack_with_nan,
    run_kernels,
    unpack,
)
from fuzz_kernels import KINDS, kernels
from fuzz_reference import IllConditionedError, reference
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from run_kernels import DRIVERS, LOG, PROFILES, setting_of
from tvm.script import tirx as T

from smartmem_tvm.analysis.layouts import Layout

HERE = Path(__file__).parent
# Each was wrong or refused once; minimised by run_kernels.py.
FOUND = sorted((HERE / "kernels").glob("*.json"))


def random_kernels(count, start, **kind):
    """Run a test with so many kernels, the same ones every time."""

    def decorate(test):
        chosen = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # run_kernels.py makes them small
            suppress_health_check=list(HealthCheck),
        )
        return seed(start)(chosen(given(graph=kernels(**kind))(test)))

    return decorate


def check(graph, setting):
    try:
        reference(graph)
    except IllConditionedError:
        assume(False)
    chosen = setting_of(graph, setting, None, None)
    compare(graph, run_kernels(graph, chosen))


def test_random_kernels(opencl_device, opencl_info):
    """Other kernels on each driver."""
    setting = Setting(opencl_device)

    @random_kernels(24, crc32(opencl_info.platform.encode()))
    def each(graph):
        check(graph, setting)

    each()
    assert setting.counts["graphs"] >= 20


def test_random_kernels_in_half_precision(opencl_device, opencl_info):
    if not opencl_info.fp16:
        pytest.skip("the device has no half precision")
    setting = Setting(opencl_device)

    @random_kernels(12, 16, dtype="float16")
    def each(graph):
        check(graph, setting)

    each()
    assert setting.counts["graphs"] >= 10


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_kernel_that_failed_once(path, opencl_device):
    graph = Graph.from_json(path.read_text(encoding="utf-8"))
    chosen = setting_of(graph, Setting(opencl_device), None, None)
    compare(graph, run_kernels(graph, chosen))


@pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")
def test_memory_accesses_and_races_of_random_kernels(tmp_path):
    script = [sys.executable, HERE / "run_kernels.py", "--driver", "oclgrind", "--count", "8"]
    done = subprocess.run([*script, "--out", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["launches"] >= 8
    assert report["failed"] == []


@pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")
def test_findings_of_oclgrind_are_noticed(tmp_path):
    environment = {LOG: str(tmp_path / "log"), "SMARTMEM_OPENCL_DEVICE": "oclgrind"}
    environment = {**os.environ, **environment, "SMARTMEM_CACHE_DIR": "off"}
    command = [*DRIVERS["oclgrind"].simulator, sys.executable, HERE / "break_kernel.py"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=120)
    said = json.loads(done.stdout)
    assert ["Invalid read of size 4" in line for line in said] == [True, False, True, False], said
    assert said[1] == said[3] == ""


# ---- the tools themselves -----------------------------------------------------------------------


def test_every_kind_is_drawn():
    drawn: Counter[str] = Counter()

    def each(graph):
        drawn.update({step.op for step in graph.steps})
        drawn[f"profile {PROFILES[graph.seed % len(PROFILES)]}"] += 1
        drawn["extent 1"] += any(1 in tensor.shape for tensor in graph.tensors)
        drawn["prime extent"] += any({7, 11, 13, 17} & set(t.shape) for t in graph.tensors)

    for start in range(6):  # what follows from one start is alike
        random_kernels(100, start)(each)()
    heavy = "matmul conv2d conv2d_transpose pool2d softmax layer_norm rms_norm group_norm argmax"
    others = "argmin mean variance take scatter_elements scatter_nd concat pad broadcast_to where"
    for op in f"{heavy} {others} reshape permute_dims strided_slice flip".split():
        assert drawn[op] > 1, op
    for what in ("extent 1", "prime extent", *(f"profile {profile}" for profile in PROFILES)):
        assert drawn[what] > 20, what


@pytest.mark.parametrize("kind", list(KINDS))
def test_kernels_of_each_kind_are_known_to_the_reference(kind):
    counts: Counter[str] = Counter()

    @random_kernels(20, 2, kind=kind, largest=2_000, work=20_000)
    def each(graph):
        counts["all"] += 1
        try:
            reference(graph)
        except IllConditionedError:
            counts["ill"] += 1
        assert Graph.from_json(graph.to_json()) == graph

    each()
    assert counts["ill"] < counts["all"] / 2


def test_transposed_convolution_of_the_reference():
    """Against its definition: the gradient of a convolution, here of one of 1 × 1."""
    attrs = {"strides": [2, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
    attrs["output_padding"] = [1, 0]
    step = Step("v0", "conv2d_transpose", ("x0", "x1"), attrs, ((1, 3, 4, 3),))
    graph = Graph((Tensor("x0", (1, 2, 2, 3)), Tensor("x1", (2, 3, 1, 1))), (step,), ("v0",))
    ((found, _),) = reference(graph)
    values = graph.values()
    want = np.zeros((1, 3, 4, 3))
    want[:, :, ::2] = np.einsum("nchw,co->nohw", values["x0"], values["x1"][:, :, 0, 0])
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_padding_is_not_a_number_and_elements_come_back():
    layout = Layout((1, 0), (1, 4)).index_map()
    array = np.arange(15, dtype="float32").reshape(3, 5)
    packed = pack_with_nan(layout, array)
    assert packed.shape == (2, 3, 4)
    assert np.isnan(packed).sum() == 24 - 15
    np.testing.assert_array_equal(unpack(layout, packed, array), array)


@tvm.transform.module_pass(opt_level=0, name="smartmem.test.LargeGroups")
class LargeGroups:
    """Schedules everything like the function below."""

    def transform_module(self, mod, _ctx):
        mod = mod.clone()
        mod.update_func(mod.get_global_var("kernel"), group_of_1024)
        return mod


@T.prim_func(s_tir=True)
def group_of_1024(x: T.Buffer((2048,), "float32"), y: T.Buffer((2048,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(1024, "threadIdx.x"):
            with T.sblock("y"):
                v = T.axis.spatial(2048, i * 1024 + j)
                y[v] = T.max(x[v], T.float32(0))


def test_illegal_work_group_is_noticed(monkeypatch):
    step = Step("v0", "relu", ("x0",), {}, ((2048,),))
    graph = Graph((Tensor("x0", (2048,)),), (step,), ("v0",))
    stages = dict(fuzz_kernel_execution.pipeline_stages("cpu"))
    stages["schedule"], stages["verify"] = [LargeGroups()], []
    monkeypatch.setattr(
        fuzz_kernel_execution, "pipeline_stages", lambda *_, **__: list(stages.items())
    )
    with pytest.raises(IllegalKernelError, match=r"a work-group of \[1024, 1, 1\]: 512"):
        run_kernels(graph, Setting(None))
