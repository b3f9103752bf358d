"""Entry point of ``smartmem``: parses the command line and turns errors into exit codes.

0: success. 1: the work failed, such as a check above its tolerance. 2: bad usage or bad input.
130: interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from ..errors import SmartMemError
from . import (
    bench,
    check,
    compile,
    devices,
    explain,
    profile_device,
    records,
    rpc_check,
    run,
    simulate,
    traffic,
    tune,
    zoo,
)

COMMANDS: dict[str, ModuleType] = {
    "compile": compile,
    "run": run,
    "check": check,
    "explain": explain,
    "traffic": traffic,
    "simulate": simulate,
    "bench": bench,
    "tune": tune,
    "records": records,
    "devices": devices,
    "profile-device": profile_device,
    "rpc-check": rpc_check,
    "zoo": zoo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : Sequence[str], optional
        Arguments after the program's name; those of the process when not given.

    Returns
    -------
    int
        The exit code.
    """
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help (0) or the mistake (2)
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except SmartMemError as error:
        # TVM appends the pass and a dump of the function to what a pass raises.
        print(str(error).partition("\nError in pass: ")[0], file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away; Python's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"'{error.filename}': {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="smartmem",
        description="Compile neural networks for mobile GPUs with Apache TVM, run and check them.",
        epilog="A model is an ONNX file or zoo:NAME[/SIZE]. `smartmem COMMAND --help` explains a "
        "command. Exit codes: 0 success, 1 the work failed, 2 bad usage or bad input.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
