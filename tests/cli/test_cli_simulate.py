"""``smartmem simulate``."""

from __future__ import annotations

import json

import pytest


def test_simulation_of_a_model(workplace, smartmem_json, smartmem):
    document = smartmem_json("simulate", "mlp.onnx", "--device", "cpu")
    assert (document["model"], document["device"], document["sample"]) == ("mlp", "cpu", None)
    total = document["total"]
    assert set(total["caches"]) == {"small", "medium", "large"}
    kernels = document["kernels"]
    assert total["requests"] == sum(k["calls"] * k["counts"]["requests"] for k in kernels)
    assert all(k["refused"] is None and k["simulated"] == k["work_groups"] for k in kernels)
    # No buffer L1 but in "large"; its misses are the L2's look-ups, with the stores'.
    assert total["caches"]["small"]["buffer_l1"]["lookups"] == 0
    large = total["caches"]["large"]
    assert large["l2"]["lookups"] > large["buffer_l1"]["misses"] > large["l2"]["misses"] > 0
    code, text, _ = smartmem("simulate", "mlp.onnx", "--device", "cpu")
    assert code == 0
    for number in (total["requests"], large["buffer_l1"]["misses"]):
        assert str(number) in text
    assert kernels[0]["name"] in text


def test_caches_of_ones_own_and_a_sample(workplace, smartmem_json):
    level = {"kib": 1, "line_bytes": 64, "ways": 2}
    own = {"name": "own", "texture_l1": {**level, "tile_texels": [2, 2]}, "buffer_l1": level}
    document = {"configs": [{**own, "l2": {**level, "kib": 4}}], "cores": 1}
    (workplace / "own.json").write_text(json.dumps(document))
    arguments = ("simulate", "mlp.onnx", "--device", "cpu", "--caches", "own.json")
    whole = smartmem_json(*arguments)
    assert list(whole["total"]["caches"]) == ["own"]
    # The launches are too small to be sampled.
    assert smartmem_json(*arguments, "--sample", "1")["total"] == whole["total"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--sample", "0"), "at least one work-group"),
        (("--caches", "huge"), "choose small, medium, large"),
        (("--caches", "absent.json"), "no file 'absent.json'"),
        (("--disable", "speed"), "no switch 'speed'"),
    ],
)
def test_bad_usage(workplace, smartmem, words, message):
    code, _, err = smartmem("simulate", "mlp.onnx", "--device", "cpu", *words)
    assert code == 2
    assert message in err
