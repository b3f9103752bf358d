"""Tasks, benches and sessions of the tuning bench, made up."""

from __future__ import annotations

from dataclasses import replace

from tuning_bench import Bench, Limits
from tuning_pool import Entry

from smartmem_tvm.bench.settings import choose_models

GIB = 1 << 30
KEY = "00000000000000aa"


def entry(number=1, model="swin/micro", kind="contraction", **fields):
    return Entry(model, f"f{number}", f"{number:016x}", kind, 1, **fields)


def bench_in(folder, models=("swin",), **fields):
    own = {"draw": 4, "seed": 1, "least_s": 2e-5, "trials": 8}
    limits = Limits(60.0, 4 * GIB, 600.0, 2)
    bench = Bench(choose_models(list(models), "micro"), **own, device="cpu", opencl_device=None,
                  work=folder, limits=limits)  # fmt: skip
    return replace(bench, **fields)


def unit(task, strategy="random", seed=0, curve=((1, 4.0), (5, 2.0)), **fields):
    own = {"task": task, "strategy": strategy, "seed": seed, "improvements": curve}
    best = min(seconds for _, seconds in curve) if curve else None
    own |= {"untuned_s": curve[0][1] if curve else None, "best_s": best, "failed": None}
    return {**own, "choice": {}, "load": [1.0, 2.0], "commit": "c", **fields}


def units(*some):
    return {f"{u['task']}/{u['strategy']}/{u['seed']}": u for u in some}


def metaschedule(task, curve=((2, 8.0),), **fields):
    """Session of MetaSchedule's, which measures nothing untuned."""
    found = unit(task, "metaschedule", 0, curve, **fields)
    del found["untuned_s"], found["choice"]
    return found
