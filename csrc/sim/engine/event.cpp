#include "engine/event.hpp"

#include <algorithm>
#include <chrono>

#include "engine/codes.hpp"
#include "engine/counters.hpp"

namespace yr_fastload::sim {
namespace {

/// A query that finds its event pending waits this long for it. On a machine whose CPUs also are its devices, threads
/// that ask again at once would take the time of what they wait for.
constexpr std::chrono::microseconds kQueryWait{500};
constexpr std::chrono::milliseconds kErrorLook{5};

}  // namespace

Event::Event() { ++alive().events; }
Event::~Event() { --alive().events; }

int Event::record(const std::shared_ptr<Stream>& stream, const std::shared_ptr<Event>& self) {
  std::uint64_t record = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ = stream;
    record = ++recorded_;
  }
  return stream->push({[self, record](const Stream&) {
                         self->reach(record);
                         return 0;
                       },
                       nullptr});
}

void Event::reach(std::uint64_t record) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    reached_ = std::max(reached_, record);
    reached_at_ = std::chrono::steady_clock::now();
  }
  changed_.notify_all();
}

int Event::wait_in(Stream& stream, const std::shared_ptr<Event>& self) {
  std::uint64_t record = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    record = recorded_;
  }
  return stream.push({[self, record](const Stream& waits) { return self->await(record, waits); }, nullptr});
}

int Event::await(std::uint64_t record, const Stream& stream) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (reached_ < record) {
    if (stream.interrupted()) return kAclRtInvalidHandle;
    changed_.wait_for(lock, kErrorLook);
  }
  return kAclSuccess;
}

double Event::since(const Event& other) const {
  const std::scoped_lock lock(mutex_, other.mutex_);
  return std::chrono::duration<double, std::milli>(reached_at_ - other.reached_at_).count();
}

bool Event::done_soon() {
  std::unique_lock<std::mutex> lock(mutex_);
  return recorded_ > 0 && changed_.wait_for(lock, kQueryWait, [this] { return reached_ >= recorded_; });
}

bool Event::recorded() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return recorded_ > 0;
}

int Event::error() const {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto stream = stream_.lock();
  lock.unlock();
  return stream == nullptr ? 0 : stream->error();
}

int Event::synchronize(int timeout_ms) {
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

}  // namespace yr_fastload::sim
