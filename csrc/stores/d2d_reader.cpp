#include "stores/d2d_reader.hpp"

#include <algorithm>
#include <deque>
#include <utility>

#include "stores/status.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

/// How long one wait for a chunk lasts before the cancel flag is looked at.
constexpr std::uint64_t kSliceMs = 100;

std::string seconds_text(double seconds) {
  const std::string text = std::to_string(seconds);
  return text.substr(0, text.find('.') + 2) + " s";
}

struct Pending {
  std::uint64_t chunk = 0;
  Landing landing;
  ds::Future future;
};

}  // namespace

/// One peer's turn.
class D2dReader::Pull {
 public:
  Pull(D2dReader& reader, const D2dPeer& peer, std::deque<std::uint64_t>& wanted, const Deliver& deliver,
       const CancelFlag& cancelled, Deadline deadline)
      : reader_(reader),
        peer_(peer),
        wanted_(wanted),
        deliver_(deliver),
        cancelled_(cancelled),
        deadline_(deadline),
        stall_s_(std::min(reader.options_.stall_s, left_s(deadline) / 2)) {}

  /// Takes from `wanted` what the peer sent.
  D2dPeerUse run() {
    use_.name = peer_.name;
    session_ = reader_.receiver_->session(deadline_);
    try {
      while (!stopped_ && use_.left_because.empty() && !(wanted_.empty() && pending_.empty())) {
        ask();
        take();
        stopped_ = stopped_ || cancelled_.raised();
      }
    } catch (const Error& error) {
      leave(error.what());
    }
    abandon();
    return std::move(use_);
  }

  bool stopped() const noexcept { return stopped_; }

 private:
  static double left_s(Deadline deadline) {
    return std::chrono::duration<double>(deadline.at() - Deadline::Clock::now()).count();
  }

  /// Asks for the next chunks: for several in one call, when half of those asked for have come.
  void ask() {
    const std::size_t ahead = std::max<std::size_t>(1, reader_.options_.chunks_ahead);
    if (wanted_.empty() || pending_.size() > ahead / 2) return;
    Keys keys;
    std::vector<BlobList> lists;
    std::vector<Landing> landings;
    while (keys.size() < wanted_.size() && pending_.size() + keys.size() < ahead) {
      const std::uint64_t chunk = wanted_[keys.size()];
      // With nothing under way, room can only come from the threads that copy.
      Landing landing =
          reader_.receiver_->land(reader_.plan_->chunk_bytes[chunk], pending_.empty() && landings.empty());
      if (!landing) break;
      keys.push_back(chunk_key(peer_.key_prefix, chunk));
      lists.push_back(landing_blobs(*reader_.plan_, chunk, landing, reader_.receiver_->device_index()));
      landings.push_back(std::move(landing));
    }
    if (keys.empty()) return;
    std::vector<ds::Future> futures = session_->call("load", deadline_.earlier(Deadline::after(stall_s_)),
                                                     [keys, lists, landings](ds::HeteroClient& client) {
                                                       std::vector<ds::Future> each;
                                                       check(client.DevSubscribe(keys, lists, each), "load", keys);
                                                       return each;
                                                     });
    for (std::size_t i = 0; i < futures.size(); ++i) {
      pending_.push_back({wanted_.front(), std::move(landings[i]), std::move(futures[i])});
      wanted_.pop_front();
    }
  }

  /// Waits a little for the chunk that was asked for first.
  void take() {
    if (pending_.empty()) return;
    const ds::Status status = pending_.front().future.Get(kSliceMs);
    if (status.GetCode() == ds::K_FUTURE_TIMEOUT) {
      if (since_.seconds() >= stall_s_) leave("sent nothing for " + seconds_text(stall_s_));
      return;
    }
    if (status.IsError()) return leave(describe(status));
    Pending one = std::move(pending_.front());
    pending_.pop_front();
    ++use_.chunks;
    const std::uint64_t bytes = reader_.plan_->chunk_bytes[one.chunk];
    stopped_ = !deliver_({one.chunk, landing_view(std::move(one.landing), bytes), ErrorCode::kPartialTransfer, {}});
    since_ = Stopwatch();  // after handing over, which may have waited for room
  }

  void leave(std::string why) {
    if (use_.left_because.empty()) use_.left_because = std::move(why);
  }

  /// What is under way may still write where it lands: that memory stays until the session's client is gone.
  void abandon() {
    if (pending_.empty() && use_.left_because.empty()) return;
    auto kept = std::make_shared<std::deque<Pending>>(std::move(pending_));
    for (auto one = kept->rbegin(); one != kept->rend(); ++one) wanted_.push_front(one->chunk);
    session_->keep(std::move(kept));
    reader_.receiver_->discard(session_);
  }

  D2dReader& reader_;
  const D2dPeer& peer_;
  std::deque<std::uint64_t>& wanted_;
  const Deliver& deliver_;
  const CancelFlag& cancelled_;
  const Deadline deadline_;
  const double stall_s_;
  std::shared_ptr<HeteroSession> session_;
  std::deque<Pending> pending_;
  Stopwatch since_;  // the last arrival
  bool stopped_ = false;
  D2dPeerUse use_;
};

D2dReader::D2dReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan,
                     std::vector<D2dPeer> peers, D2dReaderOptions options)
    : receiver_(std::move(receiver)), plan_(std::move(plan)), peers_(std::move(peers)), options_(options) {}

void D2dReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                     Deadline deadline) {
  std::deque<std::uint64_t> wanted(chunks.begin(), chunks.end());
  bool stopped = false;
  for (const D2dPeer& peer : peers_) {
    if (wanted.empty() || stopped || deadline.passed()) break;
    Pull pull(*this, peer, wanted, deliver, cancelled, deadline);
    D2dPeerUse use = pull.run();
    stopped = pull.stopped();
    const std::lock_guard<std::mutex> lock(mutex_);
    uses_.push_back(std::move(use));
  }
  std::string why = "no source is left";
  for (const D2dPeerUse& use : uses()) why += "; " + use.name + ": " + use.left_because;
  for (const std::uint64_t chunk : wanted)
    if (stopped || !deliver({chunk, nullptr, ErrorCode::kPartialTransfer, why})) return;
}

std::vector<D2dPeerUse> D2dReader::uses() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return uses_;
}

}  // namespace yr_fastload
