"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..analysis import KernelInfo
    from ..analysis.half_storage import Choice
    from ..artifact import KernelProfile
    from ..checking import CheckResult
    from ..devices import DeviceProfile
    from ..explaining import Fate
    from ..frontend import TensorSpec
    from ..runtime import DeviceInfo


def summary_table(title: str, rows: Mapping[str, Any]) -> Table:
    """Two columns: what, and its value."""
    table = plain_table(title, [("", "left"), ("", "right")])
    table.show_header = False
    for name, value in rows.items():
        table.add_row(name, _number(value))
    return table


def tensor_table(title: str, specs: Iterable[TensorSpec]) -> Table:
    """Names, shapes and dtypes of inputs or outputs."""
    table = plain_table(title, [("name", "left"), ("shape", "left"), ("dtype", "left")])
    for spec in specs:
        table.add_row(escape(spec.name), escape(shape_text(spec.shape)), spec.dtype)
    return table


def kernel_table(
    kernels: Sequence[KernelInfo], schedules: Mapping[str, Mapping[str, Any]] | None = None
) -> Table:
    """Every device kernel with its launches, its footprint, and the rule that scheduled it."""
    columns = [("kernel", "left"), ("launches", "right"), ("layout only", "left"), ("KiB", "right")]
    rules = {name: str(made["rule"]) for name, made in (schedules or {}).items()}
    if rules:
        columns.append(("schedule", "left"))
    table = plain_table("Kernels", columns)
    for kernel in kernels:
        table.add_row(
            escape(kernel.name),
            str(kernel.calls),
            "yes" if kernel.layout_only else "",
            "symbolic" if kernel.footprint_bytes is None else kib(kernel.footprint_bytes),
            *([rules.get(kernel.func, "")] if rules else []),
        )
    return table


def fate_table(fates: Sequence[Fate]) -> Table:
    """How many operators of each layout class met which fate."""
    counts: dict[tuple[str, str], int] = {}
    for fate in fates:
        key = (fate.layout_class, fate.fate)
        counts[key] = counts.get(key, 0) + 1
    table = plain_table("Operators", [("class", "left"), ("fate", "left"), ("operators", "right")])
    for (layout_class, fate_name), count in sorted(counts.items()):
        table.add_row(layout_class, fate_name, str(count))
    return table


def half_table(choices: Sequence[Choice]) -> Table:
    """What operators read and what their results are stored as in half precision, and why."""
    table = plain_table(
        "Half precision",
        [
            ("operator", "left"),
            ("operators", "right"),
            ("reads", "left"),
            ("result", "left"),
            ("reason", "left"),
        ],
    )
    for choice in choices:
        table.add_row(
            escape(choice.operator),
            str(choice.count),
            choice.reads,
            choice.stored,
            escape(choice.reason),
        )
    return table


def operator_table(fates: Sequence[Fate], title: str = "Every operator") -> Table:
    """Class, fate, kernel and reason of each operator."""
    table = plain_table(
        title,
        [(name, "left") for name in ("operator", "function", "class", "fate", "kernel", "reason")],
    )
    for fate in fates:
        table.add_row(
            escape(fate.operator),
            escape(fate.kind),
            fate.layout_class,
            fate.fate,
            escape(", ".join(fate.kernels)),
            escape(fate.reason),
        )
    return table


def profile_table(rows: Sequence[KernelProfile]) -> Table:
    """Device time of every kernel of one inference, the longest first."""
    table = plain_table(
        "Kernels of one inference",
        [
            ("kernel", "left"),
            ("launches", "right"),
            ("device µs", "right"),
            ("share", "right"),
            ("global", "left"),
            ("local", "left"),
        ],
    )
    total = sum(row.device_us for row in rows)
    for row in sorted(rows, key=lambda row: -row.device_us):
        table.add_row(
            escape(row.name),
            str(row.launches),
            f"{row.device_us:.1f}",
            f"{row.device_us / total:.1%}" if total else "",
            _extents(row.global_size),
            _extents(row.local_size),
        )
    return table


def check_table(result: CheckResult) -> Table:
    """One row per model: operators, kernels, layout kernels, latency, error."""
    table = plain_table(
        f"{escape(result.model)}, {result.dtype}, device profile {escape(result.profile)}",
        [
            ("operators", "right"),
            ("kernels", "right"),
            ("layout kernels", "right"),
            ("latency ms", "right"),
            ("max. error", "right"),
            ("tolerance", "right"),
        ],
    )
    table.add_row(
        str(result.operators),
        str(result.kernels),
        str(result.layout_kernels),
        f"{result.latency_ms:.2f}",
        f"{result.max_rel_error:.2e}",
        f"{result.tolerance:.0e}",
    )
    return table


def device_table(devices: Sequence[DeviceInfo]) -> Table:
    """OpenCL devices with what decides their use."""
    table = plain_table(
        "OpenCL devices",
        [
            ("index", "right"),
            ("name", "left"),
            ("type", "left"),
            ("OpenCL", "left"),
            ("fp16", "left"),
            ("images", "left"),
            ("memory GiB", "right"),
            ("driver", "left"),
        ],
    )
    for info in devices:
        table.add_row(
            str(info.index),
            escape(info.name),
            info.type,
            info.version,
            "yes" if info.fp16 else "no",
            f"{info.image2d_max_width}×{info.image2d_max_height}" if info.images else "no",
            f"{info.global_memory / 2**30:.1f}",
            escape(f"{info.driver_version}; {info.source}"),
        )
    return table


def profiles_table(profiles: Iterable[DeviceProfile]) -> Table:
    """List the device profiles that ``--device`` takes."""
    table = plain_table(
        "Device profiles",
        [("profile", "left"), ("fp16", "left"), ("textures", "left"), ("description", "left")],
    )
    for profile in profiles:
        table.add_row(
            escape(profile.name),
            "yes" if profile.compute.fp16 else "no",
            "no" if profile.texture is None else "yes",
            escape(profile.description),
        )
    return table


def plain_table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    """Table without rows; of each column the name and whether it is ``left`` or ``right``."""
    table = Table(title=title, title_justify="left")
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def shape_text(shape: Sequence[int | str]) -> str:
    """Extents in brackets."""
    return "[" + ", ".join(map(str, shape)) + "]"


def _extents(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def kib(count: int) -> str:
    """Bytes in KiB."""
    return f"{count / 1024:,.1f}"
