#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/object_store.hpp"

namespace yr_fastload {

/// The keys of one generation of one identity.
struct LeaseKeys {
  std::string head;         ///< Names the current generation; its life is the publication's.
  std::string head_value;   ///< What the head holds while this generation is the current one.
  std::string slot_prefix;  ///< slot_prefix + "0".."63": one a live source of this generation.
  std::string owner;        ///< What this source writes into its slot.
  Keys data;                ///< Manifest and chunks.
  std::string place;        ///< A key this source has set already, renewed and erased with its slot; may be empty.
  std::string place_value;  ///< What it holds.
  std::string slot;         ///< A slot that it has set already, together with the head; empty: it takes a free one.
  Keys entries;             ///< One of them, the first that is free, says that there is this identity; may be empty.
  std::string entry_value;  ///< What it says.
};

struct LeaseTimes {
  std::uint32_t lease_s;  ///< TTL of head and slot; renewed three times in it.
  std::uint32_t data_s;   ///< TTL of the data: longer, so that a reader that saw the head can finish.
};

enum class LeaseState : std::uint8_t {
  kLive,
  kSuperseded,  ///< The head names another generation.
  kLost,        ///< The head, or the data, is gone: the worker restarted, or could not be reached for too long.
  kLeft,        ///< `leave` was called.
};

const char* lease_state_name(LeaseState state) noexcept;

struct LeaseStatus {
  LeaseState state;
  double renewed_s_ago;
  std::string last_error;  ///< Why the last renewal failed; empty if it did not.
};

/// One source's part in keeping a generation published.
///
/// A source takes a free slot and renews slot, head and data until it leaves; who leaves last erases everything. A
/// source that dies stops renewing: with the last of them the head is gone within `lease_s`. Times are monotonic.
class Lease {
 public:
  static constexpr unsigned kSlots = 64;

  /// Takes a slot and starts to renew. Throws kNotPublished if the head is not there (any more) or names another
  /// generation, kResourceExhausted if all slots are taken: there are sources enough. Costs no call where the slot was
  /// set already.
  Lease(std::shared_ptr<ObjectStore> store, LeaseKeys keys, LeaseTimes times, Deadline deadline);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();  ///< Leaves, within a second or so; never throws.

  LeaseStatus status() const;

  /// Gives the slot back; erases head and data if no other source is alive. Idempotent.
  void leave(Deadline deadline);

  /// Live sources of this generation, this one included.
  unsigned sources(Deadline deadline) const;

 private:
  void take_slot(Deadline deadline);
  void join(Deadline deadline);
  void renew_until_told(bool at_once);
  void renew(Deadline deadline);
  void enlist(Deadline deadline);
  void delist(Deadline deadline);
  Keys revive(const Keys& missing, Deadline deadline);
  void withdraw(Deadline deadline);
  void settle(LeaseState state, std::string why);
  Keys slots() const;
  Keys own() const;

  const std::shared_ptr<ObjectStore> store_;
  const LeaseKeys keys_;
  const LeaseTimes times_;
  std::string slot_;

  std::mutex leave_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable told_;
  LeaseState state_ = LeaseState::kLive;
  std::string last_error_;
  Stopwatch renewed_;
  std::thread thread_;
};

}  // namespace yr_fastload
