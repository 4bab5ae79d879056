// Streams.
#include <chrono>
#include <cstdint>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {

std::shared_ptr<Stream> find_stream(void* handle) { return Handles<Stream>::all().find(handle); }

namespace {

int synchronize(void* handle, int timeout_ms, int timeout_error) {
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  return stream->captured() ? kAclRtStreamCaptured : stream->synchronize(timeout_ms, timeout_error);
}

}  // namespace

}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtCreateStream(void** handle) {
  count_call("aclrtCreateStream");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *handle = Handles<Stream>::all().add(std::make_shared<Stream>(current_device()));
  return kAclSuccess;
}

/// What frameworks make their streams with; these lag where that is wanted, while copies of others go ahead of them.
YRFL_SIM_API int aclrtCreateStreamWithConfig(void** handle, std::uint32_t, std::uint32_t) {
  count_call("aclrtCreateStreamWithConfig");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  const std::chrono::duration<double, std::milli> lag(settings().stream_lag_ms);
  *handle = Handles<Stream>::all().add(
      std::make_shared<Stream>(current_device(), std::chrono::duration_cast<Stream::Clock::duration>(lag)));
  return kAclSuccess;
}

/// Waits for the stream's tasks, as CANN does.
YRFL_SIM_API int aclrtDestroyStream(void* handle) {
  count_call("aclrtDestroyStream");
  const auto stream = Handles<Stream>::all().remove(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  stream->synchronize(-1, 0);
  return kAclSuccess;
}

YRFL_SIM_API int aclrtDestroyStreamForce(void* handle) {
  count_call("aclrtDestroyStreamForce");
  const auto stream = Handles<Stream>::all().remove(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  stream->interrupt();
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSynchronizeStream(void* handle) {
  count_call("aclrtSynchronizeStream");
  return synchronize(handle, -1, 0);
}

YRFL_SIM_API int aclrtSynchronizeStreamWithTimeout(void* handle, std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeStreamWithTimeout");
  if (timeout_ms < -1) return kAclRtParamInvalid;
  return synchronize(handle, timeout_ms, kAclRtStreamSyncTimeout);
}
