"""``smartmem_tvm.tune``: from a model to records that a compilation uses."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import mlp

import smartmem_tvm
from smartmem_tvm import Budget, SmartMemError

device = pytest.mark.device


@device
def test_tune_and_compile(tmp_path, opencl_device):
    records, seen = tmp_path / "r.jsonl", []
    session = smartmem_tvm.tune(
        mlp(),
        "cpu",
        records=records,
        budget=Budget(trials=5),
        strategy="random",
        watch=lambda one: seen.append(one.trials),
    )
    assert session.trials == 5
    assert seen[:5] == [1, 2, 3, 4, 5]
    assert session.seconds() <= session.seconds(best=False)
    plain = smartmem_tvm.compile(mlp(), "cpu")
    tuned = smartmem_tvm.compile(mlp(), "cpu", records=records)
    assert len(tuned.manifest.tuned) == 2
    assert plain.manifest.tuned == {}
    inputs = {
        spec.name: np.random.default_rng(0).standard_normal(spec.shape).astype("float32")
        for spec in plain.manifest.inputs
    }
    for name, expected in plain.run(inputs).items():
        np.testing.assert_allclose(tuned.run(inputs)[name], expected, rtol=1e-4, atol=1e-5)


def tuned(tmp_path, **options):
    return smartmem_tvm.tune(
        mlp(), **{"device": "cpu", "records": tmp_path / "r", "budget": Budget(trials=1)} | options
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "luck"}, "luck"),
        ({"tasks": []}, "no kernel is named"),
        ({"tasks": ["nothing"]}, "no kernel 'nothing' to tune; there are "),
        ({"device": "adreno-9000"}, "adreno-9000"),
        ({"host": "nonsense"}, "nonsense"),
        ({"dtype": "float32x"}, "float32x"),
    ],
)
def test_what_cannot_be_used_leaves_no_file(tmp_path, options, said):
    with pytest.raises(SmartMemError, match=said):
        tuned(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_kernels_to_tune(tmp_path):
    with pytest.raises(SmartMemError, match=r"has no kernel that could be tuned: .*symbolic"):
        smartmem_tvm.tune(
            mlp("batch"),
            "cpu",
            records=tmp_path / "r",
            budget=Budget(trials=1),
            shapes={"x": ("batch", 16)},
        )
