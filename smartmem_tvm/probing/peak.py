"""Peak arithmetic rate: multiply-adds in registers, in independent chains.

Start values come from the work-item and the factors from a buffer, and every chain's end is stored,
so that a compiler can neither compute nor drop any of it. The factors ½ and 1 lead each chain to 2,
whatever its start: the result is checked as well.
"""

from __future__ import annotations

import numpy as np

from ..errors import DeviceError
from .device import ConnectionLost, Kernel, ProbedDevice
from .timing import Budget, Figure, figure, time_kernel

WIDTHS = (1, 2, 4, 8, 16)
_CHAINS = (4, 8)
_UNROLL = 8
_ITEMS = 1 << 15
_ENOUGH_S = 4e-3
_MOST_TURNS = 1 << 14
_STILL_BEST = 0.75

_SOURCE = """
{extension}
__kernel void peak(__global const float* factors, __global float{width}* target, int turns) {{
  {type} a = ({type})(({scalar})factors[0]), b = ({type})(({scalar})factors[1]);
  {scalar} s = ({scalar})((get_global_id(0) & 7) * 0.25f);
{start}
  for (int turn = 0; turn < turns; ++turn) {{
{body}
  }}
  target[get_global_id(0)] = convert_float{width}({sum});
}}
"""


def peak_rates(
    probed: ProbedDevice, dtype: str, budget: Budget, *, limit_s: float = 0.25
) -> dict[int, Figure]:
    """Rate in GFLOP/s by vector width, each the best number of chains; a multiply-add counts two.

    Widths that the compiler or the device refuses are left out, as are those for which no time of
    the budget is left.

    Raises
    ------
    DeviceError
        If no width works; the message is the last one's.
    """
    found: dict[int, Figure] = {}
    refused: DeviceError | None = None
    # The most common best ones come first, in case that the time does not suffice for all.
    for width in sorted(WIDTHS, key=lambda w: abs(w - 4)):
        for chains in _CHAINS:
            if found and budget.left <= 0:
                return found
            try:
                rate = _rate(probed, dtype, width, chains, limit_s)
            except ConnectionLost:
                raise
            except DeviceError as error:
                refused = error
                continue
            if width not in found or rate.best > found[width].best:
                found[width] = rate
    if refused is not None and not found:
        raise refused
    return dict(sorted(found.items()))


def best_width(rates: dict[int, Figure], preferred: int) -> int:
    """Width of the best rate, or ``preferred`` where that has three quarters of the best.

    Real kernels are no chains of multiply-adds: a small advantage here is none there.
    """
    best = max(rates, key=lambda width: rates[width].best)
    same = rates.get(preferred)
    if same is not None and same.best >= _STILL_BEST * rates[best].best:
        return preferred
    return best


def _rate(probed: ProbedDevice, dtype: str, width: int, chains: int, limit_s: float) -> Figure:
    module = probed.load(
        source(dtype, width, chains), {"peak": Kernel(("handle", "handle", "int32"))}
    )
    factors = probed.upload(np.array([0.5, 1.0], "float32"))
    group = probed.group
    small = probed.empty((group * width,))
    probed.launch(module, "peak", factors, small, 8, 1, group)
    result = probed.download(small)
    if not np.allclose(result, 2.0 * chains, rtol=1e-2):
        raise DeviceError(
            f"multiply-adds of {dtype} by {width} give {result.flat[0]:g} instead of "
            f"{2.0 * chains:g}: the driver's compiler is wrong. Look for a newer driver."
        )
    target = probed.empty((_ITEMS * width,))
    turns = 8
    while True:
        arguments = (factors, target, turns, _ITEMS // group, group)
        samples = time_kernel(probed, module, "peak", arguments, limit_s=limit_s)
        if min(samples) >= _ENOUGH_S or turns >= _MOST_TURNS:
            break
        turns = min(_MOST_TURNS, turns * max(2, round(2 * _ENOUGH_S / min(samples))))
    work = 2.0 * _ITEMS * turns * _UNROLL * chains * width
    how = f"{chains} chains of multiply-adds of {dtype} by {width}"
    return figure(f"{dtype}_gflops", samples, "GFLOP/s", how, lambda s: work / s / 1e9)


def source(dtype: str, width: int, chains: int) -> str:
    """OpenCL C of the kernel ``peak(factors, target, turns)``."""
    scalar = "half" if dtype == "float16" else "float"
    suffix = "" if width == 1 else str(width)
    kind = scalar + suffix
    start = "\n".join(f"  {kind} x{i} = ({kind})(s + ({scalar}){i});" for i in range(chains))
    turn = " ".join(f"x{i} = mad(x{i}, a, b);" for i in range(chains))
    return _SOURCE.format(
        extension="#pragma OPENCL EXTENSION cl_khr_fp16 : enable" if scalar == "half" else "",
        type=kind,
        scalar=scalar,
        width=suffix,
        start=start,
        body="\n".join(f"    {turn}" for _ in range(_UNROLL)),
        sum=" + ".join(f"x{i}" for i in range(chains)),
    )
