/*!
 * TVM's OpenCL modules: kernels in source form, built on first launch, launched with their
 * arguments.
 */
#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <map>
#include <string_view>
#include <system_error>
#include <thread>
#include <unordered_set>

#include "kernel.h"
#include "serialize.h"

namespace tvm {
namespace runtime {

/*!
 * \brief The function table entry that TVM's code generator passes to a module factory.
 *
 * The wheel's header for it needs files that the wheel lacks, so its four fields are declared here
 * again, under its registered type key. The loader accepts only the TVM version this was checked
 * with.
 */
class FunctionInfoObj : public ffi::Object {
 public:
  ffi::String name;
  ffi::Array<DLDataType> arg_types;
  ffi::Array<ffi::String> launch_param_tags;
  ffi::Array<int64_t> arg_extra_tags;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("runtime.FunctionInfo", FunctionInfoObj, ffi::Object);
};

class FunctionInfo : public ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NULLABLE(FunctionInfo, ffi::ObjectRef, FunctionInfoObj);
};

}  // namespace runtime
}  // namespace tvm

namespace smartmem {
namespace {

namespace ffi = tvm::ffi;

constexpr char kFunctionMark[] = "// Function: ";

/*! \brief The code of each function: the generator writes a line `// Function: NAME` before each.
 */
std::map<std::string, std::string> SplitByFunction(const std::string& code) {
  std::map<std::string, std::string> parts;
  const size_t mark_size = sizeof(kFunctionMark) - 1;
  for (size_t at = code.find(kFunctionMark); at != std::string::npos;) {
    size_t line_end = std::min(code.find('\n', at), code.size());
    size_t next = code.find(kFunctionMark, line_end);
    std::string name = code.substr(at + mark_size, line_end - at - mark_size);
    parts[name] = code.substr(line_end, next == std::string::npos ? next : next - line_end);
    at = next;
  }
  return parts;
}

bool IsIdentifierPart(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/*! \brief The kernel that a line `__kernel void NAME(...);` declares and no more; else empty. */
std::string_view DeclaredKernel(std::string_view line) {
  constexpr std::string_view begin = "__kernel void ", end = ");";
  if (line.size() < begin.size() + end.size() || line.substr(0, begin.size()) != begin ||
      line.substr(line.size() - end.size()) != end ||
      std::count(line.begin(), line.end(), '(') != 1 || line.find('{') != line.npos) {
    return {};
  }
  std::string_view name = line.substr(begin.size(), line.find('(') - begin.size());
  return std::all_of(name.begin(), name.end(), IsIdentifierPart) ? name : std::string_view();
}

/*! \brief Append the code of one function without declarations of kernels that it never names. */
void AppendNamed(std::string_view code, std::string* out) {
  std::vector<std::string_view> lines;
  std::unordered_set<std::string_view> named;
  for (size_t at = 0; at < code.size();) {
    size_t line_end = std::min(code.find('\n', at), code.size());
    std::string_view line = code.substr(at, line_end - at);
    lines.push_back(code.substr(at, line_end + 1 - at));
    at = line_end + 1;
    if (!DeclaredKernel(line).empty()) continue;
    for (size_t i = 0; i < line.size(); ++i) {
      size_t start = i;
      while (i < line.size() && IsIdentifierPart(line[i])) ++i;
      if (i > start) named.insert(line.substr(start, i - start));
    }
  }
  for (std::string_view line : lines) {
    std::string_view kernel = DeclaredKernel(line.substr(0, line.find('\n')));
    if (kernel.empty() || named.count(kernel)) out->append(line);
  }
}

/*!
 * \brief The code with the declarations alone that each function needs.
 *
 * The generator declares all kernels before the first; the build of a function for each kernel
 * repeats them in each. In a large network they are longer than the kernel, and a driver would
 * compile a kernel anew because another changed.
 */
std::string WithNeededDeclarations(const std::string& code) {
  std::string out;
  for (size_t at = 0; at < code.size();) {
    size_t next = std::min(code.find(kFunctionMark, at + 1), code.size());
    AppendNamed(std::string_view(code).substr(at, next - at), &out);
    at = next;
  }
  return out;
}

class OpenCLModule final : public ffi::ModuleObj {
 public:
  OpenCLModule(ModuleContent content, std::map<std::string, std::string> sources)
      : content_(std::move(content)), sources_(std::move(sources)) {
    if (content_.format != "cl") {
      SMARTMEM_THROW() << "an OpenCL module of format '" << content_.format
                       << "' cannot be run; only OpenCL C source ('cl') can.";
    }
    content_.code = WithNeededDeclarations(content_.code);
    auto parts = SplitByFunction(content_.code);
    for (const KernelSignature& signature : content_.kernels) {
      auto part = parts.find(signature.name);
      if (part == parts.end()) {
        SMARTMEM_THROW() << "an OpenCL module lists kernel '" << signature.name
                         << "' but has no source for it. Export the model again.";
      }
      kernels_.emplace(signature.key, std::make_shared<Kernel>(signature, part->second));
    }
  }

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(Serialize(content_)); }

  ffi::String InspectSource(const ffi::String& format) const final {
    auto it = sources_.find(format);
    if (it != sources_.end()) return it->second;
    return format.empty() || format == "cl" ? content_.code : std::string();
  }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    if (name == "smartmem.build_all") {
      return ffi::Function::FromTyped(
          [self = ffi::GetObjectPtr<OpenCLModule>(this)](int device_id) {
            self->BuildAll(DeviceTable::Global().Get(device_id));
          });
    }
    auto it = kernels_.find(name);
    if (it == kernels_.end()) return std::nullopt;
    // The kernel is shared, not the module: it outlives the module where a caller keeps it.
    return ffi::Function::FromPacked(
        [kernel = it->second](ffi::PackedArgs args, ffi::Any* rv) { kernel->Launch(args); });
  }

 private:
  /*! \brief Compile all kernels now, on as many threads as the host has. */
  void BuildAll(ClDevice& device) {
    std::vector<Kernel*> todo;
    for (auto& [key, kernel] : kernels_) todo.push_back(kernel.get());
    std::atomic<size_t> next{0};
    std::mutex mu;
    std::exception_ptr first_error;
    auto work = [&] {
      for (size_t i = next++; i < todo.size(); i = next++) {
        try {
          todo[i]->Build(device);
        } catch (...) {  // carried to the calling thread and thrown there
          std::lock_guard<std::mutex> lock(mu);
          if (!first_error) first_error = std::current_exception();
          next = todo.size();
        }
      }
    };
    // Oclgrind 21.10 crashes when two threads compile at once.
    size_t most = device.info().platform == "Oclgrind" ? 1 : std::thread::hardware_concurrency();
    size_t threads = std::min(std::max(size_t{1}, most), todo.size());
    std::vector<std::thread> workers;
    try {
      for (size_t i = 1; i < threads; ++i) workers.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads: those that started do the work
    }
    work();
    for (std::thread& worker : workers) worker.join();
    if (first_error) std::rethrow_exception(first_error);
  }

  ModuleContent content_;
  std::map<std::string, std::string> sources_;
  std::map<std::string, std::shared_ptr<Kernel>> kernels_;
};

ffi::Module Create(ffi::Bytes code, ffi::String format,
                   ffi::Map<ffi::String, tvm::runtime::FunctionInfo> functions,
                   ffi::Map<ffi::String, ffi::String> sources) {
  ModuleContent content;
  content.format = format;
  content.code = std::string(code.data(), code.size());
  for (const auto& [key, info] : functions) {
    KernelSignature signature;
    signature.key = key;
    signature.name = info->name;
    for (DLDataType type : info->arg_types) signature.arg_types.push_back(type);
    for (const ffi::String& tag : info->launch_param_tags) signature.launch_tags.push_back(tag);
    for (int64_t tag : info->arg_extra_tags)
      signature.extra_tags.push_back(static_cast<int32_t>(tag));
    content.kernels.push_back(std::move(signature));
  }
  std::map<std::string, std::string> texts;
  for (const auto& [name, text] : sources) {
    if (name != format) texts[name] = text;  // that one is the code
  }
  return ffi::Module(ffi::make_object<OpenCLModule>(std::move(content), std::move(texts)));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def("ffi.Module.create.opencl", Create)
      .def("ffi.Module.load_from_bytes.opencl",
           [](const ffi::Bytes& bytes) {
             return ffi::Module(ffi::make_object<OpenCLModule>(
                 Deserialize(std::string(bytes.data(), bytes.size())),
                 std::map<std::string, std::string>()));
           })
      .def("smartmem.opencl.add_driver",
           [](const ffi::String& path, const ffi::String& reason) {
             DeviceTable::Global().AddDriver(path, reason);
           })
      .def("smartmem.opencl.devices",
           []() -> ffi::String { return DeviceTable::Global().ToJson(); })
      .def("smartmem.opencl.event_timestamps",
           [](int device_id) { return DeviceTable::Global().Get(device_id).EventTimestamps(); })
      .def("smartmem.opencl.pool_stats",
           [](int device_id) -> ffi::String {
             return DeviceTable::Global().Get(device_id).pool().ToJson();
           })
      .def("smartmem.opencl.release_pool",
           [](int device_id) { DeviceTable::Global().Get(device_id).pool().ReleaseFree(); });
}

}  // namespace
}  // namespace smartmem
