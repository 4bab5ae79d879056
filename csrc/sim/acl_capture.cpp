// Graphs: a stream that is captured runs nothing, and others may not do everything meanwhile. Graphs are not replayed.
#include "acl_capture.hpp"

#include "engine/captures.hpp"
#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"
#include "unimplemented.hpp"

namespace yr_fastload::sim {

int check_capture_mode() { return refused_by_captures() ? kAclRtCaptureModeNotSupported : kAclSuccess; }

}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclmdlRICaptureBegin(void* handle, int mode) {
  count_call("aclmdlRICaptureBegin");
  if (!is_capture_mode(mode)) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  return begin_capture(stream, mode) ? kAclSuccess : kAclRtStreamCaptured;
}

YRFL_SIM_API int aclmdlRICaptureEnd(void* handle, void** graph) {
  count_call("aclmdlRICaptureEnd");
  if (graph == nullptr) return kAclRtParamInvalid;
  const CaptureInfo ended = end_capture(find_stream(handle));
  if (ended.status == CaptureStatus::kNone) return kAclRtStreamNotCaptured;
  *graph = ended.graph;
  return kAclSuccess;
}

/// A refused call does not end a capture here.
YRFL_SIM_API int aclmdlRICaptureGetInfo(void* handle, int* status, void** graph) {
  count_call("aclmdlRICaptureGetInfo");
  if (status == nullptr || graph == nullptr) return kAclRtParamInvalid;
  const CaptureInfo info = capture_of(find_stream(handle));
  *status = info.status == CaptureStatus::kNone ? 0 : 1;  // ACL_MODEL_RI_CAPTURE_STATUS_NONE, _ACTIVE
  *graph = info.graph;
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRICaptureThreadExchangeMode(int* mode) {
  count_call("aclmdlRICaptureThreadExchangeMode");
  if (mode == nullptr || !is_capture_mode(*mode)) return kAclRtParamInvalid;
  exchange_capture_mode(*mode);
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRIDestroy(void* graph) {
  count_call("aclmdlRIDestroy");
  return destroy_graph(graph) ? kAclSuccess : kAclRtParamInvalid;
}

YRFL_SIM_UNIMPLEMENTED(aclmdlRIExecuteAsync)
