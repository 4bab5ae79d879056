#include "transports/d2d_source.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <thread>
#include <unordered_map>
#include <utility>

#include "datasystem/status.hpp"
#include "transports/hetero_receiver.hpp"
#include "transports/packing.hpp"

namespace yr_fastload {
namespace {

constexpr double kPackSeconds = 60.0;
/// How long an unanswered key is offered again: an overloaded worker answers too late, and offering twice is harmless.
constexpr double kNameSeconds = 30.0;
/// A call takes milliseconds per key, and seconds on an overloaded machine. Giving up at once would keep the tensors
/// for minutes (datasystem/graveyard.hpp).
constexpr double kLeaveSeconds = 30.0;
constexpr double kDestructorSeconds = 1.0;
constexpr std::chrono::milliseconds kRetryInterval{20};
constexpr std::chrono::milliseconds kLongestRetryInterval{500};

}  // namespace

struct D2dSource::State {
  using Packed = std::vector<std::shared_ptr<Memory>>;

  Keys lanes;
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<Device> device;
  Connection connection;

  std::mutex mutex;
  TensorMemory tensors;  ///< From the connection on, the session keeps their owners.
  std::shared_ptr<Packed> packed = std::make_shared<Packed>();  ///< The session keeps it too.
  std::unique_ptr<HeteroSession> session;
  BlobList greeting;
  std::condition_variable changed;
  std::deque<std::uint64_t> offered;
  Keys served;              ///< The greetings first.
  std::size_t serving = 0;  ///< Chunks.
  Keys failed;
  std::string why;
  bool started = false;
  bool pumping = false;
  bool ended = false;
  bool leaving = false;

  /// Runs on its own thread.
  static void connect(const std::shared_ptr<State>& self) {
    std::unique_ptr<HeteroSession> made;
    std::string failure;
    try {
      made = std::make_unique<HeteroSession>(self->connection, self->device);
      made->keep(self->tensors.owners);
      made->keep(self->packed);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    const std::lock_guard<std::mutex> lock(self->mutex);
    self->pumping = false;
    if (!made) {
      self->failed = self->lanes;
      self->why = failure;
      self->ended = true;
    } else if (!self->ended) {
      self->greeting = made->greeting();
      self->session = std::move(made);
      if (!self->offered.empty()) post_pump(self);
    }
    self->changed.notify_all();
  }

  /// Requires the mutex, a session and no running pump.
  static void post_pump(const std::shared_ptr<State>& self) {
    self->pumping = true;
    self->session->post([self](::datasystem::HeteroClient& client) { self->pump(client); });
  }

  /// Offers keys until none is left; runs on a thread of the session.
  void pump(::datasystem::HeteroClient& client) {
    std::unique_lock<std::mutex> lock(mutex);
    while (!ended && !offered.empty()) {
      const std::size_t most = std::max<std::size_t>(1, kPublishKeys / lanes.size());
      const auto end = offered.begin() + static_cast<std::ptrdiff_t>(std::min(most, offered.size()));
      const std::vector<std::uint64_t> batch(offered.begin(), end);
      offered.erase(offered.begin(), end);
      const bool greets = served.empty();
      Keys keys;
      for (const std::string& lane : lanes) {
        if (greets) keys.push_back(greeting_key(lane));
        for (const std::uint64_t chunk : batch) keys.push_back(chunk_key(lane, chunk));
      }
      // Recorded before the call, those that will fail included: a call that times out may still have offered them.
      served.insert(served.end(), keys.begin(), keys.end());
      lock.unlock();
      Keys refused;
      std::string reason;
      try {
        refused = name(client, keys, batch, greets, reason);
      } catch (const std::exception& error) {
        refused = keys;
        reason = error.what();
      }
      lock.lock();
      serving += batch.size();
      if (!refused.empty()) {
        failed = refused;
        why = reason;
        ended = true;
      }
    }
    pumping = false;
    changed.notify_all();
  }

  /// Offers chunks to the worker; returns the keys that it kept refusing, and why.
  Keys name(::datasystem::HeteroClient& client, const Keys& keys, const std::vector<std::uint64_t>& chunks, bool greets,
            std::string& reason) {
    std::vector<BlobList> lane;
    if (greets) lane.push_back(greeting);
    for (const std::uint64_t chunk : chunks) lane.push_back(blobs(chunk));
    std::unordered_map<std::string, const BlobList*> list_of;
    for (std::size_t i = 0; i < keys.size(); ++i) list_of[keys[i]] = &lane[i % lane.size()];

    const Deadline deadline = Deadline::after(kNameSeconds);
    Keys wanted = keys;
    for (auto pause = kRetryInterval;; pause = std::min(2 * pause, kLongestRetryInterval)) {
      std::vector<BlobList> lists;
      for (const std::string& key : wanted) lists.push_back(*list_of[key]);
      Keys refused;
      // DevMSet answers OK even if every key failed: the list of failed keys is what counts.
      const ::datasystem::Status status = client.DevMSet(wanted, lists, refused);
      reason = status.IsError() ? describe(status) : "openYuanrong refused them";
      if (status.IsError() || refused.empty() || give_up_naming(deadline, pause))
        return status.IsError() ? wanted : refused;
      wanted = std::move(refused);
    }
  }

  /// Pauses, then returns whether offering should stop: withdrawn, or out of time.
  bool give_up_naming(Deadline deadline, std::chrono::milliseconds pause) {
    std::unique_lock<std::mutex> lock(mutex);
    const auto until = std::min(deadline.at(), Deadline::Clock::now() + pause);
    return changed.wait_until(lock, until, [this] { return ended; }) || deadline.passed();
  }

  /// Requires `ended`; runs on the thread that connected, for at most kLeaveSeconds.
  static void leave(const std::shared_ptr<State>& self) {
    const Deadline deadline = Deadline::after(kLeaveSeconds);
    std::unique_ptr<HeteroSession> session;
    std::shared_ptr<void> owners, packed;  // dropped last, and not under the lock
    Keys left;
    bool stuck = false;
    {
      std::unique_lock<std::mutex> lock(self->mutex);
      stuck = !self->changed.wait_until(lock, deadline.at(), [&self] { return !self->pumping; });
      left = self->served;
      session = std::move(self->session);
      if (!stuck) {
        owners = std::move(self->tensors.owners);
        packed = std::move(self->packed);
      }
    }
    if (!session) return;
    // A key is refused while a reader has not confirmed its transfer: it will soon, or it has died.
    auto pause = kRetryInterval;
    while (!left.empty() && !stuck && !deadline.passed()) {
      try {
        left = session->call("withdraw", deadline, [left](::datasystem::HeteroClient& client) {
          Keys refused;
          const ::datasystem::Status status = client.DevLocalDelete(left, refused);
          if (refused.empty()) check(status, "withdraw", left);
          return refused;
        });
      } catch (const Error&) {
        stuck = true;
      }
      if (left.empty() || stuck) break;
      std::this_thread::sleep_until(std::min(deadline.at(), Deadline::Clock::now() + pause));
      pause = std::min(2 * pause, kLongestRetryInterval);
    }
    if (stuck || !left.empty()) session->give_up();
  }

  BlobList blobs(std::uint64_t chunk) {
    if (!travels_packed(*plan, chunk)) return tensor_blobs(*plan, chunk, tensors, device->index());
    packed->push_back(pack(*plan, chunk, tensors, *device, Deadline::after(kPackSeconds)));
    return one_blob(packed->back()->data(), plan->chunk_bytes[chunk], device->index());
  }
};

D2dSource::D2dSource(const Connection& connection, std::shared_ptr<Device> device, Keys lanes,
                     std::shared_ptr<const Plan> plan, TensorMemory memory)
    : state_(std::make_shared<State>()), runner_(1, 0.0) {
  if (lanes.empty()) throw Error(ErrorCode::kInvalidArgument, "publish", "a source needs a lane");
  state_->lanes = std::move(lanes);
  state_->plan = std::move(plan);
  state_->tensors = std::move(memory);
  state_->device = std::move(device);
  state_->connection = connection;
}

D2dSource::~D2dSource() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->leaving) return;
  }
  try {
    withdraw(Deadline::after(kDestructorSeconds));
  } catch (...) {
    // No thread could be created; the worker drops clients that do not answer.
  }
}

void D2dSource::offer(std::uint64_t chunk) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->offered.push_back(chunk);
  pump_if_idle();
}

void D2dSource::start() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (state_->started || state_->ended) return;
  state_->started = true;
  state_->pumping = true;  // until connected
  runner_.post([state = state_] { State::connect(state); });
}

void D2dSource::pump_if_idle() {
  if (!state_->pumping && state_->started && !state_->ended && !state_->offered.empty()) State::post_pump(state_);
}

std::size_t D2dSource::serving() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->serving;
}

void D2dSource::wait(Deadline deadline) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  const bool idle = state_->changed.wait_until(lock, deadline.at(), [this] {
    return state_->ended || (state_->started && state_->offered.empty() && !state_->pumping);
  });
  if (!state_->failed.empty())
    throw Error(ErrorCode::kPartialTransfer, "publish",
                std::to_string(state_->failed.size()) + " keys cannot be served: " + state_->why + " " +
                    abbreviate(state_->failed),
                state_->failed);
  if (!idle) throw Error(ErrorCode::kTransferTimeout, "publish", "not all chunks were named to the worker in time");
}

void D2dSource::withdraw(Deadline deadline) {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ended = state_->leaving = true;
    state_->offered.clear();
    state_->changed.notify_all();
  }
  try {
    runner_.run("withdraw", deadline, [state = state_] { State::leave(state); });
  } catch (const Error&) {
    // Late: it continues in the background.
  }
}

}  // namespace yr_fastload
