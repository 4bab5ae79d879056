#include "engine/memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include "engine/blocks.hpp"
#include "engine/codes.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
/// Freed ranges stay reserved, without memory behind them, so that a late access is seen and not served by a stranger.
constexpr std::size_t kQuarantineBlocks = 4096;
constexpr std::size_t kQuarantineBytes = std::size_t{1} << 42;
constexpr std::size_t kLeaksNamed = 8;

std::string hex(std::uintptr_t address) {
  std::ostringstream text;
  text << "0x" << std::hex << address;
  return text.str();
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

/// Gives the memory back and keeps the addresses. The caller holds the mutex.
void quarantine(MemoryState& all, const std::shared_ptr<Block>& block) {
  auto* const address = reinterpret_cast<std::byte*>(block->address);
  if (block->reserved_from != 0) {  // a piece, in whose stead another one may be mapped
    reserve_addresses(block->mapped, block->backing);
    return;
  }
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

/// The live blocks that hold parts of the range, in order. The caller holds the mutex.
std::vector<std::shared_ptr<Block>> holding(const Blocks& live, std::uintptr_t first, std::uint64_t bytes) {
  std::vector<std::shared_ptr<Block>> found;
  for (auto next = live.upper_bound(first + bytes - 1); next != live.begin();) {
    --next;
    if (next->first + next->second->mapped <= first) break;
    found.insert(found.begin(), next->second);
  }
  return found;
}

/// Whether they hold all of it: one block does, or pieces side by side.
bool hold_all(const std::vector<std::shared_ptr<Block>>& blocks, std::uintptr_t first, std::uint64_t bytes) {
  for (std::size_t i = 1; i < blocks.size(); ++i)
    if (blocks[i]->reserved_from == 0 || blocks[i]->reserved_from != blocks[i - 1]->reserved_from ||
        blocks[i]->address != blocks[i - 1]->address + blocks[i - 1]->bytes)
      return false;
  return first >= blocks.front()->address && first + bytes <= blocks.back()->address + blocks.back()->bytes;
}

/// Whether an address is one to which memory is mapped piece by piece. The caller holds the mutex.
bool is_reserved(const MemoryState& all, std::uintptr_t address) {
  auto next = all.reserved.upper_bound(address);
  if (next == all.reserved.begin()) return false;
  --next;
  return address < next->first + next->second.bytes;
}

/// At the very end of the process, after the destructors of static objects: what is left then nobody will free.
__attribute__((destructor)) void report_leaks() {
  if (!settings().report_leaks) return;
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::size_t named = 0;
  for (const auto& [address, block] : all.live) {
    if (++named > kLeaksNamed) break;
    report("leak: " + described(*block) + " were not freed");
  }
  if (all.live.size() > kLeaksNamed) report("leak: " + std::to_string(all.live.size()) + " blocks in all");
}

}  // namespace

MemoryState& MemoryState::get() {
  static MemoryState* const made = new MemoryState;  // never destroyed: memory is freed until the process ends
  return *made;
}

bool MemoryState::take(int device, std::size_t asked) {
  const std::uint64_t cap = settings().device_memory_mb << 20;
  std::uint64_t& used = bytes[device];
  if (device != kHost && (asked > cap || used > cap - asked)) return false;
  used += asked;
  peak[device] = std::max(peak[device], used);
  return true;
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

std::shared_ptr<Block> overlapping(const Blocks& blocks, std::uintptr_t first, std::uint64_t bytes) {
  auto next = blocks.upper_bound(first + bytes - 1);
  if (next == blocks.begin()) return nullptr;
  --next;
  return next->first + next->second->mapped > first ? next->second : nullptr;
}

void* reserve_addresses(std::size_t bytes, void* at) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at == nullptr ? 0 : MAP_FIXED);
  void* const made = ::mmap(at, bytes, PROT_NONE, flags, -1, 0);
  return made == MAP_FAILED ? nullptr : made;
}

MemoryUse memory_use() {
  MemoryState& all = MemoryState::get();
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
  MemoryState& all = MemoryState::get();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (!all.take(device, bytes)) return kAclRtMemoryAllocation;
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
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto found = all.live.find(address);
  if (found == all.live.end() || (found->second->device == kHost) != of_host || found->second->reserved_from != 0) {
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
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (const auto freed = overlapping(all.freed, first, bytes)) {
    refused_ = true;
    ++all.errors["use_after_free"];
    report("use after free: " + std::string(by) + " of " + std::to_string(bytes) + " bytes at " + hex(first) +
           " in the freed " + described(*freed));
    return;
  }
  std::vector<std::shared_ptr<Block>> blocks = holding(all.live, first, bytes);
  if (blocks.empty() && !is_reserved(all, first)) return;
  if (blocks.empty() || !hold_all(blocks, first, bytes)) {
    refused_ = true;
    ++all.errors["out_of_bounds"];
    report("out of bounds: " + std::string(by) + " of " + std::to_string(bytes) + " bytes at " + hex(first) +
           (blocks.empty() ? ", where none are mapped" : " leaves the " + described(*blocks.back())));
    return;
  }
  blocks_ = std::move(blocks);
  bytes_ = blocks_.front()->backing + (first - blocks_.front()->address);
  for (const auto& block : blocks_) {
    ++block->users;
    block->used_by = by;
  }
}

MemoryInUse::~MemoryInUse() {
  if (blocks_.empty()) return;
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (const auto& block : blocks_)
    if (--block->users == 0 && block->freed) quarantine(all, block);
}

bool MemoryInUse::valid() const {
  if (refused_) return false;
  if (blocks_.empty()) return true;
  const std::lock_guard<std::mutex> lock(MemoryState::get().mutex);
  return std::none_of(blocks_.begin(), blocks_.end(), [](const auto& block) { return block->freed; });
}

}  // namespace yr_fastload::sim
