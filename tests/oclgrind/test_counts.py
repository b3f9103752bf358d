"""Reading Oclgrind's histograms."""

from __future__ import annotations

from smartmem_tvm.oclgrind import parse_counts

OUTPUT = """\
something a program printed

Instructions executed for kernel 'first_kernel':
          24,576 - call llvm.fmuladd.f32()
           14336 - load local (57344 bytes)
            2048 - store local (8192 bytes)
             352 - load global (1,408 bytes)
              24 - store global (96 bytes)

Instructions executed for kernel 'second_kernel':
              10 - call _Z11read_imagef20ocl_image2d_array_ro11ocl_samplerDv4_i()
               4 - call _Z12write_imagef20ocl_image2d_array_woDv4_iDv4_f()
               3 - call _Z11read_imageh20ocl_image2d_array_ro11ocl_samplerDv4_i()
               7 - load private (28 bytes)

Instructions executed for kernel 'first_kernel':
             352 - load global (1408 bytes)
"""


VECTORS = """\
Instructions executed for kernel 'vectors_kernel':
             108 - call _Z7vload16mPKf()
              10 - call _Z7vload16mPU3AS1Kf()
               3 - call _Z6vload4mPU3AS2Kf()
               2 - call _Z6vload8mPU3AS3KDh()
               6 - call _Z8vstore16Dv16_fmPU3AS1f()
               5 - call _Z7vstore8Dv8_iPU3AS3i()
               4 - call _Z8vstore16Dv16_fmPf()
"""


def test_vector_loads_and_stores_count_by_space():
    (kernel,) = parse_counts(VECTORS).kernels
    assert kernel.global_loaded == 10 * 16 * 4 + 3 * 4 * 4
    assert kernel.global_stored == 6 * 16 * 4
    assert kernel.local_loaded == 2 * 8 * 2
    assert kernel.local_stored == 5 * 8 * 4
    assert kernel.instructions == 138


def test_launches_of_a_kernel_are_added_up():
    found = parse_counts(OUTPUT)
    first, second = found.kernels
    assert (first.name, first.launches) == ("first_kernel", 2)
    assert (first.global_loaded, first.global_stored) == (2816, 96)
    assert (first.local_loaded, first.local_stored) == (57344, 8192)
    assert first.instructions == 24576 + 14336 + 2048 + 352 + 24 + 352
    assert (second.image_read, second.image_written) == (10 * 16 + 3 * 8, 4 * 16)
    assert second.global_loaded == 0
    assert found.bytes == first.traffic + second.traffic == 2816 + 96 + 184 + 64
    assert found.total.launches == 3


def test_other_output_has_no_kernels():
    found = parse_counts("hello\n 12 - load global (48 bytes)\n")
    assert (found.kernels, found.bytes) == ((), 0)
