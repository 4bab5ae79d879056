#include "core/lease.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

constexpr double kLeaveSeconds = 1.0;
constexpr double kRenewals = 3;       // per lease
constexpr double kSoonerByTimes = 4;  // a renewal is tried again after one that was not complete

}  // namespace

const char* lease_state_name(LeaseState state) noexcept {
  switch (state) {
    case LeaseState::kLive:
      return "live";
    case LeaseState::kSuperseded:
      return "superseded";
    case LeaseState::kLost:
      return "lost";
    case LeaseState::kLeft:
      return "left";
  }
  return "unknown";
}

Lease::Lease(std::shared_ptr<ObjectStore> store, LeaseKeys keys, LeaseTimes times, Deadline deadline)
    : store_(std::move(store)), keys_(std::move(keys)), times_(times), slot_(keys_.slot) {
  const bool joins = slot_.empty();
  if (joins) join(deadline);
  thread_ = std::thread([this, joins] { renew_until_told(!joins); });
}

Lease::~Lease() {
  try {
    leave(Deadline::after(kLeaveSeconds));
  } catch (...) {
    // The store is gone or stuck; its objects expire with their TTL.
  }
}

Keys Lease::slots() const {
  Keys slots;
  for (unsigned i = 0; i < kSlots; ++i) slots.push_back(keys_.slot_prefix + std::to_string(i));
  return slots;
}

/// The keys that only this source holds.
Keys Lease::own() const {
  Keys keys{slot_};
  if (!keys_.place.empty()) keys.push_back(keys_.place);
  return keys;
}

/// Joins a published generation as one more source.
void Lease::join(Deadline deadline) {
  take_slot(deadline);
  try {
    // Checked after the slot is set: a last source that left before that did not see us, and erased the head.
    const auto head = store_->get(keys_.head, deadline);
    if (!head || *head != keys_.head_value)
      throw Error(ErrorCode::kNotPublished, "lease", "the publication was withdrawn meanwhile", {keys_.head});
    renew(deadline);
    if (!last_error_.empty()) throw Error(ErrorCode::kNotPublished, "lease", last_error_, {keys_.head});
  } catch (...) {
    try {
      store_->erase(own(), Deadline::after(kLeaveSeconds).earlier(deadline.and_a_moment()));
    } catch (const Error&) {
      // The slot expires with its TTL.
    }
    throw;
  }
}

void Lease::take_slot(Deadline deadline) {
  const Keys all = slots();
  const std::vector<bool> taken = store_->exist(all, deadline);
  for (unsigned i = 0; i < kSlots; ++i) {
    if (taken[i] || !store_->set_if_absent(all[i], keys_.owner, times_.lease_s, deadline)) continue;
    slot_ = all[i];
    return;
  }
  throw Error(ErrorCode::kResourceExhausted, "lease", "all " + std::to_string(kSlots) + " slots for sources are taken",
              {keys_.slot_prefix});
}

double Lease::interval_s() const noexcept { return times_.lease_s / kRenewals; }

void Lease::renew_until_told(bool at_once) {
  double rest_s = at_once ? 0 : interval_s();
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_over = [this] { return state_ == LeaseState::kSuperseded || state_ == LeaseState::kLeft; };
  while (!told_.wait_for(lock, std::chrono::duration<double>(rest_s), is_over)) {
    const LeaseState before = state_;
    lock.unlock();
    try {
      const Deadline deadline = Deadline::after(interval_s());
      if (before == LeaseState::kLive || is_there(keys_.data, deadline)) renew(deadline);
      if (status().state == LeaseState::kLive) enlist(deadline);
    } catch (const std::exception& error) {
      settle(before, error.what());  // tried again
    }
    lock.lock();
    const bool is_troubled = state_ == LeaseState::kLive && !last_error_.empty();
    rest_s = is_troubled ? interval_s() / kSoonerByTimes : interval_s();
  }
  if (state_ != LeaseState::kSuperseded) return;
  lock.unlock();
  try {
    withdraw(Deadline::after(kLeaveSeconds));  // nobody needs the old generation any more
  } catch (const std::exception&) {
    // It expires with its TTL.
  }
}

void Lease::renew(Deadline deadline) {
  const auto head = store_->get(keys_.head, deadline);
  if (head && *head != keys_.head_value) return settle(LeaseState::kSuperseded, "another generation was published");
  Keys missing = store_->expire(keys_.data, times_.data_s, deadline);
  Keys short_lived = own();
  short_lived.push_back(keys_.head);
  if (!head && missing.size() == keys_.data.size())
    return settle(LeaseState::kLost, "the store lost all of it: " + abbreviate(missing));
  const bool is_whole = missing.empty();
  if (is_whole) missing = revive(store_->expire(short_lived, times_.lease_s, deadline), deadline);
  if (missing.empty()) {
    missed_.reset();
    return settle(LeaseState::kLive, {});
  }
  if (!missed_) missed_.emplace();
  const bool for_good = missed_->seconds() >= interval_s();
  if (for_good && !is_whole) store_->erase({keys_.head}, deadline);  // in the way of whoever publishes it anew
  settle(for_good ? LeaseState::kLost : LeaseState::kLive, "the store lost " + abbreviate(missing));
}

bool Lease::is_there(const Keys& keys, Deadline deadline) const {
  const std::vector<bool> there = store_->exist(keys, deadline);
  return std::find(there.begin(), there.end(), false) == there.end();
}

/// Sets or renews the entry that lists this identity. Nothing depends on it: for a while there may be two entries, or
/// none if all places are taken.
void Lease::enlist(Deadline deadline) {
  for (const auto& key : keys_.entries) {
    const auto holds = store_->get(key, deadline);
    if (holds ? *holds != keys_.entry_value : !store_->set_if_absent(key, keys_.entry_value, times_.lease_s, deadline))
      continue;
    if (holds && !store_->expire({key}, times_.lease_s, deadline).empty())
      store_->set(key, keys_.entry_value, times_.lease_s, deadline);  // no other host finds it
    return;
  }
}

void Lease::delist(Deadline deadline) {
  if (keys_.entries.empty()) return;
  const auto held = store_->get_many(keys_.entries, deadline);
  Keys mine;
  for (std::size_t i = 0; i < held.size(); ++i)
    if (held[i] && *held[i] == keys_.entry_value) mine.push_back(keys_.entries[i]);
  if (!mine.empty()) store_->erase(mine, deadline);
}

/// Restores head, slot and place that expired while this process was stopped for longer than a lease, or of which only
/// this host has a copy that no other one knows of; the data is still there. Returns what somebody else has taken
/// meanwhile.
Keys Lease::revive(const Keys& missing, Deadline deadline) {
  Keys taken;
  for (const auto& key : missing) {
    const std::string& value = key == keys_.head    ? keys_.head_value
                               : key == keys_.place ? keys_.place_value
                                                    : keys_.owner;
    if (store_->set_if_absent(key, value, times_.lease_s, deadline)) continue;
    if (store_->get(key, deadline) == value)
      store_->set(key, value, times_.lease_s, deadline);
    else
      taken.push_back(key);
  }
  return taken;
}

void Lease::settle(LeaseState state, std::string why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  last_error_ = std::move(why);
  if (state_ != LeaseState::kLeft) state_ = state;
  if (last_error_.empty()) renewed_ = Stopwatch();
}

LeaseStatus Lease::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {state_, renewed_.seconds(), last_error_};
}

unsigned Lease::sources(Deadline deadline) const {
  const std::vector<bool> alive = store_->exist(slots(), deadline);
  return static_cast<unsigned>(std::count(alive.begin(), alive.end(), true));
}

void Lease::leave(Deadline deadline) {
  const std::lock_guard<std::mutex> one_at_a_time(leave_mutex_);
  LeaseState before;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    before = state_;
    state_ = LeaseState::kLeft;
  }
  told_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (before == LeaseState::kLive || before == LeaseState::kLost) withdraw(deadline);
}

void Lease::withdraw(Deadline deadline) {
  store_->erase(own(), deadline);
  if (sources(deadline) > 0) return;
  // The head goes first: whoever finds it must find the data. A newer generation keeps its own.
  const auto head = store_->get(keys_.head, deadline);
  const bool replaced = head && *head != keys_.head_value;
  if (head && !replaced) store_->erase({keys_.head}, deadline);
  store_->erase(keys_.data, deadline);
  if (!replaced) delist(deadline);
}

}  // namespace yr_fastload
