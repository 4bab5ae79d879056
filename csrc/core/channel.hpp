#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "core/peaks.hpp"

namespace yr_fastload {

/// A bounded queue between threads of a crew.
template <typename T>
class Channel {
 public:
  /// `peak`, if given, records the number of items.
  explicit Channel(std::size_t capacity, Peak* peak = nullptr) : capacity_(capacity), peak_(peak) {}

  /// Waits for room; returns false, and drops the item, if the channel was closed.
  bool push(T item) {
    std::unique_lock<std::mutex> lock(mutex_);
    room_.wait(lock, [&] { return closed_ || items_.size() < capacity_; });
    if (closed_) return false;
    items_.push_back(std::move(item));
    if (peak_ != nullptr) peak_->note(items_.size());
    filled_.notify_one();
    return true;
  }

  /// Waits for an item; returns nullopt once the channel is closed and empty.
  std::optional<T> pop() {
    std::unique_lock<std::mutex> lock(mutex_);
    filled_.wait(lock, [&] { return closed_ || !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    room_.notify_one();
    return item;
  }

  void close() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    room_.notify_all();
    filled_.notify_all();
  }

 private:
  const std::size_t capacity_;
  Peak* const peak_;
  std::mutex mutex_;
  std::condition_variable room_;  ///< Each for one of those that wait: an item, or a place, is one thread's.
  std::condition_variable filled_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace yr_fastload
