#include "devices/acl_runtime.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "core/error.hpp"

namespace yr_fastload::acl {

const Acl& Acl::instance() {
  static const Acl acl;
  return acl;
}

template <typename Function>
void Acl::load(Function& function, const char* name) {
  function = reinterpret_cast<Function>(::dlsym(library_, name));
  if (function == nullptr)
    throw Error(ErrorCode::kDevice, "device", std::string("libascendcl.so has no ") + name + "; update CANN");
}

Acl::Acl() {
  library_ = ::dlopen("libascendcl.so", RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr)
    throw Error(ErrorCode::kDevice, "device",
                std::string("libascendcl.so cannot be loaded: ") + ::dlerror() +
                    "; source CANN's set_env.sh, or run under `yr-fastload sim --`");
  load(set_device, "aclrtSetDevice");
  load(get_device, "aclrtGetDevice");
  load(device_count, "aclrtGetDeviceCount");
  load(memory_info, "aclrtGetMemInfo");
  load(malloc, "aclrtMalloc");
  load(free, "aclrtFree");
  load(malloc_host, "aclrtMallocHost");
  load(free_host, "aclrtFreeHost");
  load(create_stream, "aclrtCreateStream");
  load(destroy_stream, "aclrtDestroyStream");
  load(destroy_stream_force, "aclrtDestroyStreamForce");
  load(memcpy_async, "aclrtMemcpyAsync");
  load(memset_async, "aclrtMemsetAsync");
  load(create_event, "aclrtCreateEvent");
  load(destroy_event, "aclrtDestroyEvent");
  load(record_event, "aclrtRecordEvent");
  load(synchronize_event, "aclrtSynchronizeEventWithTimeout");
  load(synchronize_stream, "aclrtSynchronizeStreamWithTimeout");
  exchange_capture_mode = reinterpret_cast<AclError (*)(int*)>(::dlsym(library_, "aclmdlRICaptureThreadExchangeMode"));
  const auto accessible = reinterpret_cast<int (*)()>(::dlsym(library_, "yrfl_sim_cpu_accessible"));
  simulated = accessible != nullptr;
  cpu_accessible = simulated && accessible() != 0;
  AclError (*initialize)(const char*) = nullptr;
  load(initialize, "aclInit");
  const AclError result = initialize(nullptr);
  if (result != kSuccess && result != kRepeatInitialize)
    throw Error(ErrorCode::kDevice, "device", "aclInit failed with " + std::to_string(result));
}

void check(AclError result, const char* call) {
  if (result == kSuccess) return;
  const ErrorCode code = result == kMemoryAllocation ? ErrorCode::kResourceExhausted : ErrorCode::kDevice;
  throw Error(code, "device", std::string(call) + " failed with ACL error " + std::to_string(result));
}

std::int32_t milliseconds_to(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.at() - Deadline::Clock::now());
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(left.count(), 1, std::int64_t{1} << 30));
}

}  // namespace yr_fastload::acl
