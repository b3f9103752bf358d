#include "kernel.h"

#include <tvm/ffi/container/tensor.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <map>
#include <sstream>

namespace smartmem {

namespace ffi = tvm::ffi;

Kernel::Kernel(const KernelSignature& signature, std::string source)
    : name_(std::make_shared<const std::string>(signature.name)),
      arg_types_(signature.arg_types),
      source_(std::move(source)) {
  for (const std::string& tag : signature.launch_tags) AddTag(tag);
  kinds_ = ReadKinds();
  for (DLDataType type : arg_types_) {
    bool has_size = type.bits == 8 || type.bits == 16 || type.bits == 32 || type.bits == 64;
    if (type.lanes != 1 || !has_size) {
      SMARTMEM_THROW() << "kernel '" << *name_ << "' takes an argument of " << int{type.bits}
                       << " bits and " << int{type.lanes}
                       << " lanes; scalars of 8, 16, 32 and 64 bits are supported.";
    }
  }
}

Kernel::~Kernel() {
  if (ShuttingDown()) return;
  for (const Built& built : built_) {
    built.device->cl().clReleaseKernel(built.kernel);
    built.device->cl().clReleaseProgram(built.program);
  }
}

void Kernel::Build(ClDevice& device) {
  std::lock_guard<std::mutex> lock(mu_);
  Get(device);
}

void Kernel::Launch(ffi::PackedArgs args) {
  if (args.size() != static_cast<int>(arg_types_.size() + tags_.size())) {
    SMARTMEM_THROW() << "kernel '" << *name_ << "' takes " << arg_types_.size() << " arguments and "
                     << tags_.size() << " extents, got " << args.size() << " in all.";
  }
  std::array<size_t, 3> groups{1, 1, 1}, local{1, 1, 1}, global{};
  bool empty = false;
  for (size_t i = 0; i < tags_.size(); ++i) {
    int64_t extent = args[static_cast<int>(arg_types_.size() + i)].cast<int64_t>();
    if (extent < 0) {
      SMARTMEM_THROW() << "kernel '" << *name_ << "' is launched with the extent " << extent << ".";
    }
    empty = empty || extent == 0;
    (tags_[i].is_group ? groups : local)[tags_[i].dim] = static_cast<size_t>(extent);
  }
  if (empty) return;  // a symbolic extent of zero: there is nothing to compute
  for (int i = 0; i < 3; ++i) global[i] = groups[i] * local[i];
  ClDevice& device = DeviceOf(args);
  // Arguments belong to the kernel object: setting them and enqueueing is one step.
  std::lock_guard<std::mutex> lock(mu_);
  const Built& built = Get(device);
  for (size_t i = 0; i < arg_types_.size(); ++i) {
    SetArgument(built, i, args[static_cast<int>(i)]);
  }
  LaunchRecord record{name_, global, local};
  bool timed = LaunchSink::Wanted(device), by_event = timed && device.EventTimestamps();
  if (timed && !by_event) device.Finish();
  auto started = std::chrono::steady_clock::now();
  cl_event event = nullptr;
  cl_int status = device.Enqueue([&](cl_command_queue queue) {
    return device.cl().clEnqueueNDRangeKernel(queue, built.kernel, work_dim_, nullptr,
                                              global.data(), local.data(), 0, nullptr,
                                              by_event ? &event : nullptr);
  });
  if (status != CL_SUCCESS) FailLaunch(built, status, local);
  if (!timed) return;
  if (!by_event) {  // the wall clock, where the driver's event times are not real
    device.Finish();
    auto elapsed = std::chrono::steady_clock::now() - started;
    record.nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count();
  }
  LaunchSink::Deliver(device, record, event);
}

void Kernel::AddTag(const std::string& tag) {
  static const std::map<std::string, Tag> known = {
      {"blockIdx.x", {true, 0}},   {"blockIdx.y", {true, 1}},   {"blockIdx.z", {true, 2}},
      {"threadIdx.x", {false, 0}}, {"threadIdx.y", {false, 1}}, {"threadIdx.z", {false, 2}}};
  auto it = known.find(tag);
  if (it == known.end()) {
    SMARTMEM_THROW() << "kernel '" << *name_ << "' is launched with '" << tag
                     << "', which OpenCL does not have; blockIdx and threadIdx x, y, z exist.";
  }
  tags_.push_back(it->second);
  work_dim_ = std::max<cl_uint>(work_dim_, static_cast<cl_uint>(it->second.dim) + 1);
}

/*! \brief Host code passes data pointers; a caller of source_module may pass tensors. */
MemoryObject* Kernel::MemoryOf(size_t index, ffi::AnyView value) const {
  void* data = nullptr;
  if (auto tensor = value.try_cast<DLTensor*>(); tensor.has_value()) {
    const DLTensor* t = tensor.value();
    if (t->device.device_type != kDLOpenCL) {
      SMARTMEM_THROW() << "argument " << index << " of kernel '" << *name_
                       << "' is a tensor that is not on an OpenCL device. Copy it there first.";
    }
    if (t->byte_offset != 0) {
      SMARTMEM_THROW() << "argument " << index << " of kernel '" << *name_ << "' is a view at byte "
                       << t->byte_offset << "; a kernel gets whole tensors. Copy the view first.";
    }
    data = t->data;
  } else {
    data = value.cast<void*>();
  }
  if (data == nullptr) {
    SMARTMEM_THROW() << "argument " << index << " of kernel '" << *name_ << "' is null.";
  }
  return static_cast<MemoryObject*>(data);
}

/*! \brief A kernel runs where its first argument lives; without any, on the thread's device. */
ClDevice& Kernel::DeviceOf(ffi::PackedArgs args) const {
  for (size_t i = 0; i < arg_types_.size(); ++i) {
    if (arg_types_[i].code == kDLOpaqueHandle) {
      return MemoryOf(i, args[static_cast<int>(i)])->device();
    }
  }
  return DeviceTable::Global().Get(CurrentDeviceId());
}

const Kernel::Built& Kernel::Get(ClDevice& device) {
  for (const Built& built : built_) {
    if (built.device == &device) return built;
  }
  CheckNotForked();
  cl_program program = BuildProgram(device, *name_, source_);
  cl_int status = CL_SUCCESS;
  cl_kernel kernel = device.cl().clCreateKernel(program, name_->c_str(), &status);
  if (status != CL_SUCCESS) device.cl().clReleaseProgram(program);
  device.Check(status, "creating kernel '" + *name_ + "'");
  cl_uint count = 0;
  status = device.cl().clGetKernelInfo(kernel, CL_KERNEL_NUM_ARGS, sizeof(count), &count, nullptr);
  if (status != CL_SUCCESS || count != arg_types_.size()) {
    device.cl().clReleaseKernel(kernel);
    device.cl().clReleaseProgram(program);
    device.Check(status, "asking for the arguments of kernel '" + *name_ + "'");
    SMARTMEM_THROW() << "kernel '" << *name_ << "' takes " << count
                     << " arguments in its source, but its signature lists " << arg_types_.size()
                     << ".";
  }
  built_.push_back({&device, program, kernel});
  return built_.back();
}

/*!
 * \brief What the source declares each argument as, to refuse a wrong one: most drivers crash on
 * it.
 *
 * Read from the source, since drivers do not keep the types in cached binaries. A parameter list
 * that is not spelled out (macros) leaves the kinds unknown.
 */
std::vector<Kernel::ArgumentKind> Kernel::ReadKinds() const {
  std::vector<ArgumentKind> unknown(arg_types_.size(), ArgumentKind::kUnknown);
  auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  std::string parameters;
  for (size_t at = source_.find(*name_); at != std::string::npos;
       at = source_.find(*name_, at + 1)) {
    size_t before = at, open = at + name_->size();
    while (before > 0 && is_space(source_[before - 1])) --before;
    while (open < source_.size() && is_space(source_[open])) ++open;
    bool declared = before < at && before >= 4 && source_.compare(before - 4, 4, "void") == 0;
    if (!declared || open == source_.size() || source_[open] != '(') continue;
    parameters = source_.substr(open + 1, source_.find(')', open) - open - 1);
    break;
  }
  std::vector<ArgumentKind> kinds;
  std::istringstream list(parameters);
  for (std::string parameter; std::getline(list, parameter, ',');) {
    auto has = [&](const char* text) { return parameter.find(text) != std::string::npos; };
    kinds.push_back(has("*")                 ? ArgumentKind::kBuffer
                    : has("image2d_array_t") ? ArgumentKind::kImage2DArray
                    : has("image2d_t")       ? ArgumentKind::kImage2D
                                             : ArgumentKind::kUnknown);
  }
  return kinds.size() == arg_types_.size() ? kinds : unknown;
}

void Kernel::CheckKind(const Built& built, size_t index, const MemoryObject& object) const {
  if (&object.device() != built.device) {
    SMARTMEM_THROW() << "argument " << index << " of kernel '" << *name_ << "' lives on "
                     << object.device().Describe() << ", the kernel runs on "
                     << built.device->Describe() << ". Copy the tensor first.";
  }
  ArgumentKind given = object.key().kind == MemoryKey::kBuffer    ? ArgumentKind::kBuffer
                       : object.key().kind == MemoryKey::kImage2D ? ArgumentKind::kImage2D
                                                                  : ArgumentKind::kImage2DArray;
  ArgumentKind wanted = kinds_[index];
  if (wanted == given || wanted == ArgumentKind::kUnknown) return;
  static const char* kNames[] = {"", "a buffer", "an image2d_t", "an image2d_array_t"};
  SMARTMEM_THROW() << "argument " << index << " of kernel '" << *name_ << "' is "
                   << kNames[static_cast<int>(wanted)] << ", but the tensor is in "
                   << object.key().Describe()
                   << ". Give the tensor the memory scope that the kernel was compiled for.";
}

void Kernel::SetArgument(const Built& built, size_t index, ffi::AnyView value) const {
  DLDataType type = arg_types_[index];
  cl_int status = CL_SUCCESS;
  auto set = [&](size_t size, const void* data) {
    status =
        built.device->cl().clSetKernelArg(built.kernel, static_cast<cl_uint>(index), size, data);
  };
  if (type.code == kDLOpaqueHandle) {
    MemoryObject* object = MemoryOf(index, value);
    CheckKind(built, index, *object);
    cl_mem mem = object->Get();
    set(sizeof(cl_mem), &mem);
  } else if (type.code == kDLFloat) {
    double wide = value.cast<double>();
    float narrow = static_cast<float>(wide);
    if (type.bits == 64) {
      set(sizeof(wide), &wide);
    } else if (type.bits == 32) {
      set(sizeof(narrow), &narrow);
    } else {
      SMARTMEM_THROW() << "kernel '" << *name_ << "' takes a scalar float of " << int{type.bits}
                       << " bits; 32 and 64 are supported. Pass it as float32.";
    }
  } else {
    int64_t integer = value.cast<int64_t>();  // narrower kinds are its low bytes
    set(type.bits / 8, &integer);
  }
  built.device->Check(status,
                      "setting argument " + std::to_string(index) + " of kernel '" + *name_ + "'");
}

void Kernel::FailLaunch(const Built& built, cl_int status,
                        const std::array<size_t, 3>& local) const {
  const ClDevice& device = *built.device;
  const DeviceInfo& info = device.info();
  std::string remedy;
  if (status == CL_INVALID_WORK_GROUP_SIZE || status == CL_INVALID_WORK_ITEM_SIZE) {
    size_t most = info.max_work_group_size;
    device.cl().clGetKernelWorkGroupInfo(built.kernel, device.id(), CL_KERNEL_WORK_GROUP_SIZE,
                                         sizeof(most), &most, nullptr);
    auto text = [](size_t a, size_t b, size_t c) {
      return std::to_string(a) + "x" + std::to_string(b) + "x" + std::to_string(c);
    };
    const std::vector<size_t>& items = info.max_work_item_sizes;
    remedy = "Its work-group is " + text(local[0], local[1], local[2]) + " = " +
             std::to_string(local[0] * local[1] * local[2]) + " work-items; this kernel may have " +
             std::to_string(most) + ", the device " + std::to_string(info.max_work_group_size) +
             " and " + text(items[0], items[1], items[2]) +
             " per dimension. Compile for a device profile with these limits.";
  } else if (status == CL_OUT_OF_RESOURCES) {
    remedy =
        "The kernel needs more registers or local memory than the device has; compile with smaller "
        "tiles.";
  }
  device.Check(status, "launching kernel '" + *name_ + "'", remedy);
  TVM_FFI_THROW(InternalError) << "a failed launch has no status";
  TVM_FFI_UNREACHABLE();
}

}  // namespace smartmem
