// Callbacks: a stream hands them to the thread that subscribed to it, which runs them in aclrtProcessReport.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

using Callback = void (*)(void*);
constexpr int kBlock = 1;  // ACL_CALLBACK_BLOCK
constexpr std::chrono::milliseconds kWaitSlice{5};

struct Report {
  Callback function = nullptr;
  void* data = nullptr;
  bool begun = false;
  bool done = false;
};

/// Callbacks on their way from streams to threads.
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

  /// What was handed over already can still be processed.
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
    const std::uint64_t thread = found->second;
    const auto report = std::make_shared<Report>(Report{function, data});
    queues_[thread].push_back(report);
    changed_.notify_all();
    while (block && !report->done) {
      changed_.wait_for(lock, kWaitSlice);
      const bool stays = threads_.count(stream) > 0 && !self.interrupted();
      if (stays || report->begun) continue;
      auto& queue = queues_[thread];
      queue.erase(std::remove(queue.begin(), queue.end(), report), queue.end());
      return kAclRtStreamNoCallbackRegistered;
    }
    return kAclSuccess;
  }

  /// Runs one callback that waits for this thread.
  int process(std::uint64_t thread, int timeout_ms) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto some = [this, thread] {
      const auto queue = queues_.find(thread);
      return queue != queues_.end() && !queue->second.empty();
    };
    if (timeout_ms < 0)
      changed_.wait(lock, [&] { return some() || !subscribes(thread); });
    else
      changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), some);
    if (!some()) return subscribes(thread) ? kAclRtReportTimeout : kAclRtThreadSubscribe;
    auto& queue = queues_[thread];
    const std::shared_ptr<Report> report = queue.front();
    queue.pop_front();
    if (queue.empty()) queues_.erase(thread);
    report->begun = true;
    lock.unlock();
    report->function(report->data);
    lock.lock();
    report->done = true;
    changed_.notify_all();
    return kAclSuccess;
  }

 private:
  bool subscribes(std::uint64_t thread) const {
    return std::any_of(threads_.begin(), threads_.end(), [thread](const auto& item) { return item.second == thread; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<void*, std::uint64_t> threads_;  ///< By stream.
  std::map<std::uint64_t, std::deque<std::shared_ptr<Report>>> queues_;
};

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

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
  if (function == nullptr || block < 0 || block > kBlock) return kAclInvalidParam;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  if (!Reports::all().subscribed(handle)) return kAclRtStreamNoCallbackRegistered;
  return stream->push(
      {[=](const Stream& self) { return Reports::all().post(handle, function, data, block == kBlock, self); },
       nullptr});
}

/// A thread that nobody subscribed waits for its timeout too before it is told so: openYuanrong's callback thread asks
/// again at once.
YRFL_SIM_API int aclrtProcessReport(std::int32_t timeout_ms) {
  count_call("aclrtProcessReport");
  if (timeout_ms < -1 || timeout_ms == 0) return kAclInvalidParam;
  return Reports::all().process(static_cast<std::uint64_t>(::pthread_self()), timeout_ms);
}
