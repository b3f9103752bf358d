"""A device profile of what was measured; what was not keeps the reported or estimated value."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..devices import DeviceProfile, profile_from_device
from ..devices.schema import Bandwidth, Cache, Peak, TextureLimits
from ..errors import DeviceError, SmartMemError
from ..rpc.session import connect
from ..runtime import DeviceInfo
from . import bandwidth, chase, peak
from .device import ConnectionLost, ProbedDevice
from .timing import Budget, Figure

BUDGET_S = 55.0
_PEAK_S = 14.0
_CHASE_S = 14.0
_LEAST_RATE = 1.0  # a profile holds none that is smaller

Tell = Callable[[str], None]


@dataclass
class Measurement:
    """What was found out of a device.

    Attributes
    ----------
    figures : list of Figure
        Every rate measured, those that only explain others included.
    warnings : list of str
        What did not work, or is to be doubted, for people.
    """

    figures: list[Figure] = field(default_factory=list)
    copy: Figure | None = None
    texture: Figure | None = None
    stream: Figure | None = None
    buffer_window: Figure | None = None
    rates: dict[str, dict[int, Figure]] = field(default_factory=dict)
    caches: list[int] = field(default_factory=list)
    latencies: list[chase.Latency] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def serve(request: Mapping[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Measure in a probe's process.

    ``request`` has ``selector``, or ``rpc`` with ``tracker``, ``key``, ``device`` and ``timeout``.
    Answers with ``{"device": …}``, a ``{"stage": …}`` for each stage, and at the end ``{"tables":
    …, "figures": …, "latencies": …, "warnings": …}``.
    """
    rpc = request["rpc"]
    if rpc is None:
        _serve(ProbedDevice.local(request["selector"]), emit)
        return
    session = connect(rpc["tracker"], rpc["key"], device=rpc["device"], timeout=rpc["timeout"])
    with session as remote:
        probed = ProbedDevice.behind(remote, None)
        with probed.errors():
            info = remote.device_info()
        _serve(replace(probed, info=info), emit)


def _serve(probed: ProbedDevice, emit: Callable[[dict[str, Any]], None]) -> None:
    info = probed.info
    if info is None:
        raise DeviceError(
            "the device's limits cannot be read, because TVM's own OpenCL runtime is in use. "
            "Measure where this package's is: with apache-tvm from PyPI, or behind `python -m "
            "smartmem_tvm.rpc.server`."
        )
    emit({"device": asdict(info)})
    measured = measure(probed, info, Budget(BUDGET_S), lambda stage: emit({"stage": stage}))
    profile = make_profile(info, measured)
    emit(
        {
            "tables": profile.to_dict(),
            "figures": [{**asdict(one), "noisy": one.noisy} for one in measured.figures],
            "latencies": [asdict(one) for one in measured.latencies],
            "warnings": measured.warnings,
        }
    )


def measure(probed: ProbedDevice, info: DeviceInfo, budget: Budget, tell: Tell) -> Measurement:
    """Run every measurement that the device and the budget allow, the most important first.

    Raises
    ------
    DeviceError
        If buffers or multiply-adds in float32 do not work: then nothing does.
    """
    found = Measurement()
    tell("bandwidth of buffers")
    found.copy = _add(found, bandwidth.copy_bandwidth(probed))
    probed.release()
    tell("multiply-adds in float32")
    _add_rates(found, "float32", peak.peak_rates(probed, "float32", _part(budget, _PEAK_S)))
    if info.images:
        tell("bandwidth of textures")
        with _optional(found, "images are left out of the profile"):
            _measure_textures(probed, info, found)
    if info.fp16:
        tell("multiply-adds in float16")
        with _optional(found, "float16 is left out of the profile"):
            rates = peak.peak_rates(probed, "float16", _part(budget, _PEAK_S))
            _add_rates(found, "float16", rates)
    tell("caches")
    with _optional(found, "sizes of caches are not measured"):
        line = max(info.cache_line, 64) if info.cache_line else 64
        found.latencies = chase.latencies(probed, line, _part(budget, _CHASE_S))
        found.caches = chase.cache_sizes(found.latencies)
    if budget.left <= 0:
        found.warnings.append(
            f"the {budget.seconds:.0f} s of a measurement were used up: the last figures are "
            "of fewer kernels or sizes."
        )
    return found


def make_profile(
    info: DeviceInfo, found: Measurement, today: datetime.date | None = None
) -> DeviceProfile:
    """Put what was measured in place of what ``profile_from_device`` lends or estimates."""
    lent = profile_from_device(info)
    day = (today or datetime.date.today()).isoformat()
    on = f"'{info.name}', driver {info.driver_version}, {day}"
    reported = f"reported by {on}"
    copy, rates, half = found.copy, found.rates["float32"], found.rates.get("float16")
    if copy is None:
        raise SmartMemError("a profile needs the bandwidth of buffers: measure it first.")
    width = peak.best_width(rates, lent.compute.vector_width)
    best = max(rates.values(), key=lambda one: one.value)
    best_half = None if half is None else max(half.values(), key=lambda one: one.value)
    image = found.texture if lent.texture is not None else None
    cache, cache_by = _cache(lent, info, found, on)
    measured = f"measured on {on}: "
    widths = ", ".join(f"{w}: {one.value:.4g}" for w, one in rates.items())
    sources = {
        "buffer": reported,
        "work_group": f"{reported}; subgroup size: {_lent(lent)}",
        "local_memory": f"{reported}, its type included",
        "compute": f"vector width: {measured}GFLOP/s by width {widths}; float16: "
        f"{'measured to compute right' if half else 'none'}; register tile and arguments: "
        f"{_lent(lent)}",
        "bandwidth": measured + _sentences(copy, image, found.stream),
        "peak": measured + _sentences(best, best_half),
        "cache": cache_by,
    }
    texture = None
    if lent.texture is not None and image is not None:
        texture, why = _texture(lent, lent.texture, image, found.buffer_window)
        sources["texture"] = f"{reported}; preferred: {why}"
    return replace(
        lent,
        description=f"{info.name} ({info.vendor}), measured {day}",
        texture=texture,
        compute=replace(lent.compute, vector_width=width, fp16=half is not None),
        bandwidth=Bandwidth(_rate(copy), None if image is None else _rate(image)),
        peak=Peak(_rate(best), None if best_half is None else _rate(best_half)),
        cache=cache,
        sources=sources,
    )


@contextmanager
def _optional(found: Measurement, consequence: str) -> Iterator[None]:
    """Run a measurement that may fail: its error becomes a warning, unless the session is gone."""
    try:
        yield
    except ConnectionLost:
        raise
    except DeviceError as error:
        found.warnings.append(f"{consequence}: {error}")


def _measure_textures(probed: ProbedDevice, info: DeviceInfo, found: Measurement) -> None:
    best = bandwidth.texture_bandwidth(probed, "float32")
    if info.fp16:
        with _optional(found, "texels of float16 are not measured"):
            half = bandwidth.texture_bandwidth(probed, "float16")
            best = max(best, half, key=lambda one: one.value)
    found.texture = _add(found, best)
    found.buffer_window = _add(found, bandwidth.buffer_window_bandwidth(probed))
    found.stream = _add(found, bandwidth.texture_stream_bandwidth(probed, info))
    probed.release()


def _texture(
    lent: DeviceProfile, texture: TextureLimits, image: Figure, buffer: Figure | None
) -> tuple[TextureLimits, str]:
    """Limits of textures, and whether their reads beat those of buffers, with the reason."""
    if buffer is None or image.noisy or buffer.noisy:
        return texture, f"{_lent(lent)}, because the comparison with buffers is noisy"
    compared = f"measured, {image.value:.4g} GB/s against {buffer.value:.4g} of a buffer"
    return replace(texture, preferred=image.value > buffer.value), compared


def _cache(lent: DeviceProfile, info: DeviceInfo, found: Measurement, on: str) -> tuple[Cache, str]:
    cache = lent.cache
    line = info.cache_line or cache.line_bytes
    said = [
        f"line: reported by {on}" if info.cache_line else f"line: {_lent(lent)}",
        f"texture L1: {_lent(lent)}",
    ]
    sizes = dict(zip(("buffer_l1_bytes", "l2_bytes"), found.caches, strict=False))
    if len(found.caches) == 1:
        # One step alone: the cache whose lent size is nearer to it.
        near = min(
            (name for name in ("buffer_l1_bytes", "l2_bytes") if getattr(cache, name)),
            key=lambda name: abs(math.log(getattr(cache, name) / found.caches[0])),
            default="l2_bytes",
        )
        sizes = {near: found.caches[0]}
    for name, label in (("buffer_l1_bytes", "buffer L1"), ("l2_bytes", "L2")):
        if name in sizes:
            said.append(f"{label}: measured on {on} by dependent reads, to half a power of two")
        else:
            said.append(f"{label}: {_lent(lent)}, no clear step was measured")
    return replace(cache, line_bytes=line, **sizes), "; ".join(said)


def _lent(lent: DeviceProfile) -> str:
    """Whom the figures that OpenCL does not report come from."""
    return f"estimated ({lent.sources['bandwidth']})"


def _sentences(*figures: Figure | None) -> str:
    return "; ".join(one.text for one in figures if one is not None)


def _rate(one: Figure) -> float:
    return float(f"{max(one.value, _LEAST_RATE):.4g}")


def _part(budget: Budget, seconds: float) -> Budget:
    return Budget(min(seconds, budget.left))


def _add(found: Measurement, one: Figure) -> Figure:
    found.figures.append(one)
    _doubt(found, one)
    return one


def _add_rates(found: Measurement, dtype: str, rates: dict[int, Figure]) -> None:
    found.rates[dtype] = rates
    found.figures += rates.values()
    _doubt(found, max(rates.values(), key=lambda one: one.value))


def _doubt(found: Measurement, one: Figure) -> None:
    if one.noisy:
        found.warnings.append(
            f"{one.how}: repeats differ by {one.spread * 100:.0f} %; measure again while the "
            "device does nothing else and is cool."
        )
    if one.value < _LEAST_RATE:
        found.warnings.append(
            f"{one.how}: {one.value:.3g} {one.unit}; a profile holds no rate below "
            f"{_LEAST_RATE:g}, which is written instead."
        )
