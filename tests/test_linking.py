from __future__ import annotations

import pytest

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.linking import check_host, default_host, find_linker, link, runs_here


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No compiler anywhere."""
    for name in ("TVM_NDK_CC", "CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def tool(folder, name):
    path = folder / name
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    return str(path)


def test_this_machine():
    check_host(default_host())
    assert runs_here(default_host())


def test_other_machines():
    for triple in ("aarch64-linux-android", "arm64-linux-android", "armv7a-linux-androideabi"):
        check_host(triple)
        assert not runs_here(triple)
    architecture = default_host().split("-")[0]
    assert runs_here(f"{architecture}-linux-gnu")
    assert not runs_here(f"{architecture}-linux-android")


@pytest.mark.parametrize("triple", ["", "x", "aarch64-android", "aarch64--linux", "-a-b"])
def test_what_is_no_triple(triple):
    with pytest.raises(SmartMemError, match="is no host triple"):
        check_host(triple)


def test_unknown_architecture():
    with pytest.raises(SmartMemError, match=r"no architecture 'z81'.*aarch64"):
        check_host("z81-linux-gnu")


def test_android_takes_the_ndk(bare, monkeypatch):
    with pytest.raises(SmartMemError, match=r"aarch64-linux-android-g\+\+.*TVM_NDK_CC"):
        find_linker("aarch64-linux-android")
    compiler = tool(bare, "ndk-clang++")
    monkeypatch.setenv("TVM_NDK_CC", compiler)
    assert find_linker("aarch64-linux-android") == compiler
    monkeypatch.setenv("TVM_NDK_CC", str(bare / "gone"))
    with pytest.raises(SmartMemError, match="that TVM_NDK_CC names is not on the path"):
        find_linker("aarch64-linux-android")


def test_cross_compiler_by_its_usual_name(bare):
    with pytest.raises(SmartMemError, match=r"riscv64-linux-gnu-g\+\+.*--linker"):
        find_linker("riscv64-linux-gnu")
    assert find_linker("riscv64-linux-gnu", tool(bare, "mine")) == str(bare / "mine")
    compiler = tool(bare, "riscv64-linux-gnu-clang++")
    assert find_linker("riscv64-linux-gnu") == compiler


def test_named_linker_must_exist(bare):
    with pytest.raises(SmartMemError, match="the linker 'nothing' for the host"):
        find_linker(default_host(), "nothing")


def test_no_compiler_here(bare):
    with pytest.raises(SmartMemError, match=r"g\+\+ and clang\+\+.*apt install g\+\+"):
        find_linker(default_host())


def test_failing_linker_shows_its_output(bare, tmp_path):
    class Executable:
        def export_library(self, path, fcompile):
            fcompile(path, ["object.o"])

    with pytest.raises(SmartMemError, match=r"failed:(.|\n)*Compilation error"):
        link(Executable(), tmp_path / "model.so", default_host(), tool(bare, "broken"))
