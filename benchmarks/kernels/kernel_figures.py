"""Figures of measured kernels: bounds, fractions, and what a run of them says."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kernel_classes import CLASSES

MEGA = 1e6
LARGE = {"contraction": 10 * MEGA, "convolution": 50 * MEGA}  # FLOP
LONG_COPY = MEGA  # bytes
LARGE_SOURCE = 64 << 10  # bytes of OpenCL C


@dataclass(frozen=True)
class Machine:
    """What the machine can do at most, as measured in the same run.

    Attributes
    ----------
    peak : float
        FLOP a second of a matrix product in NumPy.
    bandwidth : float
        Bytes a second, read plus written, of a copy on the device.
    """

    peak: float
    bandwidth: float


def bound_of(flop: float, moved: float, machine: Machine) -> tuple[float, str]:
    """Seconds that a kernel needs at least, and what bounds it: ``flop`` or ``bytes``.

    Tensors that stay in a cache can be faster than the bound by the copy's bandwidth.
    """
    arithmetic, memory = flop / machine.peak, moved / machine.bandwidth
    return (arithmetic, "flop") if arithmetic > memory else (memory, "bytes")


def with_figures(kernel: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """Kernel with its ``bound_s`` and ``bound``, ``fraction``, ``gflops`` and ``over_tvm``."""
    seconds = kernel["seconds"]
    bound, what = bound_of(kernel["flop"], kernel["read"] + kernel["written"], machine)
    ours, tvm = seconds.get("ours"), seconds.get("tvm")
    return {
        **kernel,
        "bound_s": bound,
        "bound": what,
        "fraction": bound / ours if ours else None,
        "gflops": kernel["flop"] / ours / 1e9 if ours else None,
        "over_tvm": tvm / ours if ours and tvm else None,
    }


def summary(kernels: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the fractions and counts, of kernels with figures."""
    kernels = list(kernels)
    measured = [kernel for kernel in kernels if kernel["fraction"] is not None]
    compared = [kernel for kernel in measured if kernel["over_tvm"] is not None]
    copies = [kernel for kernel in measured if kernel["bound"] == "bytes"]
    long_copies = [k for k in copies if k["read"] + k["written"] >= LONG_COPY]
    large = {
        kind: [k for k in measured if k["kind"] == kind and k["flop"] > least]
        for kind, least in LARGE.items()
    }
    return {
        "kernels": len(kernels),
        "of_class": {kind: sum(k["kind"] == kind for k in kernels) for kind in CLASSES},
        "unfused": sum(not k["fused"] for k in kernels),
        "changed": sum(k["changed"] for k in kernels),
        "measured": len(measured),
        "unchecked": sum(kernel["error"] is None for kernel in measured),
        "failed": sum(k["failed"].get("ours") is not None for k in kernels),
        "tvm_failed": sum(k["failed"].get("tvm") is not None for k in kernels),
        "sources_above_64_kb": sum(_source(k) > LARGE_SOURCE for k in kernels),
        "contractions_above_10_mflop": _fractions(large["contraction"]),
        "convolutions_above_50_mflop": _fractions(large["convolution"]),
        "bound_by_bytes": _fractions(copies),
        "bound_by_bytes_from_1_mb": _fractions(long_copies),
        "compared": len(compared),
        "slower_than_tvm": sum(k["over_tvm"] < 1 for k in compared),
        "geomean_over_tvm": (
            statistics.geometric_mean(k["over_tvm"] for k in compared) if compared else None
        ),
    }


def _source(kernel: dict[str, Any]) -> int:
    return int(kernel["build"]["ours"].get("source_bytes", 0))


def _fractions(kernels: list[dict[str, Any]]) -> dict[str, Any]:
    fractions = [kernel["fraction"] for kernel in kernels]
    if not fractions:
        return {"kernels": 0, "median": None, "least": None}
    return {
        "kernels": len(fractions),
        "median": round(statistics.median(fractions), 4),
        "least": round(min(fractions), 4),
    }


def lowest(kernels: Iterable[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """Kernels with the lowest fractions of their bounds."""
    measured = [kernel for kernel in kernels if kernel["fraction"] is not None]
    return sorted(measured, key=lambda kernel: kernel["fraction"])[:count]


def most_to_gain(kernels: Iterable[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """Kernels that are furthest above their bounds in seconds, all calls of the model together."""
    measured = [kernel for kernel in kernels if kernel["fraction"] is not None]
    return sorted(measured, key=_excess, reverse=True)[:count]


def _excess(kernel: dict[str, Any]) -> float:
    return float(kernel["calls"] * (kernel["seconds"]["ours"] - kernel["bound_s"]))


def slowest_against_tvm(kernels: Iterable[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """Kernels that are slower than TVM's, the worst first."""
    slower = [k for k in kernels if k["over_tvm"] is not None and k["over_tvm"] < 1]
    return sorted(slower, key=lambda kernel: kernel["over_tvm"])[:count]
