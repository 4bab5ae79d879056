#include "testing/memory_store.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

using Block = std::shared_ptr<SharedArena::Block>;

/// What openYuanrong takes for a key (kv_client.h, 0.8.1).
constexpr std::size_t kKeyChars = 255;
constexpr const char* kKeyAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!@#%^*()+=:;";

class MemoryView final : public ObjectView {
 public:
  MemoryView(Block block, std::shared_ptr<std::atomic<std::uint64_t>> viewed)
      : block_(std::move(block)), viewed_(std::move(viewed)) {
    *viewed_ += block_->bytes().size();
  }
  ~MemoryView() override { *viewed_ -= block_->bytes().size(); }
  Span<const std::byte> bytes() const noexcept override { return {block_->bytes().data(), block_->bytes().size()}; }

 private:
  Block block_;
  std::shared_ptr<std::atomic<std::uint64_t>> viewed_;
};

class MemoryDraft final : public ObjectDraft {
 public:
  MemoryDraft(std::string key, Block block, std::uint32_t ttl_s)
      : key_(std::move(key)), block_(std::move(block)), ttl_s_(ttl_s) {}
  Span<std::byte> bytes() const noexcept override { return block_->bytes(); }
  const std::string& key() const noexcept { return key_; }
  const Block& block() const noexcept { return block_; }
  std::uint32_t ttl_s() const noexcept { return ttl_s_; }

 private:
  std::string key_;
  Block block_;
  std::uint32_t ttl_s_;
};

bool contains(const Keys& keys, const std::string& key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

bool is_key(const std::string& key) {
  return !key.empty() && key.size() <= kKeyChars && key.find_first_not_of(kKeyAlphabet) == std::string::npos;
}

std::string text_of(const SharedArena::Block& block) {
  return {reinterpret_cast<const char*>(block.bytes().data()), block.bytes().size()};
}

Keys keys_of(const KeyValues& values) {
  Keys keys;
  for (const auto& [key, value] : values) keys.push_back(key);
  return keys;
}

}  // namespace

std::unique_lock<std::mutex> MemoryStore::enter(const char* op, const Keys& keys) const {
  if (!arena_->is_here())
    throw Error(ErrorCode::kInvalidArgument, op, "this store was made before a fork; make a new one in the child");
  for (const auto& key : keys)
    if (!is_key(key)) throw Error(ErrorCode::kInvalidArgument, op, "no key of a worker " + abbreviate({key}), {key});
  std::unique_lock<std::mutex> lock(mutex_);
  if (faults_.unreachable) throw Error(ErrorCode::kUnavailable, op, "the store does not answer", keys);
  return lock;
}

void MemoryStore::set_faults(Faults faults) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_ = std::move(faults);
}

bool MemoryStore::answers(Deadline) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  return arena_->is_here() && !faults_.unreachable;
}

Keys MemoryStore::keys() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Keys keys;
  for (const auto& [key, entry] : entries_)
    if (entry.expires > now()) keys.push_back(key);
  return keys;
}

void MemoryStore::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.clear();
}

void MemoryStore::advance(double seconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  advanced_ += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

/// A TTL of 0 never ends.
MemoryStore::Clock::time_point MemoryStore::expiry(std::uint32_t ttl_s) const noexcept {
  return ttl_s == 0 ? Clock::time_point::max() : now() + std::chrono::seconds(ttl_s);
}

void MemoryStore::forget_expired() {
  for (auto entry = entries_.begin(); entry != entries_.end();)
    entry = entry->second.expires <= now() ? entries_.erase(entry) : std::next(entry);
}

const MemoryStore::Entry* MemoryStore::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() || found->second.expires <= now() ? nullptr : &found->second;
}

void MemoryStore::put(const std::string& key, Block block, std::uint32_t ttl_s) {
  entries_.insert_or_assign(key, Entry{std::move(block), expiry(ttl_s)});
  faults_.no_copy.erase(std::remove(faults_.no_copy.begin(), faults_.no_copy.end(), key), faults_.no_copy.end());
}

Block MemoryStore::block_of(const std::string& value) {
  Block block = arena_->take(value.size());
  if (!value.empty()) std::memcpy(block->bytes().data(), value.data(), value.size());
  return block;
}

void MemoryStore::set(const std::string& key, const std::string& value, std::uint32_t ttl_s, Deadline) {
  const auto lock = enter("set", {key});
  put(key, block_of(value), ttl_s);
}

bool MemoryStore::set_all_if_absent(const KeyValues& values, std::uint32_t ttl_s, Deadline) {
  const Keys keys = keys_of(values);
  const auto lock = enter("set_if_absent", keys);
  if (keys.empty() || keys.size() > kTogether)
    throw Error(ErrorCode::kInvalidArgument, "set_if_absent",
                std::to_string(keys.size()) + " keys do not go together, but 1 to " + std::to_string(kTogether), keys);
  if (std::any_of(keys.begin(), keys.end(), [this](const std::string& key) { return find(key) != nullptr; }))
    return false;
  for (const auto& [key, value] : values) put(key, block_of(value), ttl_s);
  return true;
}

std::optional<std::string> MemoryStore::get(const std::string& key, Deadline) {
  const auto lock = enter("get", {key});
  const Entry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  return text_of(*entry->block);
}

std::vector<std::optional<std::string>> MemoryStore::get_many(const Keys& keys, Deadline) {
  const auto lock = enter("get_many", keys);
  std::vector<std::optional<std::string>> values;
  for (const auto& key : keys) {
    const Entry* entry = find(key);
    values.push_back(entry == nullptr ? std::nullopt : std::optional<std::string>(text_of(*entry->block)));
  }
  return values;
}

std::vector<bool> MemoryStore::exist(const Keys& keys, Deadline) {
  const auto lock = enter("exist", keys);
  std::vector<bool> exist;
  for (const auto& key : keys) exist.push_back(find(key) != nullptr);
  return exist;
}

Keys MemoryStore::expire(const Keys& keys, std::uint32_t ttl_s, Deadline) {
  const auto lock = enter("expire", keys);
  for (const auto& key : keys)
    if (contains(faults_.unknown, key))
      throw Error(ErrorCode::kUnavailable, "expire", "nobody knows of " + abbreviate({key}), {key});
  Keys missing;
  for (const auto& key : keys) {
    const bool is_listed = find(key) != nullptr;
    if (is_listed) entries_.at(key).expires = expiry(ttl_s);
    if (!is_listed || contains(faults_.no_copy, key)) missing.push_back(key);
  }
  return missing;
}

void MemoryStore::erase(const Keys& keys, Deadline) {
  const auto lock = enter("erase", keys);
  for (const auto& key : keys) entries_.erase(key);
}

std::vector<std::unique_ptr<ObjectDraft>> MemoryStore::reserve(const Keys& keys, Span<const std::uint64_t> sizes,
                                                               std::uint32_t ttl_s, Deadline) {
  const auto lock = enter("reserve", keys);
  forget_expired();
  std::vector<std::unique_ptr<ObjectDraft>> drafts;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t used = arena_->used();
    if (used > faults_.capacity_bytes || sizes[i] > faults_.capacity_bytes - used)
      throw Error(ErrorCode::kResourceExhausted, "reserve", "the store is full", keys);
    drafts.push_back(std::make_unique<MemoryDraft>(keys[i], arena_->take(sizes[i]), ttl_s));
  }
  return drafts;
}

void MemoryStore::seal(std::vector<std::unique_ptr<ObjectDraft>> drafts, Deadline) {
  const auto lock = enter("seal", {});
  for (const auto& item : drafts) {
    const auto& draft = static_cast<const MemoryDraft&>(*item);
    if (contains(faults_.refuse_seal, draft.key()))
      throw Error(ErrorCode::kUnavailable, "seal", "the store went away " + abbreviate({draft.key()}), {draft.key()});
    put(draft.key(), draft.block(), draft.ttl_s());
  }
}

std::unique_ptr<ObjectView> MemoryStore::view(const std::string& key) {
  const Entry* entry = find(key);
  if (entry == nullptr || contains(faults_.missing, key)) return nullptr;
  const std::uint64_t viewed = *viewed_;
  if (viewed > faults_.readable_bytes || entry->block->bytes().size() > faults_.readable_bytes - viewed) return nullptr;
  const bool corrupt = contains(faults_.corrupt, key);
  const bool truncated = contains(faults_.truncated, key);
  if (!corrupt && !truncated) return std::make_unique<MemoryView>(entry->block, viewed_);
  std::string changed = text_of(*entry->block);
  if (corrupt) changed[changed.size() / 2] = static_cast<char>(changed[changed.size() / 2] ^ 1);
  if (truncated) changed.pop_back();
  return std::make_unique<MemoryView>(block_of(changed), viewed_);
}

std::uint64_t MemoryStore::size_of(const Keys& keys) const {
  std::uint64_t bytes = 0;
  for (const auto& key : keys)
    if (const Entry* entry = find(key)) bytes += entry->block->bytes().size();
  return bytes;
}

void MemoryStore::sleep(const Keys& keys, Deadline deadline, double call_s) {
  double delay_s = 0;
  bool refused = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    delay_s = faults_.fetch_delay_s;
    const double link_s =
        faults_.fetch_bytes_per_s > 0 ? static_cast<double>(size_of(keys)) / faults_.fetch_bytes_per_s : 0;
    if (link_s > 0) delay_s += link_s + link_.left();
    if (faults_.fetch_call_s > 0 && delay_s > std::max(call_s, faults_.fetch_call_s)) {
      delay_s = std::max(call_s, faults_.fetch_call_s);
      refused = true;
    } else if (faults_.refused_fetches > 0) {
      --faults_.refused_fetches;
      refused = true;
    }
    if (link_s > 0 && !refused) link_ = Deadline::after(link_.left() + link_s);
  }
  const Deadline wake = Deadline::after(delay_s);
  if (delay_s > 0) std::this_thread::sleep_until(std::min(wake.at(), deadline.at()));
  if (!wake.passed()) throw Error(ErrorCode::kTransferTimeout, "fetch", "the store is slow", keys);
  if (refused) throw Error(ErrorCode::kUnavailable, "fetch", "no answer in time", keys);
}

std::vector<std::unique_ptr<ObjectView>> MemoryStore::fetch(const Keys& keys, Deadline deadline, double call_s) {
  sleep(keys, deadline, call_s);
  const auto lock = enter("fetch", keys);
  std::vector<std::unique_ptr<ObjectView>> views;
  for (const auto& key : keys) {
    if (contains(faults_.no_copy, key) && find(key) != nullptr)
      throw Error(ErrorCode::kUnavailable, "fetch", "no object copy exists " + abbreviate({key}), {key});
    views.push_back(view(key));
  }
  const bool none = std::all_of(views.begin(), views.end(), [](const auto& view) { return view == nullptr; });
  if (none && faults_.readable_bytes != UINT64_MAX && size_of(keys) > 0)
    throw Error(ErrorCode::kResourceExhausted, "fetch", "the store has no room for them", keys);
  return views;
}

}  // namespace yr_fastload
