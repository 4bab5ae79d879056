// aclInit, and the devices of a thread.
#include <atomic>
#include <cstdint>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

std::atomic<bool> initialized{false};
thread_local int device_of_thread = -1;

bool usable() { return settings().valid && faults_valid(); }

}  // namespace

int current_device() { return device_of_thread; }

bool device_exists(std::int64_t device) { return device >= 0 && device < settings().devices; }

}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclInit(const char*) {
  count_call("aclInit");
  if (!usable()) return kAclInvalidParam;
  return initialized.exchange(true) ? kAclRepeatInitialize : kAclSuccess;
}

YRFL_SIM_API int aclFinalize() {
  count_call("aclFinalize");
  initialized = false;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSetDevice(std::int32_t device) {
  count_call("aclrtSetDevice");
  if (!usable()) return kAclInvalidParam;  // who uses a device need not have called aclInit
  if (!device_exists(device)) return kAclRtInvalidDevice;
  device_of_thread = device;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtResetDevice(std::int32_t device) {
  count_call("aclrtResetDevice");
  if (!device_exists(device)) return kAclRtInvalidDevice;
  if (device_of_thread == device) device_of_thread = -1;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtGetDevice(std::int32_t* device) {
  count_call("aclrtGetDevice");
  if (device == nullptr) return kAclRtParamInvalid;
  if (device_of_thread < 0) return kAclRtContextNull;
  *device = device_of_thread;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtGetDeviceCount(std::uint32_t* count) {
  count_call("aclrtGetDeviceCount");
  if (count == nullptr) return kAclRtParamInvalid;
  *count = settings().devices;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtQueryDeviceStatus(std::int32_t device, int* status) {
  count_call("aclrtQueryDeviceStatus");
  if (status == nullptr) return kAclRtParamInvalid;
  if (!device_exists(device)) return kAclRtInvalidDevice;
  *status = 0;  // ACL_RT_DEVICE_STATUS_NORMAL
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDeviceEnablePeerAccess(std::int32_t device, std::uint32_t) {
  count_call("aclrtDeviceEnablePeerAccess");
  if (device_of_thread < 0) return kAclRtContextNull;
  return device_exists(device) ? kAclSuccess : kAclRtInvalidDevice;  // all memory is in reach of all devices
}

YRFL_SIM_API int aclrtDeviceDisablePeerAccess(std::int32_t device) {
  count_call("aclrtDeviceDisablePeerAccess");
  if (device_of_thread < 0) return kAclRtContextNull;
  return device_exists(device) ? kAclSuccess : kAclRtInvalidDevice;
}
