"""What every search must keep to, as properties over random small spaces."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from synthetic_space import SyntheticSpace

KINDS = ("split", "reorder", "fuse", "unroll")


@st.composite
def small_spaces(draw):
    """Spaces of at most 200 raw points, some illegal, some meaning the same, some failing."""
    sizes = draw(
        st.lists(st.integers(1, 8), min_size=1, max_size=4).filter(lambda s: np.prod(s) <= 200)
    )
    seed = draw(st.integers(0, 1000))
    illegal, merged = draw(st.sampled_from([0.0, 0.3, 0.7])), draw(st.booleans())
    generator = np.random.default_rng(seed)
    legal = generator.random(sizes) >= illegal
    times = generator.lognormal(size=sizes)
    fails = generator.random(sizes) < 0.2

    def stands_for(point):
        if merged and point[0] == 0:
            point = (*point[:-1], 0)  # the last knob means nothing there
        return point if legal[point] else None

    def seconds(point):
        return None if fails[point] else float(times[point])

    kinds = [draw(st.sampled_from(KINDS)) for _ in sizes]
    space = SyntheticSpace(sizes, kinds, (), seconds, stands_for)
    everything = sorted(space.everything())
    if not everything:
        legal[(0,) * len(sizes)] = True
        everything = [(0,) * len(sizes)]
    space.start = tuple(draw(st.lists(st.sampled_from(everything), min_size=1, max_size=3)))
    return space


def rounds(space, strategy, counts):
    """What a strategy proposes when it is told the times each time."""
    for count in counts:
        points = strategy.propose(count)
        strategy.learn(points, [space.seconds(point) for point in points])
        yield points


def check_proposals(space, make, counts):
    """Legal, canonical, new, at most as many as asked for, plain tuples of int."""
    seen = set()
    for count, points in zip(counts, rounds(space, make(space, 0), counts), strict=True):
        assert len(points) <= count
        assert len(set(points)) == len(points)
        assert not seen & set(points)
        seen.update(points)
        for point in points:
            assert all(type(value) is int for value in point)
            assert space.canonical(point) == point


def proposed(space, strategy, count):
    """Everything that a strategy proposes until it has nothing left."""
    found = []
    while points := strategy.propose(count):
        strategy.learn(points, [space.seconds(point) for point in points])
        found += points
        assert len(found) == len(set(found))
    return found


def check_exhausts(space, make, count):
    """Every canonical point once, then nothing, again and again."""
    strategy = make(space, 0)
    assert sorted(proposed(space, strategy, count)) == sorted(space.everything())
    assert strategy.propose(count) == []
    assert strategy.propose(count) == []


def check_deterministic(space, make, seed):
    one, two = (list(rounds(space, make(space, seed), [5] * 8)) for _ in range(2))
    assert one == two


def check_earlier_results(space, make, generator):
    """Points of an earlier run, failed ones as well, are not proposed, all others are."""
    everything = sorted(space.everything())
    known = [point for point in everything if generator.random() < 0.5]
    strategy = make(space, 0)
    strategy.learn([], [])
    strategy.learn(known, [space.seconds(point) for point in known])
    assert sorted([*proposed(space, strategy, 4), *known]) == everything
