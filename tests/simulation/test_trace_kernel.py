"""What counts as an access, kernel by kernel; every count is worked out in the test."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from smartmem_tvm.simulation import CacheModel, load_configurations, simulate_function

TARGET = tvm.target.Target("opencl", host="llvm")


def kernel(body, parameters, blocks=2, threads=16):
    """Launches of a function with blockIdx.x as bx and threadIdx.x as tx around some statements."""
    text = "\n".join(f"                {line}" for line in body.strip("\n").splitlines())
    source = (
        f"@T.prim_func(s_tir=True)\ndef f({parameters}):\n"
        f"    for bx in T.thread_binding({blocks}, thread='blockIdx.x'):\n"
        f"        for tx in T.thread_binding({threads}, thread='threadIdx.x'):\n"
        f"            with T.sblock('root'):\n{text}\n"
    )
    return tvm.script.from_source(source)


def simulated(func, **options):
    with CacheModel(load_configurations("small")) as model:
        return simulate_function(func, TARGET, model, **options)


def accesses(body, parameters, **shape):
    (found,) = simulated(kernel(body, parameters, **shape))
    assert found.refused is None
    return found.counts.accesses


AC = "A: T.Buffer((4096,), 'float32'), C: T.Buffer((4096,), 'float32')"


def test_a_masked_edge_is_not_accessed():
    body = "if bx * 16 + tx < 20:\n    C[bx * 16 + tx] = A[bx * 16 + tx]"
    found = accesses(body, AC)
    assert (found.buffer_loads, found.buffer_stores, found.bytes) == (20, 20, 160)


def test_padding_is_stored_and_not_loaded():
    # The first and the last of 32 elements are padding.
    inside = "1 <= bx * 16 + tx and bx * 16 + tx < 31"
    body = f"C[bx * 16 + tx] = T.if_then_else({inside}, A[bx * 16 + tx - 1], T.float32(0))"
    found = accesses(body, AC)
    assert (found.buffer_loads, found.buffer_stores) == (30, 32)


def test_both_sides_of_a_select_are_loaded_by_different_work_items():
    body = "C[bx * 16 + tx] = T.Select(tx < 4, A[tx], A[tx * 2])"
    assert accesses(body, AC).buffer_loads == 2 * 16


@pytest.mark.parametrize("lanes, requests", [(2, 1), (4, 1), (8, 2), (16, 4)])
def test_a_request_moves_at_most_16_bytes(lanes, requests):
    body = f"for l in T.vectorized({lanes}):\n    C[tx * {lanes} + l] = A[tx * {lanes} + l]"
    found = accesses(body, AC, blocks=1)
    assert (found.buffer_loads, found.buffer_stores) == (16 * requests, 16 * requests)
    assert found.buffer_loaded_bytes == 16 * lanes * 4


def test_a_vector_of_half_precision_is_half_as_many():
    halves = AC.replace("float32", "float16")
    body = "for l in T.vectorized(8):\n    C[tx * 8 + l] = A[tx * 8 + l]"
    found = accesses(body, halves, blocks=1)
    assert (found.buffer_loads, found.buffer_loaded_bytes) == (16, 16 * 16)


def test_a_vector_with_gaps_is_a_request_for_each_lane():
    body = "for l in T.vectorized(4):\n    C[tx * 4 + l] = A[tx * 8 + l * 2]"
    found = accesses(body, AC, blocks=1)
    assert (found.buffer_loads, found.buffer_stores) == (16 * 4, 16)


def test_an_unaligned_vector_is_split_where_the_generator_splits_it():
    body = "for l in T.vectorized(4):\n    C[tx * 4 + l] = A[tx * 3 + l]"
    (whole,) = simulated(kernel(body, AC, blocks=1))
    (split,) = simulated(kernel(body, AC, blocks=1), split_unaligned=True)
    assert whole.counts.accesses.buffer_loads == 16
    assert split.counts.accesses.buffer_loads == 64
    assert split.counts.accesses.buffer_stores == 16


def test_a_texel_is_one_access_whatever_is_done_with_its_lanes():
    parameters = "I: T.Buffer((8, 8, 4), 'float32', scope='global.texture'), " + AC
    body = "for l in T.vectorized(4):\n    C[tx * 4 + l] = I[tx // 8, tx % 8, l]"
    found = accesses(body, parameters, blocks=1)
    assert (found.image_reads, found.image_read_bytes, found.buffer_loads) == (16, 256, 0)


SUM = """
s = T.sblock_alloc_buffer((1,), 'float32', scope='local')
s[0] = T.float32(0)
for r in range({rounds}):
    s[0] = s[0] + A[{place}]
C[bx * 16 + tx] = s[0]
"""


@pytest.mark.parametrize(
    "rounds, place, loads",
    [
        (32, "tx * 32 + r", 32),  # another element every time
        (32, "tx", 1),  # moves out of the loop
        (32, "tx * 32 + r // 4", 32),  # a loop of 32 is not written out
        (8, "tx * 32 + r // 4", 2),  # a loop of 8 is
    ],
)
def test_what_does_not_change_is_loaded_once(rounds, place, loads):
    assert accesses(SUM.format(rounds=rounds, place=place), AC, blocks=1).buffer_loads == 16 * loads


def test_a_condition_keeps_an_access_in_its_loop():
    body = "for r in range(32):\n    if r < tx:\n        C[tx * 32 + r] = A[tx]"
    found = accesses(body, AC, blocks=1)
    assert found.buffer_loads == found.buffer_stores == sum(range(16))


def test_a_sum_that_is_kept_in_memory_is_stored_once():
    body = "for r in range(32):\n    C[tx] = C[tx] + A[tx * 32 + r]"
    found = accesses(body, AC, blocks=1)
    assert (found.buffer_loads, found.buffer_stores) == (16 * (32 + 1), 16)


def test_memory_that_is_written_elsewhere_is_loaded_again():
    body = "for r in range(32):\n    C[tx * 64 + r + 1] = C[tx * 64]"
    assert accesses(body, AC, blocks=1).buffer_loads == 16 * 32


def test_a_loop_as_long_as_the_work_item_says_is_masked():
    body = "for r in range(tx + 1):\n    C[tx * 16 + r] = A[tx * 16 + r]"
    found = accesses(body, AC, blocks=1)
    assert found.buffer_loads == sum(range(1, 17))


def test_an_index_in_a_private_integer_is_followed():
    body = """
k = T.sblock_alloc_buffer((1,), 'int32', scope='local')
k[0] = bx * 16 + tx
if k[0] < 20:
    C[k[0]] = A[k[0] * 16]
"""
    (found,) = simulated(kernel(body, AC))
    assert (found.counts.accesses.buffer_loads, found.assumed) == (20, ())
    # 64 bytes apart: a line each.
    assert found.counts.caches["small"].l2.misses == 20 + 2


def test_shared_memory_is_no_device_memory():
    body = """
t = T.sblock_alloc_buffer((16,), 'float32', scope='shared')
t[tx] = A[tx]
T.evaluate(T.call_intrin('int32', 'tirx.tvm_storage_sync', 'shared'))
for r in range(16):
    C[tx * 16 + r] = t[r]
"""
    found = accesses(body, AC, blocks=1)
    assert (found.buffer_loads, found.buffer_stores) == (16, 256)


GATHER = "N: T.Buffer((16,), 'int32'), " + AC


def test_a_gather_goes_where_its_data_says():
    func = kernel("C[tx] = A[N[tx] * 16]", GATHER, blocks=1)
    (blind,) = simulated(func)
    assert blind.assumed == ("elements of 'N' that are used as an index are 0",)
    (spread,) = simulated(func, data={0: np.arange(16, dtype=np.int32)})
    assert spread.assumed == ()
    for found in (blind, spread):
        assert found.counts.accesses.buffer_loads == 32
    # N and C are a line each; of A the first line, or one for each work-item.
    assert blind.counts.caches["small"].l2.misses == 1 + 1 + 1
    assert spread.counts.caches["small"].l2.misses == 1 + 1 + 16


def test_a_condition_on_data_holds_where_the_data_is_not_given():
    func = kernel("if N[tx] < 4:\n    C[tx] = A[tx]", GATHER, blocks=1)
    (blind,) = simulated(func)
    assert blind.assumed == ("conditions on elements of 'N' hold",)
    assert blind.counts.accesses.buffer_stores == 16
    (seen,) = simulated(func, data={0: np.arange(16, dtype=np.int32)})
    assert (seen.counts.accesses.buffer_stores, seen.counts.accesses.buffer_loads) == (4, 16 + 4)


SYMBOLIC = "n: T.int64, A: T.Buffer((n,), 'float32'), C: T.Buffer((4096,), 'float32')"


@pytest.mark.parametrize(
    "body, parameters, reason",
    [
        ("C[tx] = A[tx]", SYMBOLIC, "'A' has the symbolic shape (n)"),
        ("for r in range(N[tx]):\n    C[tx * 16 + r] = A[r]", GATHER, "an element of 'N' says"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_a_reason(body, parameters, reason):
    (found,) = simulated(kernel(body, parameters, blocks=1))
    assert found.counts is None
    assert reason in found.refused


def test_rounds_of_the_host_are_simulated_each():
    func = tvm.script.from_source(
        "@T.prim_func(s_tir=True)\n"
        f"def f({AC}):\n"
        "    for i in range(4):\n"
        "        for tx in T.thread_binding(16, thread='threadIdx.x'):\n"
        "            with T.sblock('root'):\n"
        "                if tx < i * 4:\n"
        "                    C[i * 16 + tx] = A[tx]\n"
    )
    (found,) = simulated(func)
    # 0, 4, 8 and 12 work-items: 6 on average, 4 launches.
    assert (found.calls, found.counts.accesses.buffer_loads) == (4, 6)


@pytest.mark.parametrize("extent", [4, 32])
def test_several_integers_in_private_memory_are_followed(extent):
    body = f"""
at = T.sblock_alloc_buffer(({extent},), 'int32', scope='local')
for i in range({extent}):
    at[i] = T.Select(tx < 8, tx * {extent} + i, i)
for j in range({extent}):
    C[tx * {extent} + j] = A[at[j]]
"""
    found = accesses(body, AC, blocks=1)
    assert (found.buffer_loads, found.buffer_stores) == (16 * extent, 16 * extent)
