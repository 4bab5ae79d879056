#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/export.hpp"

namespace yr_fastload::sim {

/// Memory that was handed out. What was not (an array that stands in for a tensor) is not tracked, and may be used like
/// a device's memory.
struct MemoryUse {
  std::map<std::string, std::uint64_t> bytes;  ///< By device.
  std::map<std::string, std::uint64_t> peak_bytes;
  std::uint64_t host_bytes = 0;
  std::map<std::string, std::uint64_t> errors;  ///< double_free, unknown_free, use_after_free, out_of_bounds
};
MemoryUse memory_use();

/// `allocate` and `release` take this for page-locked memory of the host.
constexpr int kHost = -1;

/// Whether the CPU reaches the memory at its address.
enum class Reach : std::uint8_t { kDirect, kOpaque };

/// Where in a file memory lies that other processes map too.
struct InFile {
  int file = -1;  ///< None: it is this process's alone.
  std::uint64_t offset = 0;
};

/// An aclError. Opaque memory has nothing behind its address, so that a load or store of the CPU's is a crash; the
/// engine finds the bytes through `MemoryInUse`.
int allocate(int device, std::size_t bytes, void** data, Reach reach = Reach::kDirect, InFile place = {});
int release(void* data, bool of_host);

struct Block;

/// A range of memory that is being used. Freeing it meanwhile is reported, and what is behind it stays until its last
/// use has ended.
class YRFL_SIM_EXPORT MemoryInUse {
 public:
  /// `by` says in messages who uses it.
  MemoryInUse(const void* data, std::uint64_t bytes, const char* by);
  MemoryInUse(const MemoryInUse&) = delete;
  MemoryInUse& operator=(const MemoryInUse&) = delete;
  ~MemoryInUse();

  /// False, with a line on stderr, if a part of the range was freed, or is behind the end of what was handed out.
  bool valid() const;

  /// Where the bytes are: at their address, unless it is that of opaque memory.
  std::byte* bytes() const { return bytes_; }

 private:
  std::byte* bytes_;
  std::vector<std::shared_ptr<Block>> blocks_;
  bool refused_ = false;
};

}  // namespace yr_fastload::sim
