#pragma once

#include <algorithm>
#include <cstddef>

namespace yr_fastload {

/// How many chunks one call asks for: few at first, then as many as come in half a second by the rate of the call
/// before, and never again as many as failed to come. And how many calls are under way: two, so that a link is never
/// idle between them, once a call was quick and while none has failed.
///
/// Chunks may come from another host, by a link of any rate: a call that asks for more than comes within its time
/// brings nothing, and the bytes go on arriving.
class Pace {
 public:
  Pace(std::size_t first, std::size_t most) noexcept
      : most_(std::max<std::size_t>(1, most)), count_(std::clamp<std::size_t>(first, 1, most_)) {}

  /// Of one call.
  std::size_t count() const noexcept { return calls() == 1 ? count_ : std::min(count_, most_ / calls()); }

  std::size_t calls() const noexcept { return quick_ && !failed_ && most_ >= 2 ? 2 : 1; }

  /// All of `count` came in this time.
  void came(std::size_t count, double seconds) noexcept {
    const double in_time = static_cast<double>(count) * kCallSeconds / std::max(seconds, kLeastSeconds);
    count_ = std::clamp<std::size_t>(std::min(static_cast<std::size_t>(in_time), count * kGrowth), 1, most_);
    quick_ = seconds < kQuickSeconds;
  }

  /// Of more than there was room for, this many came.
  void came_short(std::size_t count) noexcept {
    most_ = std::max<std::size_t>(1, count);
    count_ = std::min(count_, most_);
    failed_ = true;
  }

  /// None of `count` came.
  void failed(std::size_t count) noexcept {
    most_ = std::clamp<std::size_t>(count / 2, 1, most_);
    count_ = 1;
    failed_ = true;
  }

 private:
  static constexpr double kCallSeconds = 0.5;
  static constexpr double kQuickSeconds = 1.0;
  static constexpr double kLeastSeconds = 1e-6;
  static constexpr std::size_t kGrowth = 4;

  std::size_t most_;
  std::size_t count_;
  bool quick_ = false;
  bool failed_ = false;
};

}  // namespace yr_fastload
