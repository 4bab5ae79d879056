#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "core/deadline.hpp"
#include "core/device.hpp"

namespace yr_fastload {

struct PinnedPoolStats {
  std::uint64_t cap_bytes;
  std::uint64_t leased_bytes;
  std::uint64_t cached_bytes;  ///< Allocated and free.
  std::uint64_t peak_bytes;    ///< The most ever allocated.
  std::uint64_t locked_bytes;  ///< The locked part of what is allocated now.
};

enum class MemoryKind : std::uint8_t { kPageLocked, kDevice };

/// Memory that is kept and lent out again, because locking pages and allocating on a device are slow; never more than
/// the cap. Safe to use from many threads. Leases may outlive the pool object.
class PinnedPool {
  struct State;

 public:
  /// A block on loan; returns to the pool with the object.
  class Lease {
   public:
    Lease(Lease&&) noexcept;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    std::byte* data() const noexcept { return memory_->data(); }
    std::size_t bytes() const noexcept { return memory_->bytes(); }
    /// Keeps the block from everybody for as long as the process lives: a device that hangs may still use it.
    void abandon() noexcept;

   private:
    friend class PinnedPool;
    Lease(std::shared_ptr<State> state, std::unique_ptr<Memory> memory) noexcept;
    std::shared_ptr<State> state_;
    std::unique_ptr<Memory> memory_;
  };

  PinnedPool(std::shared_ptr<Device> device, std::uint64_t cap_bytes, MemoryKind kind = MemoryKind::kPageLocked);

  /// Whether a block of at least `bytes` is possible at all; blocks are rounded up to a granule.
  bool fits(std::uint64_t bytes) const noexcept;

  /// A block of at least `bytes`; nullopt if that would exceed the cap now. The device has until the deadline, as
  /// below.
  std::optional<Lease> try_lease(std::size_t bytes, Deadline deadline);

  /// Waits for room until `room`, then returns nullopt. Throws kResourceExhausted if `bytes` alone exceeds the cap,
  /// kTransferTimeout if the device gives no memory by the deadline.
  std::optional<Lease> lease_until(std::size_t bytes, Deadline room, Deadline deadline);

  /// Waits for room. Throws kResourceExhausted if `bytes` alone exceeds the cap, kTransferTimeout at the deadline.
  Lease lease(std::size_t bytes, Deadline deadline);

  PinnedPoolStats stats() const;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace yr_fastload
