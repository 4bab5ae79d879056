#pragma once

#include <atomic>
#include <cstdint>

namespace yr_fastload {

/// A number that goes up and down, and its maximum. Thread-safe.
class Peak {
 public:
  void note(std::uint64_t value) noexcept {
    std::uint64_t most = most_.load(std::memory_order_relaxed);
    while (most < value && !most_.compare_exchange_weak(most, value, std::memory_order_relaxed)) {
    }
  }
  std::uint64_t most() const noexcept { return most_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> most_{0};
};

/// The most that any single transfer in this process used of what its options limit.
struct TransferPeaks {
  Peak chunks_in_flight;
  Peak copy_threads;
};

inline TransferPeaks& transfer_peaks() noexcept {
  static TransferPeaks peaks;
  return peaks;
}

}  // namespace yr_fastload
