#include "engine/address_space.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "engine/blocks.hpp"
#include "engine/codes.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

std::size_t page_bytes() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

bool in_pages(std::size_t bytes) { return bytes > 0 && bytes % page_bytes() == 0; }

std::uintptr_t number(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

/// Those within a range. The caller holds the mutex.
void forget_freed(MemoryState& all, std::uintptr_t first, std::size_t bytes) {
  all.freed.erase(all.freed.lower_bound(first), all.freed.lower_bound(first + bytes));
}

}  // namespace

int reserve(std::size_t asked, void** data, Reach reach) {
  if (data == nullptr || asked == 0 || asked > SIZE_MAX / 2) return kAclRtParamInvalid;
  const std::size_t bytes = (asked + page_bytes() - 1) / page_bytes() * page_bytes();
  void* const backing = reserve_addresses(bytes);
  void* const memory = reach == Reach::kOpaque && backing != nullptr ? reserve_addresses(bytes) : backing;
  if (memory == nullptr) {
    if (backing != nullptr) ::munmap(backing, bytes);
    return kAclRtMemoryAllocation;
  }
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.reserved[number(memory)] = {static_cast<std::byte*>(backing), bytes};
  *data = memory;
  return kAclSuccess;
}

int unreserve(void* data) {
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.reserved.find(number(data));
  if (found == all.reserved.end() || overlapping(all.live, found->first, found->second.bytes) != nullptr)
    return kAclRtParamInvalid;
  forget_freed(all, found->first, found->second.bytes);
  ::munmap(data, found->second.bytes);
  if (found->second.backing != data) ::munmap(found->second.backing, found->second.bytes);
  all.reserved.erase(found);
  return kAclSuccess;
}

int map(void* data, std::size_t bytes, int device) {
  const std::uintptr_t address = number(data);
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto found = all.reserved.upper_bound(address);
  if (!in_pages(bytes) || found == all.reserved.begin()) return kAclRtParamInvalid;
  --found;
  const Reserved& reserved = found->second;
  const std::size_t offset = address - found->first;
  if (offset >= reserved.bytes || bytes > reserved.bytes - offset || overlapping(all.live, address, bytes) != nullptr)
    return kAclRtParamInvalid;
  if (::mprotect(reserved.backing + offset, bytes, PROT_READ | PROT_WRITE) != 0) return kAclRtMemoryAllocation;
  forget_freed(all, address, bytes);
  auto block = std::make_shared<Block>();
  block->address = address;
  block->backing = reserved.backing + offset;
  block->bytes = block->mapped = bytes;
  block->device = device;
  block->reserved_from = found->first;
  all.live[address] = std::move(block);
  return kAclSuccess;
}

int unmap(void* data) {
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.live.find(number(data));
  if (found == all.live.end() || found->second->reserved_from == 0) return kAclRtParamInvalid;
  const std::shared_ptr<Block> block = found->second;
  all.live.erase(found);
  block->freed = true;
  all.freed[block->address] = block;
  if (block->users == 0) {
    reserve_addresses(block->mapped, block->backing);
  } else {
    ++all.errors["use_after_free"];
    report("use after free: " + described(*block) + " were unmapped while " + block->used_by + " used them");
  }
  return kAclSuccess;
}

bool Physical::take() {
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return taken_ = all.take(device_, bytes_);
}

Physical::~Physical() {
  if (!taken_) return;
  MemoryState& all = MemoryState::get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.bytes[device_] -= bytes_;
}

}  // namespace yr_fastload::sim
