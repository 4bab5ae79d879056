#pragma once

#include <cstddef>
#include <memory>

namespace yr_fastload {

/// Page-aligned host memory that a device can read without a copy in between; freed with the object.
class PageLockedMemory {
 public:
  PageLockedMemory() = default;
  PageLockedMemory(const PageLockedMemory&) = delete;
  PageLockedMemory& operator=(const PageLockedMemory&) = delete;
  virtual ~PageLockedMemory() = default;

  virtual std::byte* data() const noexcept = 0;
  virtual std::size_t bytes() const noexcept = 0;
  /// False where the system refused to lock it (RLIMIT_MEMLOCK): still usable, but it may be paged.
  virtual bool locked() const noexcept = 0;
};

/// Copies in the order they were asked for. Used by one thread at a time.
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  /// Starts a copy; both sides must live until `synchronize` returns.
  virtual void copy_to_device(std::byte* device, const std::byte* host, std::size_t bytes) = 0;
  virtual void synchronize() = 0;
};

/// The memory that tensors live in.
class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  virtual const char* name() const noexcept = 0;
  /// Whether bytes have to pass through page-locked staging memory, because the CPU cannot store to the device.
  virtual bool needs_staging() const noexcept = 0;
  virtual std::unique_ptr<PageLockedMemory> allocate_page_locked(std::size_t bytes) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
};

}  // namespace yr_fastload
