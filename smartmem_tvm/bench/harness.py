"""Runs models on runners and keeps what was measured."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from .. import zoo
from ..errors import SmartMemError
from ..zoo.registry import graph_file
from .machine import commit, environment
from .measure import measure_model, measure_probe
from .results import Document, Record, read_document
from .runners import PROBES, Choice, parse_choice

_SCRATCH = "smartmem-bench-"
_FILE = "file"
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class Model:
    """A model of the zoo or an ONNX file.

    Attributes
    ----------
    name, size : str
        What tables call it; the size of a file is ``file``.
    source : str
        What the importer takes.
    """

    name: str
    size: str
    source: str


@dataclass(frozen=True)
class Settings:
    """What to measure, and within which limits.

    Attributes
    ----------
    models : tuple[Model, ...]
        In the order of measurement.
    choices : tuple[Choice, ...]
        Runners, ours first; probes among them get a row.
    repeats : int
        Inferences timed per runner; 3 at most where one takes more than 20 s.
    threads : int
        Processors that each worker may use.
    time_limit_s : float
        Seconds for one model on one runner, loading included.
    memory_limit : int
        Bytes for all workers of a model together.
    """

    models: tuple[Model, ...]
    choices: tuple[Choice, ...]
    repeats: int = 5
    device: str = "auto"
    opencl_device: str | None = None
    dtype: str = "float32"
    threads: int = 2
    time_limit_s: float = 900.0
    memory_limit: int = 0

    def __post_init__(self) -> None:
        if not self.memory_limit:
            free = int(psutil.virtual_memory().available * _SHARE_OF_MEMORY)
            object.__setattr__(self, "memory_limit", free)

    def key(self, size: str) -> dict[str, Any]:
        """What has to agree for two runs to be one."""
        return {
            "size": size,
            "files": {model.name: _digest(model) for model in self.models if model.size == _FILE},
            "runners": [choice.label for choice in self.choices],
            "repeats": self.repeats,
            "device": self.device,
            "opencl_device": self.opencl_device,
            "dtype": self.dtype,
            "threads": self.threads,
        }


class Watcher(Protocol):
    """Told what the harness is at."""

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def model(self, name: str, index: int, total: int) -> None:
        """A model begins."""
        ...

    def stage(self, text: str) -> None:
        """What happens to the model now."""
        ...

    def measured(self, records: list[Record]) -> None:
        """A model is done."""
        ...


def choose_models(names: list[str] | None, size: str) -> tuple[Model, ...]:
    """Find models by their names in the zoo or as ONNX files; all of that size without names.

    Raises
    ------
    ModelError
        There is no such model or size; the message lists those that exist.
    """
    if not names:
        listed = zoo.list_models()
        names = [str(model["name"]) for model in listed if size in model["sizes"]]
        if not names:
            sizes = sorted({each for model in listed for each in model["sizes"]})
            raise SmartMemError(f"no model of the zoo has size '{size}': use {', '.join(sizes)}.")
    models: dict[tuple[str, str], Model] = {}
    for model in (_find(name, size) for name in names):
        first = models.setdefault((model.name, model.size), model)
        if first != model:
            raise SmartMemError(
                f"'{first.source}' and '{model.source}' would both be called '{model.name}': "
                "rename one of the files."
            )
    return tuple(models.values())


def _find(text: str, size: str) -> Model:
    if text.endswith(".onnx"):
        if not Path(text).is_file():
            raise SmartMemError(f"model '{text}': no such file.")
        return Model(Path(text).stem, _FILE, str(Path(text).resolve()))
    name, _, own = text.removeprefix("zoo:").partition("/")
    size = own or size
    graph_file(name, size)
    return Model(name, size, f"zoo:{name}/{size}")


def _digest(model: Model) -> str:
    """Hash of an ONNX file: a run is not continued once it changed."""
    return hashlib.sha256(Path(model.source).read_bytes()).hexdigest()


def run(
    settings: Settings, size: str, output: Path, watcher: Watcher, fresh: bool = False
) -> Document:
    """Measure every model that ``output`` does not hold already.

    Parameters
    ----------
    settings : Settings
        What to measure.
    size : str
        The size that was asked for, which names the run.
    output : Path
        The results file. An unfinished one of the same settings and environment is continued;
        any other results file is renamed to ``NAME.previous``.
    watcher : Watcher
        Told of progress.
    fresh : bool
        Measure everything again.

    Returns
    -------
    Document
        All results, of this run and of the one it continued.
    """
    if not output.parent.is_dir():
        raise SmartMemError(f"output '{output}': there is no folder '{output.parent}'.")
    runners, skipped = _installed(settings.choices, watcher)
    document = Document(settings.key(size), environment(settings.opencl_device), skipped)
    here = commit()
    _continue(document, output, here, fresh, watcher)
    with _scratch() as scratch:
        if not document.probes:
            _measure_probes(document, settings, scratch, watcher)
        for index, model in enumerate(settings.models):
            key = f"{model.name}/{model.size}"
            if key in document.models:
                continue
            watcher.model(key, index, len(settings.models))
            folder = scratch / key.replace("/", "-")
            folder.mkdir()
            entry = measure_model(model, runners, settings, folder, watcher)
            shutil.rmtree(folder)
            document.models[key] = {"commit": here, **entry}
            document.save(output)
            watcher.measured([Record(**record) for record in entry["records"]])
    document.complete = True
    document.save(output)
    return document


def _installed(
    choices: tuple[Choice, ...], watcher: Watcher
) -> tuple[list[Choice], list[dict[str, str]]]:
    """Runners of models that can run here, and why others cannot."""
    found, skipped = [], []
    for choice in choices:
        reason = choice.runner.missing()
        if reason is not None:
            skipped.append({"runner": choice.label, "reason": reason})
            watcher.note(f"{choice.label} is skipped: {reason}")
        elif not choice.is_probe:
            found.append(choice)
    return found, skipped


def _continue(
    document: Document, output: Path, here: str | None, fresh: bool, watcher: Watcher
) -> None:
    """Take over what an interrupted run of the same kind has measured."""
    if not output.exists():
        return
    old = read_document(output)
    if fresh or old.complete or not document.matches(old):
        previous = output.with_name(f"{output.name}.previous")
        os.replace(output, previous)
        watcher.note(f"the results that were in {output} are now in {previous}")
        return
    document.probes = old.probes
    document.models = {name: entry for name, entry in old.models.items() if entry["commit"] == here}
    if document.models:
        watcher.note(f"continuing {output}: {', '.join(document.models)} measured already")


def _measure_probes(
    document: Document, settings: Settings, scratch: Path, watcher: Watcher
) -> None:
    for name in PROBES:
        watcher.stage(name)
        probe = measure_probe(parse_choice(name), settings, scratch)
        if probe["failed"] is not None:
            watcher.note(f"{name}: {probe['failed']}")
        document.probes[name] = probe


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a folder for models; those of runs that were killed are removed as well."""
    parent = Path(tempfile.gettempdir())
    for old in parent.glob(f"{_SCRATCH}[0-9]*"):
        pid = old.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)  # another user's is not ours to remove
    folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
