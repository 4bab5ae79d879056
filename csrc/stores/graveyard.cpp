#include "stores/graveyard.hpp"

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

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

}  // namespace yr_fastload
