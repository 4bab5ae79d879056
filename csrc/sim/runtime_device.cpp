// libruntime.so: facts of a device, and what P2P-Transfer would use.
#include <cstdint>
#include <string>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/settings.hpp"
#include "unimplemented.hpp"

using namespace yr_fastload::sim;

YRFL_SIM_API int rtGetDeviceInfo(std::uint32_t device, std::int32_t module, std::int32_t type, std::int64_t* value) {
  constexpr std::int32_t kSystem = 0;         // RT_MODULE_TYPE_SYSTEM
  constexpr std::int32_t kPhysicalChip = 18;  // INFO_TYPE_PHY_CHIP_ID
  count_call("rtGetDeviceInfo");
  if (value == nullptr) return kAclRtParamInvalid;
  if (!device_exists(static_cast<std::int64_t>(device))) return kAclRtInvalidDevice;
  if (module != kSystem || type != kPhysicalChip) {
    report("rtGetDeviceInfo of type " + std::to_string(type) + " of module " + std::to_string(module) +
           " is not simulated");
    return kAclRtFeatureNotSupported;
  }
  *value = device;
  return kAclSuccess;
}

YRFL_SIM_UNIMPLEMENTED(rtDeviceGetBareTgid)
YRFL_SIM_UNIMPLEMENTED(rtGetDevicePhyIdByIndex)
YRFL_SIM_UNIMPLEMENTED(rtGetNotifyAddress)
YRFL_SIM_UNIMPLEMENTED(rtGetNotifyID)
YRFL_SIM_UNIMPLEMENTED(rtGetSocVersion)
YRFL_SIM_UNIMPLEMENTED(rtGetVisibleDeviceIdByLogicDeviceId)
YRFL_SIM_UNIMPLEMENTED(rtIpcCloseMemory)
YRFL_SIM_UNIMPLEMENTED(rtIpcOpenMemory)
YRFL_SIM_UNIMPLEMENTED(rtIpcOpenNotify)
YRFL_SIM_UNIMPLEMENTED(rtIpcSetMemoryName)
YRFL_SIM_UNIMPLEMENTED(rtIpcSetNotifyName)
YRFL_SIM_UNIMPLEMENTED(rtMalloc)
YRFL_SIM_UNIMPLEMENTED(rtNotifyGetAddrOffset)
YRFL_SIM_UNIMPLEMENTED(rtRDMADBSend)
YRFL_SIM_UNIMPLEMENTED(rtSetIpcMemPid)
YRFL_SIM_UNIMPLEMENTED(rtSetIpcNotifyPid)
