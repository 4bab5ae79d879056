#include "engine/memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <sstream>

#include "engine/codes.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {

struct Block {
  std::uintptr_t address = 0;
  std::byte* backing = nullptr;  ///< Where the bytes are.
  std::size_t bytes = 0;
  std::size_t mapped = 0;
  int device = 0;
  unsigned users = 0;
  bool freed = false;
  InFile place;
  const char* used_by = "";
};

namespace {

using Blocks = std::map<std::uintptr_t, std::shared_ptr<Block>>;

constexpr std::size_t kHugePage = std::size_t{2} << 20;
/// Freed ranges stay reserved, without memory behind them, so that a late access is seen and not served by a stranger.
constexpr std::size_t kQuarantineBlocks = 4096;
constexpr std::size_t kQuarantineBytes = std::size_t{1} << 42;
constexpr std::size_t kLeaksNamed = 8;

struct State {
  std::mutex mutex;
  Blocks live;
  Blocks freed;
  std::deque<std::shared_ptr<Block>> quarantine;
  std::size_t quarantined_bytes = 0;
  std::map<int, std::uint64_t> bytes;
  std::map<int, std::uint64_t> peak;
  std::map<std::string, std::uint64_t> errors{
      {"double_free", 0}, {"unknown_free", 0}, {"use_after_free", 0}, {"out_of_bounds", 0}};
};

State& state() {
  static State* const made = new State;  // never destroyed: memory is freed until the process ends
  return *made;
}

std::string described(const Block& block) {
  std::ostringstream text;
  text << block.bytes << " bytes at 0x" << std::hex << block.address << std::dec << " of ";
  if (block.device == kHost)
    text << "the host";
  else
    text << "device " << block.device;
  return text.str();
}

std::string hex(std::uintptr_t address) {
  std::ostringstream text;
  text << "0x" << std::hex << address;
  return text.str();
}

/// The block that holds a part of the range, or null.
std::shared_ptr<Block> overlapping(const Blocks& blocks, std::uintptr_t first, std::uint64_t bytes) {
  auto next = blocks.upper_bound(first + bytes - 1);
  if (next == blocks.begin()) return nullptr;
  --next;
  return next->first + next->second->mapped > first ? next->second : nullptr;
}

/// In huge pages where they are to be had; backed by the system when it is first touched, because openYuanrong's plugin
/// allocates pools of which it uses little.
void* map_memory(std::size_t bytes, const InFile& place) {
  if (place.file >= 0) {
    void* const shared = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, place.file,
                                static_cast<::off_t>(place.offset));
    return shared == MAP_FAILED ? nullptr : shared;
  }
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (bytes >= kHugePage) ::madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

/// Addresses without memory behind them; null if there are none left.
void* reserve_addresses(std::size_t bytes, void* at = nullptr) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at == nullptr ? 0 : MAP_FIXED);
  void* const made = ::mmap(at, bytes, PROT_NONE, flags, -1, 0);
  return made == MAP_FAILED ? nullptr : made;
}

/// Gives the memory back and keeps the addresses. The caller holds the mutex.
void quarantine(State& all, const std::shared_ptr<Block>& block) {
  auto* const address = reinterpret_cast<std::byte*>(block->address);
  if (block->backing == address)
    reserve_addresses(block->mapped, address);
  else
    ::munmap(block->backing, block->mapped);
  if (block->place.file >= 0)
    static_cast<void>(::fallocate(block->place.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<::off_t>(block->place.offset), static_cast<::off_t>(block->mapped)));
  all.quarantine.push_back(block);
  all.quarantined_bytes += block->mapped;
  while (all.quarantine.size() > kQuarantineBlocks || all.quarantined_bytes > kQuarantineBytes) {
    const std::shared_ptr<Block> oldest = all.quarantine.front();
    all.quarantine.pop_front();
    all.quarantined_bytes -= oldest->mapped;
    all.freed.erase(oldest->address);
    ::munmap(reinterpret_cast<void*>(oldest->address), oldest->mapped);
  }
}

/// At the very end of the process, after the destructors of static objects: what is left then nobody will free.
__attribute__((destructor)) void report_leaks() {
  if (!settings().report_leaks) return;
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::size_t named = 0;
  for (const auto& [address, block] : all.live) {
    if (++named > kLeaksNamed) break;
    report("leak: " + described(*block) + " were not freed");
  }
  if (all.live.size() > kLeaksNamed) report("leak: " + std::to_string(all.live.size()) + " blocks in all");
}

}  // namespace

MemoryUse memory_use() {
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  MemoryUse use;
  for (const auto& [device, bytes] : all.bytes)
    if (device != kHost) use.bytes[std::to_string(device)] = bytes;
  for (const auto& [device, bytes] : all.peak)
    if (device != kHost) use.peak_bytes[std::to_string(device)] = bytes;
  use.host_bytes = all.bytes[kHost];
  use.errors = all.errors;
  return use;
}

int allocate(int device, std::size_t bytes, void** data, Reach reach, InFile place) {
  if (data == nullptr || bytes == 0) return kAclRtParamInvalid;
  *data = nullptr;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > SIZE_MAX / 2) return kAclRtMemoryAllocation;
  const std::size_t mapped = (bytes + page - 1) / page * page;
  State& all = state();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    const std::uint64_t cap = settings().device_memory_mb << 20;
    std::uint64_t& used = all.bytes[device];
    if (device != kHost && (bytes > cap || used > cap - bytes)) return kAclRtMemoryAllocation;
    used += bytes;
    all.peak[device] = std::max(all.peak[device], used);
  }
  void* const backing = map_memory(mapped, place);
  void* const memory = reach == Reach::kOpaque && backing != nullptr ? reserve_addresses(mapped) : backing;
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (memory == nullptr) {
    if (backing != nullptr) ::munmap(backing, mapped);
    all.bytes[device] -= bytes;
    return kAclRtMemoryAllocation;
  }
  auto block = std::make_shared<Block>();
  block->address = reinterpret_cast<std::uintptr_t>(memory);
  block->backing = static_cast<std::byte*>(backing);
  block->bytes = bytes;
  block->mapped = mapped;
  block->device = device;
  block->place = place;
  all.live[block->address] = std::move(block);
  *data = memory;
  return kAclSuccess;
}

int release(void* data, bool of_host) {
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto found = all.live.find(address);
  if (found == all.live.end() || (found->second->device == kHost) != of_host) {
    const auto before = all.freed.find(address);
    ++all.errors[before != all.freed.end() ? "double_free" : "unknown_free"];
    report(before != all.freed.end() ? "double free of " + described(*before->second)
                                     : "free of what was never allocated there: " + hex(address));
    return kAclRtMemoryFree;
  }
  const std::shared_ptr<Block> block = found->second;
  all.live.erase(found);
  all.bytes[block->device] -= block->bytes;
  block->freed = true;
  all.freed[address] = block;
  if (block->users == 0) {
    quarantine(all, block);
  } else {
    ++all.errors["use_after_free"];
    report("use after free: " + described(*block) + " were freed while " + block->used_by + " used them");
  }
  return kAclSuccess;
}

MemoryInUse::MemoryInUse(const void* data, std::uint64_t bytes, const char* by)
    : bytes_(static_cast<std::byte*>(const_cast<void*>(data))) {
  if (bytes == 0) return;
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (const auto freed = overlapping(all.freed, first, bytes)) {
    refused_ = true;
    ++all.errors["use_after_free"];
    report("use after free: " + std::string(by) + " of " + std::to_string(bytes) + " bytes at " + hex(first) +
           " in the freed " + described(*freed));
    return;
  }
  const auto block = overlapping(all.live, first, bytes);
  if (block == nullptr) return;
  if (first < block->address || first + bytes > block->address + block->bytes) {
    refused_ = true;
    ++all.errors["out_of_bounds"];
    report("out of bounds: " + std::string(by) + " of " + std::to_string(bytes) + " bytes at " + hex(first) +
           " leaves the " + described(*block));
    return;
  }
  block_ = block;
  bytes_ = block->backing + (first - block->address);
  ++block_->users;
  block_->used_by = by;
}

MemoryInUse::~MemoryInUse() {
  if (block_ == nullptr) return;
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (--block_->users == 0 && block_->freed) quarantine(all, block_);
}

bool MemoryInUse::valid() const {
  if (refused_) return false;
  if (block_ == nullptr) return true;
  const std::lock_guard<std::mutex> lock(state().mutex);
  return !block_->freed;
}

}  // namespace yr_fastload::sim
