#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "core/deadline.hpp"
#include "core/error.hpp"

namespace yr_fastload {

/// Runs calls that may block for longer than their caller can wait.
///
/// A call runs on one of the runner's few threads while the caller waits until its deadline. A late call is abandoned:
/// it may end at any time, so it must own what it touches, and its result is dropped. When the runner is destroyed,
/// threads that are still busy go to a process-wide list, which joins them once they have ended.
class CallRunner {
 public:
  CallRunner(unsigned max_threads, double close_timeout_s);
  CallRunner(const CallRunner&) = delete;
  CallRunner& operator=(const CallRunner&) = delete;
  ~CallRunner();

  /// Throws what `call` throws, or kTransferTimeout at the deadline, with the message `late`.
  template <typename Call>
  auto run(const std::string& op, Deadline deadline, Call call,
           const std::string& late = "the openYuanrong worker did not answer before the deadline")
      -> std::invoke_result_t<Call> {
    auto task = std::make_shared<std::packaged_task<std::invoke_result_t<Call>()>>(std::move(call));
    auto result = task->get_future();
    submit([task] { (*task)(); });
    task.reset();
    if (result.wait_until(deadline.at()) != std::future_status::ready)
      throw Error(ErrorCode::kTransferTimeout, op, late);
    return result.get();
  }

  /// Runs `task`, which must not throw, and does not wait for it.
  void post(std::function<void()> task) { submit(std::move(task)); }

  /// Changes how long the destructor waits for busy threads.
  void close_within(double seconds) noexcept { close_timeout_s_ = seconds; }

  /// Number of threads of this process's runners that were left behind and have not ended yet.
  static std::size_t left_behind();

  /// Beyond this number, new connections are refused, since they may leave more threads behind.
  static constexpr std::size_t kMostLeftBehind = 64;

 private:
  struct State;
  void submit(std::function<void()> task);

  std::shared_ptr<State> state_;
  double close_timeout_s_;
};

}  // namespace yr_fastload
