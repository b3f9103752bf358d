/*!
 * What the launcher, the profiler and the device API share.
 */
#ifndef SMARTMEM_RUNTIME_LAUNCH_H_
#define SMARTMEM_RUNTIME_LAUNCH_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace smartmem {

/*! \brief The device that TVM set for the calling thread. */
int CurrentDeviceId();

/*! \brief One kernel launch as the device timed it. */
struct LaunchRecord {
  std::shared_ptr<const std::string> kernel;
  std::array<size_t, 3> global, local;
  cl_ulong nanoseconds = 0;
};

/*!
 * \brief Collects the launches that one thread makes on one device while it is alive.
 *
 * It belongs to the thread that created it, so that threads which share a device do not see each
 * other's kernels; any thread may end it. Events are turned into records in blocks, so long runs
 * hold few events.
 */
class LaunchSink {
 public:
  explicit LaunchSink(ClDevice* device);
  ~LaunchSink();
  LaunchSink(const LaunchSink&) = delete;
  LaunchSink& operator=(const LaunchSink&) = delete;
  /*! \brief Stop collecting; calls no driver. */
  void Detach();
  /*! \brief Detach, and forget the events: for a thread that ends in the middle of a profile. */
  void Abandon();
  /*! \brief Detach, wait for what was launched and return it. */
  const std::vector<LaunchRecord>& Records();

  /*! \brief Whether the calling thread collects launches on \p device. */
  static bool Wanted(const ClDevice& device);
  /*!
   * \brief Hand a launch to the calling thread's sinks for \p device.
   * \param event Its event, released here; null when the record already has its time.
   */
  static void Deliver(ClDevice& device, const LaunchRecord& record, cl_event event);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

/*!
 * \brief Build \p source for \p device, or take the program from the binary cache on disk.
 * \param kernel Name for messages.
 */
cl_program BuildProgram(ClDevice& device, const std::string& kernel, const std::string& source);

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_LAUNCH_H_
