#include "engine/stream.hpp"

#include <chrono>
#include <utility>

#include "engine/codes.hpp"
#include "engine/counters.hpp"

namespace yr_fastload::sim {
namespace {

/// How many sends a peer may know of before they run.
constexpr std::size_t kAnnounceAhead = 16;

int run(const Task& task, const Stream& stream) noexcept {
  try {
    return task.run(stream);
  } catch (...) {  // out of memory
    return kAclRtInternalError;
  }
}

}  // namespace

Stream::Stream(int device, Clock::duration lag) : device_(device), lag_(lag) {
  ++alive().streams;
  thread_ = std::thread([this] { serve(); });
}

Stream::~Stream() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  work_.notify_all();
  thread_.join();
  --alive().streams;
}

int Stream::push(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ != 0) return error_;
    if (captured_) return kAclSuccess;
    task.due = Clock::now() + lag_;
    tasks_.push_back(std::move(task));
    ++pushed_;
    announce();
  }
  work_.notify_one();
  return kAclSuccess;
}

void Stream::announce() {
  if (running_ && !running_announced_) return;
  while (announced_ < tasks_.size() && announced_ < kAnnounceAhead) {
    Task& task = tasks_[announced_];
    if (!task.early || !task.early()) return;
    ++announced_;
  }
}

void Stream::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    if (!await_due(lock)) continue;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    running_ = true;
    running_announced_ = announced_ > 0;
    if (announced_ > 0) --announced_;
    announce();
    lock.unlock();
    const int result = run(task, *this);
    task = {};  // what it holds goes before anybody hears that it is done
    lock.lock();
    running_ = false;
    running_announced_ = false;
    ++done_;
    std::deque<Task> dropped;
    if (result != 0 && error_ == 0) dropped = stop(result);
    progress_.notify_all();
    if (dropped.empty()) continue;
    lock.unlock();
    dropped.clear();  // what tasks hold may lock, and must not under this lock
    lock.lock();
  }
}

/// Waits until the first task may begin; false if it was dropped meanwhile.
bool Stream::await_due(std::unique_lock<std::mutex>& lock) {
  const auto due = tasks_.front().due;
  if (due <= Clock::now()) return true;
  work_.wait_until(lock, due, [this] { return tasks_.empty(); });
  return !tasks_.empty();
}

std::deque<Task> Stream::stop(int error) {
  error_ = error;
  done_ += tasks_.size();
  announced_ = 0;
  return std::exchange(tasks_, {});
}

int Stream::synchronize(int timeout_ms, int timeout_error) {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::uint64_t target = pushed_;
  const auto reached = [this, target] { return done_ >= target; };
  if (timeout_ms < 0)
    progress_.wait(lock, reached);
  else if (!progress_.wait_for(lock, std::chrono::milliseconds(timeout_ms), reached))
    return timeout_error;
  return error_;
}

void Stream::interrupt() {
  std::deque<Task> dropped;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    interrupted_ = true;
    if (error_ == 0) dropped = stop(kAclRtInvalidHandle);
  }
  work_.notify_all();
  progress_.notify_all();
}

void Stream::capture(bool on) {
  const std::lock_guard<std::mutex> lock(mutex_);
  captured_ = on;
}

bool Stream::captured() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return captured_;
}

bool Stream::interrupted() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return interrupted_;
}

int Stream::error() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

}  // namespace yr_fastload::sim
