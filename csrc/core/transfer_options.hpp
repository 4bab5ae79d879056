#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/deadline.hpp"
#include "core/digest.hpp"
#include "core/locked_chunks.hpp"
#include "core/mapped_files.hpp"

namespace yr_fastload {

/// Limits of one transfer.
struct TransferOptions {
  unsigned copy_threads = 1;
  unsigned chunks_in_flight = 1;
  bool verify = true;  ///< Compute digests; a load compares them.
  DigestKind digest = DigestKind::kNh;
  bool stage = false;  ///< Loads only: verify in staging memory before the first byte reaches a tensor.
  /// Loads only: what a device that takes digests copies straight from where it is; null for nothing.
  LockedChunks* locked = nullptr;
  Deadline deadline = Deadline::after(30.0);
  /// Called by the waiting thread every few milliseconds, with the bytes copied so far; throws to give up. With
  /// `stored`, also once there is room for all chunks, and after each.
  std::function<void(std::uint64_t)> progress;
  /// Loads only: called by the thread that copied a chunk, once it is in the tensors and, if requested, verified.
  std::function<void(std::uint64_t)> arrived;
  /// Publications only: called by the thread that sealed a chunk, with the chunk and its digest (0 without `verify`).
  std::function<void(std::uint64_t, std::uint64_t)> stored;
  /// Publications of ordinary memory only: files that tensors may lie in, which are read by calls then.
  std::vector<MappedFile> files;
};

}  // namespace yr_fastload
