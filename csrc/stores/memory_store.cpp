#include "stores/memory_store.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

using Bytes = std::vector<std::byte>;

class MemoryView final : public ObjectView {
 public:
  explicit MemoryView(std::shared_ptr<const Bytes> bytes) : bytes_(std::move(bytes)) {}
  Span<const std::byte> bytes() const noexcept override { return *bytes_; }

 private:
  std::shared_ptr<const Bytes> bytes_;
};

class MemoryDraft final : public ObjectDraft {
 public:
  MemoryDraft(std::string key, std::size_t bytes, std::uint32_t ttl_s)
      : key_(std::move(key)), bytes_(bytes), ttl_s_(ttl_s) {}
  Span<std::byte> bytes() const noexcept override { return {bytes_.data(), bytes_.size()}; }
  const std::string& key() const noexcept { return key_; }
  Bytes take() noexcept { return std::move(bytes_); }
  std::uint32_t ttl_s() const noexcept { return ttl_s_; }

 private:
  std::string key_;
  mutable Bytes bytes_;
  std::uint32_t ttl_s_;
};

bool contains(const Keys& keys, const std::string& key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

Deadline expiry(std::uint32_t ttl_s) { return Deadline::after(ttl_s == 0 ? 1e8 : ttl_s); }

}  // namespace

void MemoryStore::set_faults(Faults faults) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_ = std::move(faults);
}

Keys MemoryStore::keys() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Keys keys;
  for (const auto& [key, entry] : entries_)
    if (!entry.expires.passed()) keys.push_back(key);
  return keys;
}

const MemoryStore::Entry* MemoryStore::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() || found->second.expires.passed() ? nullptr : &found->second;
}

void MemoryStore::put(const std::string& key, Bytes bytes, std::uint32_t ttl_s) {
  entries_[key] = {std::make_shared<const Bytes>(std::move(bytes)), expiry(ttl_s)};
}

void MemoryStore::set(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline) {
  const auto* first = reinterpret_cast<const std::byte*>(value.data());
  const std::lock_guard<std::mutex> lock(mutex_);
  put(key, Bytes(first, first + value.size()), ttl_s);
}

bool MemoryStore::set_all_if_absent(const KeyValues& values, std::uint32_t ttl_s, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, value] : values)
    if (find(key) != nullptr) return false;
  for (const auto& [key, value] : values) {
    const auto* first = reinterpret_cast<const std::byte*>(value.data());
    put(key, Bytes(first, first + value.size()), ttl_s);
  }
  return true;
}

std::optional<std::string> MemoryStore::get(const std::string& key, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Entry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(entry->bytes->data()), entry->bytes->size());
}

std::vector<std::optional<std::string>> MemoryStore::get_many(const Keys& keys, Deadline deadline) {
  std::vector<std::optional<std::string>> values;
  for (const auto& key : keys) values.push_back(get(key, deadline));
  return values;
}

std::vector<bool> MemoryStore::exist(const Keys& keys, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<bool> exist;
  for (const auto& key : keys) exist.push_back(find(key) != nullptr);
  return exist;
}

Keys MemoryStore::expire(const Keys& keys, std::uint32_t ttl_s, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Keys missing;
  for (const auto& key : keys) {
    if (find(key) == nullptr)
      missing.push_back(key);
    else
      entries_[key].expires = expiry(ttl_s);
  }
  return missing;
}

void MemoryStore::erase(const Keys& keys, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& key : keys) entries_.erase(key);
}

std::vector<std::unique_ptr<ObjectDraft>> MemoryStore::reserve(const Keys& keys, Span<const std::uint64_t> sizes,
                                                               std::uint32_t ttl_s, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::uint64_t used = 0;
  for (const auto& [key, entry] : entries_) used += entry.bytes->size();
  std::vector<std::unique_ptr<ObjectDraft>> drafts;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    used += sizes[i];
    if (used > faults_.capacity_bytes) throw Error(ErrorCode::kResourceExhausted, "reserve", "the store is full", keys);
    drafts.push_back(std::make_unique<MemoryDraft>(keys[i], sizes[i], ttl_s));
  }
  return drafts;
}

void MemoryStore::seal(std::vector<std::unique_ptr<ObjectDraft>> drafts, Deadline) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& item : drafts) {
    auto& draft = static_cast<MemoryDraft&>(*item);
    if (contains(faults_.refuse_seal, draft.key()))
      throw Error(ErrorCode::kUnavailable, "seal", "the store went away " + abbreviate({draft.key()}), {draft.key()});
    put(draft.key(), draft.take(), draft.ttl_s());
  }
}

std::unique_ptr<ObjectView> MemoryStore::view(const std::string& key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || contains(faults_.missing, key)) return nullptr;
  auto bytes = entry->bytes;
  const bool corrupt = contains(faults_.corrupt, key);
  const bool truncated = contains(faults_.truncated, key);
  if (corrupt || truncated) {
    Bytes changed(*bytes);
    if (corrupt) changed[changed.size() / 2] ^= std::byte{1};
    if (truncated) changed.pop_back();
    bytes = std::make_shared<const Bytes>(std::move(changed));
  }
  return std::make_unique<MemoryView>(std::move(bytes));
}

std::vector<std::unique_ptr<ObjectView>> MemoryStore::fetch(const Keys& keys, Deadline deadline) {
  double delay_s = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    delay_s = faults_.fetch_delay_s;
  }
  if (delay_s > 0) {
    const Deadline wake = Deadline::after(delay_s);
    std::this_thread::sleep_until(std::min(wake.at(), deadline.at()));
    if (!wake.passed()) throw Error(ErrorCode::kTransferTimeout, "fetch", "the store is slow", keys);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::unique_ptr<ObjectView>> views;
  for (const auto& key : keys) views.push_back(view(key));
  return views;
}

}  // namespace yr_fastload
