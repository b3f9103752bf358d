"""The kernel bench on small models: what belongs together, what is found wrong, what is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import kernel_measuring
import numpy as np
import pytest
import tvm
from bench_kernels import main
from kernel_builds import build_tvm, schedule_ours
from kernel_checking import check_outputs, checked_outputs
from kernel_drawing import draw
from kernel_figures import with_figures
from kernel_measuring import Results, machine_of, probe_again, read_results
from kernel_pool import LISTING, Entry, read_function, read_model, read_pool
from kernel_preparation import Bench, build_kernels, built_facts, read_models
from kernel_runners import RunKernel, random_arguments
from kernel_workers import Limits

from smartmem_tvm.analysis.layouts import Layout
from smartmem_tvm.bench.settings import choose_models
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError

GIB = 1 << 30


@pytest.fixture(scope="module")
def target():
    return resolve_profile("cpu").target()


@pytest.fixture(scope="module")
def pool(tmp_path_factory, target):
    folder = tmp_path_factory.mktemp("pool")
    read_model("zoo:swin/micro", target, folder, "swin/micro")
    return folder


def bench_in(folder, pool=None, **fields):
    """Bench of one model in an empty folder, with a copy of its pool where it is given."""
    models = choose_models(["swin"], "micro")
    bench = Bench(models, 2, 1, "cpu", folder, Limits(120.0, 4 * GIB), **fields)
    if pool is not None:
        shutil.copytree(pool, bench.pool(models[0].key))
        nothing = {"left_out": {}, "kernels": []}
        bench.pool(models[0].key, fused=False).mkdir()
        (bench.pool(models[0].key, fused=False) / LISTING).write_text(json.dumps(nothing))
    return bench


def test_entries_describe_their_functions(pool):
    entries = read_pool(pool)
    assert len({entry.key for entry in entries}) == len(entries)
    assert {entry.kind for entry in entries} == {"contraction", "reduction"}
    assert any(entry.changed for entry in entries)
    assert any(layout is not None for entry in entries for layout in entry.layouts)
    for entry in entries:
        plain, laid_out = (read_function(pool, entry, name) for name in ("plain", "laid_out"))
        for number, (shape, dtype) in enumerate(entry.tensors):
            assert [int(n) for n in plain.params[number].shape] == shape
            assert str(plain.params[number].dtype) == dtype
            layout = entry.layout(number)
            laid_out_shape = shape if layout is None else list(layout.shape(shape))
            assert [int(n) for n in laid_out.params[number].shape] == laid_out_shape


@pytest.mark.slow
def test_keys_do_not_depend_on_the_process(pool, tmp_path):
    bench = bench_in(tmp_path)
    read = read_models(bench, print)
    assert [e.key for e in read if e.fused] == [e.key for e in read_pool(pool)]
    assert {e.kind for e in read if not e.fused} == {"elementwise"}


def test_both_versions_have_a_schedule(pool, target, tmp_path):
    entry = next(e for e in read_pool(pool) if e.kind == "contraction")
    _, facts = schedule_ours(read_function(pool, entry, "laid_out"), target)
    assert facts["rule"] == "Contraction"
    assert facts["tile"]["width"] >= 1
    facts = build_tvm(read_function(pool, entry, "plain"), tmp_path / "tvm.so")
    assert facts["rule"]
    assert facts["source_bytes"] > 0


def test_outputs_are_put_back_row_by_row():
    runner = RunKernel()
    layout = Layout((0, 2, 1), block=(1, 4))
    runner._entry = Entry(
        "m", "f", 0, "k", "elementwise", 0, 0, 0, True,
        [[[2, 6, 3], "float32"]], [asdict(layout)], [0], 1, False,
    )  # fmt: skip
    runner._laid_out = True
    (array,) = random_arguments(runner._entry.tensors)
    packed = runner._packed(0, array)
    assert packed.shape == (2, 3, 2, 4)
    np.testing.assert_array_equal(runner._unpacked(0, packed), array)


def test_a_wrong_kernel_is_reported_and_the_others_are_not(tmp_path, pool, opencl_device):
    bench = bench_in(tmp_path, pool)
    entries = [e for e in read_models(bench, print) if e.kind == "reduction"]
    good = entries[0]
    # The laid-out function of one kernel is replaced by one that computes something else.
    bad = next(e for e in entries[1:] if e.name.startswith("layer_norm") and not e.changed)
    folder = bench.pool_of(bad)
    path = folder / f"{bad.number}.laid_out.json"
    func = tvm.ir.load_json(path.read_text(encoding="utf-8"))
    path.write_text(tvm.ir.save_json(_negated(func)), encoding="utf-8")
    build_kernels(bench, [bad, good], print)
    check_outputs(bench, [bad, good], "0", print)
    found = checked_outputs(bench, bad, "0")
    assert found["failed"]["ours"].startswith("wrong: relative error")
    assert found["failed"]["tvm"] is None
    found = checked_outputs(bench, good, "0")
    assert found["failed"] == {"ours": None, "tvm": None}
    assert found["error"] < 1e-3


def _negated(func):
    """Function that adds its last input where it multiplied."""
    from tvm_ffi import structural_map

    def add(node):
        return node.a + node.b if str(node.ty.dtype) == "float32" else node

    body = structural_map(func.body, (tvm.tirx.Mul, add))
    return tvm.tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def test_a_kernel_that_cannot_be_loaded_costs_itself_alone(tmp_path, pool, opencl_device):
    bench = bench_in(tmp_path, pool, versions=("ours",))
    entries = draw(read_models(bench, print), 2, 1)
    build_kernels(bench, entries, print)
    (bench.built(entries[0]) / "ours.so").write_bytes(b"no library")
    check_outputs(bench, entries, "0", print)
    first, second = (checked_outputs(bench, entry, "0") for entry in entries)
    assert first["failed"]["ours"].startswith("error: ")
    assert second["failed"] == {"ours": None}
    assert second["error"] < 1e-3  # of the function as the host computes it


def test_libraries_are_built_once_for_the_same_code(tmp_path, pool):
    bench = bench_in(tmp_path, pool, versions=("ours",))
    (entry,) = draw(read_models(bench, print), 1, 1)
    notes: list[str] = []
    build_kernels(bench, [entry], notes.append)
    build_kernels(bench, [entry], notes.append)
    assert len(notes) == 1
    path = bench.built(entry) / "built.json"
    stale = {"ours": {**built_facts(bench, entry)["ours"], "code": "other"}}
    path.write_text(json.dumps(stale), encoding="utf-8")
    build_kernels(bench, [entry], notes.append)
    assert len(notes) == 2


@pytest.mark.slow
def test_tvm_does_not_run_again_when_only_ours_changed(tmp_path, pool, opencl_device):
    bench = bench_in(tmp_path, pool)
    (entry,) = draw(read_models(bench, print), 1, 1)
    build_kernels(bench, [entry], print)
    check_outputs(bench, [entry], "0", print)
    path = bench.built(entry) / "built.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["ours"]["code"] = "other"
    path.write_text(json.dumps(facts), encoding="utf-8")
    (bench.built(entry) / "tvm.so").unlink()
    check_outputs(bench, [entry], "0", print)
    found = checked_outputs(bench, entry, "0")
    assert found["failed"] == {"ours": None, "tvm": None}
    assert found["error"] < 1e-3


@pytest.mark.slow
def test_a_passed_time_limit_is_tried_again_when_it_is_wider(tmp_path, pool, opencl_device):
    bench = bench_in(tmp_path, pool, versions=("ours",))
    (entry,) = draw(read_models(bench, print), 1, 1)
    build_kernels(bench, [entry], print)
    hasty = replace(bench, limits=replace(bench.limits, seconds=0.01))
    for _ in range(2):
        check_outputs(hasty, [entry], "0", print)
        found = checked_outputs(hasty, entry, "0")
        assert found["failed"]["ours"].startswith("time: ")
    check_outputs(bench, [entry], "0", print)
    assert checked_outputs(bench, entry, "0")["failed"] == {"ours": None}


@pytest.mark.slow
def test_a_model_that_cannot_be_read_is_left_out(tmp_path):
    bench = replace(bench_in(tmp_path), limits=Limits(120.0, 1))
    notes: list[str] = []
    assert read_models(bench, notes.append) == []
    assert "memory" in notes[-1]
    assert bench.left_out


def test_a_file_that_is_no_result_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"models": []}', encoding="utf-8")
    with pytest.raises(SmartMemError, match="no results file of the kernel bench"):
        read_results(path)


@pytest.mark.slow
def test_a_run_measures_continues_and_draws(tmp_path, monkeypatch, opencl_device):
    output = tmp_path / "kernels.json"
    arguments = ["bench_kernels", "--models", "swin", "--size", "micro", "--count", "3"]
    arguments += ["--device", "0", "--repeats", "2", "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 0
    results = read_results(output)
    kernels = results.kernels["0"]
    assert results.complete
    assert len(kernels) == 3
    assert all(kernel["seconds"].keys() == {"ours", "tvm"} for kernel in kernels)
    assert all(kernel["fraction"] > 0 for kernel in kernels)
    assert (tmp_path / "kernels-roofline.svg").read_text(encoding="utf-8").startswith("<?xml")
    # An interrupted run goes on: what it has measured keeps its times.
    cut = Results(**{**asdict(results), "complete": False, "kernels": {"0": kernels[:2]}})
    cut.save(output)
    assert main() == 0
    again = read_results(output)
    continued, machine = again.kernels["0"], machine_of(again, "0")
    # Only what a faster probe says of the same times may have changed.
    assert continued[:2] == [with_figures(kernel, machine) for kernel in kernels[:2]]
    assert continued[2]["key"] == kernels[2]["key"]
    assert (output.with_suffix(".work") / "pool" / "swin-micro-cpu" / LISTING).exists()


def test_the_faster_of_the_probes_before_and_after_counts(monkeypatch, tmp_path):
    """A machine that was busy at the start has not less bandwidth than at the end."""

    def probes(peak, bandwidth):
        rates = {"numpy-gemm": peak, "copy-bandwidth": bandwidth}
        return {name: {"rate": rate, "failed": None} for name, rate in rates.items()}

    kernel = {"kind": "elementwise", "flop": 0, "read": 4e6, "written": 4e6, "over_tvm": None}
    kernel |= {"seconds": {"ours": 1e-3}, "fraction": 0.8, "bound": "bytes", "build": {"ours": {}}}
    kernel |= {"fused": True, "changed": False, "failed": {"ours": None}, "error": None}
    results = Results({}, {}, None, "", probes={"d": probes(2e11, 1e10)}, kernels={"d": [kernel]})
    monkeypatch.setattr(kernel_measuring, "_probes", lambda *_: probes(1e11, 4e10))
    probe_again(bench_in(tmp_path), "d", results, print)
    assert results.probes["d"] == probes(2e11, 4e10)
    (found,) = results.kernels["d"]
    assert found["fraction"] == pytest.approx(0.2)
    failed = probes(1e12, 1e12)
    for probe in failed.values():
        probe["failed"] = "stopped"
    monkeypatch.setattr(kernel_measuring, "_probes", lambda *_: failed)
    probe_again(bench_in(tmp_path), "d", results, print)
    assert results.probes["d"] == probes(2e11, 4e10)
