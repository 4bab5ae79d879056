#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/chunk_verifier.hpp"
#include "core/device.hpp"
#include "core/direct_copies.hpp"
#include "core/lazy_stream.hpp"
#include "core/object_store.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"
#include "core/slots.hpp"
#include "core/span.hpp"
#include "core/transfer_options.hpp"
#include "core/transfer_progress.hpp"

namespace yr_fastload {

/// Where the chunks of a load go, and how.
struct LoadTarget {
  Device& device;
  PinnedPool& pool;
  const Plan& plan;
  Span<const std::uint64_t> addresses;  ///< Of the tensors.
  const TransferOptions& options;

  /// Whether chunks that were brought to such a place are verified before their bytes reach a tensor.
  bool stages(Place place) const noexcept { return options.stage && place != Place::kTensors; }
  /// Whether bytes pass through page-locked slots on their way to a device.
  bool uploads() const noexcept { return !options.stage && !device.cpu_accessible(); }
};

/// Copies chunks from where they were brought into their tensors, and has them verified. One for each thread that does
/// so, whose device is the target's.
class ChunkCopier {
 public:
  ChunkCopier(const LoadTarget& target, TransferProgress& progress, ChunkVerifier& verifier)
      : target_(target), progress_(progress), verifier_(verifier), stream_(target.device) {}

  /// False if the load was cancelled on the way.
  bool copy(const FetchedChunk& item);
  /// Waits for copies that the device has begun.
  void drain();

 private:
  bool upload(const FetchedChunk& item);
  bool copy_staged(const FetchedChunk& item);
  bool copy_on_device(const FetchedChunk& item);
  bool copy_here(const FetchedChunk& item);
  bool digest_in_place(const FetchedChunk& item);
  bool arrived_unharmed(std::uint64_t chunk);

  std::optional<std::uint64_t> copy_blobs(const FetchedChunk& item, std::byte* staging);
  std::optional<std::uint64_t> download(const FetchedChunk& item, std::byte* staging);
  std::byte* tensor(const Blob& blob) const noexcept { return blob.in(target_.addresses); }

  const LoadTarget& target_;
  TransferProgress& progress_;
  ChunkVerifier& verifier_;
  LazyStream stream_;
  std::optional<Uploader> uploader_;
};

}  // namespace yr_fastload
