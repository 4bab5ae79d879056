#pragma once

#include <algorithm>
#include <chrono>

namespace yr_fastload {

/// A point in monotonic time by which a call must end.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  static Deadline after(double seconds) noexcept {
    const auto span = std::chrono::duration<double>(std::clamp(seconds, 0.0, kForeverSeconds));
    return Deadline(Clock::now() + std::chrono::duration_cast<Clock::duration>(span));
  }

  Clock::time_point at() const noexcept { return at_; }
  bool passed() const noexcept { return Clock::now() >= at_; }
  /// Seconds until then; 0 if it has passed.
  double left() const noexcept { return std::max(0.0, std::chrono::duration<double>(at_ - Clock::now()).count()); }
  /// For cleanup: a call returns by its deadline plus one second.
  Deadline and_a_moment() const noexcept { return Deadline(at_ + std::chrono::milliseconds(500)); }
  Deadline earlier(Deadline other) const noexcept { return Deadline(std::min(at_, other.at_)); }

 private:
  static constexpr double kForeverSeconds = 1e8;  // three years: adding it to now() cannot overflow
  explicit Deadline(Clock::time_point at) noexcept : at_(at) {}
  Clock::time_point at_;
};

/// Seconds since it was created.
class Stopwatch {
 public:
  double seconds() const noexcept { return std::chrono::duration<double>(Deadline::Clock::now() - start_).count(); }
  /// When it was created, in seconds of the monotonic clock, as in Python's time.monotonic().
  double start() const noexcept { return std::chrono::duration<double>(start_.time_since_epoch()).count(); }

 private:
  Deadline::Clock::time_point start_ = Deadline::Clock::now();
};

}  // namespace yr_fastload
