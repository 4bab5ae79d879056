#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "core/deadline.hpp"
#include "core/device.hpp"
#include "core/device_copies.hpp"
#include "core/locked_chunks.hpp"
#include "core/object_store.hpp"
#include "core/pinned_pool.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// A chunk that was brought to where it can be copied from.
struct FetchedChunk {
  std::uint64_t chunk = 0;
  std::unique_ptr<ObjectView> view;
  std::shared_ptr<const LockedChunk> locked;  ///< Null where it is not.
};

/// Chunks that a device copies from where they are page-locked straight to tensors, and takes the digests of, several
/// at a time. Used by one thread, whose device this is.
class DirectCopies {
 public:
  DirectCopies(Device& device, PinnedPool::Lease memory, Deadline deadline)
      : copies_(device, std::move(memory), DeviceCopies::Digests::kTaken, deadline) {}
  DirectCopies(const DirectCopies&) = delete;
  DirectCopies& operator=(const DirectCopies&) = delete;
  /// Drains; what a device that hangs may still read is kept for good.
  ~DirectCopies();

  /// Begins with a chunk that is locked. `runs` are its own, with where they lie in the chunk's view.
  void begin(FetchedChunk item, Span<const Copy> runs);
  std::size_t under_way() const noexcept { return items_.size(); }
  /// Whether one is better taken before the next is begun.
  bool busy() const noexcept { return copies_.busy() && !items_.empty(); }

  struct Taken {
    FetchedChunk item;
    std::uint64_t digest;
  };
  /// Waits for the chunk that was begun first.
  Taken take();

 private:
  std::deque<FetchedChunk> items_;
  DeviceCopies copies_;
};

}  // namespace yr_fastload
