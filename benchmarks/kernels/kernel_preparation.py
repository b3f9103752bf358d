"""What needs no device: the pools of the models, and a library of each version of a kernel.

::

    WORK/pool/swin-full-cpu/                    kernels of a model (:mod:`kernel_pool`)
    WORK/built/5295c356690d282a-3b2a0c41-cpu/   ours.so, tvm.so, built.json

What is there is used again. Our libraries are built anew when the code that makes them changed;
pools are not, because reading all models takes long: ``--redraw`` reads them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
from kernel_builds import PARTS, VERSIONS
from kernel_pool import LISTING, Entry, read_pool
from kernel_workers import KernelWorker, Limits

from smartmem_tvm.bench.machine import code_digest
from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.bench.settings import Model
from smartmem_tvm.whole_files import write_text

_BUILT = "built.json"
_READ_SECONDS = 900.0
_BUILD_SECONDS = 300.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What is drawn, compiled and run.

    Attributes
    ----------
    models : tuple of Model
        Whose kernels.
    count, seed : int
        Of the draw.
    profile : str
        Device profile to compile for.
    versions : tuple of str
        Of :data:`kernel_builds.VERSIONS`.
    work : Path
        Folder of what is prepared.
    limits : Limits
        Of a process that runs kernels; those that compile have limits on time of their own.
    """

    models: tuple[Model, ...]
    count: int
    seed: int
    profile: str
    work: Path
    limits: Limits
    versions: tuple[str, ...] = VERSIONS
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    def pool(self, model: str, fused: bool = True) -> Path:
        """Folder of a model's kernels."""
        name = f"{model.replace('/', '-')}{'' if fused else '-unfused'}"
        return self.work / "pool" / f"{name}-{self.profile}"

    def pool_of(self, entry: Entry) -> Path:
        """Folder of a kernel's functions."""
        return self.pool(entry.model, entry.fused)

    def built(self, entry: Entry) -> Path:
        """Folder of a kernel's libraries."""
        layouts = hashlib.sha256(json.dumps(entry.layouts).encode()).hexdigest()[:8]
        return self.work / "built" / f"{entry.key}-{layouts}-{self.profile}"


def read_models(bench: Bench, note: Note, redraw: bool = False) -> list[Entry]:
    """Kernels of all models; a model that cannot be read has none, and the note says why."""
    bench.work.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    for fused in (True, False):
        for model in bench.models:
            folder = bench.pool(model.key, fused)
            title = model.key if fused else f"{model.key} without fusion"
            if redraw or not (folder / LISTING).exists():
                note(f"reading {title}")
                try:
                    _read(bench, model, folder, fused)
                except WorkerFailure as failure:
                    note(f"{title} is left out: {failure}")
                    bench.left_out[title] = {str(failure): 1}
                    continue
            entries += read_pool(folder)
            listing = json.loads((folder / LISTING).read_text(encoding="utf-8"))
            bench.left_out[title] = listing["left_out"]
    return entries


def _read(bench: Bench, model: Model, folder: Path, fused: bool) -> None:
    limits = Limits(_READ_SECONDS, bench.limits.memory, bench.limits.threads)
    with KernelWorker("ReadModel", bench.work, limits, bench.profile) as worker:
        worker.request(
            "prepare",
            folder,
            folder,
            source=model.source,
            model=model.key,
            fused="yes" if fused else "no",
        )


def build_kernels(bench: Bench, entries: list[Entry], note: Note) -> None:
    """Build the versions of which there is no library, or one of other code."""
    # TVM's version depends on TVM alone.
    codes = {"ours": code_digest(PARTS), "tvm": f"TVM {tvm.__version__}"}
    limits = Limits(_BUILD_SECONDS, bench.limits.memory, bench.limits.threads)
    with KernelWorker("BuildKernel", bench.work, limits, bench.profile) as worker:
        for number, entry in enumerate(entries, start=1):
            facts = built_facts(bench, entry)
            for version in bench.versions:
                if facts.get(version, {}).get("code") == codes[version]:
                    continue
                note(f"building {number} of {len(entries)}: {title_of(entry)}, {version}")
                facts[version] = {"code": codes[version], **_build(bench, worker, entry, version)}
                write_text(bench.built(entry) / _BUILT, json.dumps(facts, indent=1))


def _build(bench: Bench, worker: KernelWorker, entry: Entry, version: str) -> dict[str, Any]:
    folder = bench.built(entry)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        reply = worker.request(
            "prepare", bench.pool_of(entry), folder, entry=entry, version=version
        )
    except WorkerFailure as failure:
        return {"failed": str(failure)}
    return {"failed": None, **reply["details"]}


def built_facts(bench: Bench, entry: Entry) -> dict[str, dict[str, Any]]:
    """What is known of a kernel's libraries, by version."""
    path = bench.built(entry) / _BUILT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def title_of(entry: Entry) -> str:
    """What notes call a kernel."""
    return f"{entry.model} {entry.name}"
