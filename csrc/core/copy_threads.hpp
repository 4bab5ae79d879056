#pragma once

#include <cstdint>

#include "core/device.hpp"
#include "core/pinned_pool.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// Number of threads that copy so many chunks: as many as the options allow, and no more than there are chunks.
unsigned copy_threads(const TransferOptions& options, std::uint64_t chunks);

/// The same for threads that read tensors of this device, each of which needs room in `pool` if the CPU cannot see
/// them.
unsigned reading_threads(const Device& device, const PinnedPool& pool, const TransferOptions& options,
                         std::uint64_t chunks);

}  // namespace yr_fastload
