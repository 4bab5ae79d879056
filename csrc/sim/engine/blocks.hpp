#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/memory.hpp"

namespace yr_fastload::sim {

/// Memory at the addresses of one allocation, or of one piece that was mapped to reserved addresses.
struct Block {
  std::uintptr_t address = 0;
  std::byte* backing = nullptr;  ///< Where the bytes are.
  std::size_t bytes = 0;
  std::size_t mapped = 0;
  int device = 0;
  unsigned users = 0;
  bool freed = false;
  InFile place;
  std::uintptr_t reserved_from = 0;  ///< Of a piece: where its reserved addresses begin.
  const char* used_by = "";
};

using Blocks = std::map<std::uintptr_t, std::shared_ptr<Block>>;

/// Addresses that memory is mapped to piece by piece.
struct Reserved {
  std::byte* backing = nullptr;
  std::size_t bytes = 0;
};

/// What this process knows of memory.
struct MemoryState {
  std::mutex mutex;
  Blocks live;
  Blocks freed;
  std::map<std::uintptr_t, Reserved> reserved;
  std::deque<std::shared_ptr<Block>> quarantine;
  std::size_t quarantined_bytes = 0;
  std::map<int, std::uint64_t> bytes;
  std::map<int, std::uint64_t> peak;
  std::map<std::string, std::uint64_t> errors{
      {"double_free", 0}, {"unknown_free", 0}, {"use_after_free", 0}, {"out_of_bounds", 0}};

  static MemoryState& get();

  /// Counts memory as the device's; false if that would be more than it has.
  bool take(int device, std::size_t bytes);
};

std::string described(const Block& block);

/// The block that holds the last part of a range that is held at all, or null.
std::shared_ptr<Block> overlapping(const Blocks& blocks, std::uintptr_t first, std::uint64_t bytes);

/// Addresses without memory behind them; null if there are none left.
void* reserve_addresses(std::size_t bytes, void* at = nullptr);

}  // namespace yr_fastload::sim
