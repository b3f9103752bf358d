/*!
 * Per-kernel times from OpenCL events: TVM's timer, and profiles of a thread's launches.
 */
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/timer.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <sstream>

#include "launch.h"

namespace smartmem {
namespace {

namespace ffi = tvm::ffi;
namespace rt = tvm::runtime;

constexpr size_t kMostPendingEvents = 2048;

}  // namespace

/*! \brief What a sink has collected; shared with the thread whose launches it collects. */
struct LaunchSink::State {
  explicit State(ClDevice* on) : device(on) {}
  ~State() {
    if (ShuttingDown()) return;
    for (auto& [index, event] : pending) device->cl().clReleaseEvent(event);
  }

  /*! \brief Turn events into times; call with \c mu held. */
  void Fold() {
    const ClApi& cl = device->cl();
    for (auto& [index, event] : pending) {
      cl_ulong start = 0, end = 0;
      cl_int waited = cl.clWaitForEvents(1, &event);
      if (waited == CL_SUCCESS) {
        cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof(start), &start,
                                   nullptr);
        cl.clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof(end), &end, nullptr);
      } else if (status == CL_SUCCESS) {
        status = waited;
        failed = "running kernel '" + *records[index].kernel + "'";
      }
      records[index].nanoseconds = end > start ? end - start : 0;
      cl.clReleaseEvent(event);
    }
    pending.clear();
  }

  ClDevice* const device;
  std::mutex mu;  // guards what follows: the owner's thread adds, another may end
  bool attached = true;
  std::vector<LaunchRecord> records;
  std::vector<std::pair<size_t, cl_event>> pending;  // index of a record, its event
  cl_int status = CL_SUCCESS;                        // the first failure, and of what
  std::string failed;
};

namespace {

thread_local std::vector<std::shared_ptr<LaunchSink::State>> t_sinks;

/*! \brief The profiles that are open on a thread, innermost last. */
struct OpenProfiles {
  // A driver's own thread-local state may be gone by now, so its events are not released.
  ~OpenProfiles() {
    for (auto& sink : sinks) sink->Abandon();
  }
  std::vector<std::unique_ptr<LaunchSink>> sinks;
};
thread_local OpenProfiles t_profiles;  // after t_sinks, hence destroyed before it

}  // namespace

LaunchSink::LaunchSink(ClDevice* device) : state_(std::make_shared<State>(device)) {
  t_sinks.push_back(state_);
  device->BeginProfiling();
}

LaunchSink::~LaunchSink() { Detach(); }

void LaunchSink::Detach() {
  {
    std::lock_guard<std::mutex> lock(state_->mu);
    if (!state_->attached) return;
    state_->attached = false;
  }
  // On another thread this finds nothing; the owner drops the entry at its next launch.
  t_sinks.erase(std::remove(t_sinks.begin(), t_sinks.end(), state_), t_sinks.end());
  state_->device->EndProfiling();
}

void LaunchSink::Abandon() {
  Detach();
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->pending.clear();
}

const std::vector<LaunchRecord>& LaunchSink::Records() {
  Detach();
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->Fold();
  state_->device->Check(state_->status, state_->failed);
  return state_->records;
}

bool LaunchSink::Wanted(const ClDevice& device) {
  if (t_sinks.empty()) return false;
  auto detached = [](const std::shared_ptr<State>& state) {
    std::lock_guard<std::mutex> lock(state->mu);
    return !state->attached;
  };
  t_sinks.erase(std::remove_if(t_sinks.begin(), t_sinks.end(), detached), t_sinks.end());
  return std::any_of(t_sinks.begin(), t_sinks.end(),
                     [&](const auto& state) { return state->device == &device; });
}

void LaunchSink::Deliver(ClDevice& device, const LaunchRecord& record, cl_event event) {
  for (const auto& state : t_sinks) {
    if (state->device != &device) continue;
    std::lock_guard<std::mutex> lock(state->mu);
    if (!state->attached) continue;
    state->records.push_back(record);
    if (event == nullptr) continue;
    device.cl().clRetainEvent(event);
    state->pending.push_back({state->records.size() - 1, event});
    if (state->pending.size() >= kMostPendingEvents) state->Fold();
  }
  if (event != nullptr) device.cl().clReleaseEvent(event);
}

/*!
 * \brief TVM's timer: the sum of the device times of the kernels that were launched in between.
 *
 * On a driver whose event times are all zero (rusticl) it is the wall clock between two waits for
 * the queue, which includes the cost of launching.
 */
class OpenCLTimerNode final : public rt::TimerNode {
 public:
  explicit OpenCLTimerNode(int device_id) : device_(&DeviceTable::Global().Get(device_id)) {}

  void Start() final {
    if (device_->EventTimestamps()) {
      sink_ = std::make_unique<LaunchSink>(device_);
      return;
    }
    static std::once_flag told;
    std::call_once(told, [this] {
      std::fprintf(stderr, "smartmem: %s reports no event times; timing by the wall clock\n",
                   device_->Describe().c_str());
    });
    device_->Finish();
    started_ = Clock::now();
  }

  void Stop() final {
    if (sink_ != nullptr) {
      sink_->Detach();
      return;
    }
    device_->Finish();
    elapsed_ =
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - started_).count();
  }

  int64_t SyncAndGetElapsedNanos() final {
    if (sink_ != nullptr) {
      elapsed_ = 0;
      for (const LaunchRecord& record : sink_->Records()) {
        elapsed_ += static_cast<int64_t>(record.nanoseconds);
      }
      sink_.reset();
    }
    return elapsed_;
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("smartmem.OpenCLTimer", OpenCLTimerNode, rt::TimerNode);

 private:
  using Clock = std::chrono::steady_clock;
  ClDevice* device_;
  std::unique_ptr<LaunchSink> sink_;
  Clock::time_point started_;
  int64_t elapsed_ = 0;
};

namespace {

std::string RecordsToJson(const std::vector<LaunchRecord>& records) {
  std::ostringstream out;
  auto sizes = [&](const std::array<size_t, 3>& s) {
    out << "[" << s[0] << ", " << s[1] << ", " << s[2] << "]";
  };
  out << "[";
  for (size_t i = 0; i < records.size(); ++i) {
    out << (i ? ", " : "") << "{\"name\": " << JsonString(*records[i].kernel)
        << ", \"ns\": " << records[i].nanoseconds << ", \"global\": ";
    sizes(records[i].global);
    out << ", \"local\": ";
    sizes(records[i].local);
    out << "}";
  }
  out << "]";
  return out.str();
}

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def("runtime.timer.opencl",
           [](DLDevice dev) { return rt::Timer(ffi::make_object<OpenCLTimerNode>(dev.device_id)); })
      .def("smartmem.opencl.profile_begin",
           [](int device_id) {
             t_profiles.sinks.push_back(
                 std::make_unique<LaunchSink>(&DeviceTable::Global().Get(device_id)));
           })
      .def("smartmem.opencl.profile_end", []() -> ffi::String {
        if (t_profiles.sinks.empty()) {
          SMARTMEM_THROW() << "profile_end without profile_begin on this thread.";
        }
        std::unique_ptr<LaunchSink> sink = std::move(t_profiles.sinks.back());
        t_profiles.sinks.pop_back();
        return RecordsToJson(sink->Records());
      });
}

}  // namespace
}  // namespace smartmem
