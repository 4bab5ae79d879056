#include "transports/d2d_reader.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "datasystem/status.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

/// Longest wait for a chunk between two checks of the cancel flag.
constexpr std::uint64_t kSliceMs = 100;
/// Polling interval for a peer that is still loading itself.
constexpr std::chrono::milliseconds kLookInterval{10};
/// Keys per query; openYuanrong takes 10,000.
constexpr std::size_t kLookKeys = 4096;

std::string seconds_text(double seconds) {
  const std::string text = std::to_string(seconds);
  return text.substr(0, text.find('.') + 2) + " s";
}

/// A chunk that has arrived in its tensors.
class InPlace final : public ObjectView {
 public:
  explicit InPlace(std::uint64_t bytes) : bytes_(bytes) {}
  Span<const std::byte> bytes() const noexcept override { return {nullptr, bytes_}; }
  Place place() const noexcept override { return Place::kTensors; }

 private:
  const std::uint64_t bytes_;
};

}  // namespace

D2dReader::D2dReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan, D2dPeer peer,
                     std::optional<TensorMemory> tensors, D2dReaderOptions options)
    : receiver_(std::move(receiver)),
      plan_(std::move(plan)),
      peer_(std::move(peer)),
      tensors_(std::move(tensors)),
      options_(options) {}

void D2dReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                     Deadline deadline) {
  wanted_.assign(chunks.begin(), chunks.end());
  stall_s_ =
      std::min(options_.stall_s, std::chrono::duration<double>(deadline.at() - Deadline::Clock::now()).count() / 2);
  session_ = receiver_->session(deadline);
  since_ = Stopwatch();
  bool more = true;
  try {
    while (more && !cancelled.raised() && !done()) {
      look(deadline);
      ask(deadline);
      more = take(deliver);
    }
  } catch (const Error& error) {
    late_ = true;
    leave(error.what());
  }
  abandon();
  wanted_.insert(wanted_.begin(), served_.begin(), served_.end());
  for (auto chunk = wanted_.begin(); more && !cancelled.raised() && chunk != wanted_.end(); ++chunk)
    more = deliver({*chunk, nullptr, ErrorCode::kPartialTransfer, peer_.name + " " + left_because_});
}

bool D2dReader::done() const {
  return !left_because_.empty() || (wanted_.empty() && served_.empty() && pending_.empty());
}

std::size_t D2dReader::ahead() const { return std::max<std::size_t>(1, options_.chunks_ahead); }

/// Asks which of the wanted chunks the peer serves by now, when fewer are known than may be requested.
void D2dReader::look(Deadline deadline) {
  if (wanted_.empty() || served_.size() >= ahead() || Deadline::Clock::now() < next_look_) return;
  std::deque<std::uint64_t> served = served_;
  std::deque<std::uint64_t> rest;
  std::size_t seen = 0;
  while (seen < wanted_.size() && served.size() < ahead()) {
    Keys keys;
    for (std::size_t i = seen; i < std::min(seen + kLookKeys, wanted_.size()); ++i)
      keys.push_back(chunk_key(peer_.key_prefix, wanted_[i]));
    const std::vector<bool> there =
        session_->call("load", deadline.earlier(Deadline::after(stall_s_)),
                       [keys](ds::HeteroClient& client) { return are_served(client, keys); });
    for (const bool one : there) (one ? served : rest).push_back(wanted_[seen++]);
  }
  rest.insert(rest.end(), wanted_.begin() + static_cast<std::ptrdiff_t>(seen), wanted_.end());
  wanted_ = std::move(rest);
  served_ = std::move(served);
  next_look_ = Deadline::Clock::now() + kLookInterval;
}

/// Requests the next chunks, several per call, once half of those requested have arrived.
void D2dReader::ask(Deadline deadline) {
  if (served_.empty() || pending_.size() > ahead() / 2) return;
  Keys keys;
  std::vector<BlobList> lists;
  std::vector<Landing> landings;
  while (keys.size() < served_.size() && pending_.size() + keys.size() < ahead()) {
    const std::uint64_t chunk = served_[keys.size()];
    Landing landing;
    if (lands(chunk)) {
      // With nothing in flight, only the copying threads can make room.
      landing = receiver_->land(plan_->chunk_bytes[chunk], pending_.empty() && landings.empty(), deadline);
      if (!landing) break;
    }
    keys.push_back(chunk_key(peer_.key_prefix, chunk));
    lists.push_back(targets(chunk, landing));
    landings.push_back(std::move(landing));
  }
  if (keys.empty()) return;
  // From here on the tensors may be written to, even if the call times out.
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (!landings[i]) in_flight_.push_back(served_[i]);
  asking_ = landings;
  const std::shared_ptr<void> owners = tensors_ ? tensors_->owners : nullptr;
  std::vector<ds::Future> futures = session_->call("load", deadline.earlier(Deadline::after(stall_s_)),
                                                   [keys, lists, landings, owners](ds::HeteroClient& client) {
                                                     std::vector<ds::Future> each;
                                                     check(client.DevSubscribe(keys, lists, each), "load", keys);
                                                     return each;
                                                   });
  for (std::size_t i = 0; i < futures.size(); ++i) {
    pending_.push_back({served_.front(), std::move(landings[i]), std::move(futures[i])});
    served_.pop_front();
  }
  asking_.clear();
}

/// Waits briefly for the oldest request. False if no more are wanted.
bool D2dReader::take(const Deliver& deliver) {
  if (pending_.empty()) {
    if (served_.empty() && since_.seconds() >= stall_s_)
      leave("came to serve nothing more in " + seconds_text(stall_s_));
    else if (served_.empty())
      std::this_thread::sleep_until(next_look_);
    return true;
  }
  const ds::Status status = pending_.front().future.Get(kSliceMs);
  if (status.GetCode() == ds::K_FUTURE_TIMEOUT) {
    if (since_.seconds() >= stall_s_) leave("sent nothing for " + seconds_text(stall_s_));
    return true;
  }
  if (status.IsError()) {
    leave("failed: " + describe(status));
    return true;
  }
  Pending one = std::move(pending_.front());
  pending_.pop_front();
  if (!one.landing) in_flight_.erase(std::find(in_flight_.begin(), in_flight_.end(), one.chunk));
  ++arrived_;
  Arrival arrival;
  arrival.chunk = one.chunk;
  const std::uint64_t bytes = plan_->chunk_bytes[one.chunk];
  if (one.landing)
    arrival.view = landing_view(std::move(one.landing), bytes);
  else
    arrival.view = std::make_unique<InPlace>(bytes);
  const bool more = deliver(std::move(arrival));
  since_ = Stopwatch();  // after handing over, which may have waited for room
  return more;
}

void D2dReader::leave(std::string why) {
  if (left_because_.empty()) left_because_ = std::move(why);
}

/// Transfers in flight may still write: their memory is kept until the session's client is gone.
void D2dReader::abandon() {
  if (pending_.empty() && !late_) return;
  auto kept = std::make_shared<std::deque<Pending>>(std::move(pending_));
  for (auto one = kept->rbegin(); one != kept->rend(); ++one) wanted_.push_front(one->chunk);
  pending_.clear();
  session_->keep(std::move(kept));
  session_->keep(std::make_shared<std::vector<Landing>>(std::move(asking_)));
  if (tensors_) session_->keep(tensors_->owners);
  receiver_->discard(session_);
}

void D2dReader::distrust() {
  if (session_) receiver_->discard(session_);
}

BlobList D2dReader::targets(std::uint64_t chunk, const Landing& landing) const {
  const int device = receiver_->device_index();
  if (travels_packed(*plan_, chunk)) return one_blob(landing->data(), plan_->chunk_bytes[chunk], device);
  return landing ? landing_blobs(*plan_, chunk, landing, device) : tensor_blobs(*plan_, chunk, *tensors_, device);
}

}  // namespace yr_fastload
