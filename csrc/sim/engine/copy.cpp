#include "engine/copy.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/codes.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

/// Who interrupts a copy waits for one slice at most.
constexpr std::size_t kSliceBytes = std::size_t{64} << 20;

}  // namespace

int copy(void* destination, const void* source, std::size_t bytes, const Interrupted& interrupted) {
  const auto end = exec_deadline();
  const auto given_up = [&] { return interrupted() || std::chrono::steady_clock::now() >= end; };
  const Hit hit = match(Operation::kCopy);
  if (hit.action == Action::kFail) return kAclRtCopyData;
  sit_out(hit, given_up);
  const MemoryInUse from(source, bytes, "a copy");
  const MemoryInUse to(destination, bytes, "a copy");
  if (!from.valid() || !to.valid()) return kAclRtCopyData;
  for (std::size_t done = 0; done < bytes; done += kSliceBytes) {
    if (given_up()) return kAclRtCopyData;
    std::memmove(static_cast<char*>(destination) + done, static_cast<const char*>(source) + done,
                 std::min(kSliceBytes, bytes - done));
  }
  if (!from.valid() || !to.valid()) return kAclRtCopyData;
  if (hit.action == Action::kCorrupt) corrupt(destination, bytes, hit.value);
  return kAclSuccess;
}

}  // namespace yr_fastload::sim
