/*!
 * Caches of a mobile GPU, fed with the accesses of a traced kernel.
 *
 * Per core a texture L1 and, where a configuration has one, a buffer L1; one L2 for all. One trace
 * feeds several configurations at once. docs/simulation.md says what is counted and how.
 */
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#define SMARTMEM_CACHES_API extern "C" __attribute__((visibility("default")))

namespace smartmem {
namespace {

/*! A set-associative cache with LRU replacement; lines are numbers. */
class Cache {
 public:
  Cache(int64_t bytes, int64_t line_bytes, int64_t ways)
      : ways_(ways), sets_(bytes / line_bytes / ways), entries_(sets_ * ways) {}

  struct Outcome {
    bool hit;
    bool wrote_back;
  };

  /*! Looks a line up and brings it in on a miss. */
  Outcome Access(int64_t line, bool write) {
    Entry* set = &entries_[line % sets_ * ways_];
    Entry* victim = set;
    for (Entry* entry = set; entry != set + ways_; ++entry) {
      if (entry->line == line) {
        entry->used = ++clock_;
        entry->dirty |= write;
        return {true, false};
      }
      if (entry->used < victim->used) victim = entry;
    }
    bool wrote_back = victim->dirty;
    *victim = {line, ++clock_, write};
    return {false, wrote_back};
  }

  /*! Empties the cache; returns how many lines had to be written back. */
  int64_t Flush() {
    auto dirty = [](const Entry& entry) { return entry.dirty; };
    int64_t written = std::count_if(entries_.begin(), entries_.end(), dirty);
    std::fill(entries_.begin(), entries_.end(), Entry());
    clock_ = 0;
    return written;
  }

 private:
  struct Entry {
    int64_t line = -1;
    int64_t used = 0;  // 0: empty, and so the first victim
    bool dirty = false;
  };
  int64_t ways_;
  int64_t sets_;
  int64_t clock_ = 0;
  std::vector<Entry> entries_;
};

/*! A set of numbers that is emptied in constant time; it also adds up bytes. */
class NumberSet {
 public:
  void Clear() {
    ++now_;
    size_ = 0;
    bytes = 0;
  }

  bool Contains(uint64_t number) const { return slots_[Find(number)].since == now_; }

  /*! Returns whether the number is new. */
  bool Insert(uint64_t number) {
    if (2 * (size_ + 1) > slots_.size()) Grow();
    Slot& slot = slots_[Find(number)];
    if (slot.since == now_) return false;
    slot = {number, now_};
    ++size_;
    return true;
  }

  int64_t bytes = 0;

 private:
  struct Slot {
    uint64_t number = 0;
    uint64_t since = 0;
  };

  size_t Find(uint64_t number) const {
    size_t mask = slots_.size() - 1;
    size_t at = (number * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[at].since == now_ && slots_[at].number != number) at = (at + 1) & mask;
    return at;
  }

  void Grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.since == now_) slots_[Find(slot.number)] = slot;
    }
  }

  uint64_t now_ = 1;
  size_t size_ = 0;
  std::vector<Slot> slots_ = std::vector<Slot>(64);
};

/*! Fields of smartmem_tvm.simulation.cache_model.Configuration, in order; 0 bytes: no such cache.
 */
struct Configuration {
  int64_t line_bytes, texture_bytes, texture_ways, tile_width, tile_height;
  int64_t buffer_bytes, buffer_ways, l2_bytes, l2_ways;
};

/*! A buffer, or an image where the width is not 0. */
struct Memory {
  int64_t width, height, layers, element_bytes, bytes;
};

/*! One memory instruction of the kernel. */
struct Site {
  int64_t memory, bytes, store, level;
};

enum Space { kTexture, kBuffer, kL2, kSpaces };
struct Level {
  int64_t lookups = 0, misses = 0, write_backs = 0;
};

/*! The caches of one configuration. */
class Hierarchy {
 public:
  Hierarchy(const Configuration& config, int64_t cores)
      : config_(config), l2_(config.l2_bytes, config.line_bytes, config.l2_ways) {
    for (int64_t core = 0; core < cores; ++core) {
      texture_.emplace_back(config.texture_bytes, config.line_bytes, config.texture_ways);
      if (config.buffer_bytes != 0)
        buffer_.emplace_back(config.buffer_bytes, config.line_bytes, config.buffer_ways);
    }
  }

  /*! Line of each memory's first byte: one memory after the other. */
  void Place(const std::vector<Memory>& memories) {
    first_.clear();
    int64_t next = 0;
    for (const Memory& memory : memories) {
      first_.push_back(next);
      int64_t tiles = TilesPerRow(memory) * RowsOfTiles(memory) * memory.layers;
      int64_t bytes = memory.bytes + config_.line_bytes - 1;
      next += memory.width != 0 ? tiles : std::max<int64_t>(1, bytes / config_.line_bytes);
    }
  }

  /*! One instruction of a wave: each line is looked up once, in the order of the work-items. */
  void Issue(const Memory& memory, const Site& site, int64_t core, const int64_t* places,
             int64_t count) {
    seen_.Clear();
    for (int64_t i = 0; i < count; ++i) {
      if (places[i] < 0) continue;
      if (memory.width != 0) {
        Look(first_[site.memory] + Tile(memory, places[i]), kTexture, site.store, core);
        continue;
      }
      int64_t last = (places[i] + site.bytes - 1) / config_.line_bytes;
      for (int64_t line = places[i] / config_.line_bytes; line <= last; ++line)
        Look(first_[site.memory] + line, kBuffer, site.store, core);
    }
  }

  void Flush() {
    for (Cache& cache : texture_) cache.Flush();
    for (Cache& cache : buffer_) cache.Flush();
    levels[kL2].write_backs += l2_.Flush();
  }

  Level levels[kSpaces];

 private:
  int64_t TilesPerRow(const Memory& memory) const {
    return memory.width == 0 ? 0 : (memory.width + TileWidth(memory) - 1) / TileWidth(memory);
  }
  int64_t RowsOfTiles(const Memory& memory) const {
    return (memory.height + config_.tile_height - 1) / config_.tile_height;
  }
  int64_t TileWidth(const Memory& memory) const {
    return config_.tile_width * 16 / memory.element_bytes;
  }
  int64_t Tile(const Memory& memory, int64_t texel) const {
    int64_t x = texel % memory.width, row = texel / memory.width;
    int64_t y = row % memory.height, layer = row / memory.height;
    int64_t tile_row = layer * RowsOfTiles(memory) + y / config_.tile_height;
    return tile_row * TilesPerRow(memory) + x / TileWidth(memory);
  }

  void Look(int64_t line, Space space, bool write, int64_t core) {
    if (!seen_.Insert(static_cast<uint64_t>(line))) return;
    std::vector<Cache>& first_level = space == kTexture ? texture_ : buffer_;
    if (!write && !first_level.empty()) {
      ++levels[space].lookups;
      if (first_level[core].Access(line, false).hit) return;
      ++levels[space].misses;
    }
    ++levels[kL2].lookups;
    Cache::Outcome outcome = l2_.Access(line, write);
    levels[kL2].misses += !outcome.hit;
    levels[kL2].write_backs += outcome.wrote_back;
  }

  Configuration config_;
  std::vector<Cache> texture_, buffer_;
  Cache l2_;
  std::vector<int64_t> first_;
  NumberSet seen_;
};

constexpr uint64_t kStored = 0x5bd1e995u;
// What a work-item keeps of each loop depth: 128 registers of 32 bits. Then it starts anew.
constexpr int64_t kRegisterBytes = 512;
enum Kind { kBufferLoad, kBufferStore, kImageRead, kImageWrite, kKinds };

/*! All configurations, and what the work-items of each wave hold in registers. */
class Model {
 public:
  Model(int64_t cores, int64_t wave, const Configuration* configs, int64_t count)
      : cores_(cores), wave_(wave) {
    for (int64_t i = 0; i < count; ++i) hierarchies_.emplace_back(configs[i], cores);
  }

  void Begin(std::vector<Memory> memories, std::vector<Site> sites) {
    memories_ = std::move(memories);
    sites_ = std::move(sites);
    for (Hierarchy& each : hierarchies_) {
      each.Flush();
      each.Place(memories_);
      std::fill(std::begin(each.levels), std::end(each.levels), Level());
    }
    std::fill(std::begin(requests_), std::end(requests_), 0);
    std::fill(std::begin(bytes_), std::end(bytes_), 0);
    Forget(0);
  }

  void End() {
    for (Hierarchy& each : hierarchies_) each.Flush();
  }

  void Forget(int64_t level) {
    for (auto& levels : registers_) {
      for (size_t i = level; i < levels.size(); ++i) levels[i].Clear();
    }
  }

  void Access(int64_t number, const int64_t* places, int64_t group) {
    const Site& site = sites_[number];
    int64_t waves = (group + wave_ - 1) / wave_;
    registers_.resize(std::max<size_t>(registers_.size(), cores_ * waves));
    for (int64_t core = 0; core < cores_; ++core) {
      for (int64_t wave = 0; wave < waves; ++wave) {
        int64_t first = wave * wave_;
        int64_t count = std::min(wave_, group - first);
        Instruction(site, core, registers_[core * waves + wave], places + core * group + first,
                    count);
      }
    }
  }

  /*! Requests and bytes by kind; then look-ups, misses and write-backs by configuration, level. */
  void Read(int64_t* out) const {
    out = std::copy(std::begin(requests_), std::end(requests_), out);
    out = std::copy(std::begin(bytes_), std::end(bytes_), out);
    for (const Hierarchy& each : hierarchies_) {
      for (const Level& level : each.levels) {
        *out++ = level.lookups;
        *out++ = level.misses;
        *out++ = level.write_backs;
      }
    }
  }

 private:
  void Instruction(const Site& site, int64_t core, std::vector<NumberSet>& registers,
                   const int64_t* places, int64_t count) {
    uint64_t name = site.memory * 1000003u + site.bytes;
    int64_t active = 0;
    for (int64_t i = 0; i < count; ++i) {
      name = (name ^ static_cast<uint64_t>(places[i])) * 0x9E3779B97F4A7C15u;
      name ^= name >> 29;
      active += places[i] >= 0;
    }
    if (active == 0) return;
    uint64_t sought = site.store ? name ^ kStored : name;
    for (const NumberSet& level : registers) {
      if (level.Contains(sought)) return;
    }
    registers.resize(std::max<size_t>(registers.size(), site.level + 1));
    NumberSet& kept = registers[site.level];
    if (kept.bytes + site.bytes > kRegisterBytes) kept.Clear();
    kept.bytes += site.bytes;
    kept.Insert(name);
    if (site.store) kept.Insert(sought);

    const Memory& memory = memories_[site.memory];
    int kind = (memory.width != 0 ? kImageRead : kBufferLoad) + (site.store ? 1 : 0);
    requests_[kind] += active;
    bytes_[kind] += active * site.bytes;
    for (Hierarchy& each : hierarchies_) each.Issue(memory, site, core, places, count);
  }

  int64_t cores_;
  int64_t wave_;
  std::vector<Hierarchy> hierarchies_;
  std::vector<Memory> memories_;
  std::vector<Site> sites_;
  std::vector<std::vector<NumberSet>> registers_;  // by wave in flight, then by loop depth
  int64_t requests_[kKinds] = {};
  int64_t bytes_[kKinds] = {};
};

}  // namespace
}  // namespace smartmem

using smartmem::Model;

SMARTMEM_CACHES_API void* smartmem_caches_create(int64_t cores, int64_t wave,
                                                 const int64_t* configs, int64_t count) {
  return new Model(cores, wave, reinterpret_cast<const smartmem::Configuration*>(configs), count);
}

SMARTMEM_CACHES_API void smartmem_caches_destroy(void* model) { delete static_cast<Model*>(model); }

/*! A new launch: empty caches, counters at zero. */
SMARTMEM_CACHES_API void smartmem_caches_begin(void* model, const int64_t* memories,
                                               int64_t memory_count, const int64_t* sites,
                                               int64_t site_count) {
  auto* memory = reinterpret_cast<const smartmem::Memory*>(memories);
  auto* site = reinterpret_cast<const smartmem::Site*>(sites);
  static_cast<Model*>(model)->Begin({memory, memory + memory_count}, {site, site + site_count});
}

/*! The launch is over: what is dirty is written back. */
SMARTMEM_CACHES_API void smartmem_caches_end(void* model) { static_cast<Model*>(model)->End(); }

SMARTMEM_CACHES_API void smartmem_caches_read(void* model, int64_t* out) {
  static_cast<Model*>(model)->Read(out);
}

// The traced kernel calls these two.

/*! Registers that were loaded in loops of this depth and deeper hold something else from here on.
 */
SMARTMEM_CACHES_API int32_t smartmem_caches_forget(void* model, int64_t level) {
  static_cast<Model*>(model)->Forget(level);
  return 0;
}

/*!
 * One instruction of all work-groups in flight: for each core and work-item the byte, or the texel
 * of an image, that it asks for; negative where the work-item does not.
 */
SMARTMEM_CACHES_API int32_t smartmem_caches_access(void* model, int64_t site, const int64_t* places,
                                                   int64_t group) {
  static_cast<Model*>(model)->Access(site, places, group);
  return 0;
}
