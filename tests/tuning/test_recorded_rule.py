"""Compiling with records: the best is taken, what does not fit is passed over with a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from made_records import record, write_records
from small_models import mlp, mlp_input, mlp_reference

import smartmem_tvm
from smartmem_tvm.devices import load_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.schedules import ApplySchedules, own_rules, refusals, rule_of
from smartmem_tvm.schedules.choice import choice_of
from smartmem_tvm.tuning.recorded_rule import Recorded, tuned_functions
from smartmem_tvm.tuning.records_file import read_records
from smartmem_tvm.tuning.tasks import list_tasks

PROFILE = "cpu"


def tasks():
    return list_tasks(import_model(mlp()).mod, load_profile(PROFILE).target()).tasks


def other_choice(task, number=0):
    """A schedule that the rules did not choose."""
    rng = np.random.default_rng(number)
    while True:
        point = task.space.canonical(tuple(int(rng.integers(n)) for n in task.space.sizes))
        if point is not None and point != task.space.start[0]:
            return task.space.choice(point)


def measured(task, choice, seconds, profile=PROFILE):
    choice = choice if isinstance(choice, dict) else choice.to_dict()
    return record(task=task.key, name=task.name, profile=profile, choice=choice, seconds=(seconds,))


def test_the_best_record_is_what_is_compiled(tmp_path, opencl_device):
    mine = tasks()
    records = [measured(task, other_choice(task, n), 1e-6) for n, task in enumerate(mine)]
    records += [measured(task, other_choice(task, 50), 1e-3) for task in mine]
    path = write_records(tmp_path / "records.jsonl", records)
    artifact = smartmem_tvm.compile(mlp(), PROFILE, records=path)
    assert sorted(artifact.manifest.tuned.values()) == sorted(task.key for task in mine)
    assert artifact.manifest.records_digest == read_records(path).digest
    outputs, expected = artifact.run(mlp_input()), mlp_reference(mlp_input()["x"])
    for name, want in expected.items():
        np.testing.assert_allclose(outputs[name], want, rtol=1e-4, atol=1e-5)


def test_compiling_with_records_is_deterministic(tmp_path):
    mine = tasks()
    records = [measured(task, other_choice(task, n), 1e-6) for n in range(4) for task in mine]
    one, other = (
        smartmem_tvm.compile(mlp(), PROFILE, records=write_records(tmp_path / name, items))
        for name, items in (("one", records), ("other", records[::-1]))
    )
    assert one.sources == other.sources
    assert one.manifest.records_digest == other.manifest.records_digest


def scheduled(task, records, tmp_path):
    rule = Recorded.best_of(read_records(write_records(tmp_path / "records.jsonl", records)))
    target = load_profile(PROFILE).target()
    with target:
        module = tvm.IRModule({"f": task.func})
        return ApplySchedules([rule, *own_rules()])(module)


def test_other_profiles_and_tasks_are_not_taken(tmp_path):
    one, other = tasks()
    choice = other_choice(one)
    records = [measured(other, choice, 1e-6), measured(one, choice, 1e-6, profile="adreno-740")]
    module = scheduled(one, records, tmp_path)
    assert rule_of(module["f"]) != "Recorded"
    assert tuned_functions(module) == {}


def test_a_record_that_does_not_fit_is_passed_over_with_the_reason(tmp_path):
    one, _ = tasks()
    for choice in ({"lane": 9, "width": 8}, {"later": 1}):
        module = scheduled(one, [measured(one, choice, 1e-6)], tmp_path)
        assert rule_of(module["f"]) not in (None, "Recorded")
        assert any("Recorded:" in reason for reason in refusals(module["f"]))
        assert tuned_functions(module) == {}


def test_what_was_wrong_is_not_taken(tmp_path):
    one, _ = tasks()
    fast, slow = other_choice(one, 1), other_choice(one, 2)
    records = [measured(one, fast, 1e-9), measured(one, slow, 1e-3)]
    wrong = replace(records[0], status="wrong", seconds=(), error=1.0)
    module = scheduled(one, [*records, wrong], tmp_path)
    assert rule_of(module["f"]) == "Recorded"
    assert choice_of(module["f"]).to_dict() == slow.to_dict()
    assert tuned_functions(module) == {"f": one.key}


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(SmartMemError, match=r"none\.jsonl"):
        smartmem_tvm.compile(mlp(), PROFILE, records=tmp_path / "none.jsonl")
