#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "core/error.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// How long a transfer that gives up waits for copies under way; a device that takes longer hangs.
inline constexpr double kDrainSeconds = 2.0;

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

/// One run of bytes to be copied.
struct Copy {
  std::byte* destination;
  const std::byte* source;
  std::size_t bytes;
};

/// A part of a run of which a device takes the digest: whole blocks but for the run's last one (core/digest.hpp).
struct DigestedPiece {
  std::byte* destination;  ///< Copied to on the way; null: nowhere.
  const std::byte* source;
  std::uint64_t bytes;
  std::uint64_t first_block;  ///< Number of its first block in the run.
};

/// An allocation of this process's in a device's memory, as other processes of the machine can open it.
struct SharedAllocation {
  std::string handle;
  std::uint64_t address;
  std::uint64_t bytes;
};

enum class Direction : std::uint8_t { kToDevice, kToHost, kOnDevice };

/// A point in a stream's order. Used by the stream's thread.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  virtual ~Event() = default;

  /// Marks what the stream was asked for so far, in the place of what was marked before.
  virtual void record() = 0;
  /// Waits until what is marked is done. Throws kTransferTimeout at the deadline, kDevice if it failed.
  virtual void wait(Deadline deadline) = 0;
};

/// Copies in the order they were asked for. Used by one thread at a time.
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  /// Starts a copy; both sides must live until `synchronize`, or an event after it, says that it is done.
  virtual void copy(Direction direction, const Copy& copy) = 0;
  /// Starts many. `notes` is page-locked memory of as many bytes as the copies' descriptions take, which lives as long.
  virtual void copy_all(Direction direction, Span<const Copy> copies, Span<std::byte> notes) {
    static_cast<void>(notes);
    for (const Copy& each : copies) copy(direction, each);
  }
  /// Starts to copy pieces of the device's memory within it, and sets `sums[i]` to what piece i adds to its run's
  /// digest (`Digest::value_of`). Pieces and sums are in page-locked memory, which lives as long. Only where the device
  /// `takes_digests`.
  virtual void digest(Span<const DigestedPiece> pieces, std::uint64_t* sums) {
    static_cast<void>(pieces);
    static_cast<void>(sums);
    throw Error(ErrorCode::kDevice, "device", "this device takes no digests");
  }
  virtual std::unique_ptr<Event> make_event() = 0;
  /// Waits until all copies are done. Throws kTransferTimeout at the deadline, kDevice if one failed.
  virtual void synchronize(Deadline deadline) = 0;
};

/// A stream that multiplies too, with the matrix of `RowSums`. Used by one thread at a time.
class RowStream : public Stream {
 public:
  /// Fills memory of the device with zeros.
  virtual void zero(Span<std::byte> memory) = 0;
  /// Multiplies `rows` of int8 in memory of the device; all must live as a copy's sides must.
  ///
  /// `matrix` is int8[RowSums::kRowBytes, RowSums::kDeviceColumns], `sums` int32[count, RowSums::kDeviceColumns].
  virtual void multiply(const std::byte* rows, std::size_t count, const std::byte* matrix, std::byte* sums,
                        Deadline deadline) = 0;
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
  /// Of the device, all in all; 0 where nobody knows.
  virtual std::uint64_t memory_bytes() const { return 0; }
  /// Whether the CPU can read and write it. If not, bytes pass through page-locked staging memory.
  virtual bool cpu_accessible() const noexcept = 0;
  /// Whether bytes count as verified that were so in page-locked memory and then copied: where the link between checks
  /// what it carries, and says so if it could not. Where it does not, who wants to know looks at the tensors.
  virtual bool copies_are_checked() const noexcept { return false; }
  /// Makes it the current device of the calling thread, which a thread needs before it calls anything else.
  virtual void bind_thread() = 0;
  /// Waits for what others have asked of a stream of theirs, by its handle, so that their tensors can be read and
  /// written. Throws kTransferTimeout at the deadline.
  virtual void wait_for_stream(std::uint64_t handle, Deadline deadline) {
    static_cast<void>(handle);
    static_cast<void>(deadline);
  }
  /// Host memory that the device can copy from without a copy in between. Throws kTransferTimeout at the deadline.
  virtual std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) = 0;
  /// Locks whole pages of host memory where they are, for the device to copy from until the object's end; its `data` is
  /// where the device itself finds them. Takes as long as it takes. Throws kDevice or kResourceExhausted where refused.
  virtual std::unique_ptr<Memory> lock_pages(Span<const std::byte> pages) {
    static_cast<void>(pages);
    throw Error(ErrorCode::kDevice, "device", "this device locks no pages that it did not allocate");
  }
  /// Memory of the device itself. Throws kResourceExhausted if it has none left, kTransferTimeout at the deadline.
  virtual std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  /// Whether its streams take digests of its memory.
  virtual bool takes_digests() const noexcept { return false; }
  /// The allocation that an address of this process's lies in. Throws kDevice where other processes cannot open it.
  virtual SharedAllocation share(std::uint64_t address) {
    static_cast<void>(address);
    throw Error(ErrorCode::kDevice, "device", "memory of this device cannot be opened by other processes");
  }
  /// Opens what another process of the machine has shared, each closed with its object. Throws kDevice if that process
  /// or its memory has gone, kTransferTimeout at the deadline.
  virtual std::vector<std::unique_ptr<Memory>> open_shared(const std::vector<std::string>& handles, Deadline deadline) {
    static_cast<void>(handles);
    static_cast<void>(deadline);
    throw Error(ErrorCode::kDevice, "device", "this device opens no memory of other processes");
  }
  /// Null where the device has no operator for it.
  virtual std::unique_ptr<RowStream> make_row_stream() { return nullptr; }
};

}  // namespace yr_fastload
