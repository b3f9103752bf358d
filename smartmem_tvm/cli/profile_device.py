"""Measure a device, here or behind RPC, and write a profile of it for --device FILE.toml."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError, SmartMemError
from . import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Beyond the time that the measurement allows itself: starting, compiling, one slow kernel.
_SLACK_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o", "--output", metavar="FILE.toml", help="file to write (default: NAME.toml)"
    )
    parser.add_argument(
        "--name", help="name of the profile (default: that of the file, or of the device)"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing file")
    parser.add_argument(
        "--opencl-device",
        metavar="SELECTOR",
        help="which OpenCL device to measure: an index or a part of its name (default: the first)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, and nothing else, to stdout"
    )
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """Measure for about a minute, write, show."""
    from dataclasses import replace

    from ..devices import profile_from_dict
    from ..probing.files import check_name, check_output, name_of_device, write_profile

    request = {"selector": args.opencl_device, "rpc": _address(args)}
    path = None if args.output is None else Path(args.output)
    if path is not None and path.suffix != ".toml":
        raise SmartMemError(
            f"-o '{path}': a profile's file ends in .toml, by which --device knows it."
        )
    name = args.name or (path.stem if path is not None else None)
    if name is not None:
        name, path = check_name(name), path or Path(f"{name}.toml")
        check_output(path, force=args.force)
    result: dict[str, Any] = {}
    with options.progress() as progress:
        for answer in _answers(request, args.rpc_timeout):
            if "error" in answer:
                raise DeviceError(answer["error"])
            if "device" in answer and name is None:
                name = check_name(name_of_device(answer["device"]["name"]))
                path = Path(f"{name}.toml")
                check_output(path, force=args.force)
            if "stage" in answer and progress is not None:
                progress(answer["stage"])
            result |= answer
    if "tables" not in result or name is None or path is None:
        raise DeviceError("the measurement ended without a result; run it again.")
    profile = replace(profile_from_dict(result["tables"], "the measurement"), name=name)
    write_profile(profile, path, force=args.force)
    _show(args, path, profile, result)
    return 0


def _address(args: argparse.Namespace) -> dict[str, Any] | None:
    if args.rpc is None and args.key is None:
        return None
    if args.rpc is None or args.key is None:
        missing = "--key KEY" if args.key is None else "--rpc HOST:PORT"
        raise SmartMemError(f"--rpc and --key go together: {missing} is missing.")
    if not 0 < args.rpc_timeout <= 3600:
        raise SmartMemError(
            f"--rpc-timeout {args.rpc_timeout:g}: a number of seconds from 0 to 3600 is expected."
        )
    return {
        "tracker": args.rpc,
        "key": args.key,
        "device": _index(args),
        "timeout": args.rpc_timeout,
    }


def _index(args: argparse.Namespace) -> int:
    selector = args.opencl_device or "0"
    if not selector.isdecimal():
        raise SmartMemError(
            f"--opencl-device '{selector}': behind --rpc a device is chosen by its index, which "
            "`smartmem devices --rpc HOST:PORT --key KEY` lists."
        )
    return int(selector)


def _answers(request: dict[str, Any], connect_s: float) -> Iterator[dict[str, Any]]:
    from ..probing.process import ProbeFailure, ProbeProcess
    from ..probing.profile import BUDGET_S

    end = time.monotonic() + BUDGET_S + _SLACK_S + (0.0 if request["rpc"] is None else connect_s)
    stage = "starting"
    with ProbeProcess("smartmem_tvm.probing.profile:serve", request) as process:
        while True:
            try:
                answer = process.receive(max(end - time.monotonic(), 0.0))
            except ProbeFailure as failure:
                raise DeviceError(
                    f"measuring the device failed at '{stage}': {failure}. The driver may hang or "
                    "crash there; `smartmem rpc-check` tells more of one behind RPC."
                ) from None
            if answer is None:
                return
            stage = answer.get("stage", stage)
            yield answer


def _show(args: argparse.Namespace, path: Path, profile: Any, result: dict[str, Any]) -> None:
    if args.json:
        options.show_json(
            {
                "file": str(path),
                "profile": profile.to_dict(),
                "figures": result["figures"],
                "latencies": result["latencies"],
                "warnings": result["warnings"],
            }
        )
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(profile.description), title_justify="left")
    for column in ("measured", "median", "differ by", ""):
        table.add_column(column, justify="left" if column in ("measured", "") else "right")
    for one in result["figures"]:
        value = f"{one['value']:.4g} {one['unit']}"
        spread = f"{one['spread'] * 100:.0f} %"
        table.add_row(escape(one["how"]), value, spread, "noisy" if one["noisy"] else "")
    values = Table(title="Profile", title_justify="left", show_header=False)
    for label, text in _rows(profile):
        values.add_row(label, text)
    options.show(
        table,
        values,
        *(escape(f"warning: {text}") for text in result["warnings"]),
        escape(f"wrote {path}: use it with --device {path}"),
    )


def _rows(profile: Any) -> list[tuple[str, str]]:
    texture: Callable[[], str] = lambda: (  # noqa: E731
        f"{profile.texture.max_width} × {profile.texture.max_height} × "
        f"{profile.texture.max_layers}, {'preferred' if profile.texture.preferred else 'usable'}"
    )
    half = profile.peak.float16_gflops
    local = "in hardware" if profile.local_memory.in_hardware else "ordinary memory"
    rows = [
        ("buffers, GB/s", f"{profile.bandwidth.global_gbps:.4g}"),
        ("textures", "none" if profile.texture is None else texture()),
    ]
    if profile.texture is not None:
        rows.append(("textures, GB/s", f"{profile.bandwidth.texture_gbps:.4g}"))
    return [
        *rows,
        ("float32, GFLOP/s", f"{profile.peak.float32_gflops:.4g}"),
        ("float16, GFLOP/s", "none" if half is None else f"{half:.4g}"),
        ("vector width", str(profile.compute.vector_width)),
        ("local memory", f"{profile.local_memory.bytes >> 10} KiB, {local}"),
        (
            "caches",
            f"L1 {profile.cache.buffer_l1_bytes >> 10} KiB, L2 {profile.cache.l2_bytes >> 10} KiB",
        ),
    ]
