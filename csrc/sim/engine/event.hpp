#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "engine/export.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {

/// A mark in a stream that others wait for.
class YRFL_SIM_EXPORT Event {
 public:
  Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  /// Marks what was pushed to the stream so far; what waits is for the last mark. Returns 0 or the stream's error.
  int record(const std::shared_ptr<Stream>& stream, const std::shared_ptr<Event>& self);

  /// Whether the mark is reached, now or within half a millisecond. One that was not recorded, or whose stream failed
  /// before it, is not.
  bool done_soon();
  bool recorded() const;
  /// What its stream failed with; 0 if it did not.
  int error() const;

  /// Has a stream wait, before its next tasks, for what is marked now. Returns 0 or the stream's error.
  int wait_in(Stream& stream, const std::shared_ptr<Event>& self);

  /// Milliseconds from when the other mark was reached to when this one was.
  double since(const Event& other) const;

  /// Waits for the mark; -1 is for ever. Returns 0, the stream's error or kAclRtEventSyncTimeout.
  int synchronize(int timeout_ms);

 private:
  void reach(std::uint64_t record);
  int await(std::uint64_t record, const Stream& stream);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::weak_ptr<Stream> stream_;
  std::uint64_t recorded_ = 0;
  std::uint64_t reached_ = 0;
  std::chrono::steady_clock::time_point reached_at_{};
};

}  // namespace yr_fastload::sim
