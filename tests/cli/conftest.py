from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from small_models import mlp, mlp_input

from smartmem_tvm.cli.main import main


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty current folder with a model and its inputs."""
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "mlp.onnx")
    np.savez("x.npz", **mlp_input())
    return tmp_path


@pytest.fixture
def smartmem(capsys):
    """Run a command line: exit code, stdout and stderr."""

    def run(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def smartmem_json(smartmem):
    """Run a command line with --json that must succeed: the document."""

    def run(*argv, code=0):
        actual, out, err = smartmem(*argv, "--json")
        assert actual == code, err
        assert err == ""
        return json.loads(out)

    return run
