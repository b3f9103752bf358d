/*!
 * OpenCL 1.2 as far as this runtime uses it: types, constants and entry points, declared from the
 * Khronos specification, since no wheel ships the headers. The functions are looked up in a library
 * at run time, so nothing links against OpenCL and several drivers can be open at once.
 */
#ifndef SMARTMEM_RUNTIME_CL_API_H_
#define SMARTMEM_RUNTIME_CL_API_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

extern "C" {
typedef int32_t cl_int;
typedef uint32_t cl_uint;
typedef uint64_t cl_ulong;
typedef cl_uint cl_bool;
typedef cl_ulong cl_bitfield;
typedef struct _cl_platform_id* cl_platform_id;
typedef struct _cl_device_id* cl_device_id;
typedef struct _cl_context* cl_context;
typedef struct _cl_command_queue* cl_command_queue;
typedef struct _cl_mem* cl_mem;
typedef struct _cl_program* cl_program;
typedef struct _cl_kernel* cl_kernel;
typedef struct _cl_event* cl_event;

typedef struct {
  cl_uint image_channel_order;
  cl_uint image_channel_data_type;
} cl_image_format;

typedef struct {
  cl_uint image_type;
  size_t image_width;
  size_t image_height;
  size_t image_depth;
  size_t image_array_size;
  size_t image_row_pitch;
  size_t image_slice_pitch;
  cl_uint num_mip_levels;
  cl_uint num_samples;
  cl_mem buffer;
} cl_image_desc;

typedef void (*cl_notify)(const char*, const void*, size_t, void*);
typedef void (*cl_program_notify)(cl_program, void*);
}

// Status codes that are told apart; every other one is only named (StatusName).
constexpr cl_int CL_SUCCESS = 0;
constexpr cl_int CL_MEM_OBJECT_ALLOCATION_FAILURE = -4;
constexpr cl_int CL_OUT_OF_RESOURCES = -5;
constexpr cl_int CL_OUT_OF_HOST_MEMORY = -6;
constexpr cl_int CL_INVALID_WORK_GROUP_SIZE = -54;
constexpr cl_int CL_INVALID_WORK_ITEM_SIZE = -55;
constexpr cl_int CL_INVALID_BUFFER_SIZE = -61;

constexpr cl_uint CL_FALSE = 0;
constexpr cl_bitfield CL_DEVICE_TYPE_CPU = 1u << 1;
constexpr cl_bitfield CL_DEVICE_TYPE_GPU = 1u << 2;
constexpr cl_bitfield CL_DEVICE_TYPE_ACCELERATOR = 1u << 3;
constexpr cl_bitfield CL_DEVICE_TYPE_ALL = 0xFFFFFFFF;
constexpr cl_bitfield CL_QUEUE_PROFILING_ENABLE = 1u << 1;
constexpr cl_bitfield CL_MEM_READ_WRITE = 1u << 0;

constexpr cl_uint CL_PLATFORM_VERSION = 0x0901;
constexpr cl_uint CL_PLATFORM_NAME = 0x0902;
constexpr cl_uint CL_PLATFORM_VENDOR = 0x0903;

constexpr cl_uint CL_DEVICE_TYPE = 0x1000;
constexpr cl_uint CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002;
constexpr cl_uint CL_DEVICE_MAX_WORK_ITEM_DIMENSIONS = 0x1003;
constexpr cl_uint CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004;
constexpr cl_uint CL_DEVICE_MAX_WORK_ITEM_SIZES = 0x1005;
constexpr cl_uint CL_DEVICE_MAX_CLOCK_FREQUENCY = 0x100C;
constexpr cl_uint CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010;
constexpr cl_uint CL_DEVICE_IMAGE2D_MAX_WIDTH = 0x1011;
constexpr cl_uint CL_DEVICE_IMAGE2D_MAX_HEIGHT = 0x1012;
constexpr cl_uint CL_DEVICE_IMAGE_SUPPORT = 0x1016;
constexpr cl_uint CL_DEVICE_GLOBAL_MEM_CACHELINE_SIZE = 0x101D;
constexpr cl_uint CL_DEVICE_GLOBAL_MEM_CACHE_SIZE = 0x101E;
constexpr cl_uint CL_DEVICE_GLOBAL_MEM_SIZE = 0x101F;
constexpr cl_uint CL_DEVICE_LOCAL_MEM_TYPE = 0x1022;
constexpr cl_uint CL_DEVICE_LOCAL_MEM_SIZE = 0x1023;
constexpr cl_uint CL_DEVICE_NAME = 0x102B;
constexpr cl_uint CL_DEVICE_VENDOR = 0x102C;
constexpr cl_uint CL_DRIVER_VERSION = 0x102D;
constexpr cl_uint CL_DEVICE_VERSION = 0x102F;
constexpr cl_uint CL_DEVICE_EXTENSIONS = 0x1030;
constexpr cl_uint CL_DEVICE_IMAGE_MAX_ARRAY_SIZE = 0x1041;
constexpr cl_uint CL_LOCAL = 0x1;

constexpr cl_uint CL_MEM_OBJECT_IMAGE2D = 0x10F1;
constexpr cl_uint CL_MEM_OBJECT_IMAGE2D_ARRAY = 0x10F3;
constexpr cl_uint CL_RGBA = 0x10B5;
constexpr cl_uint CL_SIGNED_INT8 = 0x10D7;
constexpr cl_uint CL_SIGNED_INT16 = 0x10D8;
constexpr cl_uint CL_SIGNED_INT32 = 0x10D9;
constexpr cl_uint CL_UNSIGNED_INT8 = 0x10DA;
constexpr cl_uint CL_UNSIGNED_INT16 = 0x10DB;
constexpr cl_uint CL_UNSIGNED_INT32 = 0x10DC;
constexpr cl_uint CL_HALF_FLOAT = 0x10DD;
constexpr cl_uint CL_FLOAT = 0x10DE;

constexpr cl_uint CL_PROGRAM_BINARY_SIZES = 0x1165;
constexpr cl_uint CL_PROGRAM_BINARIES = 0x1166;
constexpr cl_uint CL_PROGRAM_BUILD_LOG = 0x1183;
constexpr cl_uint CL_KERNEL_NUM_ARGS = 0x1191;
constexpr cl_uint CL_KERNEL_WORK_GROUP_SIZE = 0x11B0;
constexpr cl_uint CL_PROFILING_COMMAND_START = 0x1282;
constexpr cl_uint CL_PROFILING_COMMAND_END = 0x1283;

// clang-format off
#define SMARTMEM_CL_FUNCTIONS(X)                                                                   \
  X(clGetPlatformIDs, (cl_uint, cl_platform_id*, cl_uint*))                                        \
  X(clGetPlatformInfo, (cl_platform_id, cl_uint, size_t, void*, size_t*))                          \
  X(clGetDeviceIDs, (cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*))               \
  X(clGetDeviceInfo, (cl_device_id, cl_uint, size_t, void*, size_t*))                              \
  X(clReleaseContext, (cl_context))                                                                \
  X(clReleaseCommandQueue, (cl_command_queue))                                                     \
  X(clReleaseMemObject, (cl_mem))                                                                  \
  X(clGetSupportedImageFormats,                                                                    \
    (cl_context, cl_bitfield, cl_uint, cl_uint, cl_image_format*, cl_uint*))                       \
  X(clBuildProgram,                                                                                \
    (cl_program, cl_uint, const cl_device_id*, const char*, cl_program_notify, void*))             \
  X(clGetProgramInfo, (cl_program, cl_uint, size_t, void*, size_t*))                               \
  X(clGetProgramBuildInfo, (cl_program, cl_device_id, cl_uint, size_t, void*, size_t*))            \
  X(clReleaseProgram, (cl_program))                                                                \
  X(clReleaseKernel, (cl_kernel))                                                                  \
  X(clSetKernelArg, (cl_kernel, cl_uint, size_t, const void*))                                     \
  X(clGetKernelInfo, (cl_kernel, cl_uint, size_t, void*, size_t*))                                 \
  X(clGetKernelWorkGroupInfo, (cl_kernel, cl_device_id, cl_uint, size_t, void*, size_t*))          \
  X(clEnqueueNDRangeKernel,                                                                        \
    (cl_command_queue, cl_kernel, cl_uint, const size_t*, const size_t*, const size_t*, cl_uint,   \
     const cl_event*, cl_event*))                                                                  \
  X(clEnqueueReadBuffer,                                                                           \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, void*, cl_uint, const cl_event*,           \
     cl_event*))                                                                                   \
  X(clEnqueueWriteBuffer,                                                                          \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void*, cl_uint, const cl_event*,     \
     cl_event*))                                                                                   \
  X(clEnqueueCopyBuffer,                                                                           \
    (cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t, cl_uint, const cl_event*,           \
     cl_event*))                                                                                   \
  X(clEnqueueReadImage,                                                                            \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, size_t, size_t, void*,       \
     cl_uint, const cl_event*, cl_event*))                                                         \
  X(clEnqueueWriteImage,                                                                           \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, size_t, size_t, const void*, \
     cl_uint, const cl_event*, cl_event*))                                                         \
  X(clEnqueueCopyImage,                                                                            \
    (cl_command_queue, cl_mem, cl_mem, const size_t*, const size_t*, const size_t*, cl_uint,       \
     const cl_event*, cl_event*))                                                                  \
  X(clEnqueueCopyImageToBuffer,                                                                    \
    (cl_command_queue, cl_mem, cl_mem, const size_t*, const size_t*, size_t, cl_uint,              \
     const cl_event*, cl_event*))                                                                  \
  X(clEnqueueCopyBufferToImage,                                                                    \
    (cl_command_queue, cl_mem, cl_mem, size_t, const size_t*, const size_t*, cl_uint,              \
     const cl_event*, cl_event*))                                                                  \
  X(clWaitForEvents, (cl_uint, const cl_event*))                                                   \
  X(clGetEventProfilingInfo, (cl_event, cl_uint, size_t, void*, size_t*))                          \
  X(clRetainEvent, (cl_event))                                                                     \
  X(clReleaseEvent, (cl_event))                                                                    \
  X(clFinish, (cl_command_queue))

// The functions that return an object and report their status through the last argument.
#define SMARTMEM_CL_CREATORS(X)                                                                    \
  X(cl_context, clCreateContext,                                                                   \
    (const intptr_t*, cl_uint, const cl_device_id*, cl_notify, void*, cl_int*))                    \
  X(cl_command_queue, clCreateCommandQueue, (cl_context, cl_device_id, cl_bitfield, cl_int*))      \
  X(cl_mem, clCreateBuffer, (cl_context, cl_bitfield, size_t, void*, cl_int*))                     \
  X(cl_mem, clCreateImage,                                                                         \
    (cl_context, cl_bitfield, const cl_image_format*, const cl_image_desc*, void*, cl_int*))       \
  X(cl_program, clCreateProgramWithSource,                                                         \
    (cl_context, cl_uint, const char**, const size_t*, cl_int*))                                   \
  X(cl_program, clCreateProgramWithBinary,                                                         \
    (cl_context, cl_uint, const cl_device_id*, const size_t*, const unsigned char**, cl_int*,      \
     cl_int*))                                                                                     \
  X(cl_kernel, clCreateKernel, (cl_program, const char*, cl_int*))
// clang-format on

namespace smartmem {

/*! \brief The entry points of one OpenCL library. */
struct ClApi {
#define SMARTMEM_DECLARE(name, args) cl_int(*name) args = nullptr;
  SMARTMEM_CL_FUNCTIONS(SMARTMEM_DECLARE)
#undef SMARTMEM_DECLARE
#define SMARTMEM_DECLARE(type, name, args) type(*name) args = nullptr;
  SMARTMEM_CL_CREATORS(SMARTMEM_DECLARE)
#undef SMARTMEM_DECLARE
};

/*! \brief An OpenCL library that was opened, and why it was looked at. */
struct Driver {
  std::string path;
  std::string reason;
  ClApi cl;
};

/*! \brief A library to try and the reason to print for it. */
struct DriverCandidate {
  std::string path;
  std::string reason;
};

/*!
 * \brief Open the OpenCL libraries of this process, in order of preference.
 *
 * `SMARTMEM_OPENCL_LIBRARY` (a colon-separated list) is exclusive; so is an OpenCL API that is
 * already in the process because it was preloaded (Oclgrind works that way). Otherwise: \p
 * packaged, then the system's loader, then the places where phones keep their driver. \param
 * packaged Drivers that come with Python packages. \param problems Receives a line for each library
 * that could not be used.
 */
std::vector<std::unique_ptr<Driver>> OpenDrivers(const std::vector<DriverCandidate>& packaged,
                                                 std::vector<std::string>* problems);

/*! \brief "CL_OUT_OF_RESOURCES (-5)" for a status. */
std::string StatusName(cl_int status);

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_CL_API_H_
