/*!
 * The OpenCL devices of this process: one context and one in-order queue each.
 */
#ifndef SMARTMEM_RUNTIME_DEVICE_H_
#define SMARTMEM_RUNTIME_DEVICE_H_

#include <tvm/ffi/error.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cl_api.h"
#include "memory.h"

/*! \brief Throw smartmem_tvm.errors.DeviceError; ends with `<< message`. */
#define SMARTMEM_THROW() TVM_FFI_THROW(SmartMemDeviceError)

namespace smartmem {

/*!
 * \brief True when OpenCL objects must no longer be released: the process is exiting, or it is a
 * child that was forked after a device was opened.
 */
bool ShuttingDown();

/*! \brief Throw in a child process that was forked after a device was opened: drivers hang there.
 */
void CheckNotForked();

/*! \brief What a device says of itself; read once. */
struct DeviceInfo {
  std::string name, vendor, platform, platform_vendor, type, version, driver_version;
  std::vector<std::string> extensions;
  cl_ulong global_memory = 0, max_allocation = 0, local_memory = 0, cache = 0;
  size_t cache_line = 0, max_work_group_size = 0, image_width = 0, image_height = 0,
         image_layers = 0;
  std::vector<size_t> max_work_item_sizes;
  cl_uint compute_units = 0, clock_mhz = 0;
  bool local_memory_in_hardware = false, images = false, fp16 = false;
};

/*!
 * \brief One OpenCL device.
 *
 * Every command goes to one in-order queue, so memory that is returned to the pool may be handed
 * out again while kernels that use it are still queued. While anybody profiles, commands go to a
 * second queue that records times; recording costs time on phones, so it is not always on.
 */
class ClDevice {
 public:
  ClDevice(const Driver* driver, cl_device_id id, DeviceInfo info);

  const ClApi& cl() const { return driver_->cl; }
  const Driver& driver() const { return *driver_; }
  const DeviceInfo& info() const { return info_; }
  cl_device_id id() const { return id_; }
  cl_context context() const { return context_; }
  MemoryPool& pool() { return *pool_; }

  /*! \brief Create context and queues on first use; cheap afterwards. */
  void Open();
  /*!
   * \brief Enqueue one command: \p enqueue gets the queue under the device's lock.
   *
   * The lock makes "choose the queue, then enqueue" one step for threads that profile and threads
   * that do not. Where the queue changes, the other one is waited for, so commands keep their
   * order.
   */
  template <typename F>
  cl_int Enqueue(F enqueue) {
    CheckNotForked();
    std::lock_guard<std::mutex> lock(queue_mu_);
    cl_command_queue wanted = profilers_ > 0 ? profiling_queue_ : queue_;
    if (wanted != active_queue_) {
      cl_int status = cl().clFinish(active_queue_);
      if (status != CL_SUCCESS) return status;
      active_queue_ = wanted;
    }
    return enqueue(active_queue_);
  }
  void Finish();
  /*!
   * \brief Nested: the profiling queue is in use until as many EndProfiling were called. Neither
   * calls the driver, so that EndProfiling is safe wherever a profile happens to end.
   */
  void BeginProfiling() { ++profilers_; }
  void EndProfiling() { --profilers_; }
  /*! \brief Whether event times are real: some drivers report zeros. Measured once. */
  bool EventTimestamps();
  /*! \brief Throw a DeviceError unless \p status is success. */
  void Check(cl_int status, const std::string& what, const std::string& remedy = "") const;
  /*! \brief "device 'NAME' (PLATFORM)", for messages. */
  std::string Describe() const;
  /*! \brief Whether an RGBA image of this kind and channel type can be read and written. */
  bool SupportsImageFormat(cl_uint image_type, cl_uint channel_type);

 private:
  bool MeasureEventTimestamps();

  const Driver* driver_;
  cl_device_id id_;
  DeviceInfo info_;
  std::once_flag open_once_, timestamps_once_;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr, profiling_queue_ = nullptr;
  cl_command_queue active_queue_ = nullptr;  // where the last command went
  std::mutex queue_mu_, format_mu_;
  std::atomic<int> profilers_{0};
  bool event_timestamps_ = false;
  std::unique_ptr<MemoryPool> pool_;
  // By image type.
  std::vector<std::pair<cl_uint, std::vector<cl_image_format>>> formats_;
};

/*! \brief All devices, found once at first use. Never destroyed: drivers may be gone at exit. */
class DeviceTable {
 public:
  static DeviceTable& Global();
  /*! \brief Drivers from Python packages; they count only before the first look-up. */
  void AddDriver(std::string path, std::string reason);
  size_t size();
  /*! \brief The device of that index, opened; throws when there is none. */
  ClDevice& Get(int index);
  /*! \brief As JSON: {"devices": [...], "problems": [...]}; opens no device. */
  std::string ToJson();

 private:
  void Find();
  std::once_flag found_;
  std::mutex mu_;
  std::vector<DriverCandidate> packaged_;
  std::vector<std::unique_ptr<Driver>> drivers_;
  std::vector<std::unique_ptr<ClDevice>> devices_;
  std::vector<std::string> problems_;
};

/*! \brief \p text as a JSON string with quotes. */
std::string JsonString(const std::string& text);

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_DEVICE_H_
