#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/deadline.hpp"

namespace yr_fastload {

/// Called every few milliseconds by the waiting thread; throws to give up (for example on Ctrl-C).
using Tick = std::function<void()>;

/// Raised once and seen by every thread of a crew. Bodies check it at least every few milliseconds, and return.
class CancelFlag {
 public:
  bool raised() const noexcept { return raised_.load(std::memory_order_relaxed); }
  /// True for the one caller that raised it.
  bool raise() noexcept { return !raised_.exchange(true); }

 private:
  std::atomic<bool> raised_{false};
};

/// A few threads that work together on one call, and end with it.
///
/// The first exception in any of them cancels the others and is rethrown by `wait`. The destructor cancels and joins,
/// so declare a crew after everything that its threads use.
class Crew {
 public:
  explicit Crew(CancelFlag& cancelled) : cancelled_(cancelled) {}
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();

  void start(std::function<void()> body);

  /// Cancels and joins.
  void stop() noexcept;

  /// Sets what is called once on cancellation, to wake bodies that sleep in a channel. Call before the first `start`.
  void on_cancel(std::function<void()> hook) { hooks_.push_back(std::move(hook)); }

  /// Has the thread in `wait` call its tick now.
  void wake() noexcept;

  /// Joins all threads. Returns false if the deadline cancelled them first.
  bool wait(Deadline deadline, const Tick& tick);

 private:
  void run(const std::function<void()>& body) noexcept;
  void cancel() noexcept;
  void join() noexcept;

  CancelFlag& cancelled_;
  std::vector<std::function<void()>> hooks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t running_ = 0;
  bool woken_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace yr_fastload
