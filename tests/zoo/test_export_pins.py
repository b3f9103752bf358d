"""The extra of pyproject.toml and the requirements of zoo/export name the same versions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from smartmem_tvm import zoo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXPORT = ROOT / "zoo" / "export"


def pins(lines) -> dict[str, str]:
    found = (re.match(r"([\w-]+)==([\w.]+)$", line.strip()) for line in lines)
    return {match[1]: match[2] for match in found if match}


def extra() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return pins(project["optional-dependencies"]["zoo"])


def test_the_pins_agree():
    required = pins((EXPORT / "requirements.txt").read_text().splitlines())
    commands = pins((EXPORT / "README.md").read_text().split())
    assert commands == {"timm": extra()["timm"], "torchvision": extra()["torchvision"]}
    assert extra() == {name: {**required, **commands}[name] for name in extra()}
    assert {"diffusers", "timm", "torch", "transformers"} <= set(extra())


def test_the_graphs_were_exported_with_them():
    for entry in zoo.list_models():
        for size in entry["sizes"]:
            source = zoo.info(entry["name"], size)["source"]
            assert source["exporter"].startswith(f"torch {extra()['torch']} "), json.dumps(source)
            package, _, rest = source["model"].partition(" ")
            if package in extra():
                assert rest.split()[0] == extra()[package]
