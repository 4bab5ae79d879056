#include "engine/stream.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/counters.hpp"

namespace yr_fastload::sim {
namespace {

constexpr std::size_t kAnnounceAhead = 16;

}  // namespace

Stream::Stream(int device) : device_(device) {
  ++alive().streams;
  thread_ = std::thread([this] { serve(); });
}

Stream::~Stream() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
  --alive().streams;
}

void Stream::push(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ != 0 || interrupted_) return;
    tasks_.push_back(std::move(task));
    announce();
  }
  changed_.notify_all();
}

void Stream::announce() {
  if (busy_ && !early_running_) return;
  for (std::size_t i = 0; i < std::min(tasks_.size(), kAnnounceAhead) && tasks_[i].early; ++i) tasks_[i].early();
}

void Stream::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    busy_ = true;
    early_running_ = task.early != nullptr;
    if (task.early) task.early();  // in order: before that of those behind it
    announce();
    lock.unlock();
    const int result = task.run(*this);
    task = {};  // what it holds goes before anybody hears that it is done
    lock.lock();
    busy_ = false;
    early_running_ = false;
    if (result != 0 && error_ == 0) {
      error_ = result;
      tasks_.clear();
    }
    changed_.notify_all();
  }
}

int Stream::synchronize(int timeout_ms, int timeout_error) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto idle = [this] { return tasks_.empty() && !busy_; };
  if (timeout_ms < 0)
    changed_.wait(lock, idle);
  else if (!changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), idle))
    return timeout_error;
  return error_;
}

void Stream::interrupt() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    interrupted_ = true;
    tasks_.clear();
  }
  changed_.notify_all();
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
