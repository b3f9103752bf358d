"""List the device profiles and the OpenCL devices found, with the driver of each and why."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_common(parser, dtype=None)
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """List; no device at all is an answer too, and comes with what to install."""
    from .. import report, runtime
    from ..devices import built_in_profiles, load_profile
    from ..runtime.devices import INSTALL_HINT

    half = args.dtype == "float16"
    profiles = built_in_profiles() if args.device == "auto" else [load_profile(args.device)]
    profiles = [profile for profile in profiles if profile.compute.fp16 or not half]
    with options.remote(args) as remote:
        if remote is not None:
            found, problems = remote.devices(), []
        else:
            found, problems = runtime.list_devices(), runtime.problems()
    if args.opencl_device is not None and remote is None:
        chosen = runtime.device(args.opencl_device).index
        found = [info for info in found if info.index == chosen]
    shown = [info for info in found if info.fp16 or not half]
    hint = None if found or remote is not None else INSTALL_HINT
    if args.json:
        document = {
            "profiles": [profile.to_dict() for profile in profiles],
            "devices": [asdict(info) for info in shown],
            "runtime": {
                "provider": runtime.status().provider,
                "missing": runtime.status().missing,
            },
            "problems": problems,
        }
        if hint is not None:
            document["install"] = hint
        options.show_json(document)
        return 0
    tables = [report.profiles_table(profiles)]
    tables.append(report.device_table(shown) if shown else "No OpenCL device was found.")
    if hint is not None:
        tables.append(hint)
    options.show(*tables, *(f"passed over: {problem}" for problem in problems))
    return 0
