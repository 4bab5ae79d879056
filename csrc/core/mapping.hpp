#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/span.hpp"

namespace yr_fastload {

/// A line of /proc/self/maps: part of a file, and where it is mapped.
struct Mapping {
  std::uint64_t begin = 0, end = 0, offset = 0, inode = 0;
  std::uint64_t device = 0;  ///< Of the file system: a dev_t.
  std::string path;

  bool holds(Span<const std::byte> bytes) const noexcept;
};

/// Nullopt if the line is malformed.
std::optional<Mapping> parse_mapping(const std::string& line);

/// Those of this process that show what others write to the file.
std::vector<Mapping> shared_mappings();

}  // namespace yr_fastload
