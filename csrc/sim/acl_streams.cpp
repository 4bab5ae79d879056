// Streams and the callbacks in them.
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {

std::shared_ptr<Stream> find_stream(void* handle) { return Handles<Stream>::all().find(handle); }

namespace {

using Callback = void (*)(void*);
constexpr int kBlock = 1;  // ACL_CALLBACK_BLOCK
constexpr std::chrono::milliseconds kWaitSlice{5};

struct Report {
  Callback function = nullptr;
  void* data = nullptr;
  std::shared_ptr<bool> done;  ///< Set under the mutex.
};

/// Callbacks on their way from streams to the threads that subscribed to them.
class Reports {
 public:
  static Reports& all() {
    static Reports* const made = new Reports;  // never destroyed
    return *made;
  }

  bool subscribe(std::uint64_t thread, void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return threads_.emplace(stream, thread).second;
  }

  bool unsubscribe(std::uint64_t thread, void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = threads_.find(stream);
    if (found == threads_.end() || found->second != thread) return false;
    threads_.erase(found);
    changed_.notify_all();
    return true;
  }

  bool subscribed(void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return threads_.count(stream) > 0;
  }

  /// From a stream: hands a callback over, and waits until it ran if it blocks.
  int post(void* stream, Callback function, void* data, bool block, const Stream& self) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto found = threads_.find(stream);
    if (found == threads_.end()) return kAclRtStreamNoCallbackRegistered;
    const auto done = std::make_shared<bool>(false);
    queues_[found->second].push_back({function, data, done});
    changed_.notify_all();
    while (block && !*done) {
      changed_.wait_for(lock, kWaitSlice);
      if (self.interrupted()) break;
    }
    return kAclSuccess;
  }

  /// From a subscribed thread: runs one callback.
  int process(std::uint64_t thread, int timeout_ms) {
    std::unique_lock<std::mutex> lock(mutex_);
    auto& queue = queues_[thread];
    const auto some = [&] { return !queue.empty(); };
    if (timeout_ms < 0)
      changed_.wait(lock, some);
    else if (!changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), some))
      return kAclRtWaitTimeout;
    const Report report = queue.front();
    queue.pop_front();
    lock.unlock();
    report.function(report.data);
    lock.lock();
    *report.done = true;
    changed_.notify_all();
    return kAclSuccess;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<void*, std::uint64_t> threads_;
  std::map<std::uint64_t, std::deque<Report>> queues_;
};

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtCreateStream(void** handle) {
  count_call("aclrtCreateStream");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *handle = Handles<Stream>::all().add(std::make_shared<Stream>(current_device()));
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDestroyStream(void* handle) {
  count_call("aclrtDestroyStream");
  const auto stream = Handles<Stream>::all().remove(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  stream->synchronize(-1, 0);
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDestroyStreamForce(void* handle) {
  count_call("aclrtDestroyStreamForce");
  const auto stream = Handles<Stream>::all().remove(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  stream->interrupt();
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSynchronizeStream(void* handle) {
  count_call("aclrtSynchronizeStream");
  const auto stream = find_stream(handle);
  return stream == nullptr ? kAclRtInvalidHandle : stream->synchronize(-1, 0);
}

YRFL_SIM_API int aclrtSynchronizeStreamWithTimeout(void* handle, std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeStreamWithTimeout");
  const auto stream = find_stream(handle);
  return stream == nullptr ? kAclRtInvalidHandle : stream->synchronize(timeout_ms, kAclRtStreamSyncTimeout);
}

YRFL_SIM_API int aclrtSubscribeReport(std::uint64_t thread, void* handle) {
  count_call("aclrtSubscribeReport");
  if (find_stream(handle) == nullptr) return kAclRtInvalidHandle;
  return Reports::all().subscribe(thread, handle) ? kAclSuccess : kAclRtStreamSubscribe;
}

YRFL_SIM_API int aclrtUnSubscribeReport(std::uint64_t thread, void* handle) {
  count_call("aclrtUnSubscribeReport");
  return Reports::all().unsubscribe(thread, handle) ? kAclSuccess : kAclRtStreamSubscribe;
}

YRFL_SIM_API int aclrtLaunchCallback(void (*function)(void*), void* data, int block, void* handle) {
  count_call("aclrtLaunchCallback");
  if (function == nullptr) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  if (!Reports::all().subscribed(handle)) return kAclRtStreamNoCallbackRegistered;
  stream->push({[=](const Stream& self) { return Reports::all().post(handle, function, data, block == kBlock, self); },
                nullptr});
  return stream->error();
}

YRFL_SIM_API int aclrtProcessReport(std::int32_t timeout_ms) {
  count_call("aclrtProcessReport");
  return Reports::all().process(static_cast<std::uint64_t>(::pthread_self()), timeout_ms);
}
