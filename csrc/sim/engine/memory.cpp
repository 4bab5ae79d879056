#include "engine/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <sstream>
#include <vector>

#include "engine/codes.hpp"
#include "engine/faults.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
/// Freed ranges stay reserved, without memory behind them, so that a late access is seen and not served by a stranger.
constexpr std::size_t kQuarantineBlocks = 4096;

struct Block {
  std::size_t bytes = 0;
  std::size_t mapped = 0;
  int device = 0;
};

struct State {
  std::mutex mutex;
  std::map<std::uintptr_t, Block> live;
  std::map<std::uintptr_t, Block> freed;
  std::deque<std::uintptr_t> quarantine;
  std::map<int, std::uint64_t> bytes;
  std::map<int, std::uint64_t> peak;
  std::map<std::string, std::uint64_t> errors{{"double_free", 0}, {"unknown_free", 0}, {"use_after_free", 0}};
};

State& state() {
  static State* const made = new State;  // never destroyed: memory is freed until the process ends
  return *made;
}

std::string hex(std::uintptr_t address) {
  std::ostringstream text;
  text << "0x" << std::hex << address;
  return text.str();
}

std::string where(int device) { return device < 0 ? "host" : std::to_string(device); }

/// The block that `address` lies in, or the end.
std::map<std::uintptr_t, Block>::const_iterator find(const std::map<std::uintptr_t, Block>& blocks,
                                                     std::uintptr_t address) {
  auto next = blocks.upper_bound(address);
  if (next == blocks.begin()) return blocks.end();
  --next;
  return address < next->first + next->second.mapped ? next : blocks.end();
}

/// In huge pages where they are to be had; backed by the system when it is first touched.
void* map_memory(std::size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (bytes >= kHugePage) ::madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

/// Prints what is left at the end of the process: memory that nobody will free any more.
struct LeakReport {
  ~LeakReport() {
    if (!settings().report_leaks) return;  // openYuanrong's plugin keeps a pool until the end
    State& all = state();
    const std::lock_guard<std::mutex> lock(all.mutex);
    std::uint64_t bytes = 0;
    for (const auto& [address, block] : all.live) bytes += block.bytes;
    if (!all.live.empty())
      report(std::to_string(all.live.size()) + " blocks of " + std::to_string(bytes) +
             " bytes were not freed, the first at " + hex(all.live.begin()->first) + " of device " +
             where(all.live.begin()->second.device));
  }
};
const LeakReport leak_report;

}  // namespace

MemoryUse memory_use() {
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  MemoryUse use;
  for (const auto& [device, bytes] : all.bytes) use.bytes[where(device)] = bytes;
  for (const auto& [device, bytes] : all.peak) use.peak_bytes[where(device)] = bytes;
  use.errors = all.errors;
  return use;
}

int allocate(int device, std::size_t bytes, void** data) {
  if (data == nullptr || bytes == 0) return kAclRtParamInvalid;
  *data = nullptr;
  switch (hit(Operation::kMalloc, nullptr).action) {
    case Action::kFail:
    case Action::kOutOfMemory:
      return kAclRtMemoryAllocation;
    default:
      break;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > SIZE_MAX - page) return kAclRtMemoryAllocation;
  const std::size_t mapped = (bytes + page - 1) / page * page;
  State& all = state();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    const std::uint64_t cap = settings().device_memory_mb << 20;
    if (device >= 0 && (bytes > cap || all.bytes[device] > cap - bytes)) return kAclRtMemoryAllocation;
    all.bytes[device] += bytes;
    all.peak[device] = std::max(all.peak[device], all.bytes[device]);
  }
  void* memory = map_memory(mapped);
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (memory == nullptr) {
    all.bytes[device] -= bytes;
    return kAclRtMemoryAllocation;
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  all.freed.erase(address);  // the system hands an address out again only after it left the quarantine
  all.live[address] = {bytes, mapped, device};
  *data = memory;
  return kAclSuccess;
}

int release(void* data, bool of_host) {
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto found = all.live.find(address);
  if (found == all.live.end() || (found->second.device < 0) != of_host) {
    const bool twice = find(all.freed, address) != all.freed.end();
    ++all.errors[twice ? "double_free" : "unknown_free"];
    report((twice ? "double free of " : "free of what was never allocated: ") + hex(address));
    return kAclRtMemoryFree;
  }
  const Block block = found->second;
  all.live.erase(found);
  all.bytes[block.device] -= block.bytes;
  // Gives the memory back and keeps the addresses.
  ::mmap(data, block.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  all.freed[address] = block;
  all.quarantine.push_back(address);
  if (all.quarantine.size() > kQuarantineBlocks) {
    const std::uintptr_t oldest = all.quarantine.front();
    all.quarantine.pop_front();
    const auto gone = all.freed.find(oldest);
    if (gone != all.freed.end()) {
      ::munmap(reinterpret_cast<void*>(oldest), gone->second.mapped);
      all.freed.erase(gone);
    }
  }
  return kAclSuccess;
}

bool usable(const void* data, std::size_t bytes, const char* by) {
  if (bytes == 0) return true;
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  auto block = all.freed.upper_bound(first + bytes - 1);
  if (block == all.freed.begin()) return true;
  --block;
  if (block->first + block->second.mapped <= first) return true;
  ++all.errors["use_after_free"];
  report(std::string("use after free by ") + by + ": " + std::to_string(bytes) + " bytes at " + hex(first));
  return false;
}

}  // namespace yr_fastload::sim
