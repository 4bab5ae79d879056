#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/object_store.hpp"

namespace yr_fastload {

/// The keys of one generation of one identity.
struct LeaseKeys {
  std::string head;         ///< Names the current generation; lives as long as the publication.
  std::string head_value;   ///< The head's value while this generation is current.
  std::string slot_prefix;  ///< slot_prefix + "0".."63": one per live source.
  std::string owner;        ///< What this source writes into its slot.
  Keys data;                ///< Manifest and chunks.
  std::string place;        ///< A key that is already set, renewed and erased with the slot; may be empty.
  std::string place_value;  ///< Its value.
  std::string slot;         ///< A slot that was already set with the head; empty: take a free one.
  Keys entries;             ///< The first free one announces this identity; may be empty.
  std::string entry_value;  ///< Its value.
};

struct LeaseTimes {
  std::uint32_t lease_s;  ///< TTL of head and slot; renewed three times per lease.
  std::uint32_t data_s;   ///< TTL of the data; longer, so that a reader that saw the head can finish.
};

enum class LeaseState : std::uint8_t {
  kLive,
  kSuperseded,  ///< The head names another generation.
  kLost,        ///< All of it is gone, or part of it for a third of a lease; live again if it comes back.
  kLeft,        ///< `leave` was called.
};

const char* lease_state_name(LeaseState state) noexcept;

struct LeaseStatus {
  LeaseState state;
  double renewed_s_ago;
  std::string last_error;  ///< Why the last renewal failed, or what it missed; empty if it did not.
};

/// One source's share in keeping a generation published.
///
/// A source takes a free slot and renews slot, head and data until it leaves; the last one to leave erases everything.
/// A source that dies stops renewing; after the last one, the head disappears within `lease_s`. Times are monotonic.
/// Keys that are missing may come back, when the workers of a cluster have taken over what a dead one kept track of:
/// for a third of a lease they are looked for, more often than is renewed otherwise. What is lost then is looked for
/// until this leaves, and not kept alive meanwhile; its head is erased.
class Lease {
 public:
  static constexpr unsigned kSlots = 64;

  /// Takes a slot and starts to renew. Throws kNotPublished if there is no head (any more) or it names another
  /// generation, and kResourceExhausted if all slots are taken, since there are enough sources. Makes no call if the
  /// slot was already set.
  Lease(std::shared_ptr<ObjectStore> store, LeaseKeys keys, LeaseTimes times, Deadline deadline);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();  ///< Leaves, within a second or so; never throws.

  LeaseStatus status() const;

  /// Gives the slot back; erases head and data if no other source is alive. Idempotent.
  void leave(Deadline deadline);

  /// Number of live sources of this generation, including this one.
  unsigned sources(Deadline deadline) const;

 private:
  void take_slot(Deadline deadline);
  void join(Deadline deadline);
  void renew_until_told(bool at_once);
  double interval_s() const noexcept;  ///< From one renewal to the next.
  void renew(Deadline deadline);
  void enlist(Deadline deadline);
  void delist(Deadline deadline);
  Keys revive(const Keys& missing, Deadline deadline);
  bool is_there(const Keys& keys, Deadline deadline) const;
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
  std::optional<Stopwatch> missed_;  ///< Since keys are missing; of the thread that renews.
  std::thread thread_;
};

}  // namespace yr_fastload
