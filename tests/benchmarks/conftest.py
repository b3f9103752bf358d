"""Scripts of benchmarks/kernels as modules."""

import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "benchmarks" / "kernels"

if str(KERNELS) not in sys.path:
    sys.path.append(str(KERNELS))
