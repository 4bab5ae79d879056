// Events: marks in a stream that others wait for.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

/// A query that finds its event pending waits this long for it. On a machine whose CPUs also are its devices, threads
/// that ask again at once would take the time of what they wait for.
constexpr std::chrono::microseconds kQueryWait{500};
constexpr std::chrono::milliseconds kErrorLook{5};

class Event {
 public:
  Event() { ++alive().events; }
  ~Event() { --alive().events; }

  /// Each record counts anew: what waits is for the last one.
  std::uint64_t record(const std::shared_ptr<Stream>& stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ = stream;
    return ++recorded_;
  }

  void reach(std::uint64_t record) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      reached_ = std::max(reached_, record);
    }
    changed_.notify_all();
  }

  /// An event that was not recorded, or whose stream failed before it, is not done.
  bool done_soon() {
    std::unique_lock<std::mutex> lock(mutex_);
    return recorded_ > 0 && changed_.wait_for(lock, kQueryWait, [this] { return reached_ >= recorded_; });
  }

  int synchronize(int timeout_ms) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    std::unique_lock<std::mutex> lock(mutex_);
    while (reached_ < recorded_) {
      const auto stream = stream_.lock();
      lock.unlock();
      const int error = stream == nullptr ? kAclRtInvalidHandle : stream->error();
      lock.lock();
      if (reached_ >= recorded_) break;
      if (error != 0) return error;  // it will never be reached
      if (timeout_ms >= 0 && std::chrono::steady_clock::now() >= end) return kAclRtEventSyncTimeout;
      changed_.wait_for(lock, kErrorLook);
    }
    return kAclSuccess;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::weak_ptr<Stream> stream_;
  std::uint64_t recorded_ = 0;
  std::uint64_t reached_ = 0;
};

std::shared_ptr<Event> find_event(void* handle) { return Handles<Event>::all().find(handle); }

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtCreateEvent(void** handle) {
  count_call("aclrtCreateEvent");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *handle = Handles<Event>::all().add(std::make_shared<Event>());
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDestroyEvent(void* handle) {
  count_call("aclrtDestroyEvent");
  return Handles<Event>::all().remove(handle) == nullptr ? kAclRtInvalidHandle : kAclSuccess;
}

YRFL_SIM_API int aclrtRecordEvent(void* handle, void* stream_handle) {
  count_call("aclrtRecordEvent");
  const auto event = find_event(handle);
  const auto stream = find_stream(stream_handle);
  if (event == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  const std::uint64_t record = event->record(stream);
  return stream->push({[event, record](const Stream&) {
                         event->reach(record);
                         return 0;
                       },
                       nullptr});
}

YRFL_SIM_API int aclrtQueryEventStatus(void* handle, int* status) {
  count_call("aclrtQueryEventStatus");
  const auto event = find_event(handle);
  if (event == nullptr) return kAclRtInvalidHandle;
  if (status == nullptr) return kAclRtParamInvalid;
  *status = event->done_soon() ? 1 : 0;  // ACL_EVENT_RECORDED_STATUS_COMPLETE, _NOT_READY
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSynchronizeEvent(void* handle) {
  count_call("aclrtSynchronizeEvent");
  const auto event = find_event(handle);
  return event == nullptr ? kAclRtInvalidHandle : event->synchronize(-1);
}

YRFL_SIM_API int aclrtSynchronizeEventWithTimeout(void* handle, std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeEventWithTimeout");
  const auto event = find_event(handle);
  return event == nullptr ? kAclRtInvalidHandle : event->synchronize(timeout_ms);
}
