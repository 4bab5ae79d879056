#include "core/locked_chunks.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <iterator>
#include <map>
#include <mutex>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/mapping.hpp"

namespace yr_fastload {
namespace {

constexpr double kCloseSeconds = 2.0;
/// Larger ones pass through slots: registering takes locks of the driver's for as long as it lasts.
constexpr std::size_t kMostBytes = std::size_t{1} << 30;
constexpr std::uint64_t kKeptLoads = 8;

/// Where in which file bytes are.
struct FileOffset {
  std::uint64_t device, inode, offset;

  bool same_file(const FileOffset& other) const noexcept { return device == other.device && inode == other.inode; }
  bool operator<(const FileOffset& other) const noexcept {
    return std::tie(device, inode, offset) < std::tie(other.device, other.inode, other.offset);
  }
};

struct Entry {
  std::shared_ptr<LockedChunk> chunk;
  std::uint64_t bytes;
  std::uint64_t used;  ///< Number of the last load that wanted it.
  bool locked;
};

using Entries = std::map<FileOffset, Entry>;
using Gone = std::vector<std::shared_ptr<LockedChunk>>;

}  // namespace

LockedChunk::LockedChunk(Span<const std::byte> bytes) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uint64_t>(bytes.data());
  offset_ = address % page;
  mapped_ = (offset_ + bytes.size() + page - 1) / page * page;
  // Of size 0, a shared mapping is not moved: the same pages are mapped once more (mremap(2)).
  void* const made = ::mremap(reinterpret_cast<void*>(address - offset_), 0, mapped_, MREMAP_MAYMOVE);
  if (made == MAP_FAILED)
    throw Error(ErrorCode::kDevice, "load",
                "the worker's memory cannot be mapped once more: " + std::generic_category().message(errno));
  mapping_ = static_cast<std::byte*>(made);
}

LockedChunk::~LockedChunk() {
  pages_.reset();
  ::munmap(mapping_, mapped_);
}

void LockedChunk::lock(Device& device) { pages_ = device.lock_pages({mapping_, mapped_}); }

std::uint64_t LockedChunk::begin() const noexcept { return reinterpret_cast<std::uint64_t>(mapping_); }

bool LockedChunk::maps(std::uint64_t address) const noexcept {
  return address >= begin() && address - begin() < mapped_;
}

struct LockedChunks::State {
  explicit State(std::shared_ptr<Device> of) : device(std::move(of)) {}

  const std::shared_ptr<Device> device;
  mutable std::mutex mutex;
  std::condition_variable idle;
  Entries entries;
  std::vector<FileOffset> waiting;  ///< Seen by the load that is under way, and not locked.
  std::size_t tasks = 0;
  std::vector<Mapping> mappings;
  bool looks_again = false;  ///< Whether an address that is in none of them is worth another look.
  std::uint64_t load = 0;
  std::string refusal;
  bool told = false;
  bool refused = false;

  // -- with the mutex held ------------------------------------------------------------------------------------------

  void look() {
    mappings = shared_mappings();
    std::map<std::uint64_t, const LockedChunk*> own;
    for (const auto& [place, entry] : entries) own[entry.chunk->begin()] = entry.chunk.get();
    const auto mine = [&own](const Mapping& each) {
      const auto next = own.upper_bound(each.begin);
      return next != own.begin() && std::prev(next)->second->maps(each.begin);
    };
    mappings.erase(std::remove_if(mappings.begin(), mappings.end(), mine), mappings.end());
  }

  std::optional<FileOffset> place_of(Span<const std::byte> bytes) {
    for (;;) {
      for (const Mapping& each : mappings)
        if (each.holds(bytes))
          return FileOffset{each.device, each.inode,
                            reinterpret_cast<std::uint64_t>(bytes.data()) - each.begin + each.offset};
      if (!looks_again) return std::nullopt;
      look();
      const auto holds = [&](const Mapping& each) { return each.holds(bytes); };
      looks_again = std::any_of(mappings.begin(), mappings.end(), holds);
    }
  }

  template <typename Condition>
  Gone remove(const Condition& condition) {
    Gone gone;
    for (auto each = entries.begin(); each != entries.end();) {
      if (!condition(each->first, each->second)) {
        ++each;
        continue;
      }
      gone.push_back(std::move(each->second.chunk));
      each = entries.erase(each);
    }
    return gone;
  }

  void refuse(const std::string& why) {
    if (refused) return;
    refused = true;
    refusal = why;
  }

  // -- on the runner's thread ---------------------------------------------------------------------------------------

  void lock_one(const FileOffset& place) {
    std::shared_ptr<LockedChunk> chunk;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      const auto found = entries.find(place);
      if (found == entries.end() || found->second.locked || refused) return;
      chunk = found->second.chunk;
    }
    std::string why;
    try {
      chunk->lock(*device);
    } catch (const std::exception& error) {
      why = error.what();
    }
    Gone gone;
    const std::lock_guard<std::mutex> lock(mutex);
    if (why.empty()) {
      const auto found = entries.find(place);
      if (found != entries.end() && found->second.chunk == chunk) found->second.locked = true;
      return;
    }
    refuse(why);
    gone = remove([](const FileOffset&, const Entry& entry) { return !entry.locked; });
  }

  void ended() {
    const std::lock_guard<std::mutex> lock(mutex);
    --tasks;
    idle.notify_all();
  }
};

LockedChunks::LockedChunks(std::shared_ptr<Device> device)
    : state_(std::make_shared<State>(std::move(device))), runner_(1, kCloseSeconds) {
  if (!state_->device->takes_digests()) state_->refuse("the device takes no digests of what it copies");
}

LockedChunks::~LockedChunks() {
  Gone gone;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->refused = true;  // what is still to be locked is not
    gone = state_->remove([](const FileOffset&, const Entry&) { return true; });
  }
  runner_.post([gone = std::move(gone)]() mutable { gone.clear(); });
}

void LockedChunks::begin_load() {
  State& state = *state_;
  Gone gone;
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    ++state.load;
    state.look();
    state.looks_again = true;
    gone = state.remove([&](const FileOffset& place, const Entry& entry) {
      const auto shows = [&](const Mapping& each) { return place.same_file({each.device, each.inode, 0}); };
      return entry.used + kKeptLoads < state.load || std::none_of(state.mappings.begin(), state.mappings.end(), shows);
    });
    if (gone.empty()) return;
    ++state.tasks;
  }
  runner_.post([all = state_, gone = std::move(gone)]() mutable {
    gone.clear();
    all->ended();
  });
}

std::shared_ptr<const LockedChunk> LockedChunks::find(Span<const std::byte> bytes) {
  State& state = *state_;
  Gone gone;  // after the lock: unlocking takes a while
  const std::lock_guard<std::mutex> lock(state.mutex);
  const auto place = state.place_of(bytes);
  if (!place) return nullptr;
  const auto found = state.entries.find(*place);
  if (found != state.entries.end() && found->second.bytes == bytes.size()) {
    found->second.used = state.load;
    return found->second.locked ? found->second.chunk : nullptr;
  }
  if (state.refused || bytes.size() == 0 || bytes.size() > kMostBytes) return nullptr;
  gone = state.remove([&](const FileOffset& other, const Entry& entry) {
    return place->same_file(other) && other.offset < place->offset + bytes.size() &&
           place->offset < other.offset + entry.bytes;
  });
  try {
    state.entries[*place] = {std::make_shared<LockedChunk>(bytes), bytes.size(), state.load, false};
    state.waiting.push_back(*place);
  } catch (const Error& error) {
    state.refuse(error.what());
  }
  return nullptr;
}

void LockedChunks::drop(const std::shared_ptr<const LockedChunk>& chunk) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->remove([&](const FileOffset&, const Entry& entry) { return entry.chunk == chunk; });
}

void LockedChunks::end_load() {
  std::vector<FileOffset> waiting;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    waiting.swap(state_->waiting);
    state_->tasks += waiting.size();
  }
  for (const FileOffset& place : waiting)
    runner_.post([state = state_, place] {
      state->lock_one(place);
      state->ended();
    });
}

bool LockedChunks::settle(Deadline deadline) {
  std::unique_lock<std::mutex> lock(state_->mutex);
  return state_->idle.wait_until(lock, deadline.at(), [this] { return state_->tasks == 0; });
}

LockedChunksStats LockedChunks::stats() const {
  LockedChunksStats found{0, 0};
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (const auto& [place, entry] : state_->entries)
    if (entry.locked) {
      ++found.chunks;
      found.locked_bytes += entry.bytes;
    }
  return found;
}

std::optional<std::string> LockedChunks::take_refusal() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (state_->refusal.empty() || std::exchange(state_->told, true)) return std::nullopt;
  return state_->refusal;
}

}  // namespace yr_fastload
