#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/span.hpp"

namespace yr_fastload {

struct PlanLimits {
  std::uint64_t chunk_bytes;  ///< Size of the largest chunk; a multiple of kBlobAlignment.
  std::uint64_t max_blobs;    ///< Largest number of blobs in a chunk.
};

/// Every blob starts at a multiple of this in its chunk, so that a tensor can alias the chunk's memory.
inline constexpr std::uint64_t kBlobAlignment = 64;

/// Tensors up to this size share chunks of their own: between devices such a chunk is packed into one blob, which costs
/// a copy, while larger blobs are sent one by one, straight from and into tensors. openYuanrong switches at 1 MiB too
/// (acl_pipeline_p2p_task.cpp, 0.8.1).
inline constexpr std::uint64_t kSmallTensorBytes = std::uint64_t{1} << 20;

/// Limits what a plan, which may come from a hostile manifest, can make this process allocate.
inline constexpr std::uint64_t kMaxChunks = 1'000'000;

/// One run of bytes of one tensor, and its place in a chunk.
struct Blob {
  std::uint64_t tensor;
  std::uint64_t tensor_offset;
  std::uint64_t bytes;  ///< > 0
  std::uint64_t chunk_offset;

  /// Where it begins in its tensor, which is one of those at `addresses`.
  std::byte* in(Span<const std::uint64_t> addresses) const noexcept {
    return reinterpret_cast<std::byte*>(addresses[tensor]) + tensor_offset;
  }
};

/// How tensors are divided into chunks, one openYuanrong key each:
///
///     tensors   |-a-|--------------b--------------|--c--|-d-|
///     chunks    [ b0      ][ b1      ][ b2 . c      ][ a . d ]      '.': alignment; a and d are small
///
/// Large tensors come first, then small ones, each in the order given. A tensor that fits into a chunk is never cut; a
/// larger one starts a chunk and spans several.
struct Plan {
  std::vector<Blob> blobs;
  std::vector<std::uint64_t> first_blob;   ///< K+1 entries: chunk i owns blobs first_blob[i] .. first_blob[i+1].
  std::vector<std::uint64_t> chunk_bytes;  ///< K entries: end of the chunk's last blob.
  std::uint64_t total_bytes = 0;           ///< Of the tensors, without alignment.
  std::uint64_t tensors = 0;

  std::uint64_t chunks() const noexcept { return chunk_bytes.size(); }
  Span<const Blob> chunk(std::uint64_t index) const noexcept {
    return {blobs.data() + first_blob[index], first_blob[index + 1] - first_blob[index]};
  }
};

/// Plans the transfer of tensors of these sizes; 0 is a tensor that does not move (empty, or an alias).
/// A pure function: a publisher and a reader that agree on sizes and limits agree on every blob.
/// Throws kInvalidArgument for invalid limits, kResourceExhausted beyond kMaxChunks or 2^64 bytes.
Plan make_plan(Span<const std::uint64_t> tensor_bytes, PlanLimits limits);

/// Where each tensor begins: the chunk of its first blob, -1 if it does not move, and the offset there.
struct Places {
  std::vector<std::int64_t> chunk;
  std::vector<std::uint64_t> offset;
};
Places places(const Plan& plan);

/// The first chunk of those that small tensors share, which are the last ones; the number of chunks if there are none.
std::uint64_t first_shared_chunk(const Plan& plan);

/// Where each tensor's memory lives: in its own storage (owner[i] == i) or inside another tensor's.
struct Sharing {
  std::vector<std::uint64_t> owner;
  std::vector<std::uint64_t> offset;  ///< Bytes from the start of the owner.
  std::vector<std::uint64_t> moving;  ///< Bytes that move: its own, or none inside another's.
};

/// Finds tied tensors and views. If several tensors span the same bytes, the first one owns them.
/// Views of one owner may overlap each other: only the owner moves. Throws kInvalidArgument, naming both indices in
/// failed_keys, if two owners overlap and neither contains the other.
Sharing find_sharing(Span<const std::uint64_t> addresses, Span<const std::uint64_t> bytes);

}  // namespace yr_fastload
