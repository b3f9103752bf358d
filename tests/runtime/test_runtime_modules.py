"""OpenCL modules: serialised form, building, arguments, lifetime."""

from __future__ import annotations

import gc
import random
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import tvm
import tvm_ffi
from runtime_helpers import ADD, AXES, add_kernel, on_device, random_array, run_python
from tvm.script import ir as I
from tvm.script import tirx as T

from smartmem_tvm import DeviceError, runtime
from smartmem_tvm.runtime.source import serialize_module


@I.ir_module(s_tir=True)
class AddOne:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((128,), "float32"), B: T.Buffer((128,), "float32")):
        T.func_attr({"tirx.noalias": True})
        for i in T.thread_binding(4, thread="blockIdx.x"):
            for j in T.thread_binding(32, thread="threadIdx.x"):
                with T.sblock("b"):
                    v = T.axis.spatial(128, i * 32 + j)
                    B[v] = A[v] + T.float32(1)


def _load(data):
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(data)


def _signature(*types):
    return (types, AXES)


@pytest.mark.device
def test_tvm_module_survives_export(opencl_device, tmp_path):
    built = tvm.tirx.build(AddOne, target=tvm.target.Target("opencl", host="llvm"))
    path = tmp_path / "module.so"
    built.export_library(str(path))
    loaded = tvm.runtime.load_module(str(path))
    array = random_array((128,), "float32")
    for module in (built, loaded):
        result = tvm.runtime.empty((128,), "float32", opencl_device)
        module["main"](on_device(array, opencl_device), result)
        np.testing.assert_array_equal(result.numpy(), array + 1)
    assert loaded.imports[0].inspect_source() == built.imports[0].inspect_source()


EXPORT = """
import sys, tvm
built = tvm.tirx.build(tvm.ir.load_json(open(sys.argv[1]).read()),
                       target=tvm.target.Target("opencl", host="llvm"))
assert type(built.imports[0]).__name__ and "smartmem_tvm" not in sys.modules
built.export_library(sys.argv[2])
"""


def _opencl_part(library, code):
    """The serialised OpenCL module inside a shared library: from its format to its code."""
    data, text = library.read_bytes(), code.encode()
    end = data.index(text) + len(text)
    return data[data.rindex(struct.pack("<Q", 2) + b"cl", 0, end) : end]


def test_serialised_form_is_tvms_own(tmp_path):
    """The same bytes from TVM alone, from this runtime, and from what this runtime read back."""
    description, plain = tmp_path / "module.json", tmp_path / "plain.so"
    description.write_text(tvm.ir.save_json(AddOne))
    subprocess.run([sys.executable, "-c", EXPORT, str(description), str(plain)], check=True)
    built = tvm.tirx.build(AddOne, target=tvm.target.Target("opencl", host="llvm"))
    code = built.imports[0].inspect_source()
    expected = _opencl_part(plain, code)
    built.export_library(str(tmp_path / "ours.so"))
    assert _opencl_part(tmp_path / "ours.so", code) == expected
    built.clear_imports()
    built.import_module(_load(expected))
    built.export_library(str(tmp_path / "again.so"))
    assert _opencl_part(tmp_path / "again.so", code) == expected


DECLARED = """#define SCALE 2
__kernel void used(__global int* a);
__kernel void twice(__global int* a);
__kernel void other(__global int* a, __global int* other_ptr);
__kernel void twice_(__global int* a);
"""
USED = "__kernel void used(__global int* a) { a[0] *= SCALE; }\n"


def _parts(module):
    parts = module.inspect_source().split("// Function: ")[1:]
    return dict(part.split("\n", 1) for part in parts)


def test_a_function_declares_what_it_names():
    """The generator declares all kernels; each is built with the declarations that it needs."""
    twice = "__kernel void twice(__global int* a) {\n  used(a);\n  a[1] = a[0];\n}\n" + USED
    other = "__kernel void other(__global int* a, __global int* other_ptr) { *a = SCALE; }"
    code = f"// Function: twice\n{DECLARED}{twice}// Function: other\n{DECLARED}{other}"
    signatures = {"twice": _signature("handle"), "other": _signature("handle", "handle")}
    module = _load(serialize_module(code, signatures))
    define, *declared = DECLARED.splitlines(keepends=True)
    assert _parts(module) == {
        "twice": define + "".join(declared[:2]) + twice,
        "other": define + declared[2] + other,
    }
    again = _load(serialize_module(module.inspect_source(), signatures))
    assert again.inspect_source() == module.inspect_source()


@pytest.mark.device
def test_a_kernel_calls_one_that_it_declares(opencl_device):
    twice = "__kernel void twice(__global int* a) { used(a); used(a); }\n" + USED
    module = _load(
        serialize_module(f"// Function: twice\n{DECLARED}{twice}", {"twice": _signature("handle")})
    )
    tensor = on_device(np.array([5], "int32"), opencl_device)
    module["twice"](tensor, 1, 1)
    assert tensor.numpy() == [20]


def test_generated_programs_hold_no_other_kernels():
    functions = {name: AddOne["main"].with_attr("global_symbol", name) for name in ("f", "g")}
    built = tvm.tirx.build(tvm.IRModule(functions), target=tvm.target.Target("opencl", host="llvm"))
    parts = _parts(built.imports[0])
    assert set(parts) == {"f_kernel", "g_kernel"}
    for name, code in parts.items():
        assert set(re.findall(r"\b[fg]_kernel\b", code)) == {name}


@pytest.fixture(scope="module")
def serialized():
    return serialize_module(
        f"// Function: add\n{ADD}\n", {"add": _signature("handle", "handle", "float32")}
    )


def test_truncated_at_every_length(serialized):
    for length in range(len(serialized)):
        with pytest.raises(DeviceError, match=r"damaged|format|no source"):
            _load(serialized[:length])
    assert _load(serialized).kind == "opencl"
    with pytest.raises(DeviceError, match="damaged"):
        _load(serialized + b"\0")


def test_flipped_bytes_never_crash(serialized):
    rng = random.Random(0)
    refused = 0
    for _ in range(3000):
        data = bytearray(serialized)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            module = _load(bytes(data))
        except DeviceError:
            refused += 1
        else:
            assert module.kind == "opencl"
    assert refused > 500


def test_huge_counts_ask_for_no_memory(serialized):
    at = serialized.index(b"add") - 16  # the number of kernels
    for count in (1 << 32, 1 << 63, (1 << 64) - 1):
        data = serialized[:at] + count.to_bytes(8, "little") + serialized[at + 8 :]
        with pytest.raises(DeviceError, match=r"damaged at byte \d+ \(function table\)"):
            _load(data)


@pytest.mark.parametrize(
    ("types", "axes", "message"),
    [
        (("handle",), ("vthread",), "which OpenCL does not have"),
        (("int24",), AXES, "24 bits"),
        (("int128",), AXES, "128 bits"),
    ],
)
def test_signatures_that_cannot_run_are_refused(types, axes, message):
    with pytest.raises(DeviceError, match=message):
        runtime.source_module("__kernel void k(int a) {}", {"k": (types, axes)})


@pytest.mark.device
def test_build_failure_shows_the_log(opencl_device):
    module = runtime.source_module(
        "__kernel void broken(__global float* a) { a[0] = no_such_name; }",
        {"broken": _signature("handle")},
    )
    tensor = tvm.runtime.empty((1,), "float32", opencl_device)
    for _ in range(2):
        with pytest.raises(
            DeviceError, match=r"(?s)kernel 'broken' does not compile.*no_such_name"
        ):
            module["broken"](tensor, 1, 1)


@pytest.mark.device
def test_missing_kernel_and_wrong_signature(opencl_device):
    tensor = tvm.runtime.empty((1,), "float32", opencl_device)
    module = runtime.source_module(ADD, {"other": _signature("handle")})
    with pytest.raises(DeviceError, match=r"creating kernel 'other'.*CL_INVALID_KERNEL_NAME"):
        module["other"](tensor, 1, 1)
    module = runtime.source_module(ADD, {"add": _signature("handle", "handle")})
    with pytest.raises(DeviceError, match=r"takes 3 arguments in its source, but .* lists 2"):
        module["add"](tensor, tensor, 1, 1)


@pytest.mark.device
def test_work_group_too_large(opencl_device, opencl_info):
    tensor = tvm.runtime.empty((1,), "float32", opencl_device)
    most = opencl_info.max_work_group_size
    with pytest.raises(
        DeviceError,
        match=rf"launching kernel 'add'.*{most + 1}x1x1 .* may have \d+"
        r".*Compile for a device profile",
    ):
        add_kernel()(tensor, tensor, 1.0, 1, most + 1)


@pytest.mark.device
def test_wrong_arguments(opencl_device):
    add = add_kernel()
    tensor = on_device(random_array((32,), "float32"), opencl_device)
    with pytest.raises(DeviceError, match="takes 3 arguments and 2 extents, got 4 in all"):
        add(tensor, tensor, 1.0, 1)
    with pytest.raises(DeviceError, match="argument 1 of kernel 'add' is null"):
        add(tensor, None, 1.0, 1, 32)
    host = tvm.runtime.empty((32,), "float32", tvm.cpu())
    with pytest.raises(DeviceError, match="argument 0 of kernel 'add' is a tensor that is not on"):
        add(host, tensor, 1.0, 1, 32)
    with pytest.raises(DeviceError, match="argument 1 of kernel 'add' is a view at byte 64"):
        add(tensor, tensor._create_view((16,), "float32", 64), 1.0, 1, 16)
    with pytest.raises(DeviceError, match="extent -1"):
        add(tensor, tensor, 1.0, -1, 32)
    with pytest.raises(TypeError):
        add(tensor, tensor, "one", 1, 32)
    add(tensor, tensor, 1.0, 1, 32)  # works after all of these


@pytest.mark.device
def test_zero_extents_launch_nothing(opencl_device):
    array = random_array((32,), "float32")
    source, result = on_device(array, opencl_device), on_device(array, opencl_device)
    for groups, items in ((0, 32), (1, 0), (0, 0)):
        add_kernel()(source, result, 1.0, groups, items)
    np.testing.assert_array_equal(result.numpy(), array)


SCALARS = [
    ("int8", "char", -7),
    ("uint8", "uchar", 250),
    ("int16", "short", -30000),
    ("uint16", "ushort", 65000),
    ("int32", "int", -(2**31)),
    ("uint32", "uint", 2**32 - 1),
    ("int64", "long", -(2**63)),
    ("uint64", "ulong", 2**63 - 1),
    ("float32", "float", 0.1),
    ("float64", "double", 0.1),
]


@pytest.mark.device
@pytest.mark.parametrize(("dtype", "type_", "value"), SCALARS, ids=[s[0] for s in SCALARS])
def test_scalar_arguments(opencl_device, opencl_info, dtype, type_, value):
    if dtype == "float64" and "cl_khr_fp64" not in opencl_info.extensions:
        pytest.skip(f"{opencl_info.name} has no cl_khr_fp64")
    code = (
        f"__kernel void put(__global {type_}* a, char first, {type_} b, int last)"
        " { a[0] = b; a[1] = first; a[2] = last; }"
    )
    put = runtime.source_module(code, {"put": _signature("handle", "int8", dtype, "int32")})["put"]
    result = tvm.runtime.empty((3,), dtype, opencl_device)
    put(result, 3, value, 5, 1, 1)
    np.testing.assert_array_equal(result.numpy(), np.array([value, 3, 5], dtype))


@pytest.mark.device
def test_half_scalars_are_refused(opencl_device):
    module = runtime.source_module(
        "__kernel void put(__global float* a, float b) {}", {"put": _signature("handle", "float16")}
    )
    with pytest.raises(DeviceError, match=r"scalar float of 16 bits.*Pass it as float32"):
        module["put"](tvm.runtime.empty((1,), "float32", opencl_device), 1.0, 1, 1)


@pytest.mark.device
def test_three_dimensions(opencl_device):
    axes = tuple(f"{kind}.{dim}" for kind in ("blockIdx", "threadIdx") for dim in "zyx")
    code = """__kernel void where(__global int* a) {
      int x = get_global_id(0), y = get_global_id(1), z = get_global_id(2);
      a[(z * get_global_size(1) + y) * get_global_size(0) + x] =
          get_local_id(0) + 10 * get_local_id(1) + 100 * get_local_id(2)
          + 1000 * get_group_id(0) + 10000 * get_group_id(1) + 100000 * get_group_id(2); }"""
    where = runtime.source_module(code, {"where": (("handle",), axes)})["where"]
    result = tvm.runtime.empty((6, 12, 10), "int32", opencl_device)
    where(result, 3, 4, 5, 2, 3, 2)  # groups z, y, x, then work-items z, y, x
    z, y, x = np.indices((6, 12, 10))
    expected = x % 2 + 10 * (y % 3) + 100 * (z % 2)
    expected += 1000 * (x // 2) + 10000 * (y // 3) + 100000 * (z // 2)
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.device
def test_build_all(opencl_device):
    kernels = {f"k{i}": _signature("handle") for i in range(6)}
    source = "".join(f"__kernel void k{i}(__global int* a) {{ a[0] = {i}; }}\n" for i in range(6))
    module = runtime.source_module(source, kernels)
    module["smartmem.build_all"](opencl_device.index)
    result = tvm.runtime.empty((1,), "int32", opencl_device)
    for i in range(6):
        module[f"k{i}"](result, 1, 1)
        assert result.numpy()[0] == i
    broken = runtime.source_module(source + "__kernel void k6(int a) { syntax error }", kernels)
    with pytest.raises(DeviceError, match=r"kernel 'k\d' does not compile"):
        broken["smartmem.build_all"](opencl_device.index)


@pytest.mark.device
def test_function_outlives_its_module(opencl_device):
    array = random_array((32,), "float32")
    source, result = on_device(array, opencl_device), on_device(array, opencl_device)
    add = add_kernel()
    gc.collect()
    add(source, result, 1.0, 1, 32)
    del add
    gc.collect()
    np.testing.assert_array_equal(result.numpy(), array + 1)


@pytest.mark.device
def test_one_kernel_on_several_devices():
    devices = runtime.list_devices()
    if len(devices) < 2:
        pytest.skip("this machine has one OpenCL device")
    add = add_kernel()
    array = random_array((32,), "float32")
    tensors = [on_device(array, tvm.runtime.device("opencl", d.index)) for d in devices]
    for _ in range(2):
        for tensor in tensors:
            add(tensor, tensor, 1.0, 1, 32)
    for tensor in tensors:
        np.testing.assert_array_equal(tensor.numpy(), array + 1 + 1)
    with pytest.raises(
        DeviceError, match=r"argument 1 of kernel 'add' lives on .* Copy the tensor"
    ):
        add(tensors[0], tensors[1], 1.0, 1, 32)


@pytest.mark.device
def test_forked_child_is_told(opencl_device):
    code = """
import multiprocessing
from smartmem_tvm import DeviceError, runtime
import tvm
tensor = tvm.runtime.empty((4,), "float32", runtime.device())
def child(queue):
    try:
        tensor.numpy()
    except DeviceError as error:
        queue.put(str(error))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
print(queue.get(timeout=30))
process.join(30)
assert process.exitcode == 0
"""
    assert "'spawn'" in run_python(code).stdout
