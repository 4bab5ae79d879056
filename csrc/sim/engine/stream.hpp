#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/export.hpp"

namespace yr_fastload::sim {

class Stream;

/// One task of a stream. `run` returns 0 or an error; it looks at `Stream::interrupted` when it waits.
struct Task {
  std::function<int(const Stream&)> run;
  /// Work that may be done as soon as nothing but tasks with early work is ahead: a send announces itself. May be null;
  /// cheap, never waits, may be called more than once.
  std::function<void()> early;
};

/// Tasks that run one after the other on a thread. After a task has failed none runs any more, and whoever waits gets
/// the error, as long as the stream lives.
class YRFL_SIM_EXPORT Stream {
 public:
  explicit Stream(int device);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  int device() const { return device_; }
  void push(Task task);

  /// Waits until all tasks pushed so far are done; -1 is for ever. Returns the stream's error or the timeout's.
  int synchronize(int timeout_ms, int timeout_error);

  /// Drops what has not begun, and interrupts what has.
  void interrupt();
  bool interrupted() const;
  int error() const;

 private:
  void serve();
  void announce();  // the caller holds the mutex

  const int device_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool busy_ = false;
  bool early_running_ = false;  ///< What runs now has early work.
  bool interrupted_ = false;
  bool closing_ = false;
  int error_ = 0;
  std::thread thread_;
};

/// The stream behind a handle, null for one that was never made or is destroyed.
YRFL_SIM_EXPORT std::shared_ptr<Stream> find_stream(void* handle);

}  // namespace yr_fastload::sim
