#include "core/pinned_pool.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

/// A multiple of every page size in use, so that a block is never larger than what the cap was checked for.
constexpr std::size_t kGranule = std::size_t{64} << 10;

/// Cannot overflow for sizes that `PinnedPool::fits` accepts.
std::size_t round_up(std::size_t bytes) noexcept {
  return std::max<std::size_t>((bytes + kGranule - 1) / kGranule, 1) * kGranule;
}

}  // namespace

struct PinnedPool::State {
  State(std::shared_ptr<Device> owner, std::uint64_t cap, MemoryKind of)
      : device(std::move(owner)), cap_bytes(cap), kind(of) {}

  const std::shared_ptr<Device> device;
  const std::uint64_t cap_bytes;
  const MemoryKind kind;
  std::mutex mutex;
  std::condition_variable returned;
  std::vector<std::unique_ptr<Memory>> free;
  std::uint64_t leased_bytes = 0;
  std::uint64_t cached_bytes = 0;
  std::uint64_t peak_bytes = 0;
  std::uint64_t locked_bytes = 0;

  /// The smallest free block that fits and is at most twice as large as needed.
  std::unique_ptr<Memory> take_free(std::size_t bytes) {
    auto best = free.end();
    for (auto it = free.begin(); it != free.end(); ++it) {
      const std::size_t size = (*it)->bytes();
      if (size >= bytes && size / 2 <= bytes && (best == free.end() || size < (*best)->bytes())) best = it;
    }
    if (best == free.end()) return nullptr;
    auto memory = std::move(*best);
    free.erase(best);
    cached_bytes -= memory->bytes();
    return memory;
  }

  void drop_free() {
    for (const auto& memory : free)
      if (memory->locked()) locked_bytes -= memory->bytes();
    free.clear();
    cached_bytes = 0;
  }

  std::unique_ptr<Memory> take(std::size_t bytes, Deadline deadline) {
    auto memory = take_free(bytes);
    if (!memory) {
      if (bytes > cap_bytes - leased_bytes - cached_bytes) drop_free();
      if (bytes > cap_bytes - leased_bytes) return nullptr;
      memory = kind == MemoryKind::kDevice ? device->allocate(bytes, deadline)
                                           : device->allocate_page_locked(bytes, deadline);
      if (memory->locked()) locked_bytes += memory->bytes();
    }
    leased_bytes += memory->bytes();
    peak_bytes = std::max(peak_bytes, leased_bytes + cached_bytes);
    return memory;
  }

  void give_back(std::unique_ptr<Memory> memory) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      leased_bytes -= memory->bytes();
      cached_bytes += memory->bytes();
      free.push_back(std::move(memory));
    }
    returned.notify_all();
  }
};

PinnedPool::Lease::Lease(std::shared_ptr<State> state, std::unique_ptr<Memory> memory) noexcept
    : state_(std::move(state)), memory_(std::move(memory)) {}
PinnedPool::Lease::Lease(Lease&&) noexcept = default;
PinnedPool::Lease::~Lease() {
  if (memory_) state_->give_back(std::move(memory_));
}
void PinnedPool::Lease::abandon() noexcept {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::unique_ptr<Memory>>;  // never destroyed
  const std::lock_guard<std::mutex> lock(mutex);
  kept->push_back(std::move(memory_));
}

PinnedPool::PinnedPool(std::shared_ptr<Device> device, std::uint64_t cap_bytes, MemoryKind kind)
    : state_(std::make_shared<State>(std::move(device), cap_bytes, kind)) {}

bool PinnedPool::fits(std::uint64_t bytes) const noexcept {
  return std::max<std::uint64_t>(bytes, 1) <= state_->cap_bytes / kGranule * kGranule;
}

std::optional<PinnedPool::Lease> PinnedPool::try_lease(std::size_t bytes, Deadline deadline) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!fits(bytes)) return std::nullopt;
  auto memory = state_->take(round_up(bytes), deadline);
  if (!memory) return std::nullopt;
  return Lease(state_, std::move(memory));
}

std::optional<PinnedPool::Lease> PinnedPool::lease_until(std::size_t bytes, Deadline room, Deadline deadline) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  if (!fits(bytes))
    throw Error(ErrorCode::kResourceExhausted, "staging",
                std::to_string(bytes) + " bytes of staging memory are above the cap of " +
                    std::to_string(state_->cap_bytes) + "; raise staging_bytes or lower chunk_bytes");
  std::unique_ptr<Memory> memory;
  const bool found = state_->returned.wait_until(lock, room.at(), [&] {
    memory = state_->take(round_up(bytes), deadline);
    return memory != nullptr;
  });
  if (!found) return std::nullopt;
  return Lease(state_, std::move(memory));
}

PinnedPool::Lease PinnedPool::lease(std::size_t bytes, Deadline deadline) {
  std::optional<Lease> lease = lease_until(bytes, deadline, deadline);
  if (!lease) throw Error(ErrorCode::kTransferTimeout, "staging", "no staging memory became free in time");
  return std::move(*lease);
}

PinnedPoolStats PinnedPool::stats() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return {state_->cap_bytes, state_->leased_bytes, state_->cached_bytes, state_->peak_bytes, state_->locked_bytes};
}

}  // namespace yr_fastload
