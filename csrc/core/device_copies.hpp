#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "core/device.hpp"
#include "core/pinned_pool.hpp"

namespace yr_fastload {

/// Chunks that a device copies within its memory, with their digests on the way, or of which it takes the digests where
/// they are. Several are under way at a time, and small ones share a launch:
///
///     begin(chunk 0)  begin(chunk 1)  take() -> digest of chunk 0  begin(chunk 2) ...
///
/// Used by one thread, whose device this is (`Device::bind_thread`).
class DeviceCopies {
 public:
  enum class Digests : std::uint8_t { kNone, kTaken };

  /// Page-locked memory that it takes of the pool.
  static constexpr std::size_t kBatches = 4;
  static constexpr std::size_t kPieces = 4096;
  static constexpr std::size_t kBytes =
      kBatches * kPieces * (sizeof(DigestedPiece) + sizeof(std::uint64_t) + sizeof(std::uint64_t*));

  /// `Digests::kTaken` is for devices that take digests. Throws kResourceExhausted, kTransferTimeout, kDevice.
  DeviceCopies(Device& device, PinnedPool& pool, Digests digests, Deadline deadline)
      : DeviceCopies(device, pool.lease(kBytes, deadline), digests, deadline) {}
  /// In page-locked memory of `kBytes`.
  DeviceCopies(Device& device, PinnedPool::Lease memory, Digests digests, Deadline deadline);
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;
  /// Drains, unless the device hangs: then what the device may still use is kept from everybody for good.
  ~DeviceCopies();

  /// Begins with the next chunk: its runs, in their order. One without a destination stays where it is. May wait for
  /// chunks that were begun before.
  void begin(Span<const Copy> runs);
  /// The same with runs whose sources are page-locked memory of the host; digests are taken. `shift` is how many bytes
  /// behind their addresses the device finds them.
  void begin_from_host(Span<const Copy> runs, std::ptrdiff_t shift);
  /// Chunks that were begun and not taken yet.
  std::size_t under_way() const noexcept { return chunks_.size(); }
  /// Whether the device has enough to do: one is better taken before the next is begun.
  bool busy() const noexcept { return filling_ - waited_ + 1 >= kBatches; }
  /// Waits for the chunk that was begun first; its digest, if digests are taken.
  std::optional<std::uint64_t> take();
  /// Whether nothing is under way any more, after a short wait: false if the device hangs.
  bool drain() noexcept;

 private:
  struct Run {
    std::uint64_t bytes;
    std::uint64_t sum;
  };
  struct Chunk {
    std::vector<Run> runs;
    std::uint64_t last_batch = 0;  ///< That has a part of it.
  };
  struct Batch {
    DigestedPiece* pieces = nullptr;
    std::uint64_t* sums = nullptr;
    std::uint64_t** sum_of = nullptr;  ///< Of the run that each piece belongs to.
    std::size_t count = 0;             ///< Of the pieces.
    std::unique_ptr<Stream> stream;
    std::unique_ptr<Event> done;
    bool under_way = false;
    bool copying = false;  ///< From the host, and `done` is not recorded behind it yet.
  };

  Batch& batch(std::uint64_t number) noexcept { return batches_[number % kBatches]; }
  /// `from_host`: the device itself reads `source`, its copies what is there for the CPU; null: both are the same.
  void add(const Copy& run, Run& digested, const std::byte* from_host);
  /// How many pieces the batch that is being filled takes.
  std::size_t room() const noexcept;
  void launch();
  void wait_for(std::uint64_t batch);

  const Digests digests_;
  const Deadline deadline_;
  std::optional<PinnedPool::Lease> memory_;
  std::array<Batch, kBatches> batches_;
  std::deque<Chunk> chunks_;
  std::uint64_t filling_ = 0;  ///< The batch that takes the next piece.
  std::uint64_t waited_ = 0;   ///< Batches before this one are done.
  bool hangs_ = false;         ///< The device.
};

}  // namespace yr_fastload
