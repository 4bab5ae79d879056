#include "core/call_runner.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace yr_fastload {
namespace {

/// A thread, and whether it is about to return.
struct Member {
  std::thread thread;
  std::shared_ptr<std::atomic<bool>> ended;
};

/// Threads that outlived their runner. The list is never destroyed: the std::thread of a thread that is stuck at exit
/// must be neither joined (exit would hang) nor destroyed (exit would abort).
class LeftBehind {
 public:
  static LeftBehind& instance() {
    static LeftBehind* const list = std::make_unique<LeftBehind>().release();
    return *list;
  }

  void adopt(std::vector<Member> members) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& member : members) members_.push_back(std::move(member));
    sweep();
  }

  std::size_t count() {
    const std::lock_guard<std::mutex> lock(mutex_);
    sweep();
    return members_.size();
  }

 private:
  void sweep() {
    const auto ended =
        std::partition(members_.begin(), members_.end(), [](const Member& m) { return !m.ended->load(); });
    for (auto it = ended; it != members_.end(); ++it) it->thread.join();
    members_.erase(ended, members_.end());
  }

  std::mutex mutex_;
  std::vector<Member> members_;
};

}  // namespace

struct CallRunner::State {
  explicit State(unsigned most) : max_threads(most) {}

  const unsigned max_threads;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> tasks;
  std::vector<Member> members;
  std::size_t idle = 0;
  std::size_t alive = 0;
  bool closing = false;

  void serve(std::atomic<bool>& ended) {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      ++idle;
      changed.wait(lock, [this] { return closing || !tasks.empty(); });
      --idle;
      if (tasks.empty()) break;
      auto task = std::move(tasks.front());
      tasks.pop_front();
      lock.unlock();
      task();          // a packaged_task: keeps its exception
      task = nullptr;  // what it owns goes before the lock is taken
      lock.lock();
    }
    ended = true;  // before anybody who waits for it goes on, and counts those that are left behind
    --alive;
    changed.notify_all();
  }
};

CallRunner::CallRunner(unsigned max_threads, double close_timeout_s)
    : state_(std::make_shared<State>(max_threads)), close_timeout_s_(close_timeout_s) {}

CallRunner::~CallRunner() {
  std::vector<Member> busy;
  {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->closing = true;
    state_->changed.notify_all();
    state_->changed.wait_until(lock, Deadline::after(close_timeout_s_).at(), [this] { return state_->alive == 0; });
    busy = std::move(state_->members);
    state_->tasks.clear();
  }
  LeftBehind::instance().adopt(std::move(busy));
}

void CallRunner::submit(std::function<void()> task) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->tasks.push_back(std::move(task));
  if (state_->idle < state_->tasks.size() && state_->members.size() < state_->max_threads) {
    auto ended = std::make_shared<std::atomic<bool>>(false);
    // Shared with the thread, which may outlive the runner.
    std::thread thread([state = state_, ended] { state->serve(*ended); });
    state_->members.push_back({std::move(thread), std::move(ended)});
    ++state_->alive;
  }
  state_->changed.notify_all();
}

std::size_t CallRunner::left_behind() { return LeftBehind::instance().count(); }

}  // namespace yr_fastload
