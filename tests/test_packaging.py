"""What is built and installed: the wheel, the pins and the files that people run."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("passes", "schedules", "zoo")


def requirements(name):
    """Lines of a requirements file without comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_no_index_is_named(name):
    lines = requirements(name)
    assert len(lines) > 2
    assert [line for line in lines if "==" not in line.split(";")[0]] == []
    assert [line for line in lines if line.startswith("-") or "://" in line] == []


def test_pins_cover_what_the_package_declares():
    pinned = {line.split("==")[0].lower() for line in requirements("requirements.txt")}
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["opencl-cpu"], *extras["tuning"], *extras["test"]]
    names = {line.split(";")[0].split("=")[0].rstrip("<>~ ").lower() for line in declared}
    assert names - pinned == set()


def test_the_critical_pins_agree():
    pins = requirements("requirements.txt")
    project = pyproject()
    for package in ("apache-tvm", "apache-tvm-ffi"):
        (pin,) = [line for line in pins if line.split("==")[0] == package]
        assert pin in project["project"]["dependencies"]
        assert pin in project["build-system"]["requires"]


def test_version_is_said_once():
    module = importlib.import_module("smartmem_tvm")
    assert module.__version__ == pyproject()["project"]["version"]


@pytest.mark.parametrize("folder", MAPPED)
def test_mapped_folders_import_under_their_package_only(folder):
    module = importlib.import_module(f"smartmem_tvm.{folder}")
    assert Path(module.__file__).parent.name == folder
    result = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert f"smartmem_tvm.{folder}" in result.stderr.splitlines()[-1]


def test_generated_documentation_is_current():
    result = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_stale_documentation_is_noticed(tmp_path):
    passes = tmp_path / "passes"
    passes.mkdir()
    output = tmp_path / "passes.md"

    def generate(*options):
        command = [sys.executable, str(ROOT / "docs/generate.py"), "--passes", str(passes)]
        return subprocess.run(
            [*command, "--output", str(output), *options],
            capture_output=True,
            text=True,
            check=False,
        )

    assert generate("--check").returncode == 1
    assert generate().returncode == 0
    assert generate("--check").returncode == 0
    (passes / "fold.py").write_text(
        '"""a → b"""\n\n@tvm.transform.module_pass(opt_level=0, name="x.Fold")\n'
        'class Fold:\n    """Folds."""\n',
        encoding="utf-8",
    )
    stale = generate("--check")
    assert stale.returncode == 1
    assert "make docs" in stale.stderr
    assert generate().returncode == 0
    text = output.read_text(encoding="utf-8")
    assert "## Fold" in text
    assert "`x.Fold`" in text
    assert "Folds." in text
    assert "a → b" in text


def test_ci_script_is_valid_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.slow
def test_wheel_holds_the_whole_package(tmp_path):
    tree = tmp_path / "tree"
    # build/ and egg-info of the working tree would leak into the wheel.
    ignored = shutil.ignore_patterns(
        ".venv", ".git", "build", "dist", "*.egg-info", "__pycache__", "*.so", ".*_cache"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-build-isolation", "--no-deps", "--wheel-dir", str(tmp_path), str(tree)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("smartmem_tvm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {"smartmem_tvm/py.typed", "smartmem_tvm/runtime/libsmartmem_opencl.so"}
    for folder in ("smartmem_tvm", *MAPPED):
        package = folder if folder == "smartmem_tvm" else f"smartmem_tvm/{folder}"
        expected |= {
            f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
            for pattern in ("*.py", "*.toml", "*.onnx", "*.onnx.xz")
            for path in (ROOT / folder).rglob(pattern)
            # Scripts in folders that are no packages, such as zoo/export, stay in the repository.
            if pattern != "*.py" or (path.parent / "__init__.py").exists()
        }
    missing = sorted(expected - names)
    assert missing == []
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"smartmem_tvm"}
    assert [name for name in names if name.endswith((".cc", ".h"))] == []
    # Compiled for this machine: the wheel must not claim to run on any.
    assert "-any" not in wheel.name
