#pragma once

#include <cstdint>

#include "core/chunk_reader.hpp"
#include "core/device.hpp"
#include "core/load_result.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"
#include "core/span.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// Copies `chunks` of a plan from where `reader` brings them to the tensors at `addresses` (0 if a tensor owns no
/// bytes).
///
/// One thread reads chunks while `copy_threads` copy and verify those that arrived. After it has returned or thrown,
/// nothing writes to the tensors any more. Throws kTransferTimeout at the deadline, and what the reader throws. Chunks
/// that failed, or have another size or digest, are in the result.
LoadResult load_chunks(ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan,
                       Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                       Span<const std::uint64_t> digests, const TransferOptions& options);

}  // namespace yr_fastload
