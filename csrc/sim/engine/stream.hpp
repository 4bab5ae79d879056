#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/export.hpp"

namespace yr_fastload::sim {

class Stream;

/// One task of a stream.
struct Task {
  /// Returns 0 or an aclError; looks at `Stream::interrupted` every few milliseconds when it waits.
  std::function<int(const Stream&)> run;
  /// Work that may be done as soon as nothing but tasks with early work is ahead: a send announces itself. Cheap,
  /// called at most once, and never waits. False if it was not done, and none behind it may do theirs. May be null.
  std::function<bool()> early;
  /// Not begun before; set when it is pushed.
  std::chrono::steady_clock::time_point due{};
};

/// Tasks that run one after the other on a thread.
///
/// After a task has failed none runs any more, none is taken, and whoever waits gets the error as long as the stream
/// lives: CANN's behaviour of a stream that stops on failure.
class YRFL_SIM_EXPORT Stream {
 public:
  using Clock = std::chrono::steady_clock;

  /// `lag`: from the push of a task to its begin, as on a device that has other work to do.
  explicit Stream(int device, Clock::duration lag = Clock::duration::zero());
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  /// Runs what is left, and joins.
  ~Stream();

  int device() const { return device_; }

  /// Returns 0, or the stream's error if it takes no more tasks. One that is captured takes them and runs none.
  int push(Task task);

  void capture(bool on);
  bool captured() const;

  /// Waits until the tasks pushed so far are done or dropped; -1 is for ever. Returns the stream's error or
  /// `timeout_error`.
  int synchronize(int timeout_ms, int timeout_error);

  /// Drops what has not begun, and asks what has to end.
  void interrupt();
  bool interrupted() const;
  int error() const;

 private:
  void serve();
  bool await_due(std::unique_lock<std::mutex>& lock);
  void announce();
  std::deque<Task> stop(int error);

  const int device_;
  const Clock::duration lag_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable progress_;
  std::deque<Task> tasks_;
  std::size_t announced_ = 0;  ///< Of `tasks_`, from its front.
  bool running_ = false;
  bool running_announced_ = false;  ///< Whether those behind the running task may announce themselves.
  std::uint64_t pushed_ = 0;
  std::uint64_t done_ = 0;
  bool interrupted_ = false;
  bool captured_ = false;
  bool closing_ = false;
  int error_ = 0;
  std::thread thread_;
};

/// The stream behind a handle, null for one that was never made or is destroyed.
YRFL_SIM_EXPORT std::shared_ptr<Stream> find_stream(void* handle);

}  // namespace yr_fastload::sim
