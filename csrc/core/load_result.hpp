#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace yr_fastload {

/// What a thread of a load did for one chunk.
enum class Stage : std::uint8_t {
  kFetch,   ///< Brought it to where it can be copied from, or into its tensors.
  kCopy,    ///< Copied it, and computed its digest on the way.
  kDigest,  ///< Computed the digest of what had arrived in its tensors.
};

struct StageSpan {
  Stage stage;
  std::uint64_t chunk;
  unsigned thread;  ///< 0 is the one that fetches.
  double begin;     ///< Seconds of the monotonic clock.
  double seconds;
};

/// Why a chunk did not arrive. Others may have; the bytes that it covers are undefined.
struct ChunkFailure {
  std::uint64_t chunk;
  ErrorCode code;
  std::string detail;
};

struct LoadResult {
  std::uint64_t bytes = 0;  ///< Number that arrived.
  /// Whether all of them were compared with their digest: that was requested, and the CPU could see them.
  bool verified = false;
  std::vector<StageSpan> spans;
  std::vector<ChunkFailure> failures;  ///< In the order of chunks.
};

}  // namespace yr_fastload
