"""Search spaces whose times are formulas, for tests of searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np

TILES = (1, 2, 3, 4, 6, 8, 12, 16)
GROUPS = (1, 2, 4, 7, 8, 16, 32, 64, 128)
DEPTHS = (1, 2, 3, 4, 8, 16)


class SyntheticSpace:
    """A space made of functions.

    `seconds` of a canonical point is its time, None where it fails on the device. `stands_for` is
    `canonical` of a point inside the sizes.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        kinds: Sequence[str],
        start: Sequence[tuple[int, ...]],
        seconds: Callable[[tuple[int, ...]], float | None],
        stands_for: Callable[[tuple[int, ...]], tuple[int, ...] | None] = lambda point: point,
    ):
        self.sizes = tuple(sizes)
        self.kinds = tuple(kinds)
        self.start = tuple(start)
        self.seconds = seconds
        self._stands_for = stands_for

    def canonical(self, point):
        if len(point) != len(self.sizes) or any(
            not 0 <= value < size for value, size in zip(point, self.sizes, strict=True)
        ):
            raise ValueError(f"{point} is no point of sizes {self.sizes}")
        return self._stands_for(point)

    def features(self, points):
        return np.array(points, dtype="float32").reshape(len(points), len(self.sizes))

    def everything(self):
        """All canonical points."""
        raw = product(*(range(size) for size in self.sizes))
        return {point for point in raw if self.canonical(point) == point}


def contraction(rows: int, columns: int, depth: int, start_at: tuple[int, ...]) -> SyntheticSpace:
    """A matrix product on a device with registers, vectors, groups and a little cache.

    Knobs: tile of rows and columns, step of the reduction, group along both, loop order, axes
    fused, unrolling.
    """

    def stands_for(point):
        tile_m, tile_n, step, group_x, group_y, order, fused, unroll = point
        if GROUPS[group_x] * GROUPS[group_y] > 256:
            return None  # more than a group may hold
        if fused:
            group_y = 0  # one axis is left
        if DEPTHS[step] == 1:
            unroll = 0  # nothing to unroll
        return (tile_m, tile_n, step, group_x, group_y, order, fused, unroll)

    def seconds(point):
        m, n = TILES[point[0]], TILES[point[1]]
        step, unroll = DEPTHS[point[2]], 2 ** point[7]
        group = (GROUPS[point[3]], GROUPS[point[4]])
        registers = m * n + (m + n) * min(unroll, step)
        if registers > 400:
            return None  # the driver gives up
        # Work of lanes beyond the edge, in tiles and in groups.
        work = _padded(rows, m * group[1]) * _padded(columns, n * group[0])
        work *= _padded(depth, step)
        lanes = group[0] * group[1]
        busy = min(1.0, rows * columns / (m * n) / 2048)  # too few work-items fill no device
        waves = lanes / (64 * math.ceil(lanes / 64))
        vector = {0: 1.0, 2: 0.7}.get(n % 4, 0.45)
        spilled = 1 + max(0, registers - 96) / 24
        overhead = 1 + 0.8 / (step * min(unroll, step)) + 0.04 * max(0, unroll - step)
        # Reading an operand again costs, less where neighbours in the group read the same.
        loads = 1.0 / n + 1.0 / m + 0.3 / math.sqrt(lanes)
        inner = ((0.0, 0.5, 0.2, 0.9, 0.6, 1.2), (0.7, 0.1, 0.9, 0.0, 1.2, 0.4))
        cache = 1 + inner[int(m > n)][point[5]] * (1.0 if step > 2 else 0.3)
        arithmetic = overhead * spilled / (vector * busy * waves)
        return 1e-4 * work * (arithmetic + 2.5 * loads * cache / busy)

    return SyntheticSpace(
        (len(TILES), len(TILES), len(DEPTHS), len(GROUPS), len(GROUPS), 6, 2, 5),
        ("split",) * 5 + ("reorder", "fuse", "unroll"),
        (start_at,),
        seconds,
        stands_for,
    )


def landscape(seed: int, sizes: Sequence[int]) -> SyntheticSpace:
    """Hills and valleys: a smooth random curve for each knob and each pair of knobs.

    A band of points is illegal, a corner fails, and the last knob means nothing where the first
    is 0.
    """
    generator = np.random.default_rng(seed)
    knobs = len(sizes)
    curves = [_curve(generator, (size,)) for size in sizes]
    pairs = [(a, b) for a in range(knobs) for b in range(a + 1, knobs)]
    planes = {pair: _curve(generator, (sizes[pair[0]], sizes[pair[1]])) for pair in pairs}

    def stands_for(point):
        if (point[0] + 2 * point[1]) % 9 == 4:
            return None
        return (*point[:-1], 0) if point[0] == 0 else point

    def seconds(point):
        if point[1] == sizes[1] - 1 and point[2] == sizes[2] - 1:
            return None
        slope = sum(curve[value] for curve, value in zip(curves, point, strict=True))
        slope += sum(plane[point[a], point[b]] for (a, b), plane in planes.items())
        return 1e-3 * math.exp(0.25 * slope)

    legal = (p for p in product(*(range(size) for size in sizes)) if stands_for(p) == p)
    # Mediocre: the median of the first few that work.
    few = sorted((p for p, _ in zip(legal, range(200), strict=False) if seconds(p)), key=seconds)
    kinds = ["split"] * (knobs - 3) + ["reorder", "fuse", "unroll"]
    return SyntheticSpace(sizes, kinds, (few[len(few) // 2],), seconds, stands_for)


def _curve(generator, shape):
    """A random wave with one to two and a half turns across each axis."""
    grid = np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij")
    turns = generator.uniform(1, 2.5, len(shape))
    phase = generator.uniform(0, 2 * np.pi)
    wave = np.sin(np.pi * sum(t * axis for t, axis in zip(turns, grid, strict=True)) + phase)
    return generator.uniform(0.4, 1.0) * wave


def _padded(extent: int, tile: int) -> float:
    """Work over an extent in whole tiles, against the extent."""
    return math.ceil(extent / tile) * tile / extent


SPACES = {
    "product": contraction(512, 768, 256, (0, 3, 3, 6, 1, 2, 0, 0)),
    "odd product": contraction(196, 64, 147, (3, 3, 0, 5, 2, 4, 0, 0)),
    "landscape": landscape(7, (8, 6, 9, 12, 6, 3, 4)),
}


def best_of(space, strategy, trials, batch=8):
    """Least seconds that a search meets in so many trials; inf where none has worked."""
    found: list[float | None] = []
    seen: set[tuple[int, ...]] = set()
    while len(found) < trials:
        points = strategy.propose(min(batch, trials - len(found)))
        if not points:
            break
        assert len(points) <= batch
        assert not seen & set(points)
        assert all(space.canonical(point) == point for point in points)
        seen.update(points)
        seconds = [space.seconds(point) for point in points]
        strategy.learn(points, seconds)
        found += seconds
    return min((each for each in found if each is not None), default=math.inf)


@cache
def median_best(space, make, seeds=20):
    """Median over seeds of the best of 64 trials; a seed decides a search, so each is run once."""
    return np.median([best_of(space, make(space, seed), 64) for seed in range(seeds)])
