#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.hpp"
#include "core/object_store.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"
#include "core/span.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// Seconds of a publication: wall time for calls to the store, thread time for copies.
struct StageSeconds {
  double reserve = 0;  ///< requesting room from the store
  double copy = 0;     ///< copying and computing digests, summed over threads
  double seal = 0;     ///< making chunks visible
};

struct PublishResult {
  std::vector<std::uint64_t> digests;  ///< One per chunk; empty without `verify`.
  StageSeconds seconds;
};

/// Copies all chunks of a plan from a device's tensors into the store. All or nothing: when it throws, what it stored
/// is erased. `pool` is for tensors that the CPU cannot see.
PublishResult publish_chunks(ObjectStore& store, Device& device, PinnedPool& pool, const Plan& plan,
                             Span<const std::uint64_t> addresses, const std::string& key_prefix, std::uint32_t ttl_s,
                             const TransferOptions& options);

}  // namespace yr_fastload
