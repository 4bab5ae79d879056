#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "engine/export.hpp"

namespace yr_fastload::sim {

/// Memory that a device handed out. What it did not hand out (an array that stands in for a tensor) is not tracked and
/// may be used like device memory.
struct MemoryUse {
  std::map<std::string, std::uint64_t> bytes;  ///< By device.
  std::map<std::string, std::uint64_t> peak_bytes;
  std::map<std::string, std::uint64_t> errors;  ///< double_free, unknown_free, use_after_free
};
MemoryUse memory_use();

/// An aclError. `device` -1 is page-locked memory of the host.
int allocate(int device, std::size_t bytes, void** data);
int release(void* data, bool of_host);

/// False, with a line on stderr, if a part of the range was freed already.
YRFL_SIM_EXPORT bool usable(const void* data, std::size_t bytes, const char* by);

}  // namespace yr_fastload::sim
