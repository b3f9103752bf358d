"""Cache configurations: sizes of a GPU's caches, as data.

``caches.json`` beside this file holds three, made of round figures that span what micro-benchmarks
of mobile GPUs have been published to find. What is said of a kernel should hold under all three.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SmartMemError

TEXEL_BYTES = 16  # of the texels that `tile_texels` counts
_FILE = Path(__file__).with_name("caches.json")


@dataclass(frozen=True)
class CacheShape:
    """One cache: its size, its lines and how many lines compete for a place."""

    kib: float
    line_bytes: int
    ways: int

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return int(self.kib * 1024)


@dataclass(frozen=True)
class CacheConfiguration:
    """The caches of a GPU.

    Attributes
    ----------
    name
        What results are filed under.
    texture_l1
        Cache of each core for image reads.
    tile_texels
        Columns and rows of 16-byte texels that share a line of it; twice the columns where texels
        have 8 bytes.
    buffer_l1
        Cache of each core for buffer loads; None where they go to the L2.
    l2
        Cache of all cores.
    """

    name: str
    texture_l1: CacheShape
    tile_texels: tuple[int, int]
    buffer_l1: CacheShape | None
    l2: CacheShape

    def __post_init__(self) -> None:
        for level, cache in self._caches():
            lines = cache.bytes // cache.line_bytes if cache.line_bytes > 0 else 0
            if cache.ways < 1 or lines < cache.ways or lines % cache.ways:
                raise SmartMemError(
                    f"cache configuration '{self.name}': {level} of {cache.kib:g} KiB has no whole "
                    f"number of sets of {cache.ways} lines of {cache.line_bytes} bytes."
                )
            if cache.line_bytes != self.l2.line_bytes:
                raise SmartMemError(
                    f"cache configuration '{self.name}': {level} has lines of {cache.line_bytes} "
                    f"bytes and l2 of {self.l2.line_bytes}: one length for all levels is simulated."
                )
        columns, rows = self.tile_texels
        if min(columns, rows) < 1 or columns * rows * TEXEL_BYTES != self.texture_l1.line_bytes:
            raise SmartMemError(
                f"cache configuration '{self.name}': a tile of {columns} × {rows} texels of "
                f"{TEXEL_BYTES} bytes does not fill a line of {self.texture_l1.line_bytes} bytes."
            )

    def _caches(self) -> list[tuple[str, CacheShape]]:
        named = [("texture_l1", self.texture_l1), ("buffer_l1", self.buffer_l1), ("l2", self.l2)]
        return [(level, cache) for level, cache in named if cache is not None]


@dataclass(frozen=True)
class CacheConfigurations:
    """Configurations that are simulated together, over one trace.

    Attributes
    ----------
    configurations
        The configurations, with different names.
    cores
        Cores that work-groups go to in turn.
    """

    configurations: tuple[CacheConfiguration, ...]
    cores: int = 4

    def __post_init__(self) -> None:
        names = [each.name for each in self.configurations]
        if not names or len(set(names)) < len(names):
            raise SmartMemError(
                f"cache configurations {', '.join(names) or '(none)'}: at least one is needed, and "
                "each needs a name of its own."
            )
        if self.cores < 1:
            raise SmartMemError(f"cache configurations for {self.cores} cores: 1 or more.")

    def named(self, name: str) -> CacheConfigurations:
        """The configuration of that name alone."""
        chosen = tuple(each for each in self.configurations if each.name == name)
        if not chosen:
            known = ", ".join(each.name for each in self.configurations)
            raise SmartMemError(
                f"there is no cache configuration '{name}': choose {known}, or give a JSON file of "
                "the form of smartmem_tvm/simulation/caches.json."
            )
        return CacheConfigurations(chosen, self.cores)


def load_configurations(source: str | os.PathLike[str] | None = None) -> CacheConfigurations:
    """Read cache configurations.

    Parameters
    ----------
    source
        A JSON file, or the name of one of the package's configurations; all of these if None.

    Raises
    ------
    SmartMemError
        For a name that there is not, or a file that does not describe caches.
    """
    if source is None:
        return _read(_FILE)
    path = Path(source)
    if path.suffix == ".json" or path.is_file():
        return _read(path)
    return _read(_FILE).named(str(source))


def _read(path: Path) -> CacheConfigurations:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(_configuration(each) for each in document["configs"])
        return CacheConfigurations(found, int(document["cores"]))
    except FileNotFoundError as error:
        raise SmartMemError(f"there is no file '{path}' of cache configurations.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SmartMemError(f"'{path}' is no JSON file: {error}.") from error
    except KeyError as error:
        raise SmartMemError(f"'{path}' has no field {error}: see caches.json.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise SmartMemError(
            f"'{path}' has a field of another form than caches.json: {error}."
        ) from error


def _configuration(fields: Mapping[str, Any]) -> CacheConfiguration:
    texture = fields["texture_l1"]
    columns, rows = (int(extent) for extent in texture["tile_texels"])
    buffer = fields["buffer_l1"]
    return CacheConfiguration(
        str(fields["name"]),
        _shape(texture),
        (columns, rows),
        None if buffer is None else _shape(buffer),
        _shape(fields["l2"]),
    )


def _shape(fields: Mapping[str, Any]) -> CacheShape:
    return CacheShape(float(fields["kib"]), int(fields["line_bytes"]), int(fields["ways"]))
