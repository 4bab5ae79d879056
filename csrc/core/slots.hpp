#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/crew.hpp"
#include "core/device.hpp"
#include "core/digest.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"

namespace yr_fastload {

/// Page-locked memory of one thread that bytes pass through on their way to a device or from it:
///
///     worker's memory --thread, digest--> slot 0 --device--> tensors
///                                         slot 1   while the device copies from one, the thread fills the next
///                                         slot 2
///
/// A thread waits for the device only where all its slots are under way.
class Slots {
 public:
  struct Slot {
    std::byte* data = nullptr;
    std::unique_ptr<Event> done;
    std::vector<Copy> copies;
    std::size_t used = 0;
    bool under_way = false;

    std::size_t room() const noexcept { return copies.size() < kMostCopies ? kPayloadBytes - used : 0; }
  };

  /// Small enough to stay in the caches until the device has read them: on an H200's host of 16 cores three of 2 MiB
  /// carried 49.8 GB/s with 12 threads and their digests, three of 4 MiB 47.3, and 45.4 by stores past the caches; the
  /// link alone carries 55.4.
  static constexpr unsigned kSlots = 3;
  static constexpr std::size_t kSlotBytes = std::size_t{2} << 20;
  static constexpr std::size_t kMostCopies = 1024;
  static constexpr std::size_t kNotesBytes = kMostCopies * sizeof(Copy);
  static constexpr std::size_t kPayloadBytes = (kSlotBytes - kNotesBytes) / Digest::kBlockBytes * Digest::kBlockBytes;
  /// What one thread takes of the pool.
  static constexpr std::size_t kBytes = kSlots * kSlotBytes;

  /// How many threads a pool has room for beside `taken` bytes, at most `wanted`; one at least, which then says what is
  /// too small.
  static unsigned threads(const PinnedPool& pool, unsigned wanted, std::uint64_t taken = 0) noexcept;

  Slots(Device& device, PinnedPool& pool, Direction direction, Deadline deadline);
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  /// Nothing is under way when it returns, unless the device hangs: then the slots are kept from everybody for good.
  ~Slots();

  /// The slot that was used least lately, empty; waits until the device has done with it.
  Slot& next();
  /// Has the device begin with the slot's copies.
  void begin(Slot& slot);
  void wait(Slot& slot);
  void drain();

 private:
  const Direction direction_;
  const Deadline deadline_;
  std::optional<PinnedPool::Lease> memory_;
  std::unique_ptr<Stream> stream_;
  std::array<Slot, kSlots> slots_;
  std::size_t turn_ = 0;
};

/// Bytes to a device's memory.
class Uploader {
 public:
  Uploader(Device& device, PinnedPool& pool, Deadline deadline, DigestKind digest = DigestKind::kNh)
      : digest_(digest), slots_(device, pool, Direction::kToDevice, deadline) {}

  /// Told of every few MiB that are on their way; false to give up.
  using Step = std::function<bool(std::uint64_t)>;

  /// Begins to copy a blob, and adds its digest to `fold` if there is one. False if `step` gave up.
  bool copy(std::byte* destination, const std::byte* source, std::uint64_t bytes, DigestFold* fold, const Step& step);
  /// Has the device begin with all that is left.
  void flush();
  /// Waits until it is done.
  void drain();

 private:
  const DigestKind digest_;
  Slots slots_;
  Slots::Slot* slot_ = nullptr;
};

/// Bytes from a device's memory.
class Downloader {
 public:
  Downloader(Device& device, PinnedPool& pool, Deadline deadline)
      : slots_(device, pool, Direction::kToHost, deadline) {}

  /// Takes a run of a blob's bytes, `offset` bytes from its start; false to give up.
  using Take = std::function<bool(const Blob& blob, std::uint64_t offset, const std::byte* data, std::size_t bytes)>;

  /// Brings blobs in their order, each from front to back, in runs that end where a digest's block does.
  bool read(Span<const Blob> blobs, Span<const std::uint64_t> addresses, const Take& take);

 private:
  struct Run {
    const Blob* blob;
    std::uint64_t offset;
    std::size_t slot_offset;
    std::size_t bytes;
  };
  struct Batch {
    Slots::Slot* slot;
    std::vector<Run> runs;
  };

  bool take_in(const Batch& batch, const Take& take);

  Slots slots_;
};

}  // namespace yr_fastload
