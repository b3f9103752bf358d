from __future__ import annotations

import ast
from pathlib import Path

import pytest
import tvm

from smartmem_tvm.rpc.server import build_parser, main


def upstream_options():
    """Option strings of ``tvm.exec.rpc_server``, from its source: the parser is no object there."""
    source = Path(tvm.__file__).parent / "exec" / "rpc_server.py"
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            found |= {argument.value for argument in node.args}
    return found


def test_options_are_those_of_tvm():
    ours = {text for action in build_parser()._actions for text in action.option_strings}
    assert "--tracker" in ours
    assert ours - {"-h", "--help"} == upstream_options()


def test_defaults_are_those_of_tvm():
    args = build_parser().parse_args([])
    assert (args.host, args.port, args.port_end, args.fork) == ("0.0.0.0", 9090, 9199, True)


def test_a_tracker_needs_a_key(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tracker", "127.0.0.1:9190"])
    assert stop.value.code == 2
    assert "--tracker needs --key" in capsys.readouterr().err


def test_a_tracker_needs_an_address(capsys):
    assert main(["--tracker", "nonsense", "--key", "k"]) == 2
    assert "'nonsense' is not the address" in capsys.readouterr().err
