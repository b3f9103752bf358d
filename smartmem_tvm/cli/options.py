"""Options and habits that commands share.

Nothing heavy is imported at the top: ``smartmem --help`` reads every command's file.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import SmartMemError

if TYPE_CHECKING:
    from ..rpc.session import Remote


_EXTENT = r"(?:0*[1-9][0-9]*|[^\W\d]\w*<=0*[1-9][0-9]*)"
_SHAPE = re.compile(rf"(.+)(?<!<)=((?:{_EXTENT}(?:,{_EXTENT})*)?),?")


def add_common(parser: argparse.ArgumentParser, *, dtype: str | None = "float32") -> None:
    """Add the options that every command takes."""
    group = parser.add_argument_group("device and output")
    group.add_argument(
        "--device",
        default="auto",
        metavar="PROFILE",
        help="device profile: a name that `smartmem devices` lists, a .toml file, or auto, which "
        "reads the real device (default: auto)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default=dtype,
        help="storage type of the activations" + (f" (default: {dtype})" if dtype else ""),
    )
    group.add_argument(
        "--opencl-device",
        metavar="SELECTOR",
        help="which OpenCL device to use: an index or a part of its name (default: the first)",
    )
    group.add_argument(
        "--json", action="store_true", help="print JSON, and nothing else, to stdout"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model argument and the shapes of its inputs."""
    parser.add_argument("model", help="ONNX file, or zoo:NAME[/SIZE]")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT=N,N,…",
        help="shape of an input that the model leaves open; an extent that stays open has a name "
        "and a bound, such as batch<=8; may be given several times",
    )


def add_disable(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves mechanisms of the pipeline out."""
    parser.add_argument(
        "--disable",
        action="append",
        default=[],
        metavar="NAME",
        help="leave a mechanism of the pipeline out (eliminate, merge, fuse, layouts, textures, "
        "simplify); may be given several times",
    )


def add_host(parser: argparse.ArgumentParser) -> None:
    """Add the options of the machine that drives the device."""
    parser.add_argument(
        "--host",
        metavar="TRIPLE",
        help="machine that will run the model, such as aarch64-linux-android (default: this one)",
    )
    parser.add_argument(
        "--linker",
        metavar="COMMAND",
        help="C++ compiler that links for --host (default: TVM_NDK_CC for Android, HOST-g++)",
    )


def add_records(parser: argparse.ArgumentParser) -> None:
    """Add the option that names tuned schedules."""
    parser.add_argument(
        "--records",
        metavar="FILE",
        help="tuned schedules, as `smartmem tune` writes them; kernels without one are scheduled "
        "by rules",
    )


def add_rpc(parser: argparse.ArgumentParser) -> None:
    """Add the options of a device behind an RPC tracker."""
    group = parser.add_argument_group("remote device")
    group.add_argument("--rpc", metavar="HOST:PORT", help="RPC tracker of the device to run on")
    group.add_argument("--key", help="key of the device at the tracker")
    group.add_argument(
        "--rpc-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for the tracker and for a free server (default: 30)",
    )


def at_least(args: argparse.Namespace, **least: float) -> None:
    """Raise SmartMemError where an option, by its name in `args`, is no finite number or too small.

    An option that was not given (None) is not looked at.
    """
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and not smallest <= value < math.inf:
            raise SmartMemError(
                f"--{name.replace('_', '-')} {value:g}: a number of at least {smallest:g} is "
                "expected."
            )


def shapes(args: argparse.Namespace) -> dict[str, tuple[int | str, ...]] | None:
    """Read ``--shape``; None when there is none."""
    result: dict[str, tuple[int | str, ...]] = {}
    for text in args.shape:
        parts = _SHAPE.fullmatch(text)
        if parts is None:
            raise SmartMemError(
                f"--shape '{text}' is no shape: INPUT=N,N,… with positive extents is expected, "
                "such as --shape x=1,3,224,224, or x=batch<=8,3,224,224 where the batch stays open."
            )
        name, extents = parts.groups()
        result[name] = tuple(int(e) if e.isdecimal() else e for e in extents.split(",") if e)
    return result or None


def tracker(args: argparse.Namespace) -> tuple[str, str] | None:
    """Read ``--rpc`` and ``--key``, and whether the device is given by its index; None without."""
    if args.rpc is None and args.key is None:
        return None
    if args.rpc is None or args.key is None:
        missing = "--key KEY" if args.key is None else "--rpc HOST:PORT"
        raise SmartMemError(f"--rpc and --key go together: {missing} is missing.")
    at_least(args, rpc_timeout=0.1)
    selector = args.opencl_device or "0"
    if not selector.isdecimal():
        raise SmartMemError(
            f"--opencl-device '{selector}': behind --rpc a device is chosen by its index, which "
            "`smartmem devices --rpc HOST:PORT --key KEY` lists."
        )
    return args.rpc, args.key


@contextmanager
def remote(args: argparse.Namespace) -> Iterator[Remote | None]:
    """Open the session of ``--rpc`` and ``--key``, close it at the end; None without them."""
    place = tracker(args)
    if place is None:
        yield None
        return
    from ..rpc.session import connect

    index = int(args.opencl_device or 0)
    with connect(*place, device=index, timeout=args.rpc_timeout) as session:
        yield session


@contextmanager
def progress() -> Iterator[Callable[[str], None] | None]:
    """Give a callback that shows the stage on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)


def show(*renderables: Any) -> None:
    """Print tables to stdout, as wide as they need to be where it is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    for renderable in renderables:
        console.print(renderable)


def show_json(value: Any) -> None:
    """Print a value as JSON to stdout."""
    from ..report import json_text

    print(json_text(value))
