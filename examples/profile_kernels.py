"""Show which kernels of a model take the time.

python examples/profile_kernels.py zoo:swin
"""

from __future__ import annotations

import sys

import smartmem_tvm
from smartmem_tvm.frontend import random_inputs


def main(model: str) -> None:
    artifact = smartmem_tvm.compile(model, device="auto")
    inputs = random_inputs(artifact.manifest.inputs, seed=0)
    artifact.run(inputs)  # the first run compiles the kernels
    kernels = artifact.profile(inputs)
    total = sum(kernel.device_us for kernel in kernels)
    print(
        f"{sum(kernel.launches for kernel in kernels)} launches, {total / 1e3:.1f} ms on the device"
    )
    for kernel in sorted(kernels, key=lambda kernel: -kernel.device_us)[:10]:
        print(f"{kernel.device_us / 1e3:9.2f} ms  {kernel.launches:4d}x  {kernel.name}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
