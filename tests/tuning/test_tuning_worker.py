from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.support.popen_pool import PopenWorker

from smartmem_tvm.tuning import load_runtime

pytestmark = pytest.mark.device


def in_worker(initializer):
    """Whether a worker process that starts so has an OpenCL device."""

    def has_device():
        import tvm

        return bool(tvm.opencl().exist)

    worker = PopenWorker(initializer=initializer)
    try:
        worker.send(has_device, timeout=60)
        return worker.recv()
    finally:
        worker.kill()


def test_a_worker_has_the_device_only_with_the_initialiser(opencl_device):
    assert in_worker(load_runtime)
    assert not in_worker(None)


@pytest.mark.slow
def test_a_matmul_is_tuned(opencl_device, tmp_path):
    from tvm import te

    a = te.placeholder((32, 32), name="a")
    b = te.placeholder((32, 32), name="b")
    k = te.reduce_axis((0, 32), name="k")
    c = te.compute((32, 32), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    mod = tvm.IRModule({"main": te.create_prim_func([a, b, c])})
    target = tvm.target.Target(
        {
            "kind": "opencl",
            "max_threads_per_block": 256,
            "max_num_threads": 256,
            "max_shared_memory_per_block": 32768,
            "thread_warp_size": 1,
        },
        host="llvm",
    )
    database = ms.tune_tir(
        mod=mod,
        target=target,
        work_dir=str(tmp_path),
        max_trials_global=4,
        num_trials_per_iter=4,
        builder=ms.builder.LocalBuilder(max_workers=1, initializer=load_runtime),
        runner=ms.runner.LocalRunner(initializer=load_runtime),
        cost_model="random",
        num_tuning_cores=1,
    )
    records = database.get_all_tuning_records()
    assert records
    times = [float(second) for record in records for second in record.run_secs]
    # A candidate that fails to build or to run is recorded with 1e10 seconds.
    assert any(0 < second < 60 for second in times)
    schedule = ms.tir_integration.compile_tir(database, mod, target)
    assert schedule is not None
    executable = tvm.compile(schedule.mod, target)
    x = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    tensors = [tvm.runtime.tensor(value, opencl_device) for value in (*x, np.zeros_like(x[0]))]
    executable["main"](*tensors)
    np.testing.assert_allclose(tensors[2].numpy(), x[0] @ x[1], rtol=1e-4, atol=1e-4)
