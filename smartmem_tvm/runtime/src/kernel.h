/*!
 * One kernel of an OpenCL module: built on first use for each device, launched with its arguments.
 */
#ifndef SMARTMEM_RUNTIME_KERNEL_H_
#define SMARTMEM_RUNTIME_KERNEL_H_

#include <tvm/ffi/function.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "launch.h"
#include "serialize.h"

namespace smartmem {

/*! \brief One kernel: its signature, its source and what was built from it for each device. */
class Kernel {
 public:
  Kernel(const KernelSignature& signature, std::string source);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  /*! \brief Build for \p device now, if it was not yet. */
  void Build(ClDevice& device);
  /*! \brief Launch with the arguments of the signature, then one extent for each launch tag. */
  void Launch(tvm::ffi::PackedArgs args);

 private:
  struct Tag {
    bool is_group;
    int dim;
  };
  enum class ArgumentKind { kUnknown, kBuffer, kImage2D, kImage2DArray };
  struct Built {
    ClDevice* device;
    cl_program program;
    cl_kernel kernel;
  };

  void AddTag(const std::string& tag);
  MemoryObject* MemoryOf(size_t index, tvm::ffi::AnyView value) const;
  ClDevice& DeviceOf(tvm::ffi::PackedArgs args) const;
  const Built& Get(ClDevice& device);
  std::vector<ArgumentKind> ReadKinds() const;
  void SetArgument(const Built& built, size_t index, tvm::ffi::AnyView value) const;
  void CheckKind(const Built& built, size_t index, const MemoryObject& object) const;
  [[noreturn]] void FailLaunch(const Built& built, cl_int status,
                               const std::array<size_t, 3>& local) const;

  std::shared_ptr<const std::string> name_;
  std::vector<DLDataType> arg_types_;
  std::string source_;
  std::vector<ArgumentKind> kinds_;
  std::vector<Tag> tags_;
  cl_uint work_dim_ = 1;
  std::mutex mu_;
  std::vector<Built> built_;
};

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_KERNEL_H_
