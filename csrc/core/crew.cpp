#include "core/crew.hpp"

#include <algorithm>
#include <chrono>

namespace yr_fastload {
namespace {

constexpr std::chrono::milliseconds kTickInterval{50};

}  // namespace

Crew::~Crew() { stop(); }

void Crew::stop() noexcept {
  cancel();
  join();
}

void Crew::start(std::function<void()> body) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++running_;
  }
  try {
    threads_.emplace_back([this, body = std::move(body)] { run(body); });
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    throw;
  }
}

void Crew::run(const std::function<void()>& body) noexcept {
  std::exception_ptr failure;
  try {
    body();
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure) cancel();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure && !failure_) failure_ = failure;
  --running_;
  changed_.notify_all();
}

void Crew::wake() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void Crew::cancel() noexcept {
  if (!cancelled_.raise()) return;
  for (const auto& hook : hooks_) hook();
}

void Crew::join() noexcept {
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

bool Crew::wait(Deadline deadline, const Tick& tick) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (running_ > 0 && !deadline.passed()) {
    const auto next = std::min(deadline.at(), Deadline::Clock::now() + kTickInterval);
    changed_.wait_until(lock, next, [&] { return running_ == 0 || woken_; });
    woken_ = false;
    if (tick && running_ > 0) {
      lock.unlock();
      tick();  // an exception from it leaves the rest to the destructor
      lock.lock();
    }
  }
  const bool in_time = running_ == 0;
  lock.unlock();
  if (!in_time) cancel();
  join();
  if (failure_) std::rethrow_exception(failure_);
  return in_time;
}

}  // namespace yr_fastload
