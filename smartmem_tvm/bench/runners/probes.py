"""What the machine can do at most: arithmetic and memory."""

from __future__ import annotations

import numpy as np

from .base import Case, Facts, Runner, milliseconds

_GEMM = 2048
_COPIED = 128 << 20
_COPY = """
__kernel void copy(__global const float16* restrict source, __global float16* restrict target) {
  target[get_global_id(0)] = source[get_global_id(0)];
}
"""


class NumpyGemm(Runner):
    """A square matrix product in float32, by the library behind NumPy."""

    def load(self, case: Case) -> Facts:
        """Draw two matrices."""
        rng = np.random.default_rng(0)
        self._a, self._b = (
            rng.standard_normal((_GEMM, _GEMM)).astype(np.float32) for _ in range(2)
        )
        self._c = np.empty_like(self._a)
        return Facts(work=2.0 * _GEMM**3, details={"version": np.__version__, "extent": _GEMM})

    def outputs(self) -> dict[str, np.ndarray]:
        """Run once; there is nothing to compare."""
        self._multiply()
        return {}

    def run(self) -> float:
        """Time one product."""
        return milliseconds(self._multiply)

    def _multiply(self) -> None:
        np.matmul(self._a, self._b, out=self._c)


class CopyBandwidth(Runner):
    """A copy between two buffers on the OpenCL device, much larger than any cache."""

    def load(self, case: Case) -> Facts:
        """Build the kernel and allocate the buffers."""
        import tvm

        from ... import runtime

        self._device = runtime.device(case.opencl_device)
        source = np.ones(_COPIED // 4, np.float32)
        self._source = tvm.runtime.tensor(source, self._device)
        self._target = tvm.runtime.empty(source.shape, "float32", self._device)
        kernels = {"copy": (["handle", "handle"], ["blockIdx.x", "threadIdx.x"])}
        self._copy = runtime.source_module(_COPY, kernels)["copy"]
        return Facts(kernels=1, work=2.0 * _COPIED, details={"bytes": _COPIED})

    def outputs(self) -> dict[str, np.ndarray]:
        """Copy once; raises where the copy is not the source."""
        self._launch()
        if not np.array_equal(self._target.numpy(), self._source.numpy()):
            raise ArithmeticError("the copy differs from its source")
        return {}

    def run(self) -> float:
        """Time one copy, until the device has finished."""
        self._device.sync()
        return milliseconds(self._launch)

    def _launch(self) -> None:
        self._copy(self._source, self._target, _COPIED // 64 // 256, 256)
        self._device.sync()
