/*!
 * Program binaries on disk, so that a kernel is compiled once per machine and driver.
 *
 * An entry's name is a hash of source, options, device, driver and their versions. The entry
 * repeats that text, so a hash collision is a miss and never a wrong kernel, and carries a
 * checksum, so a damaged file is a miss too. Entries are written under a temporary name and
 * renamed.
 */
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "launch.h"

namespace smartmem {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[] = "smartmem-program-1\n";
constexpr uintmax_t kDefaultLimitBytes = uintmax_t{512} << 20;

uint64_t Hash(const std::string& text, uint64_t state = 0xcbf29ce484222325ull) {
  for (unsigned char c : text) state = (state ^ c) * 0x100000001b3ull;  // FNV-1a
  return state;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/*! \brief The cache's folder; empty when there is no place for one or it is switched off. */
fs::path CacheFolder() {
  if (std::string chosen = Environment("SMARTMEM_CACHE_DIR"); !chosen.empty()) {
    return chosen == "off" ? fs::path() : fs::path(chosen) / "programs";
  }
  if (std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty()) {
    return fs::path(xdg) / "smartmem_tvm" / "programs";
  }
  std::string home = Environment("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".cache" / "smartmem_tvm" / "programs";
}

void AppendField(std::string* out, const std::string& field) {
  uint64_t size = field.size();
  out->append(reinterpret_cast<const char*>(&size), sizeof(size));
  out->append(field);
}

bool TakeField(const std::string& data, size_t* at, std::string* field) {
  uint64_t size = 0;
  if (data.size() - *at < sizeof(size)) return false;
  std::memcpy(&size, data.data() + *at, sizeof(size));
  *at += sizeof(size);
  if (data.size() - *at < size) return false;
  *field = data.substr(*at, size);
  *at += size;
  return true;
}

std::string ReadBinary(const fs::path& file, const std::string& key) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return "";
  std::ostringstream whole;
  whole << in.rdbuf();
  std::string data = whole.str(), stored_key, binary, checksum;
  size_t at = sizeof(kMagic) - 1;
  if (data.compare(0, at, kMagic) != 0 || !TakeField(data, &at, &stored_key) ||
      !TakeField(data, &at, &binary) || !TakeField(data, &at, &checksum) || stored_key != key ||
      checksum != std::to_string(Hash(binary))) {
    return "";
  }
  return binary;
}

/*! \brief Remove the oldest entries once the folder outgrows its limit; once per process. */
void Prune(const fs::path& folder) {
  uintmax_t limit = kDefaultLimitBytes;
  std::string mib = Environment("SMARTMEM_CACHE_LIMIT_MB");
  if (!mib.empty() && mib.size() < 9 && mib.find_first_not_of("0123456789") == std::string::npos) {
    limit = std::strtoull(mib.c_str(), nullptr, 10) << 20;
  }
  struct Entry {
    fs::path path;
    uintmax_t size;
    fs::file_time_type written;
  };
  std::vector<Entry> entries;
  uintmax_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    fs::path extension = it->path().extension();
    if (extension != ".bin" && extension != ".tmp") continue;  // not ours
    std::error_code no_size, no_time;
    uintmax_t size = it->file_size(no_size);
    auto written = it->last_write_time(no_time);
    if (no_size || no_time) continue;  // another process removed it
    entries.push_back({it->path(), size, written});
    total += size;
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.written < b.written; });
  for (const Entry& entry : entries) {
    if (total <= limit) break;
    fs::remove(entry.path, error);
    total -= entry.size;
  }
}

void WriteBinary(const fs::path& file, const std::string& key, const std::string& binary) {
  static std::once_flag pruned;
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  std::call_once(pruned, [&] { Prune(file.parent_path()); });
  static std::atomic<int> counter{0};
  fs::path partial = file;
  partial += "." + std::to_string(getpid()) + "." + std::to_string(counter++) + ".tmp";
  std::string data = kMagic;
  AppendField(&data, key);
  AppendField(&data, binary);
  AppendField(&data, std::to_string(Hash(binary)));
  std::ofstream out(partial, std::ios::binary);
  out.write(data.data(), static_cast<std::streamsize>(data.size()));
  out.close();
  // A cache that cannot be written (disk full, read-only home) costs time, not correctness.
  if (out) fs::rename(partial, file, error);
  if (!out || error) fs::remove(partial, error);
}

/*!
 * \brief The instruction sets of the host's processor, for devices that are it: their drivers
 * compile for all of them and name the device the same on processors that differ.
 */
std::string ProcessorFeatures(const DeviceInfo& info) {
  if (info.type != "cpu") return "";
  static const std::string features = [] {
    std::ifstream in("/proc/cpuinfo");
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) return line;
    }
    return std::string();
  }();
  return features;
}

std::string GetBinary(ClDevice& device, cl_program program) {
  size_t size = 0;
  const ClApi& cl = device.cl();
  if (cl.clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof(size), &size, nullptr) !=
      CL_SUCCESS) {
    return "";
  }
  std::string binary(size, '\0');
  unsigned char* data = reinterpret_cast<unsigned char*>(binary.data());
  if (size == 0 || cl.clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof(data), &data,
                                       nullptr) != CL_SUCCESS) {
    return "";
  }
  return binary;
}

/*! \brief A program from a cached binary, or null when the driver does not take it back. */
cl_program FromBinary(ClDevice& device, const std::string& binary, const std::string& options) {
  const ClApi& cl = device.cl();
  cl_device_id id = device.id();
  size_t size = binary.size();
  const unsigned char* data = reinterpret_cast<const unsigned char*>(binary.data());
  cl_int status = CL_SUCCESS, binary_status = CL_SUCCESS;
  cl_program program =
      cl.clCreateProgramWithBinary(device.context(), 1, &id, &size, &data, &binary_status, &status);
  if (status != CL_SUCCESS) return nullptr;
  if (binary_status == CL_SUCCESS &&
      cl.clBuildProgram(program, 1, &id, options.c_str(), nullptr, nullptr) == CL_SUCCESS) {
    return program;
  }
  cl.clReleaseProgram(program);
  return nullptr;
}

std::string BuildLog(ClDevice& device, cl_program program) {
  size_t size = 0;
  const ClApi& cl = device.cl();
  cl.clGetProgramBuildInfo(program, device.id(), CL_PROGRAM_BUILD_LOG, 0, nullptr, &size);
  std::string log(size, '\0');
  cl.clGetProgramBuildInfo(program, device.id(), CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr);
  log.resize(std::strlen(log.c_str()));
  // Messages are UTF-8; a compiler may quote anything.
  for (char& c : log) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  return log.empty() ? "(the driver gave no log)" : log;
}

}  // namespace

cl_program BuildProgram(ClDevice& device, const std::string& kernel, const std::string& source) {
  const ClApi& cl = device.cl();
  const DeviceInfo& info = device.info();
  std::string options = Environment("SMARTMEM_OPENCL_BUILD_OPTIONS");
  std::string key;
  for (const std::string& part : {info.platform, info.name, info.version, info.driver_version,
                                  device.driver().path, ProcessorFeatures(info), options, source}) {
    AppendField(&key, part);
  }
  fs::path folder = CacheFolder(), file;
  if (!folder.empty()) {
    std::ostringstream name;
    name << std::hex << Hash(key) << ".bin";
    file = folder / name.str();
    std::string binary = ReadBinary(file, key);
    if (!binary.empty()) {
      if (cl_program program = FromBinary(device, binary, options)) return program;
    }
  }
  cl_int status = CL_SUCCESS;
  const char* text = source.c_str();
  size_t size = source.size();
  cl_program program = cl.clCreateProgramWithSource(device.context(), 1, &text, &size, &status);
  device.Check(status, "creating the program of kernel '" + kernel + "'");
  cl_device_id id = device.id();
  status = cl.clBuildProgram(program, 1, &id, options.c_str(), nullptr, nullptr);
  if (status != CL_SUCCESS) {
    std::string log = BuildLog(device, program);
    cl.clReleaseProgram(program);
    SMARTMEM_THROW() << "kernel '" << kernel << "' does not compile on " << device.Describe()
                     << ": " << StatusName(status)
                     << ". Its source is in the artefact's sources/ folder; the compiler says:\n"
                     << log;
  }
  if (!file.empty()) {
    std::string binary = GetBinary(device, program);
    if (!binary.empty()) WriteBinary(file, key, binary);
  }
  return program;
}

}  // namespace smartmem
