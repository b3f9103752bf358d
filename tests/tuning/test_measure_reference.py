from __future__ import annotations

import numpy as np
import pytest
import small_tasks
from tvm import te
from tvm.script import tirx as T

from smartmem_tvm.devices import load_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning.measure_inputs import draw, parameters, updated, written
from smartmem_tvm.tuning.reference import (
    Reference,
    host_reference,
    largest_error,
    read_reference,
    read_task,
    save_reference,
    without_textures,
    write_task,
)

TASKS = small_tasks.TASKS


def test_inputs_are_the_same_for_the_same_seed():
    first, second, other = (draw(TASKS["matmul"], seed) for seed in (0, 0, 1))
    for a, b, c in zip(first[:2], second[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
        assert a.min() < -1
        assert abs(a.std() - 1) < 0.1
    assert not np.array_equal(first[0][:48, :32], first[1])
    assert np.isnan(first[2]).all()


def test_positive_inputs():
    a, _, _ = draw(TASKS["matmul"], 0, positive=True)
    assert 0 <= a.min() < a.max() < 1


def test_indices_stay_inside():
    _, index, _ = draw(TASKS["gather"], 0)
    assert index.dtype == np.int64
    assert set(index) <= set(range(9))
    assert len(set(index)) > 4


@T.prim_func(s_tir=True)
def parts(
    table: T.Buffer((40,), "float32"),
    block: T.Buffer((6,), "int32"),
    place: T.Buffer((3, 6), "int32"),
    size: T.Buffer((6,), "int32"),
    mask: T.Buffer((6,), "bool"),
    O: T.Buffer((3, 6), "float32"),  # noqa: E741
):
    for i, j in T.grid(3, 6):
        with T.sblock("O"):
            vi, vj = T.axis.remap("SS", [i, j])
            O[vi, place[vi, vj]] = T.if_then_else(
                mask[vj], table[block[vj] * 4 + vj % 4], T.Cast("float32", vj // size[vj])
            )


def test_indices_are_bounded_by_what_is_made_of_them():
    found = dict(zip(("table", "block", "place", "size", "mask"), draw(parts, 3), strict=False))
    assert found["block"].max() <= 9
    assert found["size"].min() == 1
    assert found["mask"].dtype == bool
    # What says where results go names each place once.
    np.testing.assert_array_equal(np.sort(found["place"], axis=1), [range(6)] * 3)
    host_reference(parts, 3)


def test_what_is_written_and_what_is_updated():
    assert (written(small_tasks.in_place), updated(small_tasks.in_place)) == ([1], [1])
    # A reduction reads its results, but sets them first.
    assert (written(TASKS["matmul"]), updated(TASKS["matmul"])) == ([2], [])
    assert np.isfinite(draw(small_tasks.in_place, 0)[1]).all()


def test_shapes_have_to_be_static():
    n = te.var("n")
    a = te.placeholder((n,), name="A")
    func = te.create_prim_func([a, te.compute((n,), lambda i: a[i] + 1.0, name="O")])
    with pytest.raises(SmartMemError, match="is no tensor of static shape"):
        parameters(func)


@pytest.mark.parametrize("name", list(TASKS))
def test_the_host_computes_what_numpy_does(name):
    func = TASKS[name]
    reference = host_reference(func, 5)
    inputs = reference.inputs(func)
    first = inputs[0].astype("float32")
    expected = {
        "matmul": lambda: first @ inputs[1],
        "doubled": lambda: first * 2,
        "root": lambda: np.sqrt(first) - 3,
        "half": lambda: first * first + 1,
        "gather": lambda: first[inputs[1]],
        "in_place": lambda: inputs[1] * 0.5 + first,
    }[name]()
    (found,) = reference.outputs.values()
    np.testing.assert_allclose(found.astype("float32"), expected, rtol=1e-3, atol=1e-3)
    assert reference.facts["reference"] == "host"
    # A root of normal numbers is none for half of them.
    assert reference.facts["positive"] is (name == "root")


def test_a_kernel_without_any_number():
    a = te.placeholder((8,), name="A")
    func = te.create_prim_func([a, te.compute((8,), lambda i: te.sqrt(-1 - a[i] * a[i]))])
    with pytest.raises(SmartMemError, match="no output of the kernel is a number"):
        host_reference(func, 0)


def test_a_task_and_its_reference_are_kept(tmp_path):
    target = load_profile("adreno-740").target("aarch64-linux-android")
    func = small_tasks.part_of_image
    write_task(tmp_path, "image", func, target)
    folder = tmp_path / "image"
    again, its_target = read_task(folder)
    assert str(its_target) == str(target)
    reference = host_reference(again, 7)
    save_reference(folder, reference)
    kept = read_reference(folder)
    assert kept.facts == reference.facts
    assert kept.outputs.keys() == {1}
    np.testing.assert_array_equal(kept.outputs[1], reference.outputs[1])
    np.testing.assert_array_equal(kept.inputs(func)[0], reference.inputs(func)[0])
    assert {path.name for path in folder.iterdir()} == {"function.json", "reference.npz"}
    data = (folder / "reference.npz").read_bytes()
    (folder / "reference.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(SmartMemError, match=r"cannot be read .*delete it"):
        read_reference(folder)
    (folder / "function.json").write_text("{")
    with pytest.raises(SmartMemError, match="holds no task"):
        read_task(folder)


def test_images_become_plain_memory():
    plain = without_textures(small_tasks.part_of_image)
    assert "texture" not in plain.script()
    assert "texture" in small_tasks.part_of_image.script()


def test_only_padding_of_written_texels_may_change():
    func = small_tasks.part_of_image
    reference = host_reference(func, 0)
    right = reference.outputs[1]
    assert np.isnan(right).sum() == 8 * 10
    assert largest_error(func, {1: right}, reference) == (0.0, None)
    padding = right.copy()
    padding[0, :, 1, 2:] = 5
    assert largest_error(func, {1: padding}, reference) == (0.0, None)
    elsewhere = right.copy()
    elsewhere[0, 3, 2, 0] = 5
    error, wrong = largest_error(func, {1: elsewhere}, reference)
    assert error == np.inf
    assert wrong == "relative error of 'O': is not finite where the reference is (at most 0.001)"
    left_out = right.copy()
    left_out[0, 3, 1, 1] = np.nan
    assert largest_error(func, {1: left_out}, reference)[0] == np.inf


@pytest.mark.parametrize(
    ("dtype", "error", "right"),
    [
        ("float32", 5e-4, True),
        ("float32", 5e-3, False),
        ("float16", 1e-2, True),
        ("float16", 8e-2, False),
        ("int32", 0, True),
        ("int32", 1e-5, False),
    ],
)
def test_tolerances(dtype, error, right):
    a = te.placeholder((4,), name="A", dtype=dtype)
    func = te.create_prim_func([a, te.compute((4,), lambda i: a[i], name="O")])
    values = np.array([0, 1, 100_000 if dtype == "int32" else 2, 2], dtype)
    reference = Reference({1: values})
    ours = values.copy()
    ours[2] += np.dtype(dtype).type(2 * error * float(values[2]))
    found, wrong = largest_error(func, {1: ours}, reference)
    assert (wrong is None) is right
    assert (found == 0) is (error == 0)
