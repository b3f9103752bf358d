"""Runs models on runners in two phases and keeps what was measured.

The first phase prepares (:mod:`.preparation`), the second measures (:mod:`.measure`). A run with
``prepare_only`` ends after the first, on a machine that may be busy; the same run without it then
finds everything prepared and only measures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ..errors import SmartMemError
from .machine import code_digest, commit, environment
from .measure import describe_model, measure_model, measure_probe
from .preparation import prepare_model
from .results import Document, Record, read_document
from .runners import PROBES, Choice, parse_choice
from .settings import Settings
from .work import work_folder


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


def run(
    settings: Settings,
    size: str,
    output: Path,
    watcher: Watcher,
    *,
    fresh: bool = False,
    prepare_only: bool = False,
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
        Prepare and measure everything again.
    prepare_only : bool
        Measure nothing: the results have kernels, traffic and errors, and no latencies.

    Returns
    -------
    Document
        All results, of this run and of the one it continued.
    """
    if not output.parent.is_dir():
        raise SmartMemError(f"output '{output}': there is no folder '{output.parent}'.")
    if output.exists():
        read_document(output)  # what is no results file is refused before anything is written
    runners, skipped = _installed(settings, watcher)
    here = environment(settings.opencl_device, settings.rpc)
    document = Document(settings.key(size), here, skipped)
    code = code_digest(("", "bench.runners"))
    at = {"code": code, "commit": commit()}
    with work_folder(settings.work, fresh):
        _continue(document, output, settings, code, fresh, watcher)
        if not document.probes and not prepare_only and settings.rpc is None:
            _measure_probes(document, settings, watcher)
        for index, model in enumerate(settings.models):
            entry = document.models.get(model.key)
            if entry is not None and entry["measured"]:
                continue
            watcher.model(model.key, index, len(settings.models))
            prepared = prepare_model(model, runners, settings, here, watcher)
            if prepare_only:
                entry = describe_model(model, runners, prepared)
            else:
                entry = measure_model(model, runners, prepared, settings, watcher)
            document.models[model.key] = {"graph": model.digest(), **at, **entry}
            document.save(output)
            watcher.measured([Record(**record) for record in entry["records"]])
    document.complete = not prepare_only
    document.save(output)
    return document


def _installed(settings: Settings, watcher: Watcher) -> tuple[list[Choice], list[dict[str, str]]]:
    """Runners of models that can run here, and why others cannot."""
    found, skipped = [], []
    for choice in settings.choices:
        reason = choice.runner.missing()
        if settings.rpc is not None and not choice.runner.REMOTE:
            reason = choice.runner.NOT_REMOTE
        if reason is not None:
            skipped.append({"runner": choice.label, "reason": reason})
            watcher.note(f"{choice.label} is skipped: {reason}")
        elif not choice.is_probe:
            found.append(choice)
    return found, skipped


def _continue(
    document: Document,
    output: Path,
    settings: Settings,
    code: str,
    fresh: bool,
    watcher: Watcher,
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
    graphs = {model.key: model.digest() for model in settings.models}
    document.models = {
        name: entry
        for name, entry in old.models.items()
        if entry["code"] == code and graphs.get(name, entry["graph"]) == entry["graph"]
    }
    measured = [name for name, entry in document.models.items() if entry["measured"]]
    if measured:
        watcher.note(f"continuing {output}: {', '.join(measured)} measured already")


def _measure_probes(document: Document, settings: Settings, watcher: Watcher) -> None:
    for name in PROBES:
        watcher.stage(name)
        probe = measure_probe(parse_choice(name), settings, settings.work)
        if probe["failed"] is not None:
            watcher.note(f"{name}: {probe['failed']}")
        document.probes[name] = probe
