#include "devices/acl_device.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "core/call_runner.hpp"
#include "core/error.hpp"

namespace yr_fastload {
namespace {

constexpr unsigned kAllocatingThreads = 2;

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
  static const Acl& instance() {
    static const Acl acl;
    return acl;
  }

  AclError (*set_device)(std::int32_t) = nullptr;
  AclError (*get_device)(std::int32_t*) = nullptr;
  AclError (*device_count)(std::uint32_t*) = nullptr;
  AclError (*malloc)(void**, std::size_t, int) = nullptr;
  AclError (*free)(void*) = nullptr;
  AclError (*malloc_host)(void**, std::size_t) = nullptr;
  AclError (*free_host)(void*) = nullptr;
  AclError (*create_stream)(void**) = nullptr;
  AclError (*destroy_stream)(void*) = nullptr;
  AclError (*destroy_stream_force)(void*) = nullptr;
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
  Acl() {
    library_ = ::dlopen("libascendcl.so", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr)
      throw Error(ErrorCode::kDevice, "device",
                  std::string("libascendcl.so cannot be loaded: ") + ::dlerror() +
                      "; source CANN's set_env.sh, or run under `yr-fastload sim --`");
    load(set_device, "aclrtSetDevice");
    load(get_device, "aclrtGetDevice");
    load(device_count, "aclrtGetDeviceCount");
    load(malloc, "aclrtMalloc");
    load(free, "aclrtFree");
    load(malloc_host, "aclrtMallocHost");
    load(free_host, "aclrtFreeHost");
    load(create_stream, "aclrtCreateStream");
    load(destroy_stream, "aclrtDestroyStream");
    load(destroy_stream_force, "aclrtDestroyStreamForce");
    load(memcpy_async, "aclrtMemcpyAsync");
    load(create_event, "aclrtCreateEvent");
    load(destroy_event, "aclrtDestroyEvent");
    load(record_event, "aclrtRecordEvent");
    load(synchronize_event, "aclrtSynchronizeEventWithTimeout");
    load(synchronize_stream, "aclrtSynchronizeStreamWithTimeout");
    exchange_capture_mode =
        reinterpret_cast<AclError (*)(int*)>(::dlsym(library_, "aclmdlRICaptureThreadExchangeMode"));
    const auto accessible = reinterpret_cast<int (*)()>(::dlsym(library_, "yrfl_sim_cpu_accessible"));
    simulated = accessible != nullptr;
    cpu_accessible = simulated && accessible() != 0;
    AclError (*initialize)(const char*) = nullptr;
    load(initialize, "aclInit");
    const AclError result = initialize(nullptr);
    if (result != kSuccess && result != kRepeatInitialize)
      throw Error(ErrorCode::kDevice, "device", "aclInit failed with " + std::to_string(result));
  }

  template <typename Function>
  void load(Function& function, const char* name) {
    function = reinterpret_cast<Function>(::dlsym(library_, name));
    if (function == nullptr)
      throw Error(ErrorCode::kDevice, "device", std::string("libascendcl.so has no ") + name + "; update CANN");
  }

  void* library_ = nullptr;  // stays loaded
};

void check(AclError result, const char* call) {
  if (result == kSuccess) return;
  const ErrorCode code = result == kMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kDevice;
  throw Error(code, "device", std::string(call) + " failed with ACL error " + std::to_string(result));
}

std::int32_t milliseconds_to(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.at() - Deadline::Clock::now());
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(left.count(), 1, std::int64_t{1} << 30));
}

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

class AclMemory final : public Memory {
 public:
  AclMemory(int device, std::size_t bytes, bool on_host) : device_(device), bytes_(bytes), on_host_(on_host) {
    const Acl& acl = Acl::instance();
    void* data = nullptr;
    if (on_host)
      check(acl.malloc_host(&data, bytes), "aclrtMallocHost");
    else
      check(acl.malloc(&data, bytes, kHugePagesFirst), "aclrtMalloc");
    data_ = static_cast<std::byte*>(data);
  }
  ~AclMemory() override {
    const Acl& acl = Acl::instance();
    const ThreadDevice bound(device_);  // whichever thread drops the last owner
    static_cast<void>(on_host_ ? acl.free_host(data_) : acl.free(data_));
  }
  std::byte* data() const noexcept override { return data_; }
  std::size_t bytes() const noexcept override { return bytes_; }

 private:
  const int device_;
  const std::size_t bytes_;
  const bool on_host_;
  std::byte* data_ = nullptr;
};

class AclEvent final : public Event {
 public:
  explicit AclEvent(void* stream) : stream_(stream) { check(acl_.create_event(&event_), "aclrtCreateEvent"); }
  ~AclEvent() override { static_cast<void>(acl_.destroy_event(event_)); }

  void record() override { check(acl_.record_event(event_, stream_), "aclrtRecordEvent"); }
  void wait(Deadline deadline) override {
    const AclError result = acl_.synchronize_event(event_, milliseconds_to(deadline));
    if (result == kEventSyncTimeout || result == kStreamSyncTimeout)
      throw Error(ErrorCode::kTransferTimeout, "device", "copies on the device were not done by the deadline");
    check(result, "aclrtSynchronizeEventWithTimeout");
  }

 private:
  const Acl& acl_ = Acl::instance();
  void* const stream_;
  void* event_ = nullptr;
};

class AclStream final : public Stream {
 public:
  explicit AclStream(int device) : bound_(device) {
    check(bound_.result(), "aclrtSetDevice");
    check(acl_.create_stream(&stream_), "aclrtCreateStream");
    try {
      event_ = make_event();
    } catch (...) {
      acl_.destroy_stream(stream_);
      throw;
    }
  }
  ~AclStream() override {
    // aclrtDestroyStream waits for pending work, which never ends on a device that hangs; the forced variant drops what
    // has not begun, so that nothing is written later.
    static_cast<void>(under_way_ ? acl_.destroy_stream_force(stream_) : acl_.destroy_stream(stream_));
  }

  void copy(Direction direction, const Copy& copy) override {
    constexpr int kKinds[] = {kHostToDevice, kDeviceToHost, kDeviceToDevice};
    under_way_ = true;
    check(acl_.memcpy_async(copy.destination, copy.bytes, copy.source, copy.bytes,
                            kKinds[static_cast<std::size_t>(direction)], stream_),
          "aclrtMemcpyAsync");
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<AclEvent>(stream_); }
  void synchronize(Deadline deadline) override {
    event_->record();
    event_->wait(deadline);
    under_way_ = false;
  }

 private:
  const ThreadDevice bound_;  ///< A stream is used by threads of its device, and destroyed by the one that made it.
  const Acl& acl_ = Acl::instance();
  void* stream_ = nullptr;
  std::unique_ptr<Event> event_;
  bool under_way_ = false;  ///< Copies may still be.
};

class AclDevice final : public Device {
 public:
  explicit AclDevice(int index) : index_(index) { check(ThreadDevice(index).result(), "aclrtSetDevice"); }

  const char* name() const noexcept override { return acl_.simulated ? "simulated-npu" : "npu"; }
  int index() const noexcept override { return index_; }
  bool cpu_accessible() const noexcept override { return acl_.cpu_accessible; }
  void bind_thread() override {
    check(acl_.set_device(index_), "aclrtSetDevice");
    relax_capture();
  }
  void wait_for_stream(std::uint64_t handle, Deadline deadline) override {
    const ThreadDevice bound(index_);
    check(bound.result(), "aclrtSetDevice");
    const AclError result = acl_.synchronize_stream(reinterpret_cast<void*>(handle), milliseconds_to(deadline));
    if (result == kStreamSyncTimeout)
      throw Error(ErrorCode::kTransferTimeout, "device", "what a stream was asked for was not done by the deadline");
    check(result, "aclrtSynchronizeStreamWithTimeout");
  }
  std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, true, deadline);
  }
  std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, false, deadline);
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<AclStream>(index_); }

 private:
  /// While another thread captures a graph, threads may not copy synchronously, which openYuanrong's client can do on
  /// those that call it. What this thread does is not part of any graph.
  void relax_capture() const noexcept {
    constexpr int kRelaxed = 2;  // ACL_MODEL_RI_CAPTURE_MODE_RELAXED
    int mode = kRelaxed;
    if (acl_.exchange_capture_mode != nullptr) static_cast<void>(acl_.exchange_capture_mode(&mode));
  }

  /// Runs on a thread that can be abandoned: on a device that hangs this does not return.
  std::unique_ptr<Memory> allocate(std::size_t bytes, bool on_host, Deadline deadline) {
    return runner_.run(
        "device", deadline,
        [index = index_, bytes, on_host]() -> std::unique_ptr<Memory> {
          check(Acl::instance().set_device(index), "aclrtSetDevice");
          return std::make_unique<AclMemory>(index, bytes, on_host);
        },
        "device " + std::to_string(index_) + " gave no memory before the deadline");
  }

  const Acl& acl_ = Acl::instance();
  const int index_;
  CallRunner runner_{kAllocatingThreads, 0.0};
};

}  // namespace

std::unique_ptr<Device> open_acl_device(int index) { return std::make_unique<AclDevice>(index); }

unsigned acl_device_count() noexcept {
  try {
    std::uint32_t count = 0;
    return Acl::instance().device_count(&count) == kSuccess ? count : 0;
  } catch (...) {
    return 0;
  }
}

int current_acl_device() noexcept {
  try {
    std::int32_t index = -1;
    return Acl::instance().get_device(&index) == kSuccess ? index : -1;
  } catch (...) {
    return -1;
  }
}

}  // namespace yr_fastload
