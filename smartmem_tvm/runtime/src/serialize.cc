#include "serialize.h"

#include <algorithm>
#include <cstring>

#include "device.h"

namespace smartmem {
namespace {

// Little-endian, as TVM writes on every host it supports. Strings and lists carry a 64-bit count.
class Writer {
 public:
  template <typename T>
  void Value(T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(const std::string& text) {
    Value<uint64_t>(text.size());
    out.append(text);
  }
  std::string out;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  template <typename T>
  T Value(const char* what) {
    T value;
    Need(sizeof(T), what);
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  /*! \brief A count of items that take at least \p smallest bytes each. */
  size_t Count(size_t smallest, const char* what) {
    auto count = Value<uint64_t>(what);
    // Checked against what is there, so that a damaged count cannot ask for memory.
    if (count > (bytes_.size() - at_) / smallest) Fail(what);
    return static_cast<size_t>(count);
  }
  std::string String(const char* what) {
    size_t size = Count(1, what);
    std::string text = bytes_.substr(at_, size);
    at_ += size;
    return text;
  }
  /*! \brief A name; in a damaged module it may hold anything, and messages must stay readable. */
  std::string Name(const char* what) {
    std::string text = String(what);
    bool printable = std::all_of(text.begin(), text.end(),
                                 [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
    if (!printable) Fail(what);
    return text;
  }
  void End() {
    if (at_ != bytes_.size()) Fail("end");
  }

 private:
  void Need(size_t size, const char* what) {
    if (bytes_.size() - at_ < size) Fail(what);
  }
  [[noreturn]] void Fail(const char* what) {
    SMARTMEM_THROW() << "a serialised OpenCL module of " << bytes_.size()
                     << " bytes is damaged at byte " << at_ << " (" << what
                     << "). Export the model again.";
    TVM_FFI_UNREACHABLE();
  }
  const std::string& bytes_;
  size_t at_ = 0;
};

}  // namespace

std::string Serialize(const ModuleContent& content) {
  Writer w;
  w.String(content.format);
  w.Value<uint64_t>(content.kernels.size());
  for (const KernelSignature& kernel : content.kernels) {
    w.String(kernel.key);
    w.String(kernel.name);
    w.Value<uint64_t>(kernel.arg_types.size());
    for (DLDataType type : kernel.arg_types) {
      w.Value<uint8_t>(type.code);
      w.Value<uint8_t>(type.bits);
      w.Value<uint16_t>(type.lanes);
    }
    w.Value<uint64_t>(kernel.launch_tags.size());
    for (const std::string& tag : kernel.launch_tags) w.String(tag);
    w.Value<uint64_t>(kernel.extra_tags.size());
    for (int32_t tag : kernel.extra_tags) w.Value<int32_t>(tag);
  }
  w.String(content.code);
  return std::move(w.out);
}

ModuleContent Deserialize(const std::string& bytes) {
  Reader r(bytes);
  ModuleContent content;
  content.format = r.Name("format");
  size_t kernels = r.Count(8 * 5, "function table");
  for (size_t i = 0; i < kernels; ++i) {
    KernelSignature kernel;
    kernel.key = r.Name("function key");
    kernel.name = r.Name("function name");
    for (size_t n = r.Count(4, "argument types"); n > 0; --n) {
      DLDataType type;
      type.code = r.Value<uint8_t>("argument type");
      type.bits = r.Value<uint8_t>("argument type");
      type.lanes = r.Value<uint16_t>("argument type");
      kernel.arg_types.push_back(type);
    }
    for (size_t n = r.Count(8, "launch tags"); n > 0; --n) {
      kernel.launch_tags.push_back(r.Name("launch tag"));
    }
    for (size_t n = r.Count(4, "extra tags"); n > 0; --n) {
      kernel.extra_tags.push_back(r.Value<int32_t>("extra tag"));
    }
    content.kernels.push_back(std::move(kernel));
  }
  content.code = r.String("code");
  r.End();
  return content;
}

}  // namespace smartmem
