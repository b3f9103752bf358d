"""Scripts of benchmarks/kernels and benchmarks/tuning as modules."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

for folder in map(str, (BENCHMARKS / "kernels", BENCHMARKS / "tuning")):
    if folder not in sys.path:
        sys.path.append(folder)
