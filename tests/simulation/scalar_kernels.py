"""Kernels whose every access is one instruction; run as a program, it launches each once.

Vector built-ins are opaque calls to Oclgrind, which other compilers see through: there are none.
"""

from __future__ import annotations

_HEAD = """
@T.prim_func(s_tir=True)
def {name}({parameters}):
    for bx in T.thread_binding({blocks}, thread="blockIdx.x"):
        for tx in T.thread_binding(16, thread="threadIdx.x"):
            with T.sblock("root"):
"""
_BUFFERS = 'A: T.Buffer((1024,), "float32"), C: T.Buffer((1024,), "float32")'
_IMAGES = (
    'I: T.Buffer((8, 16, 4), "float32", scope="global.texture"), '
    'J: T.Buffer((8, 16, 4), "float32", scope="global.texture")'
)
_BODIES = {
    "masked": (
        _BUFFERS,
        3,
        "if bx * 16 + tx < 40:\n    C[bx * 16 + tx] = A[1000 - (bx * 16 + tx)]",
    ),
    "summed": (
        _BUFFERS,
        2,
        "s = T.sblock_alloc_buffer((1,), 'float32', scope='local')\n"
        "s[0] = T.float32(0)\n"
        "for r in range(31):\n    s[0] = s[0] + A[(bx * 16 + tx) * 31 + r] * A[r]\n"
        "C[bx * 16 + tx] = s[0]",
    ),
    "padded": (
        _BUFFERS,
        2,
        "s = T.sblock_alloc_buffer((1,), 'float32', scope='local')\n"
        "s[0] = T.float32(0)\n"
        "for r in range(11):\n"
        "    s[0] = s[0] + T.if_then_else(tx + r < 20 and 4 <= tx + r, A[bx * 32 + tx + r],"
        " T.float32(0))\n"
        "C[bx * 16 + tx] = s[0]",
    ),
    "shared": (
        _BUFFERS,
        2,
        "t = T.sblock_alloc_buffer((16,), 'float32', scope='shared')\n"
        "t[tx] = A[bx * 16 + tx]\n"
        "for r in range(12):\n    C[(bx * 16 + tx) * 12 + r] = t[(tx + r) % 16]",
    ),
    "image": (
        _IMAGES,
        8,
        "t = T.sblock_alloc_buffer((4,), 'float32', scope='local')\n"
        "for l in T.vectorized(4):\n    t[l] = I[7 - bx, 15 - tx, l] + T.float32(1)\n"
        "J[bx, tx, T.ramp(0, 1, 4)] = t[T.ramp(0, 1, 4)]",
    ),
}


def _source(name, parameters, blocks, body):
    lines = [f"                {line}" for line in body.splitlines()]
    head = _HEAD.format(name=name, parameters=parameters, blocks=blocks)
    return head + "\n".join(lines) + "\n"


KERNELS = {name: _source(name, *parts) for name, parts in _BODIES.items()}


def _launch_all():
    import numpy as np
    import tvm

    from smartmem_tvm import runtime

    device = runtime.device("oclgrind")
    target = tvm.target.Target("opencl", host="llvm")
    for name, source in KERNELS.items():
        func = tvm.script.from_source(source).with_attr("global_symbol", name)
        built = tvm.compile(tvm.IRModule({name: func}), target, tir_pipeline="smartmem")
        arrays = []
        for parameter in func.params:
            shape = [int(extent) for extent in parameter.ty.shape]
            scope = str(parameter.ty.storage_scope)
            zeros = np.zeros(shape, np.float32)
            if scope == "global":
                arrays.append(tvm.runtime.tensor(zeros, device))
            else:
                empty = tvm.runtime.empty(shape, "float32", device, mem_scope=scope)
                arrays.append(empty.copyfrom(zeros))
        built[name](*arrays)
    device.sync()


if __name__ == "__main__":
    _launch_all()
