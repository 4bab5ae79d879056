// What torch_npu needs beside what openYuanrong's plugin does: to be imported, and to have tensors allocated and
// copied.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>

#include "acl_capture.hpp"
#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

constexpr std::uintptr_t kContexts = 0xC0000000;  // the default context of each device, one after the other

int memset_now(void* data, int value, std::size_t bytes) {
  const MemoryInUse memory(data, bytes, "a memset");
  if (!memory.valid()) return kAclRtCopyData;
  std::memset(memory.bytes(), value, bytes);
  return kAclSuccess;
}

/// -1 is for ever.
int synchronize_device(int timeout_ms) {
  if (current_device() < 0) return kAclRtContextNull;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  int error = kAclSuccess;
  for (const auto& stream : Handles<Stream>::all().objects()) {
    if (stream->device() != current_device()) continue;
    if (stream->captured()) return kAclRtStreamCaptured;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    const int result = stream->synchronize(timeout_ms < 0 ? -1 : static_cast<int>(std::max<std::int64_t>(0, left)),
                                           kAclRtStreamSyncTimeout);
    if (error == kAclSuccess) error = result;
  }
  return error;
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtMalloc(void** data, std::size_t bytes, int policy);
YRFL_SIM_API int aclrtSetDevice(std::int32_t device);

YRFL_SIM_API const char* aclrtGetSocName() { return "Ascend910B2"; }

YRFL_SIM_API const char* aclGetRecentErrMsg() { return ""; }

YRFL_SIM_API int aclrtGetMemInfo(int, std::size_t* free, std::size_t* total) {
  count_call("aclrtGetMemInfo");
  if (free == nullptr || total == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  const MemoryUse use = memory_use();
  const auto used = use.bytes.find(std::to_string(current_device()));
  *total = settings().device_memory_mb << 20;
  *free = *total - (used == use.bytes.end() ? 0 : used->second);
  return kAclSuccess;
}

YRFL_SIM_API int aclrtMallocAlign32(void** data, std::size_t bytes, int policy) {
  return aclrtMalloc(data, bytes, policy);
}

YRFL_SIM_API int aclrtMemset(void* data, std::size_t room, std::int32_t value, std::size_t bytes) {
  count_call("aclrtMemset");
  if (data == nullptr || bytes == 0 || bytes > room) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  if (const int refused = check_capture_mode()) return refused;
  return memset_now(data, value, bytes);
}

YRFL_SIM_API int aclrtMemsetAsync(void* data, std::size_t room, std::int32_t value, std::size_t bytes, void* handle) {
  count_call("aclrtMemsetAsync");
  if (data == nullptr || bytes == 0 || bytes > room) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  return stream->push({[=](const Stream&) { return memset_now(data, value, bytes); }, nullptr});
}

YRFL_SIM_API int aclrtSynchronizeDevice() {
  count_call("aclrtSynchronizeDevice");
  return synchronize_device(-1);
}

YRFL_SIM_API int aclrtSynchronizeDeviceWithTimeout(std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeDeviceWithTimeout");
  return timeout_ms < -1 ? kAclRtParamInvalid : synchronize_device(timeout_ms);
}

/// A device has one context, which is its threads' own.
YRFL_SIM_API int aclrtGetCurrentContext(void** context) {
  count_call("aclrtGetCurrentContext");
  if (context == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *context = reinterpret_cast<void*>(kContexts + static_cast<std::uintptr_t>(current_device()));
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSetCurrentContext(void* context) {
  count_call("aclrtSetCurrentContext");
  const auto number = reinterpret_cast<std::uintptr_t>(context);
  return number < kContexts ? kAclRtParamInvalid : aclrtSetDevice(static_cast<std::int32_t>(number - kContexts));
}

YRFL_SIM_API int aclrtDeviceCanAccessPeer(std::int32_t* can, std::int32_t device, std::int32_t peer) {
  count_call("aclrtDeviceCanAccessPeer");
  if (can == nullptr) return kAclRtParamInvalid;
  if (!device_exists(device) || !device_exists(peer)) return kAclRtInvalidDevice;
  *can = device == peer ? 0 : 1;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDeviceGetBareTgid(std::int32_t* pid) {
  count_call("aclrtDeviceGetBareTgid");
  if (pid == nullptr) return kAclRtParamInvalid;
  *pid = ::getpid();
  return kAclSuccess;
}

/// Logs, and calls of a profiler that never runs, go nowhere.
YRFL_SIM_API void aclAppLog(int, const char*, const char*, std::uint32_t, const char*, ...) {}
YRFL_SIM_API std::int32_t MsprofRegisterCallback(std::uint32_t, void*) { return 0; }

// What is set for kernels has no effect where there are none.

YRFL_SIM_API int aclrtSetDeviceSatMode(int) { return kAclSuccess; }
YRFL_SIM_API int aclSetCompileopt(int, const char*) { return kAclSuccess; }
YRFL_SIM_API int aclrtSetOpExecuteTimeOut(std::uint32_t) { return kAclSuccess; }
YRFL_SIM_API int aclrtSetSysParamOpt(int, std::int64_t) { return kAclSuccess; }
YRFL_SIM_API int aclrtCtxSetSysParamOpt(int, std::int64_t) { return kAclSuccess; }

YRFL_SIM_API int aclrtGetSysParamOpt(int, std::int64_t* value) {
  if (value == nullptr) return kAclRtParamInvalid;
  *value = 0;
  return kAclSuccess;
}

YRFL_SIM_API int aclrtCtxGetSysParamOpt(int option, std::int64_t* value) { return aclrtGetSysParamOpt(option, value); }
