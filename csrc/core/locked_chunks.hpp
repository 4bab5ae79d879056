#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/call_runner.hpp"
#include "core/deadline.hpp"
#include "core/device.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// The bytes of a chunk in shared memory, mapped once more for this process alone and page-locked for a device. So
/// nobody else unmaps them before they are unlocked, which its end does.
class LockedChunk {
 public:
  /// Maps the bytes once more; they are not locked yet. Throws kDevice if they are in no mapping that can be shared.
  explicit LockedChunk(Span<const std::byte> bytes);
  LockedChunk(const LockedChunk&) = delete;
  LockedChunk& operator=(const LockedChunk&) = delete;
  ~LockedChunk();

  /// Throws as `Device::lock_pages`.
  void lock(Device& device);

  /// Where they are for copies that the CPU asks for, and for what runs on the device.
  const std::byte* data() const noexcept { return mapping_ + offset_; }
  const std::byte* on_device() const noexcept { return pages_->data() + offset_; }
  /// Of its own mapping, and whether an address is in that.
  std::uint64_t begin() const noexcept;
  bool maps(std::uint64_t address) const noexcept;

 private:
  std::byte* mapping_ = nullptr;
  std::size_t mapped_ = 0;
  std::size_t offset_ = 0;
  std::unique_ptr<Memory> pages_;
};

struct LockedChunksStats {
  std::uint64_t chunks;        ///< That are locked.
  std::uint64_t locked_bytes;  ///< Their bytes.
};

/// Chunks that lie in the worker's shared memory and are page-locked there, so that a device copies them without a
/// detour, for a process that loads again and again: what one load has seen is locked behind it, in the background, and
/// copied straight from there by the next ones. Thread-safe.
///
/// What is locked stays the same pages while the worker may give their place in the file others: a device then reads
/// what is there no more. So whoever copies compares digests, and drops what differs.
class LockedChunks {
 public:
  explicit LockedChunks(std::shared_ptr<Device> device);
  LockedChunks(const LockedChunks&) = delete;
  LockedChunks& operator=(const LockedChunks&) = delete;
  /// Unlocks everything but what a load still uses.
  ~LockedChunks();

  /// Before a load: lets go of what no other mapping of this process shows any more, as after the end of a worker, and
  /// of what the last loads did not use.
  void begin_load();
  /// The chunk with these bytes, locked; null if it is not. Then it will be, some time after `end_load`.
  std::shared_ptr<const LockedChunk> find(Span<const std::byte> bytes);
  /// Lets go of a chunk whose bytes were not what they should be.
  void drop(const std::shared_ptr<const LockedChunk>& chunk);
  /// After a load: begins to lock what was not.
  void end_load();

  /// Waits until nothing is left to be locked or unlocked. False at the deadline.
  bool settle(Deadline deadline);
  LockedChunksStats stats() const;
  /// Why no more is locked, told once; nullopt if nothing has failed since.
  std::optional<std::string> take_refusal();

 private:
  struct State;
  const std::shared_ptr<State> state_;
  CallRunner runner_;
};

}  // namespace yr_fastload
