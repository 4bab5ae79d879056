#pragma once

#include <cstddef>
#include <memory>

#include "core/deadline.hpp"

namespace yr_fastload {

/// A block of memory that a device allocated or locked; freed with the object.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  virtual ~Memory() = default;

  virtual std::byte* data() const noexcept = 0;
  virtual std::size_t bytes() const noexcept = 0;
  /// False for host memory that the system refused to lock (RLIMIT_MEMLOCK): still usable, but it may be paged.
  virtual bool locked() const noexcept { return true; }
};

/// Makes copies in the order of the calls. Used by one thread at a time.
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  /// Starts a copy; both sides must live until `synchronize` returns.
  virtual void copy_to_device(std::byte* device, const std::byte* host, std::size_t bytes) = 0;
  virtual void copy_on_device(std::byte* destination, const std::byte* source, std::size_t bytes) = 0;
  /// Waits until all copies are done. Throws kTransferTimeout at the deadline, kDevice if one failed.
  virtual void synchronize(Deadline deadline) = 0;
};

/// The memory that tensors live in. Thread-safe.
class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  virtual const char* name() const noexcept = 0;
  /// Number of the device on this machine; -1 for ordinary memory.
  virtual int index() const noexcept = 0;
  /// Whether the CPU can read and write it. If not, bytes pass through page-locked staging memory.
  virtual bool cpu_accessible() const noexcept = 0;
  /// Makes it the current device of the calling thread, which is required before any other call.
  virtual void bind_thread() = 0;
  /// Host memory that the device can copy from directly. Throws kTransferTimeout at the deadline.
  virtual std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) = 0;
  /// Memory of the device itself. Throws kResourceExhausted if it has none left, kTransferTimeout at the deadline.
  virtual std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
};

}  // namespace yr_fastload
