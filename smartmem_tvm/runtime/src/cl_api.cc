#include "cl_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <sstream>

namespace smartmem {
namespace {

/*! \brief Fill \p api from \p handle; the name of the first missing function, or empty. */
std::string LookUp(void* handle, ClApi* api) {
#define SMARTMEM_LOOK_UP(name)                                             \
  api->name = reinterpret_cast<decltype(api->name)>(dlsym(handle, #name)); \
  if (api->name == nullptr) return #name;
#define SMARTMEM_FUNCTION(name, args) SMARTMEM_LOOK_UP(name)
  SMARTMEM_CL_FUNCTIONS(SMARTMEM_FUNCTION)
#undef SMARTMEM_FUNCTION
#define SMARTMEM_CREATOR(type, name, args) SMARTMEM_LOOK_UP(name)
  SMARTMEM_CL_CREATORS(SMARTMEM_CREATOR)
#undef SMARTMEM_CREATOR
#undef SMARTMEM_LOOK_UP
  return "";
}

std::unique_ptr<Driver> Open(const DriverCandidate& candidate, std::string* problem) {
  void* handle = dlopen(candidate.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    *problem = error ? error : candidate.path + ": cannot be opened";
    return nullptr;
  }
  auto driver = std::make_unique<Driver>();
  std::string missing = LookUp(handle, &driver->cl);
  if (!missing.empty()) {
    // The handle stays open: drivers do not survive being unloaded.
    *problem = candidate.path + ": lacks " + missing + " of OpenCL 1.2";
    return nullptr;
  }
  driver->reason = candidate.reason;
  Dl_info where;
  bool known = dladdr(reinterpret_cast<void*>(driver->cl.clGetPlatformIDs), &where) != 0;
  driver->path = known && where.dli_fname ? where.dli_fname : candidate.path;
  return driver;
}

std::unique_ptr<Driver> Preloaded() {
  auto driver = std::make_unique<Driver>();
  if (!LookUp(RTLD_DEFAULT, &driver->cl).empty()) return nullptr;
  Dl_info where;
  bool known = dladdr(reinterpret_cast<void*>(driver->cl.clGetPlatformIDs), &where) != 0;
  driver->path = known && where.dli_fname ? where.dli_fname : "(preloaded)";
  driver->reason = "preloaded into the process";
  return driver;
}

}  // namespace

std::vector<std::unique_ptr<Driver>> OpenDrivers(const std::vector<DriverCandidate>& packaged,
                                                 std::vector<std::string>* problems) {
  std::vector<std::unique_ptr<Driver>> drivers;
  std::vector<DriverCandidate> candidates;
  if (const char* chosen = std::getenv("SMARTMEM_OPENCL_LIBRARY"); chosen && *chosen) {
    std::istringstream list(chosen);
    for (std::string path; std::getline(list, path, ':');) {
      if (!path.empty()) candidates.push_back({path, "named by SMARTMEM_OPENCL_LIBRARY"});
    }
  } else if (auto preloaded = Preloaded()) {
    drivers.push_back(std::move(preloaded));
    return drivers;
  } else {
    candidates = packaged;
    candidates.push_back({"libOpenCL.so.1", "the system's OpenCL loader"});
    for (const char* path :
         {"libOpenCL.so", "/vendor/lib64/libOpenCL.so", "/system/vendor/lib64/libOpenCL.so",
          "/vendor/lib64/egl/libGLES_mali.so"}) {
      candidates.push_back({path, "the system's OpenCL driver"});
    }
  }
  bool system_found = false;
  for (const DriverCandidate& candidate : candidates) {
    // The places of the system's driver are alternatives: the first that opens is the one.
    bool is_system = candidate.reason.rfind("the system's", 0) == 0;
    if (is_system && system_found) continue;
    std::string problem;
    if (auto driver = Open(candidate, &problem)) {
      system_found |= is_system;
      drivers.push_back(std::move(driver));
    } else {
      problems->push_back(problem);
    }
  }
  return drivers;
}

std::string StatusName(cl_int status) {
  // Names of the OpenCL 1.2 status codes; the two ranges are contiguous.
  static const char* kRuntime[] = {"CL_SUCCESS",
                                   "CL_DEVICE_NOT_FOUND",
                                   "CL_DEVICE_NOT_AVAILABLE",
                                   "CL_COMPILER_NOT_AVAILABLE",
                                   "CL_MEM_OBJECT_ALLOCATION_FAILURE",
                                   "CL_OUT_OF_RESOURCES",
                                   "CL_OUT_OF_HOST_MEMORY",
                                   "CL_PROFILING_INFO_NOT_AVAILABLE",
                                   "CL_MEM_COPY_OVERLAP",
                                   "CL_IMAGE_FORMAT_MISMATCH",
                                   "CL_IMAGE_FORMAT_NOT_SUPPORTED",
                                   "CL_BUILD_PROGRAM_FAILURE",
                                   "CL_MAP_FAILURE",
                                   "CL_MISALIGNED_SUB_BUFFER_OFFSET",
                                   "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
                                   "CL_COMPILE_PROGRAM_FAILURE",
                                   "CL_LINKER_NOT_AVAILABLE",
                                   "CL_LINK_PROGRAM_FAILURE",
                                   "CL_DEVICE_PARTITION_FAILED",
                                   "CL_KERNEL_ARG_INFO_NOT_AVAILABLE"};
  static const char* kInvalid[] = {"CL_INVALID_VALUE",
                                   "CL_INVALID_DEVICE_TYPE",
                                   "CL_INVALID_PLATFORM",
                                   "CL_INVALID_DEVICE",
                                   "CL_INVALID_CONTEXT",
                                   "CL_INVALID_QUEUE_PROPERTIES",
                                   "CL_INVALID_COMMAND_QUEUE",
                                   "CL_INVALID_HOST_PTR",
                                   "CL_INVALID_MEM_OBJECT",
                                   "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR",
                                   "CL_INVALID_IMAGE_SIZE",
                                   "CL_INVALID_SAMPLER",
                                   "CL_INVALID_BINARY",
                                   "CL_INVALID_BUILD_OPTIONS",
                                   "CL_INVALID_PROGRAM",
                                   "CL_INVALID_PROGRAM_EXECUTABLE",
                                   "CL_INVALID_KERNEL_NAME",
                                   "CL_INVALID_KERNEL_DEFINITION",
                                   "CL_INVALID_KERNEL",
                                   "CL_INVALID_ARG_INDEX",
                                   "CL_INVALID_ARG_VALUE",
                                   "CL_INVALID_ARG_SIZE",
                                   "CL_INVALID_KERNEL_ARGS",
                                   "CL_INVALID_WORK_DIMENSION",
                                   "CL_INVALID_WORK_GROUP_SIZE",
                                   "CL_INVALID_WORK_ITEM_SIZE",
                                   "CL_INVALID_GLOBAL_OFFSET",
                                   "CL_INVALID_EVENT_WAIT_LIST",
                                   "CL_INVALID_EVENT",
                                   "CL_INVALID_OPERATION",
                                   "CL_INVALID_GL_OBJECT",
                                   "CL_INVALID_BUFFER_SIZE",
                                   "CL_INVALID_MIP_LEVEL",
                                   "CL_INVALID_GLOBAL_WORK_SIZE",
                                   "CL_INVALID_PROPERTY",
                                   "CL_INVALID_IMAGE_DESCRIPTOR",
                                   "CL_INVALID_COMPILER_OPTIONS",
                                   "CL_INVALID_LINKER_OPTIONS",
                                   "CL_INVALID_DEVICE_PARTITION_COUNT"};
  constexpr int kFirstInvalid = 30;
  int code = -status;
  std::string name = "OpenCL status";
  if (code >= 0 && code < static_cast<int>(std::size(kRuntime))) {
    name = kRuntime[code];
  } else if (code >= kFirstInvalid &&
             code - kFirstInvalid < static_cast<int>(std::size(kInvalid))) {
    name = kInvalid[code - kFirstInvalid];
  } else if (status == -1001) {
    name = "CL_PLATFORM_NOT_FOUND_KHR";
  }
  return name + " (" + std::to_string(status) + ")";
}

}  // namespace smartmem
