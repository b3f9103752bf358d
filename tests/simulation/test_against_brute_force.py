"""Random kernels through tracing, LLVM and the C++ caches, against plain Python."""

from __future__ import annotations

import pytest
import tvm
from hypothesis import given, settings
from random_kernels import random_kernels

from smartmem_tvm.simulation import (
    CacheConfiguration,
    CacheConfigurations,
    CacheModel,
    CacheShape,
    simulate_function,
)

TARGET = tvm.target.Target("opencl", host="llvm")
SMALL = CacheConfigurations(
    (
        CacheConfiguration("a", CacheShape(0.25, 64, 2), (2, 2), None, CacheShape(1, 64, 4)),
        CacheConfiguration(
            "b", CacheShape(0.5, 128, 4), (4, 2), CacheShape(0.5, 128, 1), CacheShape(2, 128, 16)
        ),
    ),
    cores=3,
)


@pytest.fixture(scope="module")
def model():
    with CacheModel(SMALL) as made:
        yield made


@settings(max_examples=60, deadline=None)
@given(kernel=random_kernels())
def test_counts_are_those_of_the_plain_simulator(model, kernel):
    (found,) = simulate_function(kernel.function(), TARGET, model)
    assert found.refused is None
    requests, counters = kernel.run(SMALL)
    accesses = found.counts.accesses
    assert accesses.buffer_loads == requests["loads"]
    assert accesses.image_reads == requests["reads"]
    assert accesses.buffer_stores == requests["stores"]
    for name, expected in zip(("a", "b"), counters, strict=True):
        caches = found.counts.caches[name]
        for level in ("texture_l1", "buffer_l1", "l2"):
            counts = getattr(caches, level)
            assert (level, counts.lookups) == (level, expected[level, "lookups"])
            assert (level, counts.misses) == (level, expected[level, "misses"])
        assert caches.l2.write_backs == expected["l2", "write_backs"]
