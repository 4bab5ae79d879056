// Events: marks in a stream that others wait for.
#include <cstdint>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/event.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

std::shared_ptr<Event> find_event(void* handle) { return Handles<Event>::all().find(handle); }

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclrtCreateEvent(void** handle) {
  count_call("aclrtCreateEvent");
  if (handle == nullptr) return kAclRtParamInvalid;
  if (current_device() < 0) return kAclRtContextNull;
  *handle = Handles<Event>::all().add(std::make_shared<Event>());
  return kAclSuccess;
}

YRFL_SIM_API int aclrtCreateEventWithFlag(void** handle, std::uint32_t) { return aclrtCreateEvent(handle); }
YRFL_SIM_API int aclrtCreateEventExWithFlag(void** handle, std::uint32_t) { return aclrtCreateEvent(handle); }

YRFL_SIM_API int aclrtDestroyEvent(void* handle) {
  count_call("aclrtDestroyEvent");
  return Handles<Event>::all().remove(handle) == nullptr ? kAclRtInvalidHandle : kAclSuccess;
}

YRFL_SIM_API int aclrtRecordEvent(void* handle, void* stream_handle) {
  count_call("aclrtRecordEvent");
  const auto event = find_event(handle);
  const auto stream = find_stream(stream_handle);
  if (event == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  return event->record(stream, event);
}

YRFL_SIM_API int aclrtQueryEventStatus(void* handle, int* status) {
  count_call("aclrtQueryEventStatus");
  const auto event = find_event(handle);
  if (event == nullptr) return kAclRtInvalidHandle;
  if (status == nullptr) return kAclRtParamInvalid;
  const Hit hit = match(Operation::kQuery);
  sit_out(hit, [] { return false; });
  if (hit.action == Action::kFail) return kAclRtInternalError;
  *status = event->done_soon() ? 1 : 0;  // ACL_EVENT_RECORDED_STATUS_COMPLETE, _NOT_READY
  return kAclSuccess;
}

YRFL_SIM_API int aclrtSynchronizeEvent(void* handle) {
  count_call("aclrtSynchronizeEvent");
  const auto event = find_event(handle);
  return event == nullptr ? kAclRtInvalidHandle : event->synchronize(-1);
}

YRFL_SIM_API int aclrtSynchronizeEventWithTimeout(void* handle, std::int32_t timeout_ms) {
  count_call("aclrtSynchronizeEventWithTimeout");
  const auto event = find_event(handle);
  return event == nullptr ? kAclRtInvalidHandle : event->synchronize(timeout_ms);
}

YRFL_SIM_API int aclrtStreamWaitEvent(void* stream_handle, void* handle) {
  count_call("aclrtStreamWaitEvent");
  const auto event = find_event(handle);
  const auto stream = find_stream(stream_handle);
  if (event == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  return event->wait_in(*stream, event);
}

/// What waits for an event waits for its last mark: there is nothing to take back.
YRFL_SIM_API int aclrtResetEvent(void* handle, void* stream_handle) {
  count_call("aclrtResetEvent");
  return find_event(handle) == nullptr || find_stream(stream_handle) == nullptr ? kAclRtInvalidHandle : kAclSuccess;
}

YRFL_SIM_API int aclrtEventElapsedTime(float* milliseconds, void* from, void* to) {
  count_call("aclrtEventElapsedTime");
  if (milliseconds == nullptr) return kAclRtParamInvalid;
  const auto first = find_event(from);
  const auto last = find_event(to);
  if (first == nullptr || last == nullptr || first == last) return kAclRtInvalidHandle;
  *milliseconds = static_cast<float>(last->since(*first));
  return kAclSuccess;
}
