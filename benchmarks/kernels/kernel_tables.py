"""Tables of the kernel bench."""

from __future__ import annotations

import itertools
from typing import Any

from kernel_figures import lowest, most_to_gain, slowest_against_tvm
from kernel_measuring import Results, machine_of
from rich.console import Console
from rich.table import Table

_ASKED = {
    "contractions_above_10_mflop": "contractions above 10 MFLOP",
    "convolutions_above_50_mflop": "convolutions above 50 MFLOP",
    "bound_by_bytes": "bound by memory, all",
    "bound_by_bytes_from_1_mb": "bound by memory, 1 MB and more",
}


def print_results(results: Results, device: str, console: Console) -> None:
    """Print the summary of a device, and the kernels that are worth looking at."""
    machine, found = machine_of(results, device), results.summary[device]
    kernels = results.kernels[device]
    console.print(
        f"{device}: {found['measured']} of {found['kernels']} kernels measured "
        f"({found['unchecked']} compared with nothing), ours failed {found['failed']}, TVM's "
        f"{found['tvm_failed']}; peak {machine.peak / 1e9:.0f} GFLOP/s, "
        f"copy {machine.bandwidth / 1e9:.1f} GB/s"
    )
    table = Table("kernels", "number", "median of the bound", "least", title="Fractions")
    for name, title in _ASKED.items():
        part = found[name]
        table.add_row(
            title, str(part["kernels"]), _percent(part["median"]), _percent(part["least"])
        )
    console.print(table)
    console.print(
        f"{found['unfused']} kernels are of models without fusion; {found['changed']} have outputs "
        f"that layouts changed; sources of {found['sources_above_64_kb']} are above 64 KB"
    )
    if found["compared"]:
        console.print(
            f"slower than TVM's: {found['slower_than_tvm']} of {found['compared']}; "
            f"geomean speed-up {found['geomean_over_tvm']:.1f}"
        )
    slower = slowest_against_tvm(kernels)
    if slower:
        console.print(kernel_table("Slower than TVM's", slower))
    low = lowest(kernels)
    total = sum(kernel["seconds"]["ours"] for kernel in low) * 1e3
    console.print(kernel_table(f"Lowest fractions ({total:.2f} ms together)", low))
    console.print(kernel_table("Most to gain in their models", most_to_gain(kernels)))
    failed = [kernel for kernel in kernels if kernel["failed"].get("ours") is not None]
    for kernel in failed:
        console.print(f"{kernel['model']} {kernel['name']}: {kernel['failed']['ours']}")


def kernel_table(title: str, kernels: list[dict[str, Any]]) -> Table:
    """Rows of kernels with what one needs to find their fault."""
    table = Table(title=title)
    columns = ("kernel", "class", "parameters", "tile", "calls", "ms", "GFLOP/s", "GB/s")
    for column in (*columns, "bound", "of it", "× TVM"):
        table.add_column(column, overflow="fold")
    for kernel in kernels:
        seconds = kernel["seconds"]["ours"]
        table.add_row(
            f"{kernel['model']} {kernel['name']}",
            kernel["kind"],
            "\n".join("×".join(map(str, shape)) for shape, _ in kernel["tensors"]),
            tile_text(kernel["build"]["ours"]),
            str(kernel["calls"]),
            f"{seconds * 1e3:.4g}",
            f"{kernel['gflops']:.3g}",
            f"{(kernel['read'] + kernel['written']) / seconds / 1e9:.3g}",
            kernel["bound"],
            _percent(kernel["fraction"]),
            "" if kernel["over_tvm"] is None else f"{kernel['over_tvm']:.3g}",
        )
    return table


def tile_text(facts: dict[str, Any]) -> str:
    """Rule and tile, without what is as it always is."""
    tile = facts.get("tile") or {}
    if facts.get("rule") is None or not tile:
        return str(facts.get("rule"))
    parts = [f"{axis}:{size}" for axis, size in tile["rows"]]
    text = f"rows {' '.join(parts)}" if parts else ""
    shown = [text] if text else []
    if tile["lane"] is not None:
        shown.append(f"lane {tile['lane']}:{tile['width']}")
    if tile["inner"]:
        shown.append(f"inner {list(tile['inner'])}")
    usual = (
        ("inner_width", 1),
        ("team", 1),
        ("repeat", 1),
        ("group", None),
        ("fastest", None),
    )
    shown += [f"{name} {tile[name]}" for name, value in usual if tile.get(name, value) != value]
    known = {"rows", "lane", "width", "inner", *itertools.chain(name for name, _ in usual)}
    shown += [f"{name} {value}" for name, value in tile.items() if name not in known and value]
    return f"{facts['rule']}: {', '.join(shown)}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"
