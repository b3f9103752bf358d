/*!
 * The serialised form of TVM's OpenCL modules: format, function table, code.
 */
#ifndef SMARTMEM_RUNTIME_SERIALIZE_H_
#define SMARTMEM_RUNTIME_SERIALIZE_H_

#include <dlpack/dlpack.h>

#include <cstdint>
#include <string>
#include <vector>

namespace smartmem {

/*! \brief One entry of a module's function table. */
struct KernelSignature {
  std::string key;   // the name a module looks the function up by
  std::string name;  // the name of the kernel in the source
  std::vector<DLDataType> arg_types;
  std::vector<std::string> launch_tags;
  std::vector<int32_t> extra_tags;
};

struct ModuleContent {
  std::string format;
  std::vector<KernelSignature> kernels;
  std::string code;
};

std::string Serialize(const ModuleContent& content);
/*! \brief The inverse; throws a DeviceError on anything that is not exactly one module. */
ModuleContent Deserialize(const std::string& bytes);

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_SERIALIZE_H_
