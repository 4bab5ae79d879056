#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/chunk_reader.hpp"
#include "core/crew.hpp"
#include "core/device.hpp"
#include "core/digest.hpp"
#include "core/error.hpp"
#include "core/locked_chunks.hpp"
#include "core/mapped_files.hpp"
#include "core/object_store.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"

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

/// Seconds of a publication: wall time for calls to the store, thread time for copies.
struct StageSeconds {
  double reserve = 0;  ///< requesting room from the store
  double copy = 0;     ///< copying and computing digests, summed over threads
  double seal = 0;     ///< making chunks visible
};

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

struct PublishResult {
  std::vector<std::uint64_t> digests;  ///< One per chunk; empty without `verify`.
  StageSeconds seconds;
};

/// Copies `chunks` of a plan from where `reader` brings them to the tensors at `addresses` (0 if a tensor owns no
/// bytes).
///
/// One thread reads chunks while `copy_threads` copy and verify those that arrived. After it has returned or thrown,
/// nothing writes to the tensors any more. Throws kTransferTimeout at the deadline, and what the reader throws. Chunks
/// that failed, or have another size or digest, are in the result.
LoadResult load_chunks(ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan,
                       Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                       Span<const std::uint64_t> digests, const TransferOptions& options);

/// Copies all chunks of a plan from a device's tensors into the store. All or nothing: when it throws, what it stored
/// is erased. `pool` is for tensors that the CPU cannot see.
PublishResult publish_chunks(ObjectStore& store, Device& device, PinnedPool& pool, const Plan& plan,
                             Span<const std::uint64_t> addresses, const std::string& key_prefix, std::uint32_t ttl_s,
                             const TransferOptions& options);

/// Digests of `chunks` of a plan, in their order, over the tensors of a device; stores nothing. `pool` as above.
std::vector<std::uint64_t> digest_chunks(Device& device, PinnedPool& pool, const Plan& plan,
                                         Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                                         const TransferOptions& options);

}  // namespace yr_fastload
