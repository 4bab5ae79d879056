#include "engine/copy.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/codes.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"

#ifdef __SANITIZE_THREAD__
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace yr_fastload::sim {
namespace {

/// A device's own engine copies, which no sanitizer of threads sees. Here a thread of this process stands for it: what
/// it waits for was signalled by openYuanrong, whose atomics the sanitizer does not see either, so that it would take
/// every word for a race, and a copy for minutes.
class AsDevice {
 public:
#ifdef __SANITIZE_THREAD__
  AsDevice() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~AsDevice() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  AsDevice() = default;
#endif
  AsDevice(const AsDevice&) = delete;
  AsDevice& operator=(const AsDevice&) = delete;
};

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
    [[maybe_unused]] const AsDevice device;
    std::memmove(to.bytes() + done, from.bytes() + done, std::min(kSliceBytes, bytes - done));
  }
  if (!from.valid() || !to.valid()) return kAclRtCopyData;
  if (hit.action == Action::kCorrupt) corrupt(to.bytes(), bytes, hit.value);
  return kAclSuccess;
}

}  // namespace yr_fastload::sim
