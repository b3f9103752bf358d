"""Random small kernels, as TVMScript and as plain Python that lists their accesses."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from hypothesis import strategies as st
from plain_caches import PlainGpu, PlainWave

WAVE, SHORT = 64, 8
SOURCE = """
@T.prim_func(s_tir=True)
def f(
    A: T.Buffer(({a},), "{dtype}"),
    I: T.Buffer(({rows}, {columns}, 4), "{dtype}", scope="global.texture"),
    C: T.Buffer(({c},), "{dtype}"),
):
    for bx in T.thread_binding({gx}, thread="blockIdx.x"):
        for by in T.thread_binding({gy}, thread="blockIdx.y"):
            for tx in T.thread_binding({lx}, thread="threadIdx.x"):
                for ty in T.thread_binding({ly}, thread="threadIdx.y"):
                    with T.sblock("root"):
                        s = T.sblock_alloc_buffer(({v},), "{dtype}", scope="local")
                        t = T.sblock_alloc_buffer((4,), "{dtype}", scope="local")
                        for r in range({r}):
                            if {guard}:
                                for l in T.vectorized({v}):
                                    s[l] = s[l] + A[({index}) % {slots} * {v} + l]
                            for k in T.vectorized(4):
                                t[k] = t[k] + I[({row}) % {rows}, ({column}) % {columns}, k]
                        for l in T.vectorized({v}):
                            C[{store} * {v} + l] = s[l] + t[0]
"""


@dataclass(frozen=True)
class RandomKernel:
    """Coefficients of (bx, by, tx, ty, r, 1) for each place, and the extents."""

    grid: tuple[int, int]
    group: tuple[int, int]
    rounds: int
    lanes: int
    dtype: str
    slots: int
    image: tuple[int, int]
    index: tuple[int, ...]
    column: tuple[int, ...]
    row: tuple[int, ...]
    guard: tuple[int, ...]
    limit: int

    @property
    def element(self):
        return 4 if self.dtype == "float32" else 2

    @property
    def items(self):
        return self.grid[0] * self.grid[1] * self.group[0] * self.group[1]

    def function(self):
        names = ("bx", "by", "tx", "ty", "r", "1")

        def text(coefficients):
            return (
                " + ".join(f"{c} * {n}" for c, n in zip(coefficients, names, strict=True) if c)
                or "0"
            )

        (gx, gy), (lx, ly) = self.grid, self.group
        store = f"(((by * {gx} + bx) * {ly} + ty) * {lx} + tx)"
        source = SOURCE.format(
            a=self.slots * self.lanes, columns=self.image[0], rows=self.image[1],
            c=self.items * self.lanes, dtype=self.dtype, gx=gx, gy=gy, lx=lx, ly=ly, v=self.lanes,
            r=self.rounds, slots=self.slots, index=text(self.index), row=text(self.row),
            column=text(self.column), store=store, guard=f"{text(self.guard)} < {self.limit}",
        )  # fmt: skip
        return tvm.script.from_source(source)

    def memories(self):
        """In the order in which the kernel names them."""
        width, height = self.image
        return [
            (self.slots * self.lanes * self.element, None, self.element),
            (width * height * 4 * self.element, self.image, 4 * self.element),
            (self.items * self.lanes * self.element, None, self.element),
        ]

    def run(self, configurations):
        """Requests, and the counters of each configuration."""
        cores = configurations.cores
        gpus = [PlainGpu(each, cores, self.memories()) for each in configurations.configurations]
        requests = dict.fromkeys(("loads", "reads", "stores"), 0)
        (gx, gy), (lx, ly) = self.grid, self.group
        group = [(n % lx, n // lx) for n in range(lx * ly)]
        waves = [group[n : n + WAVE] for n in range(0, len(group), WAVE)]
        rolled = self.rounds > SHORT
        for first in range(0, gx * gy, cores):
            running = [(core, first + core) for core in range(cores) if first + core < gx * gy]
            held = {(core, n): PlainWave() for core in range(cores) for n in range(len(waves))}

            def issue(what, places_of, pieces, depth, memory, write=False):
                for offset, size in pieces:
                    for core, number in running:  # noqa: B023
                        for n, wave in enumerate(waves):
                            block = (number % gx, number // gx)
                            places = [places_of((*block, *item)) for item in wave]
                            if memory != 1:
                                places = [None if p is None else p + offset for p in places]
                            if not any(p is not None for p in places):
                                continue
                            name = (memory, write, size, *places)
                            if held[core, n].holds(name, size, depth):  # noqa: B023
                                continue
                            requests[what] += sum(p is not None for p in places)
                            for gpu in gpus:
                                gpu.issue(core, memory, places, size, write)

            size = self.lanes * self.element
            pieces = [(at, min(16, size - at)) for at in range(0, size, 16)]
            for r in range(self.rounds):
                if rolled:
                    for wave in held.values():
                        wave.forget(1)

                def value(coefficients, item):
                    terms = zip(coefficients, (*item, r, 1), strict=True)  # noqa: B023
                    return sum(c * x for c, x in terms)

                def load(item):
                    inside = value(self.guard, item) < self.limit
                    return value(self.index, item) % self.slots * size if inside else None  # noqa: B023

                def read(item):
                    width, height = self.image
                    return value(self.column, item) % width, value(self.row, item) % height

                guarded = not self._always()
                issue("loads", load, pieces, int(rolled and (guarded or self.index[4] != 0)), 0)
                texel = [(0, 4 * self.element)]
                depends = self.column[4] != 0 or self.row[4] != 0
                issue("reads", read, texel, int(rolled and depends), 1)
            for wave in held.values():
                wave.forget(1)

            def stored(item):
                bx, by, tx, ty = item
                return (((by * gx + bx) * ly + ty) * lx + tx) * size  # noqa: B023

            issue("stores", stored, pieces, 0, 2, write=True)
        for gpu in gpus:
            gpu.finish()
        return requests, [gpu.counts for gpu in gpus]

    def _always(self):
        """Whether the condition holds for all work-items."""
        largest = (
            self.grid[0] - 1,
            self.grid[1] - 1,
            self.group[0] - 1,
            self.group[1] - 1,
            self.rounds - 1,
            1,
        )
        return sum(c * x for c, x in zip(self.guard, largest, strict=True)) < self.limit


@st.composite
def random_kernels(draw):
    small = st.integers(0, 4)
    # Prime extents: no coefficient is a multiple, so that a place depends on r where one is not 0.
    extents = st.sampled_from((5, 7, 13))
    places = st.tuples(small, small, small, small, small, small)
    return RandomKernel(
        grid=draw(st.tuples(st.integers(1, 4), st.integers(1, 3))),
        group=draw(st.sampled_from(((4, 1), (8, 3), (16, 5), (70, 1)))),
        rounds=draw(st.sampled_from((1, 3, 8, 9, 12))),
        lanes=draw(st.sampled_from((1, 2, 4, 8))),
        dtype=draw(st.sampled_from(("float32", "float16"))),
        slots=draw(st.sampled_from((31, 127, 1031))),
        image=draw(st.tuples(extents, extents)),
        index=draw(places),
        column=draw(places),
        row=draw(places),
        guard=draw(places),
        limit=draw(st.integers(1, 120)),
    )
