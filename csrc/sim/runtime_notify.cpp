// Notifies: flags that one stream raises, and another waits for and takes down.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

constexpr std::chrono::milliseconds kWaitSlice{10};

class Notify {
 public:
  Notify() { ++alive().notifies; }
  Notify(const Notify&) = delete;
  Notify& operator=(const Notify&) = delete;
  ~Notify() { --alive().notifies; }

  int record() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (destroyed_) return kAclRtInvalidHandle;
      raised_ = true;
    }
    changed_.notify_one();
    return kAclSuccess;
  }

  /// Takes the flag down: two records without a wait between them are one, as aclrtWaitAndResetNotify says.
  int wait(const Stream& stream) {
    const auto end = exec_deadline();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!raised_) {
      if (destroyed_ || stream.interrupted()) return kAclRtInvalidHandle;
      if (std::chrono::steady_clock::now() >= end) return kAclRtFftsPlusTimeout;
      changed_.wait_for(lock, kWaitSlice);
    }
    raised_ = false;
    return kAclSuccess;
  }

  /// Ends the waits: nobody can record any more.
  void destroy() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      destroyed_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool raised_ = false;
  bool destroyed_ = false;
};

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int rtNotifyCreate(std::int32_t device, void** handle) {
  count_call("rtNotifyCreate");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  if (!device_exists(device)) return kAclRtInvalidDevice;
  *handle = Handles<Notify>::all().add(std::make_shared<Notify>());
  return kAclSuccess;
}

YRFL_SIM_API int rtNotifyDestroy(void* handle) {
  count_call("rtNotifyDestroy");
  const auto notify = Handles<Notify>::all().remove(handle);
  if (notify == nullptr) return kAclRtInvalidHandle;
  notify->destroy();
  return kAclSuccess;
}

YRFL_SIM_API int rtNotifyRecord(void* handle, void* stream_handle) {
  count_call("rtNotifyRecord");
  const auto notify = Handles<Notify>::all().find(handle);
  const auto stream = find_stream(stream_handle);
  if (notify == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  return stream->push({[notify](const Stream&) { return notify->record(); }, nullptr});
}

YRFL_SIM_API int rtNotifyWait(void* handle, void* stream_handle) {
  count_call("rtNotifyWait");
  const auto notify = Handles<Notify>::all().find(handle);
  const auto stream = find_stream(stream_handle);
  if (notify == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  return stream->push({[notify](const Stream& self) { return notify->wait(self); }, nullptr});
}
