#include "datasystem/graveyard.hpp"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "core/call_runner.hpp"
#include "core/error.hpp"

namespace yr_fastload {
namespace {

/// A minute for the peer's address, asked for twice at most, and HCCL's HCCL_CONNECT_TIMEOUT of two minutes.
constexpr std::chrono::minutes kQuiet{5};

std::atomic<std::size_t> waiting{0};

}  // namespace

void destroy_later(std::function<void()> destroy) {
  ++waiting;
  std::thread([destroy = std::move(destroy)]() mutable {
    std::this_thread::sleep_for(kQuiet);
    destroy();
    destroy = nullptr;
    --waiting;
  }).detach();
}

std::size_t to_be_destroyed() { return waiting; }

void check_left_behind() {
  const std::size_t threads = CallRunner::left_behind();
  if (threads < CallRunner::kMostLeftBehind && waiting < kMostToBeDestroyed) return;
  throw Error(ErrorCode::kResourceExhausted, "connect",
              std::to_string(threads) + " threads and " + std::to_string(waiting) +
                  " connections of this process still wait for openYuanrong workers that do not answer; connect again "
                  "when they have ended (minutes), or start a new process");
}

}  // namespace yr_fastload
