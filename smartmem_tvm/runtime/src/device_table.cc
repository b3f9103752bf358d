/*!
 * Finding the OpenCL devices of this process and picking among them.
 */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "device.h"

namespace smartmem {
namespace {

template <typename T>
T Query(const ClApi& cl, cl_device_id id, cl_uint what) {
  T value{};
  cl.clGetDeviceInfo(id, what, sizeof(T), &value, nullptr);
  return value;
}

std::string QueryString(const ClApi& cl, cl_device_id id, cl_uint what) {
  size_t size = 0;
  if (cl.clGetDeviceInfo(id, what, 0, nullptr, &size) != CL_SUCCESS || size == 0) return "";
  std::string text(size, '\0');
  cl.clGetDeviceInfo(id, what, size, text.data(), nullptr);
  text.resize(std::strlen(text.c_str()));
  return text;
}

std::string QueryPlatform(const ClApi& cl, cl_platform_id id, cl_uint what) {
  size_t size = 0;
  if (cl.clGetPlatformInfo(id, what, 0, nullptr, &size) != CL_SUCCESS || size == 0) return "";
  std::string text(size, '\0');
  cl.clGetPlatformInfo(id, what, size, text.data(), nullptr);
  text.resize(std::strlen(text.c_str()));
  return text;
}

DeviceInfo ReadInfo(const ClApi& cl, cl_platform_id platform, cl_device_id id) {
  DeviceInfo info;
  info.name = QueryString(cl, id, CL_DEVICE_NAME);
  info.vendor = QueryString(cl, id, CL_DEVICE_VENDOR);
  info.platform = QueryPlatform(cl, platform, CL_PLATFORM_NAME);
  info.platform_vendor = QueryPlatform(cl, platform, CL_PLATFORM_VENDOR);
  info.driver_version = QueryString(cl, id, CL_DRIVER_VERSION);
  // "OpenCL 3.0 <vendor's text>": the number alone.
  std::istringstream version(QueryString(cl, id, CL_DEVICE_VERSION));
  std::string word;
  version >> word >> info.version;
  auto type = Query<cl_bitfield>(cl, id, CL_DEVICE_TYPE);
  info.type = type & CL_DEVICE_TYPE_GPU           ? "gpu"
              : type & CL_DEVICE_TYPE_ACCELERATOR ? "accelerator"
                                                  : "cpu";
  std::istringstream extensions(QueryString(cl, id, CL_DEVICE_EXTENSIONS));
  while (extensions >> word) info.extensions.push_back(word);
  info.fp16 = std::find(info.extensions.begin(), info.extensions.end(), "cl_khr_fp16") !=
              info.extensions.end();
  info.global_memory = Query<cl_ulong>(cl, id, CL_DEVICE_GLOBAL_MEM_SIZE);
  info.max_allocation = Query<cl_ulong>(cl, id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  info.local_memory = Query<cl_ulong>(cl, id, CL_DEVICE_LOCAL_MEM_SIZE);
  info.local_memory_in_hardware = Query<cl_uint>(cl, id, CL_DEVICE_LOCAL_MEM_TYPE) == CL_LOCAL;
  info.cache = Query<cl_ulong>(cl, id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE);
  info.cache_line = Query<cl_uint>(cl, id, CL_DEVICE_GLOBAL_MEM_CACHELINE_SIZE);
  info.max_work_group_size = Query<size_t>(cl, id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
  info.max_work_item_sizes.resize(
      std::max<cl_uint>(3, Query<cl_uint>(cl, id, CL_DEVICE_MAX_WORK_ITEM_DIMENSIONS)));
  cl.clGetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES,
                     info.max_work_item_sizes.size() * sizeof(size_t),
                     info.max_work_item_sizes.data(), nullptr);
  info.max_work_item_sizes.resize(3);  // kernels here have at most three dimensions
  info.compute_units = Query<cl_uint>(cl, id, CL_DEVICE_MAX_COMPUTE_UNITS);
  info.clock_mhz = Query<cl_uint>(cl, id, CL_DEVICE_MAX_CLOCK_FREQUENCY);
  info.images = Query<cl_bool>(cl, id, CL_DEVICE_IMAGE_SUPPORT) != 0;
  if (info.images) {
    info.image_width = Query<size_t>(cl, id, CL_DEVICE_IMAGE2D_MAX_WIDTH);
    info.image_height = Query<size_t>(cl, id, CL_DEVICE_IMAGE2D_MAX_HEIGHT);
    info.image_layers = Query<size_t>(cl, id, CL_DEVICE_IMAGE_MAX_ARRAY_SIZE);
  }
  return info;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string Trim(const std::string& text) {
  size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

/*! \brief Whether \p info is meant by one word of SMARTMEM_OPENCL_DEVICE. */
bool Matches(const DeviceInfo& info, size_t index, const std::string& selector) {
  if (selector.find_first_not_of("0123456789") == std::string::npos) {
    return selector == std::to_string(index);
  }
  std::string wanted = Lower(selector);
  for (const std::string& text : {info.name, info.platform, info.platform_vendor}) {
    if (Lower(text).find(wanted) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

DeviceTable& DeviceTable::Global() {
  static DeviceTable* table = new DeviceTable();
  return *table;
}

void DeviceTable::AddDriver(std::string path, std::string reason) {
  std::lock_guard<std::mutex> lock(mu_);
  packaged_.push_back({std::move(path), std::move(reason)});
}

void DeviceTable::Find() {
  std::lock_guard<std::mutex> lock(mu_);
  drivers_ = OpenDrivers(packaged_, &problems_);
  std::vector<std::unique_ptr<ClDevice>> found;
  std::vector<std::string> platforms_seen;
  for (const auto& driver : drivers_) {
    const ClApi& cl = driver->cl;
    cl_uint count = 0;
    if (cl.clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS) count = 0;
    std::vector<cl_platform_id> platforms(count);
    if (count > 0) cl.clGetPlatformIDs(count, platforms.data(), nullptr);
    if (count == 0) problems_.push_back(driver->path + ": has no platform");
    std::vector<std::string> here;
    for (cl_platform_id platform : platforms) {
      std::string identity = QueryPlatform(cl, platform, CL_PLATFORM_NAME) +
                             QueryPlatform(cl, platform, CL_PLATFORM_VERSION);
      // The system's loader may list a driver that was opened directly.
      if (std::find(platforms_seen.begin(), platforms_seen.end(), identity) !=
          platforms_seen.end()) {
        continue;
      }
      here.push_back(identity);
      cl_uint devices = 0;
      if (cl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &devices) != CL_SUCCESS) {
        continue;
      }
      std::vector<cl_device_id> ids(devices);
      cl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, devices, ids.data(), nullptr);
      for (cl_device_id id : ids) {
        DeviceInfo info = ReadInfo(cl, platform, id);
        if (std::atof(info.version.c_str()) < 1.2) {
          problems_.push_back("device '" + info.name + "' has OpenCL " + info.version +
                              ", 1.2 is needed");
          continue;
        }
        found.push_back(std::make_unique<ClDevice>(driver.get(), id, std::move(info)));
      }
    }
    platforms_seen.insert(platforms_seen.end(), here.begin(), here.end());
  }
  // GPUs first; otherwise the order in which the drivers were preferred.
  std::stable_partition(found.begin(), found.end(),
                        [](const auto& device) { return device->info().type == "gpu"; });
  const char* selectors = std::getenv("SMARTMEM_OPENCL_DEVICE");
  if (selectors == nullptr || *selectors == '\0') {
    devices_ = std::move(found);
    return;
  }
  std::vector<size_t> chosen;
  std::istringstream words(selectors);
  for (std::string word; std::getline(words, word, ',');) {
    std::string selector = Trim(word);
    if (selector.empty()) continue;
    bool matched = false;
    for (size_t i = 0; i < found.size(); ++i) {
      if (!Matches(found[i]->info(), i, selector)) continue;
      matched = true;
      if (std::find(chosen.begin(), chosen.end(), i) == chosen.end()) chosen.push_back(i);
    }
    if (matched) continue;
    std::string here;
    for (size_t i = 0; i < found.size(); ++i) {
      here += (i ? "; " : "") + std::to_string(i) + ": " + found[i]->info().name + " (" +
              found[i]->info().platform + ")";
    }
    problems_.push_back("SMARTMEM_OPENCL_DEVICE: no device matches '" + selector +
                        "'; devices here: " + (here.empty() ? "none" : here));
  }
  for (size_t i : chosen) devices_.push_back(std::move(found[i]));
}

size_t DeviceTable::size() {
  std::call_once(found_, [this] { Find(); });
  return devices_.size();
}

ClDevice& DeviceTable::Get(int index) {
  CheckNotForked();
  if (index < 0 || static_cast<size_t>(index) >= size()) {
    std::ostringstream why;
    for (const std::string& problem : problems_) why << "\n  " << problem;
    SMARTMEM_THROW() << "there is no OpenCL device " << index << "; " << size()
                     << " found. Install a driver (x86-64: pip install intel-opencl-rt; Debian, "
                        "Ubuntu: apt install pocl-opencl-icd), or check SMARTMEM_OPENCL_DEVICE."
                     << why.str();
  }
  devices_[index]->Open();
  return *devices_[index];
}

std::string DeviceTable::ToJson() {
  std::ostringstream out;
  out << "{\"devices\": [";
  for (size_t i = 0; i < size(); ++i) {
    const DeviceInfo& d = devices_[i]->info();
    auto list = [&](const auto& values, auto print) {
      for (size_t k = 0; k < values.size(); ++k) out << (k ? ", " : "") << print(values[k]);
    };
    auto flag = [](bool value) { return value ? "true" : "false"; };
    out << (i ? ", " : "") << "{\"index\": " << i << ", \"name\": " << JsonString(d.name)
        << ", \"vendor\": " << JsonString(d.vendor) << ", \"platform\": " << JsonString(d.platform)
        << ", \"platform_vendor\": " << JsonString(d.platform_vendor)
        << ", \"type\": " << JsonString(d.type) << ", \"version\": " << JsonString(d.version)
        << ", \"driver_version\": " << JsonString(d.driver_version)
        << ", \"library\": " << JsonString(devices_[i]->driver().path)
        << ", \"source\": " << JsonString(devices_[i]->driver().reason) << ", \"extensions\": [";
    list(d.extensions, JsonString);
    out << "], \"global_memory\": " << d.global_memory
        << ", \"max_allocation\": " << d.max_allocation << ", \"local_memory\": " << d.local_memory
        << ", \"local_memory_in_hardware\": " << flag(d.local_memory_in_hardware)
        << ", \"cache\": " << d.cache << ", \"cache_line\": " << d.cache_line
        << ", \"max_work_group_size\": " << d.max_work_group_size << ", \"max_work_item_sizes\": [";
    list(d.max_work_item_sizes, [](size_t value) { return std::to_string(value); });
    out << "], \"compute_units\": " << d.compute_units << ", \"clock_mhz\": " << d.clock_mhz
        << ", \"image2d_max_width\": " << d.image_width
        << ", \"image2d_max_height\": " << d.image_height
        << ", \"image_max_array_size\": " << d.image_layers << ", \"images\": " << flag(d.images)
        << ", \"fp16\": " << flag(d.fp16) << "}";
  }
  out << "], \"problems\": [";
  for (size_t i = 0; i < problems_.size(); ++i) out << (i ? ", " : "") << JsonString(problems_[i]);
  out << "]}";
  return out.str();
}

}  // namespace smartmem
