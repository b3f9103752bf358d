/*!
 * TVM's DeviceAPI and memory allocator for OpenCL, over MemoryObject.
 */
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/memory/memory_manager.h>
#include <tvm/runtime/tensor.h>

#include <sstream>

#include "copy.h"
#include "device.h"
#include "launch.h"

namespace smartmem {
namespace {

namespace ffi = tvm::ffi;
namespace rt = tvm::runtime;
using tvm::Device;

thread_local int t_device_id = 0;

MemoryObject* Cast(void* data) { return static_cast<MemoryObject*>(data); }

std::string ScopeOf(const ffi::Optional<ffi::String>& scope) {
  return scope.has_value() ? std::string(scope.value()) : std::string();
}

/*! \brief The bytes of a tensor; a product that overflows must not ask for a small buffer. */
size_t BytesOf(int ndim, const int64_t* shape, DLDataType dtype) {
  size_t bytes = (size_t{dtype.bits} * dtype.lanes + 7) / 8;
  for (int i = 0; i < ndim; ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(shape[i]), &bytes)) {
      SMARTMEM_THROW() << "a tensor whose axis " << i << " has extent " << shape[i]
                       << " is larger than memory can be addressed.";
    }
  }
  return bytes;
}

MemoryObject* NewBuffer(int device_id, size_t bytes, bool pooled) {
  ClDevice& device = DeviceTable::Global().Get(device_id);
  auto object = std::make_unique<MemoryObject>(&device, MemoryKey::Buffer(bytes), pooled);
  object->Get();  // so that running out of memory is reported where memory is asked for
  return object.release();
}

MemoryObject* NewImage(int device_id, const std::string& scope, int ndim, const int64_t* shape,
                       DLDataType dtype) {
  ClDevice& device = DeviceTable::Global().Get(device_id);
  return new MemoryObject(&device, MemoryKey::Image(device, scope, ndim, shape, dtype), true);
}

class OpenCLDeviceAPI final : public rt::DeviceAPI {
 public:
  void SetDevice(Device dev) final { t_device_id = dev.device_id; }

  void GetAttr(Device dev, rt::DeviceAttrKind kind, ffi::Any* rv) final {
    bool exists = static_cast<size_t>(dev.device_id) < DeviceTable::Global().size();
    if (kind == rt::kExist) {
      *rv = static_cast<int>(exists);
      return;
    }
    const DeviceInfo& info = DeviceTable::Global().Get(dev.device_id).info();
    switch (kind) {
      case rt::kMaxThreadsPerBlock:
        *rv = static_cast<int64_t>(info.max_work_group_size);
        break;
      case rt::kWarpSize:
        *rv = 1;  // OpenCL 1.2 does not tell; 1 keeps cross-lane tricks out of the schedules
        break;
      case rt::kMaxSharedMemoryPerBlock:
        *rv = static_cast<int64_t>(info.local_memory);
        break;
      case rt::kComputeVersion:
        *rv = info.version;
        break;
      case rt::kDeviceName:
        *rv = info.name;
        break;
      case rt::kMaxClockRate:
        *rv = static_cast<int64_t>(info.clock_mhz) * 1000;  // TVM counts in kHz
        break;
      case rt::kMultiProcessorCount:
        *rv = static_cast<int64_t>(info.compute_units);
        break;
      case rt::kMaxThreadDimensions: {
        std::ostringstream dims;
        dims << "[" << info.max_work_item_sizes[0] << ", " << info.max_work_item_sizes[1] << ", "
             << info.max_work_item_sizes[2] << "]";
        *rv = dims.str();
        break;
      }
      case rt::kApiVersion:
        *rv = 120;
        break;
      case rt::kDriverVersion:
        *rv = info.driver_version;
        break;
      case rt::kL2CacheSizeBytes:
        *rv = static_cast<int64_t>(info.cache);
        break;
      case rt::kTotalGlobalMemory:
        *rv = static_cast<int64_t>(info.global_memory);
        break;
      case rt::kImagePitchAlignment:
        *rv = static_cast<int64_t>(rt::kAllocAlignment);  // images here own their memory
        break;
      default:
        break;  // OpenCL has no such attribute; TVM reads "not set"
    }
  }

  void* AllocDataSpace(Device dev, size_t nbytes, size_t alignment, DLDataType type_hint) final {
    return NewBuffer(dev.device_id, nbytes, false);
  }

  void* AllocDataSpace(Device dev, int ndim, const int64_t* shape, DLDataType dtype,
                       ffi::Optional<ffi::String> mem_scope) final {
    std::string scope = ScopeOf(mem_scope);
    if (scope.empty() || scope == "global") {
      return NewBuffer(dev.device_id, BytesOf(ndim, shape, dtype), false);
    }
    std::unique_ptr<MemoryObject> image(NewImage(dev.device_id, scope, ndim, shape, dtype));
    image->Get();
    return image.release();
  }

  void FreeDataSpace(Device dev, void* ptr) final { delete Cast(ptr); }

  void CopyDataFromTo(DLTensor* from, DLTensor* to, TVMStreamHandle stream) final {
    CopyTensor(from, to);
  }

  void StreamSync(Device dev, TVMStreamHandle stream) final {
    DeviceTable::Global().Get(dev.device_id).Finish();
  }

  void* AllocWorkspace(Device dev, size_t nbytes, DLDataType type_hint) final {
    return NewBuffer(dev.device_id, nbytes, true);
  }

  void FreeWorkspace(Device dev, void* ptr) final { delete Cast(ptr); }
};

/*! \brief The VM's storages, kept in the device's pool between inferences. */
class OpenCLAllocator final : public rt::Allocator {
 public:
  explicit OpenCLAllocator(rt::AllocatorType type, int device_id)
      : rt::Allocator(type), device_id_(device_id) {}

  rt::memory::Buffer Alloc(Device dev, size_t nbytes, size_t alignment, DLDataType hint) final {
    // Created when it is first bound: the storages of textures are planned as buffers that nothing
    // but the textures' own images stands for.
    ClDevice& device = DeviceTable::Global().Get(dev.device_id);
    return Wrap(dev, new MemoryObject(&device, MemoryKey::Buffer(nbytes), true), nbytes);
  }

  rt::memory::Buffer Alloc(Device dev, ffi::Shape shape, DLDataType dtype,
                           const std::string& scope) final {
    size_t bytes = ffi::GetDataSize(shape.Product(), dtype);
    if (scope.empty() || scope == "global") return Alloc(dev, bytes, rt::kAllocAlignment, dtype);
    return Wrap(dev,
                NewImage(dev.device_id, scope, static_cast<int>(shape.size()), shape.data(), dtype),
                bytes);
  }

  void* CreateView(const rt::memory::Buffer& buffer, ffi::Shape shape, DLDataType dtype,
                   const std::string& scope) final {
    MemoryObject* storage = Cast(buffer.data);
    if (scope.empty() || scope == "global") {
      if (!storage->key().is_image()) return storage;
      SMARTMEM_THROW() << "a tensor of scope 'global' was planned into "
                       << storage->key().Describe() << ". Plan memory for each scope on its own.";
    }
    std::unique_ptr<MemoryObject> view(NewImage(
        buffer.device.device_id, scope, static_cast<int>(shape.size()), shape.data(), dtype));
    if (view->key() == storage->key()) return storage;
    view->is_view = true;
    return view.release();
  }

  void FreeView(Device dev, void* data) final {
    if (Cast(data)->is_view) delete Cast(data);
  }

  void Free(const rt::memory::Buffer& buffer) final { delete Cast(buffer.data); }

  void Clear() final { DeviceTable::Global().Get(device_id_).pool().ReleaseFree(); }

  size_t UsedMemory() const final {
    return DeviceTable::Global().Get(device_id_).pool().bytes_in_use();
  }

 private:
  bool AllowMemoryScope(const std::string& scope) const final {
    return scope.empty() || scope == "global" || IsImageScope(scope);
  }

  rt::memory::Buffer Wrap(Device dev, MemoryObject* object, size_t bytes) {
    rt::memory::Buffer buffer;
    buffer.data = object;
    buffer.size = bytes;
    buffer.device = dev;
    buffer.alloc_type = type();
    return buffer;
  }

  int device_id_;
};

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def_packed("device_api.opencl",
                  [](ffi::PackedArgs args, ffi::Any* rv) {
                    static rt::DeviceAPI* api = new OpenCLDeviceAPI();
                    *rv = static_cast<void*>(api);
                  })
      // Arguments of the call that InjectTextureAlloc emits: device type, device id, two that this
      // runtime does not need, scope, number of extents, extents (width, height, depth), texel
      // bits.
      .def_packed("device_api.opencl.alloc_nd",
                  [](ffi::PackedArgs args, ffi::Any* rv) {
                    const int64_t* extents = static_cast<const int64_t*>(args[6].cast<void*>());
                    int64_t texel_bits = args[7].cast<int64_t>();
                    if (args[5].cast<int64_t>() != 3 || (texel_bits != 64 && texel_bits != 128)) {
                      SMARTMEM_THROW()
                          << "an image inside a host function has " << args[5].cast<int64_t>()
                          << " extents and texels of " << texel_bits
                          << " bits; 3 extents and 64 or 128 bits are supported.";
                    }
                    int64_t shape[4] = {extents[2], extents[1], extents[0], 4};
                    DLDataType dtype{kDLFloat, static_cast<uint8_t>(texel_bits / 4), 1};
                    *rv = static_cast<void*>(
                        NewImage(args[1].cast<int>(), "global.texture", 4, shape, dtype));
                  })
      .def_packed("device_api.opencl.free_nd",
                  [](ffi::PackedArgs args, ffi::Any* rv) {
                    delete Cast(args[3].cast<void*>());
                    *rv = 0;
                  })
      .def_packed("DeviceAllocator.opencl", [](ffi::PackedArgs args, ffi::Any* rv) {
        auto type = static_cast<rt::AllocatorType>(args[1].cast<int>());
        rt::Allocator* allocator = new OpenCLAllocator(type, args[0].cast<DLDevice>().device_id);
        *rv = static_cast<void*>(allocator);
      });
}

}  // namespace

int CurrentDeviceId() { return t_device_id; }

}  // namespace smartmem
