/*!
 * Device memory: buffers, images and the pool that keeps them between inferences.
 */
#ifndef SMARTMEM_RUNTIME_MEMORY_H_
#define SMARTMEM_RUNTIME_MEMORY_H_

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cl_api.h"

namespace smartmem {

class ClDevice;

/*! \brief What makes two memory objects interchangeable. */
struct MemoryKey {
  enum Kind { kBuffer, kImage2D, kImage2DArray };
  Kind kind = kBuffer;
  /*! \brief Bytes of a buffer; columns, rows and layers of an image, in texels of four channels. */
  size_t width = 0, height = 1, layers = 1;
  cl_uint channel_type = 0;

  static MemoryKey Buffer(size_t bytes);
  /*!
   * \brief The image that holds a tensor of that shape under a texture scope.
   *
   * `global.texture`, `global.texture-weight` and `global.texture-nhwc` are TVM's conventions for
   * which axes are columns; the last axis holds the four channels and everything before the rows
   * becomes layers of an `image2d_array_t`. `global.image2d` is [row, column, 4] in an `image2d_t`.
   */
  static MemoryKey Image(const ClDevice& device, const std::string& scope, int ndim,
                         const int64_t* shape, DLDataType dtype);

  bool is_image() const { return kind != kBuffer; }
  size_t texels() const { return width * height * layers; }
  size_t bytes() const;
  std::string Describe() const;
  bool operator<(const MemoryKey& other) const {
    return std::tie(kind, width, height, layers, channel_type) <
           std::tie(other.kind, other.width, other.height, other.layers, other.channel_type);
  }
  bool operator==(const MemoryKey& other) const { return !(*this < other) && !(other < *this); }
};

/*! \brief Whether a tensor's memory scope asks for an image. */
bool IsImageScope(const std::string& scope);

/*!
 * \brief What `DLTensor::data` points to on an OpenCL device.
 *
 * The OpenCL object is created when it is first bound or copied: the storage that a plan reserves
 * for images is often only ever used through views, which have images of their own.
 */
class MemoryObject {
 public:
  MemoryObject(ClDevice* device, MemoryKey key, bool pooled)
      : device_(device), key_(key), pooled_(pooled) {}
  ~MemoryObject();
  MemoryObject(const MemoryObject&) = delete;
  MemoryObject& operator=(const MemoryObject&) = delete;

  ClDevice& device() const { return *device_; }
  const MemoryKey& key() const { return key_; }
  /*! \brief The OpenCL object, created now if it was not yet. */
  cl_mem Get();
  /*! \brief Whether this is a view that a storage handed out and FreeView must delete. */
  bool is_view = false;

 private:
  ClDevice* device_;
  MemoryKey key_;
  bool pooled_;
  std::mutex mu_;
  cl_mem mem_ = nullptr;
};

/*!
 * \brief Memory objects of one device: accounting, and a pool of those that are free.
 *
 * What is free may be reused at once, since the device has one in-order queue. The pool forgets the
 * least recently freed objects when it holds more than four times what was ever in use at once, in
 * bytes or in objects, but not below a floor, so a model's images survive from one inference to the
 * next while a program that keeps changing sizes does not grow.
 */
class MemoryPool {
 public:
  explicit MemoryPool(ClDevice* device) : device_(device) {}
  /*! \brief A free object of that key or a new one. */
  cl_mem Take(const MemoryKey& key, bool pooled);
  void Give(const MemoryKey& key, cl_mem mem, bool pooled);
  /*! \brief Release everything that is free. */
  void ReleaseFree();
  size_t bytes_in_use();
  /*! \brief Counters as JSON. */
  std::string ToJson();

 private:
  struct Free {
    MemoryKey key;
    cl_mem mem;
  };
  cl_mem Create(const MemoryKey& key);
  cl_mem TryCreate(const MemoryKey& key, cl_int* status);
  void TrimLocked(size_t most_bytes, size_t most_objects, std::vector<cl_mem>* released);
  void Release(const std::vector<cl_mem>& released);

  ClDevice* device_;
  std::mutex mu_;
  std::list<Free> free_;  // least recently freed first
  std::map<MemoryKey, std::vector<std::list<Free>::iterator>> by_key_;
  size_t free_bytes_ = 0, in_use_bytes_ = 0, peak_bytes_ = 0;
  size_t buffers_created_ = 0, images_created_ = 0, reused_ = 0, in_use_objects_ = 0,
         peak_objects_ = 0;
};

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_MEMORY_H_
