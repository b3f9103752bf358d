/*!
 * Stands in for a header that TVM's wheel leaves out although its tensor.h includes it.
 *
 * Only tensor.h's inline Save and Load mention the stream, and nothing here calls those, so
 * declarations are enough. The folder comes last in the include path: a wheel that ships the real
 * header wins.
 */
#ifndef SMARTMEM_RUNTIME_COMPAT_IO_H_
#define SMARTMEM_RUNTIME_COMPAT_IO_H_

#include <tvm/ffi/endian.h>

#include <cstddef>

namespace tvm {
namespace support {

class Stream {
 public:
  void Write(const void* data, size_t size);
  size_t Read(void* data, size_t size);
  template <typename T>
  void Write(const T& value);
  template <typename T>
  bool Read(T* value);
  template <typename T>
  void WriteArray(const T* values, size_t count);
  template <typename T>
  bool ReadArray(T* values, size_t count);
};

}  // namespace support
}  // namespace tvm
#endif  // SMARTMEM_RUNTIME_COMPAT_IO_H_
