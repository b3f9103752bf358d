from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tvm
from small_models import mlp

from smartmem_tvm.compiler import compile as compile_model


@pytest.fixture(scope="module")
def compiled(opencl_device):
    return compile_model(mlp())


@pytest.fixture(scope="module")
def stored(compiled, tmp_path_factory):
    return compiled.export(tmp_path_factory.mktemp("stored") / "mlp")


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of the stored artefact that a test may damage."""
    return Path(shutil.copytree(stored, tmp_path / "mlp"))


@pytest.fixture
def no_library(monkeypatch):
    """Fail when anything is loaded: verification comes first."""

    def refuse(*args):
        raise AssertionError("a file was loaded before it was verified")

    monkeypatch.setattr(tvm.runtime, "load_module", refuse)
    monkeypatch.setattr(tvm.runtime, "load_param_dict_from_file", refuse)
