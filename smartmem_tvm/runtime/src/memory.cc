#include "memory.h"

#include <algorithm>
#include <sstream>

#include "device.h"

namespace smartmem {
namespace {

constexpr size_t kPoolFloorBytes = size_t{64} << 20;
constexpr size_t kPoolFloorObjects = 1024;
constexpr size_t kPoolPeakMultiple = 4;
constexpr size_t kLargestExtent = size_t{1} << 40;  // beyond every device; keeps products exact

struct ChannelType {
  uint8_t code, bits;
  cl_uint channel_type;
  const char* name;
};

constexpr ChannelType kChannelTypes[] = {
    {kDLFloat, 32, CL_FLOAT, "float32"},        {kDLFloat, 16, CL_HALF_FLOAT, "float16"},
    {kDLInt, 8, CL_SIGNED_INT8, "int8"},        {kDLInt, 16, CL_SIGNED_INT16, "int16"},
    {kDLInt, 32, CL_SIGNED_INT32, "int32"},     {kDLUInt, 8, CL_UNSIGNED_INT8, "uint8"},
    {kDLUInt, 16, CL_UNSIGNED_INT16, "uint16"}, {kDLUInt, 32, CL_UNSIGNED_INT32, "uint32"},
};

const ChannelType* FindChannelType(cl_uint channel_type) {
  auto it = std::find_if(std::begin(kChannelTypes), std::end(kChannelTypes),
                         [&](const ChannelType& c) { return c.channel_type == channel_type; });
  return it == std::end(kChannelTypes) ? nullptr : it;
}

std::string ShapeText(int ndim, const int64_t* shape) {
  std::ostringstream out;
  out << "[";
  for (int i = 0; i < ndim; ++i) out << (i ? ", " : "") << shape[i];
  out << "]";
  return out.str();
}

bool IsOutOfMemory(cl_int status) {
  return status == CL_MEM_OBJECT_ALLOCATION_FAILURE || status == CL_OUT_OF_RESOURCES ||
         status == CL_OUT_OF_HOST_MEMORY || status == CL_INVALID_BUFFER_SIZE;
}

}  // namespace

bool IsImageScope(const std::string& scope) {
  return scope.rfind("global.texture", 0) == 0 || scope == "global.image2d";
}

MemoryKey MemoryKey::Buffer(size_t bytes) {
  MemoryKey key;
  key.width = std::max<size_t>(bytes, 1);  // OpenCL has no empty buffers
  return key;
}

MemoryKey MemoryKey::Image(const ClDevice& device, const std::string& scope, int ndim,
                           const int64_t* shape, DLDataType dtype) {
  auto fail = [&](const std::string& what) {
    SMARTMEM_THROW() << "a tensor of shape " << ShapeText(ndim, shape)
                     << " cannot be an image of scope '" << scope << "' on " << device.Describe()
                     << ": " << what << " Keep it in a buffer (scope 'global').";
  };
  int rows_end = 0;  // axes [rows_end, ndim - 1) are columns, rows_end - 1 is the row
  if (scope == "global.texture" || scope == "global.image2d") {
    rows_end = ndim - 2;
  } else if (scope == "global.texture-weight") {
    rows_end = 1;
  } else if (scope == "global.texture-nhwc") {
    rows_end = 2;
  } else {
    fail(
        "the scope is unknown; global.texture, global.texture-weight, global.texture-nhwc and "
        "global.image2d exist.");
  }
  if (rows_end < 1 || rows_end > ndim - 1)
    fail("it has too few axes for rows, columns and four channels.");
  if (shape[ndim - 1] != 4) fail("the last axis must have extent 4, the channels of a texel.");
  MemoryKey key;
  key.kind = scope == "global.image2d" ? kImage2D : kImage2DArray;
  if (key.kind == kImage2D && ndim != 3) fail("an image2d_t takes [row, column, 4].");
  auto channel =
      std::find_if(std::begin(kChannelTypes), std::end(kChannelTypes), [&](const ChannelType& c) {
        return c.code == dtype.code && c.bits == dtype.bits && dtype.lanes == 1;
      });
  if (channel == std::end(kChannelTypes)) {
    fail("texels hold float16, float32 and integers of 8, 16 or 32 bits only.");
  }
  key.channel_type = channel->channel_type;
  key.width = 1;
  for (int i = 0; i < ndim - 1; ++i) {
    if (shape[i] < 1) fail("every extent must be at least 1.");
    size_t& extent = i < rows_end - 1 ? key.layers : i < rows_end ? key.height : key.width;
    extent = static_cast<size_t>(shape[i]) > kLargestExtent / extent
                 ? kLargestExtent
                 : extent * static_cast<size_t>(shape[i]);
  }
  const DeviceInfo& info = device.info();
  if (!info.images) fail("the device has no images.");
  auto limit = [&](const char* what, size_t extent, size_t most) {
    if (extent > most) {
      fail(std::to_string(extent) + " " + what + " are more than the device's " +
           std::to_string(most) + ".");
    }
  };
  limit("columns", key.width, info.image_width);
  limit("rows", key.height, info.image_height);
  if (key.kind == kImage2DArray) limit("layers", key.layers, info.image_layers);
  return key;
}

size_t MemoryKey::bytes() const {
  if (kind == kBuffer) return width;
  const ChannelType* channel = FindChannelType(channel_type);
  return texels() * 4 * (channel ? channel->bits / 8 : 4);
}

std::string MemoryKey::Describe() const {
  if (kind == kBuffer) return "a buffer of " + std::to_string(width) + " bytes";
  const ChannelType* channel = FindChannelType(channel_type);
  std::string text = kind == kImage2D ? "an image2d_t of " : "an image2d_array_t of ";
  text += std::to_string(width) + "x" + std::to_string(height);
  if (kind == kImage2DArray) text += "x" + std::to_string(layers);
  return text + " texels of 4 " + (channel ? channel->name : "unknown") + " (" +
         std::to_string(bytes()) + " bytes)";
}

MemoryObject::~MemoryObject() {
  if (mem_ != nullptr) device_->pool().Give(key_, mem_, pooled_);
}

cl_mem MemoryObject::Get() {
  std::lock_guard<std::mutex> lock(mu_);
  if (mem_ == nullptr) mem_ = device_->pool().Take(key_, pooled_);
  return mem_;
}

cl_mem MemoryPool::TryCreate(const MemoryKey& key, cl_int* status) {
  const ClApi& cl = device_->cl();
  if (key.kind == MemoryKey::kBuffer) {
    return cl.clCreateBuffer(device_->context(), CL_MEM_READ_WRITE, key.width, nullptr, status);
  }
  cl_image_format format = {CL_RGBA, key.channel_type};
  cl_image_desc desc = {};
  desc.image_type =
      key.kind == MemoryKey::kImage2D ? CL_MEM_OBJECT_IMAGE2D : CL_MEM_OBJECT_IMAGE2D_ARRAY;
  desc.image_width = key.width;
  desc.image_height = key.height;
  if (key.kind == MemoryKey::kImage2DArray) desc.image_array_size = key.layers;
  return cl.clCreateImage(device_->context(), CL_MEM_READ_WRITE, &format, &desc, nullptr, status);
}

cl_mem MemoryPool::Create(const MemoryKey& key) {
  const DeviceInfo& info = device_->info();
  if (key.is_image()) {
    cl_uint type =
        key.kind == MemoryKey::kImage2D ? CL_MEM_OBJECT_IMAGE2D : CL_MEM_OBJECT_IMAGE2D_ARRAY;
    if (!device_->SupportsImageFormat(type, key.channel_type)) {
      SMARTMEM_THROW() << device_->Describe() << " has no image format for " << key.Describe()
                       << ". Keep the tensor in a buffer (scope 'global').";
    }
  }
  size_t in_use = bytes_in_use();
  auto out_of_memory = [&](const std::string& why) {
    SMARTMEM_THROW() << "out of device memory: " << key.Describe() << " does not fit on "
                     << device_->Describe() << ": " << why << " In use now: " << in_use
                     << " bytes; largest allocation: " << info.max_allocation
                     << "; memory: " << info.global_memory
                     << ". Use a smaller batch or input, float16, or a device with more memory.";
  };
  if (key.bytes() > info.max_allocation) out_of_memory("it is more than one allocation may be.");
  if (key.bytes() + in_use > info.global_memory) {
    out_of_memory("it is more than is left of the device's memory.");
  }
  cl_int status = CL_SUCCESS;
  cl_mem mem = TryCreate(key, &status);
  if (IsOutOfMemory(status)) {
    device_->Finish();
    ReleaseFree();
    mem = TryCreate(key, &status);
  }
  if (IsOutOfMemory(status)) out_of_memory("the driver says " + StatusName(status) + ".");
  device_->Check(status, "creating " + key.Describe());
  return mem;
}

cl_mem MemoryPool::Take(const MemoryKey& key, bool pooled) {
  cl_mem mem = nullptr;
  std::vector<cl_mem> released;
  {
    std::lock_guard<std::mutex> lock(mu_);
    auto it = pooled ? by_key_.find(key) : by_key_.end();
    if (it != by_key_.end()) {
      auto entry = it->second.back();  // the one that was freed last is the one still in the cache
      mem = entry->mem;
      free_bytes_ -= key.bytes();
      free_.erase(entry);
      it->second.pop_back();
      if (it->second.empty()) by_key_.erase(it);
      ++reused_;
    }
    // What is free counts against the device's memory too.
    size_t needed = mem == nullptr ? key.bytes() + in_use_bytes_ + free_bytes_ : 0;
    size_t memory = device_->info().global_memory;
    if (needed > memory) {
      TrimLocked(free_bytes_ - std::min(free_bytes_, needed - memory), free_.size(), &released);
    }
  }
  Release(released);
  if (mem == nullptr) {
    mem = Create(key);
    std::lock_guard<std::mutex> lock(mu_);
    ++(key.is_image() ? images_created_ : buffers_created_);
  }
  std::lock_guard<std::mutex> lock(mu_);
  peak_objects_ = std::max(peak_objects_, ++in_use_objects_);
  in_use_bytes_ += key.bytes();
  peak_bytes_ = std::max(peak_bytes_, in_use_bytes_);
  return mem;
}

void MemoryPool::Give(const MemoryKey& key, cl_mem mem, bool pooled) {
  std::vector<cl_mem> released;
  {
    std::lock_guard<std::mutex> lock(mu_);
    --in_use_objects_;
    in_use_bytes_ -= key.bytes();
    if (pooled) {
      by_key_[key].push_back(free_.insert(free_.end(), {key, mem}));
      free_bytes_ += key.bytes();
      TrimLocked(std::max(kPoolFloorBytes, kPoolPeakMultiple * peak_bytes_),
                 std::max(kPoolFloorObjects, kPoolPeakMultiple * peak_objects_), &released);
    } else {
      released.push_back(mem);
    }
  }
  Release(released);
}

void MemoryPool::TrimLocked(size_t most_bytes, size_t most_objects, std::vector<cl_mem>* released) {
  while (!free_.empty() && (free_bytes_ > most_bytes || free_.size() > most_objects)) {
    auto oldest = free_.begin();
    auto& same = by_key_[oldest->key];
    same.erase(std::find(same.begin(), same.end(), oldest));
    if (same.empty()) by_key_.erase(oldest->key);
    free_bytes_ -= oldest->key.bytes();
    released->push_back(oldest->mem);
    free_.erase(oldest);
  }
}

void MemoryPool::Release(const std::vector<cl_mem>& released) {
  if (ShuttingDown()) return;
  // OpenCL keeps the object alive until the kernels that were enqueued with it are done.
  for (cl_mem mem : released) device_->cl().clReleaseMemObject(mem);
}

void MemoryPool::ReleaseFree() {
  std::vector<cl_mem> released;
  {
    std::lock_guard<std::mutex> lock(mu_);
    TrimLocked(0, 0, &released);
    // What was in use before no longer says how much to keep.
    peak_objects_ = in_use_objects_;
    peak_bytes_ = in_use_bytes_;
  }
  Release(released);
}

size_t MemoryPool::bytes_in_use() {
  std::lock_guard<std::mutex> lock(mu_);
  return in_use_bytes_;
}

std::string MemoryPool::ToJson() {
  std::lock_guard<std::mutex> lock(mu_);
  std::ostringstream out;
  out << "{\"buffers_created\": " << buffers_created_ << ", \"images_created\": " << images_created_
      << ", \"reused\": " << reused_ << ", \"in_use_objects\": " << in_use_objects_
      << ", \"in_use_bytes\": " << in_use_bytes_ << ", \"peak_bytes\": " << peak_bytes_
      << ", \"free_objects\": " << free_.size() << ", \"free_bytes\": " << free_bytes_ << "}";
  return out.str();
}

}  // namespace smartmem
