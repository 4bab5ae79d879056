#include "core/store_reader.hpp"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "core/pace.hpp"

namespace yr_fastload {
namespace {

using Views = std::vector<std::unique_ptr<ObjectView>>;

constexpr double kAnswerSeconds = 2.0;
constexpr double kFirstPauseSeconds = 0.05;
constexpr double kLongestPauseSeconds = 0.5;
constexpr double kNapSeconds = 0.01;
/// Before the deadline of whoever waits for the reader, who would not know why it is late.
constexpr double kTellSeconds = 0.05;
constexpr double kMoreTime = 4.0;
/// A worker that has no room for a single chunk has tried for some seconds, while others let go of theirs.
constexpr unsigned kMostWithoutRoom = 2;

/// One read: what is still to be asked for, and how it has gone so far.
class Reading {
 public:
  Reading(ObjectStore& store, const std::string& key_prefix, Pace pace, Span<const std::uint64_t> chunks,
          const Deliver& deliver, const CancelFlag& cancelled, Deadline deadline)
      : store_(store),
        key_prefix_(key_prefix),
        pace_(pace),
        wanted_(chunks.begin(), chunks.end()),
        deliver_(deliver),
        cancelled_(cancelled),
        deadline_(deadline) {}

  void run() {
    while (!cancelled_.raised()) {
      while (!wanted_.empty() && calls_.size() < pace_.calls()) begin();
      if (calls_.empty() || !end()) return;
    }
  }

 private:
  /// A call to the store on a thread of its own, or made when it is waited for.
  struct Call {
    std::vector<std::uint64_t> chunks;
    Stopwatch watch;
    std::future<Views> views;  ///< last: its destructor waits for the call, which is bounded
  };

  void begin() {
    const auto count = static_cast<std::ptrdiff_t>(std::min(pace_.count(), wanted_.size()));
    Call call;
    call.chunks.assign(wanted_.begin(), wanted_.begin() + count);
    wanted_.erase(wanted_.begin(), wanted_.begin() + count);
    Keys keys;
    for (const std::uint64_t chunk : call.chunks) keys.push_back(chunk_key(key_prefix_, chunk));
    call.views = std::async(pace_.calls() > 1 ? std::launch::async : std::launch::deferred,
                            [this, keys = std::move(keys), deadline = deadline_, call_s = call_s_] {
                              return store_.fetch(keys, deadline, call_s);
                            });
    calls_.push_back(std::move(call));
  }

  /// Waits for the call that was made first. False if no more chunks are wanted.
  bool end() {
    Call call = std::move(calls_.front());
    calls_.pop_front();
    Views views;
    try {
      views = call.views.get();
    } catch (const Error& error) {
      wanted_.insert(wanted_.begin(), call.chunks.begin(), call.chunks.end());
      recover(error, call.chunks.size(), call.watch.seconds());
      return true;
    }
    return take(call, std::move(views));
  }

  /// Delivers what came. False if no more are wanted.
  bool take(const Call& call, Views views) {
    const auto missing = static_cast<std::size_t>(std::count(views.begin(), views.end(), nullptr));
    const std::size_t came = views.size() - missing;
    if (missing == 0)
      pace_.came(came, call.watch.seconds());
    else if (came > 0)
      pace_.came_short(came);
    if (came > 0) failures_ = without_room_ = 0;
    for (std::size_t i = 0; i < views.size(); ++i) {
      if (!views[i] && came > 0) {
        wanted_.push_back(call.chunks[i]);  // alone, it says what is in the way
        continue;
      }
      const char* const detail = views[i] ? "" : "is not in the store any more";
      if (!deliver_({call.chunks[i], std::move(views[i]), ErrorCode::kPartialTransfer, detail})) return false;
    }
    return true;
  }

  /// Waits a moment before the next call, or throws what was caught if that would be of no use.
  void recover(const Error& error, std::size_t count, double seconds) {
    if (error.code() == ErrorCode::kTransferTimeout && !why_.empty()) throw late();
    const bool full = error.code() == ErrorCode::kResourceExhausted;
    if (!full && error.code() != ErrorCode::kUnavailable) throw;
    if (full && count == 1 && calls_.empty() && ++without_room_ == kMostWithoutRoom) throw;
    if (!full && !store_.answers(Deadline::after(kAnswerSeconds).earlier(deadline_))) throw;
    if (why_.empty()) deadline_ = deadline_.earlier(Deadline::after(deadline_.left() - kTellSeconds));
    why_ = error.what();
    pace_.failed(count);
    // openYuanrong drops what arrives after its time for a call, and goes on receiving it: a chunk that takes longer
    // would never come, and each call finds the link busy with those before.
    if (!full) call_s_ = std::max(call_s_, kMoreTime * seconds);
    if (!pause()) throw late();
  }

  /// False if the deadline would pass.
  bool pause() {
    const double seconds =
        std::min(kFirstPauseSeconds * static_cast<double>(1U << std::min(failures_++, 8U)), kLongestPauseSeconds);
    if (deadline_.left() <= seconds) return false;
    const Deadline end = Deadline::after(seconds);
    while (!end.passed() && !cancelled_.raised())
      std::this_thread::sleep_for(std::chrono::duration<double>(kNapSeconds));
    return true;
  }

  Error late() const { return {ErrorCode::kTransferTimeout, "load", "the deadline passed; at last " + why_}; }

  ObjectStore& store_;
  const std::string& key_prefix_;
  Pace pace_;
  std::deque<std::uint64_t> wanted_;
  std::deque<Call> calls_;
  const Deliver& deliver_;
  const CancelFlag& cancelled_;
  Deadline deadline_;
  std::string why_;  ///< The last call failed, if any did.
  double call_s_ = 0;
  unsigned failures_ = 0;
  unsigned without_room_ = 0;
};

}  // namespace

StoreReader::StoreReader(std::shared_ptr<ObjectStore> store, std::string key_prefix, std::size_t first_batch,
                         std::size_t batch)
    : store_(std::move(store)), key_prefix_(std::move(key_prefix)), first_batch_(first_batch), batch_(batch) {}

void StoreReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                       Deadline deadline) {
  Reading(*store_, key_prefix_, Pace(first_batch_, batch_), chunks, deliver, cancelled, deadline).run();
}

}  // namespace yr_fastload
