#include "device.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>

#include "launch.h"

namespace smartmem {
namespace {

std::atomic<bool> g_shutting_down{false}, g_forked{false};

}  // namespace

bool ShuttingDown() { return g_shutting_down || g_forked; }

void CheckNotForked() {
  if (!g_forked) return;
  SMARTMEM_THROW()
      << "this process was forked from one that had already used OpenCL, and drivers do "
         "not survive that. Start it with multiprocessing's 'spawn' method, or use "
         "OpenCL only after forking.";
}

std::string JsonString(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
      out += escaped;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

ClDevice::ClDevice(const Driver* driver, cl_device_id id, DeviceInfo info)
    : driver_(driver), id_(id), info_(std::move(info)), pool_(std::make_unique<MemoryPool>(this)) {}

std::string ClDevice::Describe() const {
  return "device '" + info_.name + "' (" + info_.platform + ")";
}

void ClDevice::Check(cl_int status, const std::string& what, const std::string& remedy) const {
  if (status == CL_SUCCESS) return;
  SMARTMEM_THROW() << what << " failed on " << Describe() << ": " << StatusName(status) << "."
                   << (remedy.empty() ? "" : " ") << remedy;
}

void ClDevice::Open() {
  std::call_once(open_once_, [this] {
    cl_int status = CL_SUCCESS;
    cl_context context = cl().clCreateContext(nullptr, 1, &id_, nullptr, nullptr, &status);
    Check(status, "creating a context");
    cl_command_queue queue = cl().clCreateCommandQueue(context, id_, 0, &status);
    cl_command_queue profiling = nullptr;
    if (status == CL_SUCCESS) {
      profiling = cl().clCreateCommandQueue(context, id_, CL_QUEUE_PROFILING_ENABLE, &status);
    }
    if (status != CL_SUCCESS) {  // a later call tries again
      if (queue != nullptr) cl().clReleaseCommandQueue(queue);
      cl().clReleaseContext(context);
    }
    Check(status, "creating a command queue");
    context_ = context;
    queue_ = active_queue_ = queue;
    profiling_queue_ = profiling;
    // Registered after the driver was loaded, so it runs before the driver's own clean-up.
    std::atexit([] { g_shutting_down = true; });
    static std::once_flag watch_forks;
    std::call_once(watch_forks, [] { pthread_atfork(nullptr, nullptr, [] { g_forked = true; }); });
  });
}

void ClDevice::Finish() {
  CheckNotForked();
  cl_command_queue queue = nullptr;
  {
    std::lock_guard<std::mutex> lock(queue_mu_);
    queue = active_queue_;
  }
  // Outside the lock: other threads go on enqueueing.
  Check(cl().clFinish(queue), "waiting for the queue",
        "A kernel may have read or written outside its buffers.");
}

bool ClDevice::EventTimestamps() {
  std::call_once(timestamps_once_, [this] { event_timestamps_ = MeasureEventTimestamps(); });
  return event_timestamps_;
}

bool ClDevice::MeasureEventTimestamps() {
  // Only a kernel tells: some drivers time copies but report zeros for kernels.
  static const char kSource[] =
      "__kernel void probe(__global float* a) {"
      "  int i = get_global_id(0); a[i] = sin((float)i); }";
  constexpr size_t kItems = 4096;
  struct Probe {
    const ClApi& cl;
    cl_program program = nullptr;
    cl_kernel kernel = nullptr;
    cl_mem scratch = nullptr;
    cl_event event = nullptr;
    ~Probe() {
      if (event != nullptr) cl.clReleaseEvent(event);
      if (scratch != nullptr) cl.clReleaseMemObject(scratch);
      if (kernel != nullptr) cl.clReleaseKernel(kernel);
      if (program != nullptr) cl.clReleaseProgram(program);
    }
  } probe{cl()};
  cl_int status = CL_SUCCESS;
  probe.program = BuildProgram(*this, "probe", kSource);
  probe.kernel = cl().clCreateKernel(probe.program, "probe", &status);
  Check(status, "creating a kernel");
  probe.scratch =
      cl().clCreateBuffer(context_, CL_MEM_READ_WRITE, kItems * sizeof(float), nullptr, &status);
  Check(status, "creating a buffer");
  Check(cl().clSetKernelArg(probe.kernel, 0, sizeof(cl_mem), &probe.scratch),
        "setting an argument");
  Check(cl().clEnqueueNDRangeKernel(profiling_queue_, probe.kernel, 1, nullptr, &kItems, nullptr, 0,
                                    nullptr, &probe.event),
        "launching a kernel");
  Check(cl().clWaitForEvents(1, &probe.event), "running a kernel");
  cl_ulong start = 0, end = 0;
  cl().clGetEventProfilingInfo(probe.event, CL_PROFILING_COMMAND_START, sizeof(start), &start,
                               nullptr);
  cl().clGetEventProfilingInfo(probe.event, CL_PROFILING_COMMAND_END, sizeof(end), &end, nullptr);
  // Thousands of sines take longer than this; rusticl reports 0 or 1.
  return end > start + 50;
}

bool ClDevice::SupportsImageFormat(cl_uint image_type, cl_uint channel_type) {
  std::lock_guard<std::mutex> lock(format_mu_);
  auto known = std::find_if(formats_.begin(), formats_.end(),
                            [&](const auto& entry) { return entry.first == image_type; });
  if (known == formats_.end()) {
    cl_uint count = 0;
    cl().clGetSupportedImageFormats(context_, CL_MEM_READ_WRITE, image_type, 0, nullptr, &count);
    std::vector<cl_image_format> formats(count);
    cl().clGetSupportedImageFormats(context_, CL_MEM_READ_WRITE, image_type, count, formats.data(),
                                    nullptr);
    known = formats_.insert(formats_.end(), {image_type, std::move(formats)});
  }
  return std::any_of(known->second.begin(), known->second.end(), [&](const cl_image_format& f) {
    return f.image_channel_order == CL_RGBA && f.image_channel_data_type == channel_type;
  });
}

}  // namespace smartmem
