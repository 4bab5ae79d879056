#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/deadline.hpp"
#include "core/span.hpp"

namespace yr_fastload {

/// Where the bytes of a chunk are.
enum class Place : std::uint8_t {
  kHost,     ///< Memory of the host.
  kDevice,   ///< Memory of the destination device.
  kTensors,  ///< The tensors themselves: nothing is left to copy, and `bytes` has only a size.
};

/// The bytes of a stored object, readable as long as this lives, even after the object was erased.
class ObjectView {
 public:
  ObjectView() = default;
  ObjectView(const ObjectView&) = delete;
  ObjectView& operator=(const ObjectView&) = delete;
  virtual ~ObjectView() = default;
  virtual Span<const std::byte> bytes() const noexcept = 0;
  virtual Place place() const noexcept { return Place::kHost; }
  /// Digest of the chunk in the tensors, where whoever brought it took it on the way.
  virtual std::optional<std::uint64_t> digest() const noexcept { return std::nullopt; }
};

/// Memory for an object that nobody can see before `ObjectStore::seal`; released if dropped.
class ObjectDraft {
 public:
  ObjectDraft() = default;
  ObjectDraft(const ObjectDraft&) = delete;
  ObjectDraft& operator=(const ObjectDraft&) = delete;
  virtual ~ObjectDraft() = default;
  virtual Span<std::byte> bytes() const noexcept = 0;
};

using Keys = std::vector<std::string>;
using KeyValues = std::vector<std::pair<std::string, std::string>>;

/// The key of chunk `index`.
std::string chunk_key(const std::string& prefix, std::uint64_t index);
Keys chunk_keys(const std::string& prefix, std::uint64_t count);

/// Where chunks and small values are kept. Thread-safe.
/// Every call returns or throws by its deadline, whatever the other end does; an `Error` names the keys. TTLs are in
/// seconds; an object that is not renewed disappears at most about half a second later.
class ObjectStore {
 public:
  ObjectStore() = default;
  ObjectStore(const ObjectStore&) = delete;
  ObjectStore& operator=(const ObjectStore&) = delete;
  virtual ~ObjectStore() = default;

  virtual const char* transport() const noexcept = 0;

  /// Whether the store itself answers, whatever it can reach of others.
  virtual bool answers(Deadline deadline) noexcept = 0;

  /// Small values. `set` replaces; the others set all keys or, if one exists, none, and return which. Atomic among all
  /// clients. At most kTogether at a time.
  static constexpr std::size_t kTogether = 8;
  virtual void set(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline deadline) = 0;
  virtual bool set_all_if_absent(const KeyValues& values, std::uint32_t ttl_s, Deadline deadline) = 0;
  bool set_if_absent(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline deadline) {
    return set_all_if_absent({{key, value}}, ttl_s, deadline);
  }
  virtual std::optional<std::string> get(const std::string& key, Deadline deadline) = 0;
  /// One entry per key.
  virtual std::vector<std::optional<std::string>> get_many(const Keys& keys, Deadline deadline) = 0;

  /// For any number of objects of any size. `expire` returns the keys that do not exist, and those of which no copy is
  /// left, though they are listed and `exist` may say so; it throws kUnavailable if it is not known whether some exist:
  /// whoever keeps track of them does not answer.
  virtual std::vector<bool> exist(const Keys& keys, Deadline deadline) = 0;
  virtual Keys expire(const Keys& keys, std::uint32_t ttl_s, Deadline deadline) = 0;
  virtual void erase(const Keys& keys, Deadline deadline) = 0;

  /// All or none. Throws kResourceExhausted if they do not fit.
  virtual std::vector<std::unique_ptr<ObjectDraft>> reserve(const Keys& keys, Span<const std::uint64_t> sizes,
                                                            std::uint32_t ttl_s, Deadline deadline) = 0;
  /// Makes this store's filled drafts visible.
  virtual void seal(std::vector<std::unique_ptr<ObjectDraft>> drafts, Deadline deadline) = 0;

  /// One entry per key, null if there is no such object. If at least one came, null may also mean that the others could
  /// not be had: asked for alone, they throw what is in the way. A call to the store takes `call_s` at most if that is
  /// more than it would; an object that is not there is waited for so long.
  virtual std::vector<std::unique_ptr<ObjectView>> fetch(const Keys& keys, Deadline deadline, double call_s) = 0;
  std::vector<std::unique_ptr<ObjectView>> fetch(const Keys& keys, Deadline deadline) {
    return fetch(keys, deadline, 0);
  }
};

}  // namespace yr_fastload
