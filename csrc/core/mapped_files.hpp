#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "core/descriptor.hpp"

namespace yr_fastload {

/// A file that is mapped from its first byte on, and open.
struct MappedFile {
  const std::byte* begin;
  std::uint64_t bytes;
  int file;
};

/// Reads what lies in mapped files by calls, for one thread. The kernel reads further ahead of a call than of page
/// faults, and a file that was cut short is an error instead of the end of the process.
class MappedFileReader {
 public:
  /// Uses the files as long as it lives.
  explicit MappedFileReader(const std::vector<MappedFile>& files) : files_(files) {}

  /// The file that all of these bytes lie in; null if they lie in none.
  const MappedFile* find(const std::byte* from, std::uint64_t bytes) const noexcept;

  /// Throws kIntegrity if the file has become shorter, kInvalidArgument if it cannot be read.
  void read(const MappedFile& file, const std::byte* from, std::byte* to, std::size_t bytes);

 private:
  const std::vector<MappedFile>& files_;
  std::map<int, Descriptor> mine_;  ///< Opened once more: threads that share one disturb each other's read-ahead.
};

}  // namespace yr_fastload
