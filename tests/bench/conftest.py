from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from small_models import mlp

from smartmem_tvm.bench import harness, preparation, runners
from smartmem_tvm.bench.settings import Settings, choose_models

HERE = Path(__file__).parent


class Notes:
    """A watcher that remembers."""

    def __init__(self):
        self.notes, self.models, self.stages = [], [], []

    def note(self, text):
        self.notes.append(text)

    def model(self, name, index, total):
        self.models.append((name, index, total))

    def stage(self, text):
        self.stages.append(text)

    def measured(self, records):
        pass


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Registers a fake runner under a name; the model is mlp.onnx in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(harness, "PROBES", {})
    monkeypatch.setattr(harness, "commit", lambda: "abc")
    # Others may be editing the package while its tests run.
    for module in (harness, preparation):
        monkeypatch.setattr(module, "code_digest", lambda parts: "code")
    onnx.save(mlp(), "mlp.onnx")

    def register(**classes):
        table = {"smartmem": "Right", **{name: kind for name, kind in classes.items()}}
        monkeypatch.setattr(
            runners,
            "RUNNERS",
            {name: (f"fake_runners:{kind}", "fake") for name, kind in table.items()},
        )

    register()
    return register


@pytest.fixture
def bench(fakes, notes, tmp_path):
    """Measure mlp.onnx on registered runners: records by runner, and the document."""

    def run(
        *labels,
        models=("mlp.onnx",),
        output="results.json",
        fresh=False,
        prepare_only=False,
        **settings,
    ):
        choices = tuple(runners.parse_choices(labels))
        chosen = choose_models(list(models), "full")
        document = harness.run(
            Settings(chosen, choices, tmp_path / "work", **settings),
            "full",
            Path(output).absolute(),
            notes,
            fresh=fresh,
            prepare_only=prepare_only,
        )
        return {record.runner: record for record in document.records()}, document

    return run
