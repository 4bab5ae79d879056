#pragma once

#include <cstddef>
#include <cstdint>

#include "core/deadline.hpp"

// What this folder uses of Ascend's runtime, which is loaded when first asked for.
namespace yr_fastload::acl {

// Values of CANN's ABI (acl_base.h, acl_rt.h; https://www.hiascend.com/document, AscendCL API reference).
using AclError = int;
constexpr AclError kSuccess = 0;
constexpr AclError kRepeatInitialize = 100002;
constexpr AclError kMemoryAllocation = 207001;
constexpr AclError kEventSyncTimeout = 507047;
constexpr AclError kStreamSyncTimeout = 507046;
constexpr int kHugePagesFirst = 0;
constexpr int kHostToDevice = 1;
constexpr int kDeviceToHost = 2;
constexpr int kDeviceToDevice = 3;

/// The functions of libascendcl.so used here.
class Acl {
 public:
  /// Loaded and initialised once per process, and never finalised: other code in the process uses it too.
  static const Acl& instance();

  AclError (*set_device)(std::int32_t) = nullptr;
  AclError (*get_device)(std::int32_t*) = nullptr;
  AclError (*device_count)(std::uint32_t*) = nullptr;
  AclError (*memory_info)(int, std::size_t*, std::size_t*) = nullptr;
  AclError (*malloc)(void**, std::size_t, int) = nullptr;
  AclError (*free)(void*) = nullptr;
  AclError (*malloc_host)(void**, std::size_t) = nullptr;
  AclError (*free_host)(void*) = nullptr;
  AclError (*create_stream)(void**) = nullptr;
  AclError (*destroy_stream)(void*) = nullptr;
  AclError (*destroy_stream_force)(void*) = nullptr;
  AclError (*memset_async)(void*, std::size_t, std::int32_t, std::size_t, void*) = nullptr;
  AclError (*memcpy_async)(void*, std::size_t, const void*, std::size_t, int, void*) = nullptr;
  AclError (*create_event)(void**) = nullptr;
  AclError (*destroy_event)(void*) = nullptr;
  AclError (*record_event)(void*, void*) = nullptr;
  AclError (*synchronize_event)(void*, std::int32_t) = nullptr;
  AclError (*synchronize_stream)(void*, std::int32_t) = nullptr;
  /// Null in versions of CANN that capture no graphs.
  AclError (*exchange_capture_mode)(int*) = nullptr;
  bool simulated = false;
  bool cpu_accessible = false;  ///< As the memory of a simulated device may be.

 private:
  Acl();
  template <typename Function>
  void load(Function& function, const char* name);

  void* library_ = nullptr;  // stays loaded
};

/// Throws kResourceExhausted or kDevice if a call failed.
void check(AclError result, const char* call);

std::int32_t milliseconds_to(Deadline deadline);

/// Selects a device for the calling thread, and restores the previous one when destroyed. A thread that had none keeps
/// this one: ACL cannot unset it.
class ThreadDevice {
 public:
  explicit ThreadDevice(int index) noexcept {
    if (acl_.get_device(&before_) != kSuccess) before_ = -1;
    result_ = acl_.set_device(index);
  }
  ThreadDevice(const ThreadDevice&) = delete;
  ThreadDevice& operator=(const ThreadDevice&) = delete;
  ~ThreadDevice() {
    if (before_ >= 0) static_cast<void>(acl_.set_device(before_));
  }
  AclError result() const noexcept { return result_; }

 private:
  const Acl& acl_ = Acl::instance();
  std::int32_t before_ = -1;
  AclError result_ = kSuccess;
};

}  // namespace yr_fastload::acl
