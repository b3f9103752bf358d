"""The C++ cache model, and what it is told of a launch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SmartMemError
from .configurations import CacheConfiguration, CacheConfigurations
from .results import Accesses, CacheCounts, Counts, LevelCounts

WAVE = 64
_LIBRARY = Path(__file__).with_name("libsmartmem_caches.so")
_KINDS = 4
_FIELDS = 9  # numbers of a configuration's counters: three levels of three


@dataclass(frozen=True)
class Memory:
    """A buffer or an image in device memory.

    Attributes
    ----------
    name
        As in the function.
    bytes
        Size; of an image, without padding to whole tiles.
    element_bytes
        Bytes of an element, or of a texel.
    width, height, layers
        Texels of an image; 0 for a buffer.
    """

    name: str
    bytes: int
    element_bytes: int
    width: int = 0
    height: int = 0
    layers: int = 0


@dataclass(frozen=True)
class Site:
    """A memory instruction of a kernel.

    Attributes
    ----------
    memory
        Number of the memory.
    bytes
        Bytes that a work-item asks for.
    store
        Whether it writes.
    level
        How many of the loops around it, those that are not unrolled, it has to be repeated for.
    """

    memory: int
    bytes: int
    store: bool
    level: int


class CacheModel:
    """Caches of all configurations, fed by one trace at a time."""

    def __init__(self, configurations: CacheConfigurations) -> None:
        self._library = _library()
        self.configurations = configurations
        table = np.array([_numbers(each) for each in configurations.configurations], np.int64)
        self._model = ctypes.c_void_p(
            self._library.smartmem_caches_create(
                configurations.cores, WAVE, _pointer(table), len(table)
            )
        )

    def __enter__(self) -> CacheModel:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; harmless when done before."""
        if self._model:
            self._library.smartmem_caches_destroy(self._model)
            self._model = ctypes.c_void_p()

    @property
    def handle(self) -> ctypes.c_void_p:
        """First argument of a traced kernel."""
        return self._model

    def begin(self, memories: Sequence[Memory], sites: Sequence[Site]) -> None:
        """Start a launch: empty caches, counters at zero."""
        memory = np.array(
            [[m.width, m.height, m.layers, m.element_bytes, m.bytes] for m in memories], np.int64
        )
        site = np.array([[s.memory, s.bytes, s.store, s.level] for s in sites], np.int64)
        self._library.smartmem_caches_begin(
            self._model, _pointer(memory), len(memory), _pointer(site), len(site)
        )

    def access(self, site: int, places: NDArray[np.int64]) -> None:
        """Issue one instruction: bytes or texels, by core and work-item, negative for none."""
        places = np.ascontiguousarray(places, np.int64)
        cores, group = places.shape
        if cores != self.configurations.cores:
            raise SmartMemError(
                f"places of {cores} cores for a model of {self.configurations.cores}."
            )
        self._library.smartmem_caches_access(self._model, site, _pointer(places), group)

    def forget(self, level: int = 0) -> None:
        """Begin an iteration of a loop at this depth, or, at depth 0, another work-group."""
        self._library.smartmem_caches_forget(self._model, level)

    def end(self) -> None:
        """End the launch: write back what is dirty."""
        self._library.smartmem_caches_end(self._model)

    def read(self) -> Counts:
        """Counts since :meth:`begin`."""
        chosen = self.configurations.configurations
        out = np.zeros(2 * _KINDS + _FIELDS * len(chosen), np.int64)
        self._library.smartmem_caches_read(self._model, _pointer(out))
        numbers = [int(number) for number in out]
        accesses = Accesses(*numbers[: 2 * _KINDS])
        caches = {}
        for place, each in enumerate(chosen):
            first = 2 * _KINDS + _FIELDS * place
            levels = [LevelCounts(*numbers[at : at + 3]) for at in range(first, first + _FIELDS, 3)]
            caches[each.name] = CacheCounts(*levels)
        return Counts(accesses, caches)


def _numbers(config: CacheConfiguration) -> list[int]:
    buffer = config.buffer_l1
    return [
        config.l2.line_bytes,
        config.texture_l1.bytes,
        config.texture_l1.ways,
        *config.tile_texels,
        *((0, 0) if buffer is None else (buffer.bytes, buffer.ways)),
        config.l2.bytes,
        config.l2.ways,
    ]


def _pointer(array: NDArray[np.int64]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))


@functools.cache
def _library() -> ctypes.CDLL:
    """The library, with its symbols where compiled kernels find them."""
    if not _LIBRARY.is_file():
        raise SmartMemError(
            f"'{_LIBRARY}' is missing, the cache model of the simulator: build it with `make "
            "setup`, or `pip install --no-build-isolation -e .`."
        )
    library = ctypes.CDLL(str(_LIBRARY), mode=ctypes.RTLD_GLOBAL)
    number, table = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    signatures = {
        "create": (ctypes.c_void_p, [number, number, table, number]),
        "destroy": (None, [ctypes.c_void_p]),
        "begin": (None, [ctypes.c_void_p, table, number, table, number]),
        "end": (None, [ctypes.c_void_p]),
        "read": (None, [ctypes.c_void_p, table]),
        "access": (ctypes.c_int32, [ctypes.c_void_p, number, table, number]),
        "forget": (ctypes.c_int32, [ctypes.c_void_p, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"smartmem_caches_{name}")
        function.restype, function.argtypes = result, arguments
    return library
