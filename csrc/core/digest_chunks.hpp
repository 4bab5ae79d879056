#pragma once

#include <cstdint>
#include <vector>

#include "core/device.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"
#include "core/span.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// Digests of `chunks` of a plan, in their order, over the tensors of a device; stores nothing. `pool` is for tensors
/// that the CPU cannot see.
std::vector<std::uint64_t> digest_chunks(Device& device, PinnedPool& pool, const Plan& plan,
                                         Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                                         const TransferOptions& options);

}  // namespace yr_fastload
