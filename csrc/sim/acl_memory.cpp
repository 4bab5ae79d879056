// Memory of devices and of the host, and copies.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/memory.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {

void corrupt(void* data, std::size_t bytes, double count) {
  const auto flips = static_cast<std::size_t>(std::min(count, static_cast<double>(bytes)));
  for (std::size_t i = 0; i < flips; ++i) static_cast<unsigned char*>(data)[(2 * i + 1) * bytes / (2 * flips)] ^= 0x55;
}

int copy(void* destination, const void* source, std::size_t bytes, const Interrupted& interrupted) {
  const Hit fault = hit(Operation::kCopy, interrupted);
  if (fault.action == Action::kFail) return kAclRtInternalError;
  if (interrupted && interrupted()) return kAclRtInternalError;
  if (!usable(source, bytes, "a copy") || !usable(destination, bytes, "a copy")) return kAclRtInternalError;
  std::memmove(destination, source, bytes);
  if (fault.action == Action::kCorrupt) corrupt(destination, bytes, fault.value);
  return kAclSuccess;
}

namespace {

bool valid(const void* destination, std::size_t room, const void* source, std::size_t bytes) {
  return destination != nullptr && source != nullptr && bytes > 0 && bytes <= room;
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtMalloc(void** data, std::size_t bytes, int) {
  count_call("aclrtMalloc");
  return current_device() < 0 ? kAclRtContextNull : allocate(current_device(), bytes, data);
}

YRFL_SIM_API int aclrtFree(void* data) {
  count_call("aclrtFree");
  return release(data, false);
}

YRFL_SIM_API int aclrtMallocHost(void** data, std::size_t bytes) {
  count_call("aclrtMallocHost");
  return allocate(-1, bytes, data);
}

YRFL_SIM_API int aclrtFreeHost(void* data) {
  count_call("aclrtFreeHost");
  return release(data, true);
}

YRFL_SIM_API int aclrtHostRegister(void* data, std::uint64_t bytes, int, void** device_data) {
  count_call("aclrtHostRegister");
  if (data == nullptr || bytes == 0 || device_data == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *device_data = data;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtHostUnregister(void* data) {
  count_call("aclrtHostUnregister");
  return data == nullptr ? kAclRtParamInvalid : kAclSuccess;
}

YRFL_SIM_API int aclrtMemcpy(void* destination, std::size_t room, const void* source, std::size_t bytes, int) {
  count_call("aclrtMemcpy");
  if (current_device() < 0) return kAclRtContextNull;
  if (!valid(destination, room, source, bytes)) return kAclRtParamInvalid;
  return copy(destination, source, bytes, nullptr);
}

YRFL_SIM_API int aclrtMemcpyAsync(void* destination, std::size_t room, const void* source, std::size_t bytes, int,
                                  void* handle) {
  count_call("aclrtMemcpyAsync");
  if (!valid(destination, room, source, bytes)) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  stream->push(
      {[=](const Stream& self) { return copy(destination, source, bytes, [&self] { return self.interrupted(); }); },
       nullptr});
  return stream->error();
}

YRFL_SIM_API int aclrtMemcpyBatch(void** destinations, std::size_t* rooms, void** sources, std::size_t* sizes,
                                  std::size_t count, void*, std::size_t*, std::size_t, std::size_t* failed) {
  count_call("aclrtMemcpyBatch");
  if (failed != nullptr) *failed = SIZE_MAX;
  if (current_device() < 0) return kAclRtContextNull;
  if (destinations == nullptr || rooms == nullptr || sources == nullptr || sizes == nullptr) return kAclRtParamInvalid;
  for (std::size_t i = 0; i < count; ++i) {
    int result = kAclRtParamInvalid;
    if (valid(destinations[i], rooms[i], sources[i], sizes[i]))
      result = copy(destinations[i], sources[i], sizes[i], nullptr);
    if (result == kAclSuccess) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return kAclSuccess;
}
