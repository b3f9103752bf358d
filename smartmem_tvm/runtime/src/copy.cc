#include "copy.h"

#include <tvm/ffi/container/tensor.h>

#include <algorithm>

#include "device.h"

namespace smartmem {
namespace {

namespace ffi = tvm::ffi;

/*! \brief Run a command that touches host memory and wait until it is done. */
template <typename F>
void RunAndWait(ClDevice& device, const std::string& what, F enqueue) {
  cl_event event = nullptr;
  device.Check(device.Enqueue([&](cl_command_queue queue) { return enqueue(queue, &event); }),
               what);
  // Outside the device's lock: other threads go on enqueueing.
  cl_int status = device.cl().clWaitForEvents(1, &event);
  device.cl().clReleaseEvent(event);
  device.Check(status, what);
}

constexpr size_t kOrigin[3] = {0, 0, 0};

void Region(const MemoryKey& key, size_t region[3]) {
  region[0] = key.width;
  region[1] = key.height;
  region[2] = key.layers;
}

MemoryObject& ObjectOf(const DLTensor* tensor) { return *static_cast<MemoryObject*>(tensor->data); }

bool IsOpenCL(const DLTensor* tensor) { return tensor->device.device_type == kDLOpenCL; }

void CheckImageTensor(const MemoryObject& object, const DLTensor* tensor, size_t bytes) {
  if (!object.key().is_image()) return;
  if (object.key().bytes() != bytes || tensor->byte_offset != 0) {
    SMARTMEM_THROW() << "a copy of " << bytes << " bytes at offset " << tensor->byte_offset
                     << " does not cover " << object.key().Describe()
                     << "; an image is copied whole.";
  }
}

void ReadToHost(const DLTensor* from, char* to, size_t bytes) {
  MemoryObject& object = ObjectOf(from);
  ClDevice& device = object.device();
  const ClApi& cl = device.cl();
  CheckImageTensor(object, from, bytes);
  cl_mem mem = object.Get();
  size_t region[3];
  Region(object.key(), region);
  RunAndWait(device, "reading " + object.key().Describe(), [&](cl_command_queue q, cl_event* e) {
    return object.key().is_image()
               ? cl.clEnqueueReadImage(q, mem, CL_FALSE, kOrigin, region, 0, 0, to, 0, nullptr, e)
               : cl.clEnqueueReadBuffer(q, mem, CL_FALSE, from->byte_offset, bytes, to, 0, nullptr,
                                        e);
  });
}

void WriteFromHost(const char* from, const DLTensor* to, size_t bytes) {
  MemoryObject& object = ObjectOf(to);
  ClDevice& device = object.device();
  const ClApi& cl = device.cl();
  CheckImageTensor(object, to, bytes);
  cl_mem mem = object.Get();
  size_t region[3];
  Region(object.key(), region);
  RunAndWait(device, "writing " + object.key().Describe(), [&](cl_command_queue q, cl_event* e) {
    return object.key().is_image() ? cl.clEnqueueWriteImage(q, mem, CL_FALSE, kOrigin, region, 0, 0,
                                                            from, 0, nullptr, e)
                                   : cl.clEnqueueWriteBuffer(q, mem, CL_FALSE, to->byte_offset,
                                                             bytes, from, 0, nullptr, e);
  });
}

void CopyBufferToImage(const MemoryKey& target, cl_mem from, size_t offset, cl_mem to,
                       ClDevice& device, const std::string& what) {
  size_t region[3];
  Region(target, region);
  device.Check(device.Enqueue([&](cl_command_queue queue) {
    return device.cl().clEnqueueCopyBufferToImage(queue, from, to, offset, kOrigin, region, 0,
                                                  nullptr, nullptr);
  }),
               what);
}

void CopyBuffer(cl_mem from, size_t from_offset, cl_mem to, size_t to_offset, size_t bytes,
                ClDevice& device, const std::string& what) {
  device.Check(device.Enqueue([&](cl_command_queue queue) {
    return device.cl().clEnqueueCopyBuffer(queue, from, to, from_offset, to_offset, bytes, 0,
                                           nullptr, nullptr);
  }),
               what);
}

/*! \brief A copy that the queue does in its turn; nobody waits for it here. */
void CopyOnDevice(const DLTensor* from, const DLTensor* to, size_t bytes) {
  MemoryObject &source = ObjectOf(from), &target = ObjectOf(to);
  ClDevice& device = target.device();
  const ClApi& cl = device.cl();
  CheckImageTensor(source, from, bytes);
  CheckImageTensor(target, to, bytes);
  size_t from_offset = from->byte_offset, to_offset = to->byte_offset;
  if (&source == &target && from_offset == to_offset) return;
  const MemoryKey &source_key = source.key(), &target_key = target.key();
  cl_mem source_mem = source.Get(), target_mem = target.Get();
  std::string what = "copying " + source_key.Describe() + " to " + target_key.Describe();
  size_t region[3];
  Region(source_key, region);
  if (source_key.is_image() && source_key == target_key) {
    device.Check(device.Enqueue([&](cl_command_queue queue) {
      return cl.clEnqueueCopyImage(queue, source_mem, target_mem, kOrigin, kOrigin, region, 0,
                                   nullptr, nullptr);
    }),
                 what);
    return;
  }
  // Images of other extents hold the same elements in row-major order, and views of one buffer may
  // overlap: both go through a buffer, which the pool may hand out again at once (one queue).
  std::unique_ptr<MemoryObject> staging;
  bool overlap = &source == &target &&
                 std::max(from_offset, to_offset) < std::min(from_offset, to_offset) + bytes;
  if (overlap || (source_key.is_image() && target_key.is_image())) {
    staging = std::make_unique<MemoryObject>(&device, MemoryKey::Buffer(bytes), true);
  }
  if (source_key.is_image()) {
    cl_mem buffer = staging ? staging->Get() : target_mem;
    size_t offset = staging ? 0 : to_offset;
    device.Check(device.Enqueue([&](cl_command_queue queue) {
      return cl.clEnqueueCopyImageToBuffer(queue, source_mem, buffer, kOrigin, region, offset, 0,
                                           nullptr, nullptr);
    }),
                 what);
    if (staging) CopyBufferToImage(target_key, buffer, 0, target_mem, device, what);
  } else if (target_key.is_image()) {
    CopyBufferToImage(target_key, source_mem, from_offset, target_mem, device, what);
  } else if (staging) {
    CopyBuffer(source_mem, from_offset, staging->Get(), 0, bytes, device, what);
    CopyBuffer(staging->Get(), 0, target_mem, to_offset, bytes, device, what);
  } else {
    CopyBuffer(source_mem, from_offset, target_mem, to_offset, bytes, device, what);
  }
}

}  // namespace

void CopyTensor(const DLTensor* from, const DLTensor* to) {
  size_t bytes = ffi::GetDataSize(*from);
  if (bytes != ffi::GetDataSize(*to) || !ffi::IsContiguous(*from) || !ffi::IsContiguous(*to)) {
    SMARTMEM_THROW() << "a copy needs two contiguous tensors of the same size; got " << bytes
                     << " and " << ffi::GetDataSize(*to) << " bytes.";
  }
  if (bytes == 0) return;
  if (IsOpenCL(from) && IsOpenCL(to)) {
    if (&ObjectOf(from).device() == &ObjectOf(to).device()) {
      CopyOnDevice(from, to, bytes);
    } else {
      std::vector<char> host(bytes);
      ReadToHost(from, host.data(), bytes);
      WriteFromHost(host.data(), to, bytes);
    }
  } else if (IsOpenCL(from)) {
    ReadToHost(from, static_cast<char*>(to->data) + to->byte_offset, bytes);
  } else {
    WriteFromHost(static_cast<const char*>(from->data) + from->byte_offset, to, bytes);
  }
}

}  // namespace smartmem
