// Addresses that are reserved, and memory that is mapped to them: what torch_npu's expandable segments, and allocators
// whose memory can be taken away, are made of.
#include <cstdint>
#include <memory>

#include "engine/address_space.hpp"
#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

/// aclrtPhysicalMemProp of CANN's acl_rt.h.
struct Properties {
  std::int32_t handle_type;
  std::int32_t allocation_type;
  std::int32_t attribute;
  std::uint32_t location;
  std::int32_t location_type;
  std::uint64_t reserve;
};

constexpr std::int32_t kOnDevice = 1;  // aclrtMemLocationType

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtReserveMemAddress(void** data, std::size_t bytes, std::size_t, void* expected, std::uint64_t) {
  count_call("aclrtReserveMemAddress");
  if (current_device() < 0) return kAclRtContextNull;
  if (expected != nullptr) return kAclRtFeatureNotSupported;
  return reserve(bytes, data, settings().opaque ? Reach::kOpaque : Reach::kDirect);
}

YRFL_SIM_API int aclrtReleaseMemAddress(void* data) {
  count_call("aclrtReleaseMemAddress");
  return unreserve(data);
}

YRFL_SIM_API int aclrtMallocPhysical(void** handle, std::size_t bytes, const void* asked, std::uint64_t) {
  count_call("aclrtMallocPhysical");
  const auto* const properties = static_cast<const Properties*>(asked);
  if (handle == nullptr || bytes == 0 || properties == nullptr || properties->location_type != kOnDevice ||
      !device_exists(properties->location))
    return kAclRtParamInvalid;
  const auto end = exec_deadline();
  const Hit hit = match(Operation::kMalloc);
  if (hit.action == Action::kFail) return kAclRtInternalError;
  if (hit.action == Action::kOutOfMemory) return kAclRtMemoryAllocation;
  sit_out(hit, [end] { return std::chrono::steady_clock::now() >= end; });
  const auto made = std::make_shared<Physical>(static_cast<int>(properties->location), bytes);
  if (!made->take()) return kAclRtMemoryAllocation;
  *handle = Handles<Physical>::all().add(made);
  return kAclSuccess;
}

YRFL_SIM_API int aclrtFreePhysical(void* handle) {
  count_call("aclrtFreePhysical");
  return Handles<Physical>::all().remove(handle) == nullptr ? kAclRtInvalidHandle : kAclSuccess;
}

YRFL_SIM_API int aclrtMapMem(void* data, std::size_t bytes, std::size_t offset, void* handle, std::uint64_t) {
  count_call("aclrtMapMem");
  const auto physical = Handles<Physical>::all().find(handle);
  if (physical == nullptr) return kAclRtInvalidHandle;
  if (offset != 0 || bytes > physical->bytes()) return kAclRtParamInvalid;
  return map(data, bytes, physical->device());
}

YRFL_SIM_API int aclrtUnmapMem(void* data) {
  count_call("aclrtUnmapMem");
  return unmap(data);
}
