// Streams.
#include <cstdint>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {

std::shared_ptr<Stream> find_stream(void* handle) { return Handles<Stream>::all().find(handle); }

}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtCreateStream(void** handle) {
  count_call("aclrtCreateStream");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *handle = Handles<Stream>::all().add(std::make_shared<Stream>(current_device()));
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
  const auto stream = find_stream(handle);
  return stream == nullptr ? kAclRtInvalidHandle : stream->synchronize(-1, 0);
}

YRFL_SIM_API int aclrtSynchronizeStreamWithTimeout(void* handle, std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeStreamWithTimeout");
  if (timeout_ms < -1) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  return stream == nullptr ? kAclRtInvalidHandle : stream->synchronize(timeout_ms, kAclRtStreamSyncTimeout);
}
