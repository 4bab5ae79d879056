#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "engine/faults.hpp"
#include "engine/stream.hpp"

/// What the simulated driver's functions share.
namespace yr_fastload::sim::cuda {

/// CUresult, cuda.h of the public CUDA toolkit.
enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kMapFailed = 205,
  kNoPeerAccess = 217,
  kInvalidHandle = 400,
  kIllegalState = 401,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kAlreadyRegistered = 712,
  kNotRegistered = 713,
  kNotPermitted = 800,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
};

/// Counts the call. Not 0 if the driver is not initialised, or an error that lasts has come before.
int enter(const char* call);

/// The same, and that the calling thread has a context.
int enter_context(const char* call);

/// kSuccess if the calling thread may do now what no graph could repeat, such as allocate; else what that is refused
/// with while streams are captured, whose capture it has made invalid.
int check_capture();

/// `enter_context`, for such a call.
int enter_unsafe(const char* call);

/// Device of the calling thread's context; -1 without one.
int current_device();

/// What a fault makes of a call that would fail with `usual`; kSuccess if there is none, or once it is sat out.
int refused(Operation operation, int usual);

/// The result of a copy, which lasts if it is an error: the context is lost with it.
int settle(int engine_result);

/// Memory of a device is where the CPU cannot reach it: its addresses have no memory behind them, and copies find the
/// bytes elsewhere.
///
/// Where the bytes of a range are: null if it begins in memory of a device and does not end there, or lies in such that
/// was freed. Memory of the host is where it is.
void* bytes_of(const void* data, std::size_t bytes);
bool is_device_memory(const void* data);

/// An allocation of this process, by an address in it.
struct Allocation {
  int device;
  std::uintptr_t first;
  std::size_t bytes;
  std::uint64_t offset;  ///< In `shared_file`.
  bool own;              ///< Not opened from another process.
};
std::optional<Allocation> find_allocation(const void* data);

/// The file that all memory of this process's devices lies in; -1 if there is none.
int shared_file();

/// Shows memory of another process, that was mapped here, at an address of its own; 0 if there are none left.
std::uintptr_t show(std::byte* mapped, std::size_t bytes);
/// Takes it back; where it was mapped, null if nothing was shown there.
std::byte* hide(std::uintptr_t address, std::size_t& bytes);

/// The stream behind a handle; 0, 1 and 2 are the default ones. Null for one that was never made or is destroyed.
std::shared_ptr<Stream> stream_of(void* handle);

}  // namespace yr_fastload::sim::cuda
