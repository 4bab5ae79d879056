// libcuda.so.1: the driver, its devices, and the contexts of threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/state.hpp"
#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim::cuda {
namespace {

constexpr int kVersion = 12040;
constexpr std::uintptr_t kContexts = 0xC0DA0000;

std::atomic<bool> initialized{false};
std::atomic<int> lost{kSuccess};
thread_local std::vector<int> contexts;  // devices of them; -1 is none

bool device_exists(int device) { return device >= 0 && device < static_cast<int>(settings().devices); }

void* context_of(int device) {
  return device < 0 ? nullptr : reinterpret_cast<void*>(kContexts + 16 * static_cast<std::uintptr_t>(device + 1));
}

/// -1 for no context, -2 for one that does not exist.
int device_of(void* context) {
  if (context == nullptr) return -1;
  const auto number = reinterpret_cast<std::uintptr_t>(context) - kContexts;
  const int device = static_cast<int>(number / 16) - 1;
  return number % 16 == 0 && device_exists(device) ? device : -2;
}

struct Named {
  int result;
  const char* name;
  const char* text;
};
constexpr Named kNames[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kMapFailed, "CUDA_ERROR_MAP_FAILED", "mapping of buffer object failed"},
    {kNoPeerAccess, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "peer access is not supported between these two devices"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "part of the memory range is already mapped"},
    {kNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "pointer does not correspond to a registered region"},
    {kNotPermitted, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {kIllegalState, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {kCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
};

const Named* named(int result) {
  const auto* const end = std::end(kNames);
  const auto* const found =
      std::find_if(std::begin(kNames), end, [=](const Named& each) { return each.result == result; });
  return found == end ? nullptr : found;
}

}  // namespace

int enter(const char* call) {
  count_call(call);
  if (!initialized) return kNotInitialized;
  return lost;
}

int enter_context(const char* call) {
  const int result = enter(call);
  if (result != kSuccess) return result;
  return current_device() < 0 ? kInvalidContext : kSuccess;
}

int enter_unsafe(const char* call) {
  const int result = enter_context(call);
  return result == kSuccess ? check_capture() : result;
}

int current_device() { return contexts.empty() ? -1 : contexts.back(); }

int refused(Operation operation, int usual) {
  const auto end = exec_deadline();
  const Hit hit = match(operation);
  if (hit.action == Action::kOutOfMemory) return kOutOfMemory;
  if (hit.action == Action::kFail) return usual;
  if (hit.action == Action::kCode) return static_cast<int>(hit.value);
  sit_out(hit, [end] { return std::chrono::steady_clock::now() >= end; });
  return kSuccess;
}

int settle(int engine_result) {
  if (engine_result == kAclSuccess) return kSuccess;
  lost = kIllegalAddress;
  return kIllegalAddress;
}

}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuInit(unsigned flags) {
  count_call("cuInit");
  if (flags != 0 || !settings().valid || !faults_valid()) return kInvalidValue;
  if (const int result = refused(Operation::kInit, kNoDevice)) return result;
  initialized = true;
  return kSuccess;
}

YRFL_SIM_API int cuDriverGetVersion(int* version) {
  count_call("cuDriverGetVersion");
  if (version == nullptr) return kInvalidValue;
  *version = kVersion;
  return kSuccess;
}

YRFL_SIM_API int cuGetErrorName(int result, const char** name) {
  const Named* const found = named(result);
  *name = found == nullptr ? nullptr : found->name;
  return found == nullptr ? kInvalidValue : kSuccess;
}

YRFL_SIM_API int cuGetErrorString(int result, const char** text) {
  const Named* const found = named(result);
  *text = found == nullptr ? nullptr : found->text;
  return found == nullptr ? kInvalidValue : kSuccess;
}

YRFL_SIM_API int cuDeviceGetCount(int* count) {
  if (const int result = enter("cuDeviceGetCount")) return result;
  if (count == nullptr) return kInvalidValue;
  *count = static_cast<int>(settings().devices);
  return kSuccess;
}

YRFL_SIM_API int cuDeviceGetName(char* name, int capacity, int device) {
  if (const int result = enter("cuDeviceGetName")) return result;
  if (name == nullptr || capacity <= 0) return kInvalidValue;
  if (!device_exists(device)) return kInvalidDevice;
  const std::string text = "simulated CUDA device " + std::to_string(device);
  name[text.copy(name, static_cast<std::size_t>(capacity - 1))] = '\0';
  return kSuccess;
}

YRFL_SIM_API int cuDeviceCanAccessPeer(int* can, int device, int peer) {
  if (const int result = enter("cuDeviceCanAccessPeer")) return result;
  if (can == nullptr) return kInvalidValue;
  if (!device_exists(device) || !device_exists(peer)) return kInvalidDevice;
  *can = device != peer && match(Operation::kPeer).action != Action::kFail;
  return kSuccess;
}

YRFL_SIM_API int cuDevicePrimaryCtxRetain(void** context, int device) {
  if (const int result = enter("cuDevicePrimaryCtxRetain")) return result;
  if (context == nullptr) return kInvalidValue;
  if (!device_exists(device)) return kInvalidDevice;
  *context = context_of(device);
  return kSuccess;
}

YRFL_SIM_API int cuCtxSetCurrent(void* context) {
  if (const int result = enter("cuCtxSetCurrent")) return result;
  const int device = device_of(context);
  if (device < -1) return kInvalidContext;
  if (!contexts.empty()) contexts.pop_back();
  if (device >= 0) contexts.push_back(device);
  return kSuccess;
}

YRFL_SIM_API int cuCtxGetCurrent(void** context) {
  if (const int result = enter("cuCtxGetCurrent")) return result;
  if (context == nullptr) return kInvalidValue;
  *context = context_of(current_device());
  return kSuccess;
}

YRFL_SIM_API int cuCtxPushCurrent_v2(void* context) {
  if (const int result = enter("cuCtxPushCurrent")) return result;
  const int device = device_of(context);
  if (device < 0) return kInvalidContext;
  contexts.push_back(device);
  return kSuccess;
}

YRFL_SIM_API int cuCtxPopCurrent_v2(void** context) {
  if (const int result = enter("cuCtxPopCurrent")) return result;
  if (contexts.empty()) return kInvalidContext;
  if (context != nullptr) *context = context_of(contexts.back());
  contexts.pop_back();
  return kSuccess;
}
