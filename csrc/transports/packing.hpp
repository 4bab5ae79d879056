#pragma once

#include <cstdint>
#include <memory>

#include "core/device.hpp"
#include "core/plan.hpp"
#include "datasystem/hetero_session.hpp"

namespace yr_fastload {

/// Whether a chunk travels between devices as one blob, packed by its source and unpacked by its reader.
///
/// openYuanrong would gather the blobs of a key whose average is at most kSmallTensorBytes by itself, in a pool of
/// 100 MiB a process; but a reader that disconnects takes its part of the pool with it, and once the pool is empty the
/// source answers nobody any more, without an error (0.8.1: measured; PipeLineP2PBase::AllocTransferBuffer). So no key
/// of ours meets that rule.
bool travels_packed(const Plan& plan, std::uint64_t chunk);

/// A copy of a chunk's blobs in memory of their device, each at its chunk_offset.
/// Throws kResourceExhausted if the device has no memory left, kDevice, kTransferTimeout.
std::shared_ptr<Memory> pack(const Plan& plan, std::uint64_t chunk, const TensorMemory& tensors, Device& device,
                             Deadline deadline);

/// The chunk's blobs where they are in the tensors.
BlobList tensor_blobs(const Plan& plan, std::uint64_t chunk, const TensorMemory& tensors, int device);

BlobList one_blob(std::byte* data, std::uint64_t bytes, int device);

}  // namespace yr_fastload
