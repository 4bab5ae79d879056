#pragma once

#include <cstddef>
#include <memory>

#include "core/device.hpp"
#include "core/error.hpp"
#include "devices/acl_runtime.hpp"

namespace yr_fastload::acl {

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

  void* handle() const noexcept { return stream_; }
  /// Before it is asked for something by its handle.
  void note_work() noexcept { under_way_ = true; }

  void copy(Direction direction, const Copy& copy) override {
    constexpr int kKinds[] = {kHostToDevice, kDeviceToHost, kDeviceToDevice};
    note_work();
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

}  // namespace yr_fastload::acl
