"""Which work-groups of a big launch are simulated, and what is said of all from them.

::

    groups     0 … 83 | 84 …   … 466 | 467 … 508 | 509 … 550 | …   … 940 | 940 … 981 | 982 … 1023
    simulated   run 0                   warm-up      run 1                  warm-up       run 2

Runs of consecutive work-groups lie evenly over the launch, so that neighbours share lines as they
do in reality, and caches stay as they are from one run to the next. Requests are those of all that
is simulated, scaled. Of the misses, those of the first run are taken once, because they hold what
all work-groups share, such as weights; those of the other runs, without the first half of each,
which finds caches emptier than in reality, are scaled to the rest of the launch. Lines that return
after more work-groups than half a run count as missed though a cache may still have them, so the
estimate of the misses is rather too high, and the less so, the larger the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from .results import Accesses, CacheCounts, Counts

_RUNS = 3
_FEWEST = 8  # work-groups of a run, per core


@dataclass(frozen=True)
class Run:
    """Consecutive work-groups, and whether they only warm the caches up."""

    groups: range
    warm_up: bool = False


@dataclass(frozen=True)
class Sample:
    """Runs of work-groups; one of all where the launch is small."""

    runs: tuple[Run, ...]
    work_groups: int

    @property
    def simulated(self) -> int:
        """Work-groups in all runs."""
        return sum(len(run.groups) for run in self.runs)

    def estimate(self, after_each_run: list[Counts]) -> Counts:
        """Counts of the launch from those after each run, which include the runs before."""
        first, *_, last = [*after_each_run, after_each_run[-1]]
        if len(self.runs) == 1:
            return first
        accesses = last.accesses.scaled(self.work_groups / self.simulated)
        others = Counts(Accesses(), {name: CacheCounts() for name in last.caches})
        groups, before = 0, first
        for run, after in zip(self.runs[1:], after_each_run[1:], strict=True):
            if not run.warm_up:
                others = others.plus(after).plus(before, -1.0)
                groups += len(run.groups)
            before = after
        rest = (self.work_groups - len(self.runs[0].groups)) / groups
        return Counts(accesses, first.plus(others, rest).caches)


def choose_sample(work_groups: int, most: int | None, cores: int) -> Sample:
    """Runs of about `most` work-groups together; all where that is None or enough.

    A run starts on the first core, as in the whole launch.
    """
    length = max(_FEWEST, (most or 0) // _RUNS // cores) * cores
    if most is None or work_groups <= max(most, _RUNS * length):
        return Sample((Run(range(work_groups)),), work_groups)
    runs = [Run(range(length))]
    for number in range(1, _RUNS):
        start = (work_groups - length) * number // (_RUNS - 1) // cores * cores
        middle = start + length // 2 // cores * cores
        runs += [Run(range(start, middle), True), Run(range(middle, start + length))]
    return Sample(tuple(runs), work_groups)
