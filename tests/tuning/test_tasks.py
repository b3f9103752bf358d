"""Tasks of a model: each structure once, keys that last, reasons for what is left out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_models import mlp
from tvm import te, topi
from tvm.script import ir as I
from tvm.script import relax as R

from smartmem_tvm.analysis.data_bounds import known_bounds
from smartmem_tvm.devices import load_profile
from smartmem_tvm.frontend import import_model
from smartmem_tvm.tuning.tasks import list_tasks, space_of, task_key


def product(m=8, k=16, n=32, names="ab", transposed=False):
    a = te.placeholder((m, k), name=names[0])
    b = te.placeholder((n, k) if transposed else (k, n), name=names[1])
    return te.create_prim_func([a, b, topi.matmul(a, b, False, transposed)])


def cpu():
    return load_profile("cpu").target()


def test_names_do_not_count_in_a_key():
    assert task_key(product()) == task_key(product(names="xy"))
    assert task_key(product()) == task_key(product().with_attr("global_symbol", "other"))


@pytest.mark.parametrize("other", [{"m": 9}, {"n": 31}, {"transposed": True}])
def test_what_is_computed_counts(other):
    assert task_key(product()) != task_key(product(**other))


def test_keys_are_the_same_in_every_process():
    code = (
        "import smartmem_tvm\n"
        "from tvm import te, topi\n"
        "from smartmem_tvm.tuning.tasks import task_key\n"
        "a, b = te.placeholder((8, 16)), te.placeholder((16, 32))\n"
        "print(task_key(te.create_prim_func([a, b, topi.matmul(a, b, False, False)])))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.decode().split()[-1] == task_key(product())


def test_tasks_of_a_model():
    found = list_tasks(import_model(mlp()).mod, cpu())
    assert len(found.tasks) == 2
    assert found.left_out == {}
    assert [task.calls for task in found.tasks] == [1, 1]
    for task in found.tasks:
        assert task_key(task.func) == task.key
        assert task.space.canonical(task.space.start[0]) == task.space.start[0]


def test_the_same_kernel_twice_is_one_task():
    @I.ir_module
    class Module:
        @R.function
        def main(
            x: R.Tensor((32, 32), "float32"),
            w: R.Tensor((32, 32), "float32"),
            v: R.Tensor((32, 32), "float32"),
        ):
            with R.dataflow():
                one = R.matmul(x, w)
                two = R.matmul(one, v)
                R.output(two)
            return two

    (task,) = list_tasks(Module, cpu(), disable=["layouts"]).tasks
    assert task.calls == 2


def test_a_task_knows_its_data():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((50, 4), "float32"), at: R.Tensor((3,), "int64")):
            with R.dataflow():
                one = R.take(x, R.const([3, 49, 0], "int64"), axis=0)
                two = R.add(one, R.take(x, at, axis=0))
                R.output(two)
            return two

    known = [
        list(known_bounds(task.func).values())
        for task in list_tasks(Module, cpu(), disable=["fuse", "eliminate"]).tasks
        if any(str(param.dtype) == "int64" for param in task.func.params)
    ]
    # One kernel for both: what is known of a constant is not of the other's data.
    assert known == [[]]


def test_open_shapes_are_left_out_with_the_reason():
    found = list_tasks(import_model(mlp("batch"), shapes={"x": ("batch", 16)}).mod, cpu())
    assert found.tasks == ()
    assert all("symbolic" in reason for reason in found.left_out.values())
    assert found.left_out


def test_a_space_begins_with_the_rules_schedule():
    space = space_of(product(197, 64, 192), cpu())
    tile = space.choice(space.start[0]).tile
    assert tile.width > 1 or tile.inner_width > 1
