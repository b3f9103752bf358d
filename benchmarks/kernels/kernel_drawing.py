"""Which kernels of the pools are measured: by seed, spread over classes and models."""

from __future__ import annotations

import random
from collections.abc import Iterable

from kernel_classes import CLASSES
from kernel_pool import Entry


def draw(entries: Iterable[Entry], count: int, seed: int) -> list[Entry]:
    """Kernels of different structure: classes get equal shares, and models take turns in each.

    A class with fewer kernels than its share leaves the rest to the others. A larger `count` of
    the same seed only adds kernels.
    """
    rng = random.Random(seed)
    unique: dict[str, Entry] = {}
    for entry in entries:
        unique.setdefault(entry.key, entry)
    queues = [_in_turns([e for e in unique.values() if e.kind == kind], rng) for kind in CLASSES]
    found: list[Entry] = []
    while len(found) < count and any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return found[:count]


def _in_turns(entries: list[Entry], rng: random.Random) -> list[Entry]:
    """Entries in random order, one of each model after the other."""
    models: dict[str, list[Entry]] = {}
    for entry in entries:
        models.setdefault(entry.model, []).append(entry)
    for own in models.values():
        rng.shuffle(own)
    found: list[Entry] = []
    while models:
        names = list(models)
        rng.shuffle(names)
        found += [models[name].pop() for name in names]
        models = {name: own for name, own in models.items() if own}
    return found
