// Memory of devices and of the host, and copies.
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "acl_capture.hpp"
#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

constexpr int kKinds = 5;  // aclrtMemcpyKind: host to host .. device to device, default

bool valid(const void* destination, std::size_t room, const void* source, std::size_t bytes) {
  return destination != nullptr && source != nullptr && bytes > 0 && bytes <= room;
}

bool valid_kind(int kind) { return kind >= 0 && kind < kKinds; }

/// Memory of the host that a device may use as it is.
struct Registered {
  std::mutex mutex;
  std::map<void*, std::uint64_t> bytes;
  static Registered& all() {
    static Registered* const made = new Registered;  // never destroyed
    return *made;
  }
};

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtMalloc(void** data, std::size_t bytes, int) {
  count_call("aclrtMalloc");
  if (current_device() < 0) return kAclRtContextNull;
  const auto end = exec_deadline();
  const Hit hit = match(Operation::kMalloc);
  if (hit.action == Action::kFail) return kAclRtInternalError;
  if (hit.action == Action::kOutOfMemory) return kAclRtMemoryAllocation;
  sit_out(hit, [end] { return std::chrono::steady_clock::now() >= end; });
  return allocate(current_device(), bytes, data, settings().opaque ? Reach::kOpaque : Reach::kDirect);
}

/// Not of CANN: whether the CPU reaches a device's memory, as it never does that of a real one.
YRFL_SIM_API int yrfl_sim_cpu_accessible() { return settings().opaque ? 0 : 1; }

/// Not of CANN: for those who check what others did. It meets no fault, and is in no stream.
YRFL_SIM_API int yrfl_sim_copy(void* destination, const void* source, std::size_t bytes) {
  const MemoryInUse from(source, bytes, "a check");
  const MemoryInUse to(destination, bytes, "a check");
  if (!from.valid() || !to.valid()) return kAclRtCopyData;
  std::memmove(to.bytes(), from.bytes(), bytes);
  return kAclSuccess;
}

YRFL_SIM_API int aclrtFree(void* data) {
  count_call("aclrtFree");
  return data == nullptr ? kAclRtParamInvalid : release(data, false);
}

YRFL_SIM_API int aclrtMallocHost(void** data, std::size_t bytes) {
  count_call("aclrtMallocHost");
  return current_device() < 0 ? kAclRtContextNull : allocate(kHost, bytes, data);
}

YRFL_SIM_API int aclrtFreeHost(void* data) {
  count_call("aclrtFreeHost");
  return data == nullptr ? kAclRtParamInvalid : release(data, true);
}

YRFL_SIM_API int aclrtHostRegister(void* data, std::uint64_t bytes, int, void** device_data) {
  count_call("aclrtHostRegister");
  if (data == nullptr || bytes == 0 || device_data == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  Registered& all = Registered::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (!all.bytes.emplace(data, bytes).second) return kAclRtParamInvalid;
  *device_data = data;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtHostUnregister(void* data) {
  count_call("aclrtHostUnregister");
  Registered& all = Registered::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.bytes.erase(data) == 1 ? kAclSuccess : kAclRtParamInvalid;
}

YRFL_SIM_API int aclrtMemcpy(void* destination, std::size_t room, const void* source, std::size_t bytes, int kind) {
  count_call("aclrtMemcpy");
  if (current_device() < 0) return kAclRtContextNull;
  if (!valid(destination, room, source, bytes) || !valid_kind(kind)) return kAclRtParamInvalid;
  if (const int refused = check_capture_mode()) return refused;
  return copy(destination, source, bytes, [] { return false; });
}

YRFL_SIM_API int aclrtMemcpyAsync(void* destination, std::size_t room, const void* source, std::size_t bytes, int kind,
                                  void* handle) {
  count_call("aclrtMemcpyAsync");
  if (!valid(destination, room, source, bytes) || !valid_kind(kind)) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  return stream->push(
      {[=](const Stream& self) { return copy(destination, source, bytes, [&self] { return self.interrupted(); }); },
       nullptr});
}

YRFL_SIM_API int aclrtMemcpyBatch(void** destinations, std::size_t* rooms, void** sources, std::size_t* sizes,
                                  std::size_t count, void* attributes, std::size_t* attribute_indexes,
                                  std::size_t attribute_count, std::size_t* failed) {
  count_call("aclrtMemcpyBatch");
  if (failed != nullptr) *failed = SIZE_MAX;  // none in particular
  if (current_device() < 0) return kAclRtContextNull;
  if (destinations == nullptr || rooms == nullptr || sources == nullptr || sizes == nullptr || count == 0 ||
      attributes == nullptr || attribute_indexes == nullptr || attribute_count == 0 || attribute_count > count ||
      attribute_indexes[0] != 0)
    return kAclRtParamInvalid;
  if (const int refused = check_capture_mode()) return refused;
  for (std::size_t i = 1; i < attribute_count; ++i)
    if (attribute_indexes[i] <= attribute_indexes[i - 1] || attribute_indexes[i] >= count) return kAclRtParamInvalid;
  for (std::size_t i = 0; i < count; ++i) {
    int result = kAclRtParamInvalid;
    if (valid(destinations[i], rooms[i], sources[i], sizes[i]))
      result = copy(destinations[i], sources[i], sizes[i], [] { return false; });
    if (result == kAclSuccess) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return kAclSuccess;
}
