#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/object_store.hpp"
#include "testing/shared_arena.hpp"

namespace yr_fastload {

/// What goes wrong in a `MemoryStore`; each fault stays until others are set.
struct Faults {
  Keys missing;              ///< fetch: is not there
  Keys corrupt;              ///< fetch: one bit of the object is flipped
  Keys truncated;            ///< fetch: the last byte is gone
  Keys refuse_seal;          ///< seal: throws kUnavailable
  Keys unknown;              ///< expire: throws kUnavailable, nobody knows of them for now
  Keys no_copy;              ///< expire: is missing, though it is listed; fetch: throws kUnavailable; until it is set
  double fetch_delay_s = 0;  ///< fetch: sleeps first, as long as the deadline allows
  double fetch_bytes_per_s = 0;  ///< fetch: takes as long as that says, one after the other; 0: no time
  double fetch_call_s =
      0;  ///< fetch: throws kUnavailable after this time, or that of the call, if it would take longer
  unsigned refused_fetches = 0;               ///< fetch: this many throw kUnavailable, though the store answers
  std::uint64_t readable_bytes = UINT64_MAX;  ///< fetch: as many fit as are in use; kResourceExhausted if none does
  std::uint64_t capacity_bytes = UINT64_MAX;  ///< reserve: throws kResourceExhausted beyond it
  bool unreachable = false;                   ///< every call throws kUnavailable
};

/// A store inside the process that does what the store of a worker does, and fails on demand: what tests need to drive
/// everything above it into its corners, also under sanitizers that openYuanrong's library does not support. Not for
/// moving weights between processes.
class MemoryStore final : public ObjectStore {
 public:
  void set_faults(Faults faults);
  /// All keys that hold something.
  Keys keys() const;
  /// Forgets everything, as a worker that was started anew; what somebody has fetched stays readable.
  void clear();
  /// Lets this time pass for everything that has a TTL, at once.
  void advance(double seconds);

  const char* transport() const noexcept override { return "memory"; }
  bool answers(Deadline deadline) noexcept override;
  void set(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline deadline) override;
  bool set_all_if_absent(const KeyValues& values, std::uint32_t ttl_s, Deadline deadline) override;
  std::optional<std::string> get(const std::string& key, Deadline deadline) override;
  std::vector<std::optional<std::string>> get_many(const Keys& keys, Deadline deadline) override;
  std::vector<bool> exist(const Keys& keys, Deadline deadline) override;
  Keys expire(const Keys& keys, std::uint32_t ttl_s, Deadline deadline) override;
  void erase(const Keys& keys, Deadline deadline) override;
  std::vector<std::unique_ptr<ObjectDraft>> reserve(const Keys& keys, Span<const std::uint64_t> sizes,
                                                    std::uint32_t ttl_s, Deadline deadline) override;
  void seal(std::vector<std::unique_ptr<ObjectDraft>> drafts, Deadline deadline) override;
  using ObjectStore::fetch;
  std::vector<std::unique_ptr<ObjectView>> fetch(const Keys& keys, Deadline deadline, double call_s) override;

 private:
  using Block = std::shared_ptr<SharedArena::Block>;
  using Clock = Deadline::Clock;
  struct Entry {
    Block block;
    Clock::time_point expires;
  };

  /// The lock of a call that may be made: in the process that made the store, with keys that a worker would take.
  std::unique_lock<std::mutex> enter(const char* op, const Keys& keys) const;
  void sleep(const Keys& keys, Deadline deadline, double call_s);

  // The caller of these holds the lock.
  Clock::time_point now() const noexcept { return Clock::now() + advanced_; }
  Clock::time_point expiry(std::uint32_t ttl_s) const noexcept;
  void forget_expired();
  const Entry* find(const std::string& key) const;  ///< Null if absent or expired.
  void put(const std::string& key, Block block, std::uint32_t ttl_s);
  Block block_of(const std::string& value);
  std::unique_ptr<ObjectView> view(const std::string& key);
  std::uint64_t size_of(const Keys& keys) const;

  const std::shared_ptr<SharedArena> arena_ = SharedArena::make();
  mutable std::mutex mutex_;
  Deadline link_ = Deadline::after(0);  ///< when all has come that was fetched at a limited rate
  std::map<std::string, Entry> entries_;
  Clock::duration advanced_{0};
  Faults faults_;
  const std::shared_ptr<std::atomic<std::uint64_t>> viewed_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

}  // namespace yr_fastload
