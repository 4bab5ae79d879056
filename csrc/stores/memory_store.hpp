#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/object_store.hpp"

namespace yr_fastload {

/// What goes wrong in a `MemoryStore`, by key; each fault is for one key and stays.
struct Faults {
  Keys missing;                               ///< fetch: is not there
  Keys corrupt;                               ///< fetch: one bit of the object is flipped
  Keys truncated;                             ///< fetch: the last byte is gone
  Keys refuse_seal;                           ///< seal: throws kUnavailable
  double fetch_delay_s = 0;                   ///< fetch: sleeps first, as long as the deadline allows
  std::uint64_t capacity_bytes = UINT64_MAX;  ///< reserve: throws kResourceExhausted beyond it
};

/// A store inside the process that fails on demand: what tests need to drive the pipeline into its corners, also under
/// sanitizers that the real worker's library does not support. Not for moving weights between processes.
class MemoryStore final : public ObjectStore {
 public:
  void set_faults(Faults faults);
  /// All keys that hold something.
  Keys keys() const;

  const char* transport() const noexcept override { return "memory"; }
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
  std::vector<std::unique_ptr<ObjectView>> fetch(const Keys& keys, Deadline deadline) override;

 private:
  struct Entry {
    std::shared_ptr<const std::vector<std::byte>> bytes;
    Deadline expires = Deadline::after(0);
  };

  /// Null if absent or expired; the caller holds the mutex.
  const Entry* find(const std::string& key) const;
  void put(const std::string& key, std::vector<std::byte> bytes, std::uint32_t ttl_s);
  std::unique_ptr<ObjectView> view(const std::string& key) const;

  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  Faults faults_;
};

}  // namespace yr_fastload
