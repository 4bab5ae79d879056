// Graphs: what others may not do while one is captured ends the capture. They are not replayed.
#include "cuda/state.hpp"
#include "engine/captures.hpp"
#include "engine/export.hpp"

namespace yr_fastload::sim::cuda {

int check_capture() { return refused_by_captures() ? kCaptureUnsupported : kSuccess; }

}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuStreamBeginCapture_v2(void* handle, int mode) {
  if (const int result = enter_context("cuStreamBeginCapture")) return result;
  const auto stream = stream_of(handle);
  if (stream == nullptr) return kInvalidHandle;
  if (!is_capture_mode(mode)) return kInvalidValue;
  return begin_capture(stream, mode) ? kSuccess : kIllegalState;
}

YRFL_SIM_API int cuStreamEndCapture(void* handle, void** graph) {
  if (const int result = enter_context("cuStreamEndCapture")) return result;
  if (graph == nullptr) return kInvalidValue;
  const CaptureInfo ended = end_capture(stream_of(handle));
  *graph = nullptr;
  if (ended.status == CaptureStatus::kNone) return kIllegalState;
  if (ended.status == CaptureStatus::kInvalidated) {
    destroy_graph(ended.graph);
    return kCaptureInvalidated;
  }
  *graph = ended.graph;
  return kSuccess;
}

YRFL_SIM_API int cuStreamIsCapturing(void* handle, int* status) {
  if (const int result = enter_context("cuStreamIsCapturing")) return result;
  if (status == nullptr) return kInvalidValue;
  *status = static_cast<int>(capture_of(stream_of(handle)).status);
  return kSuccess;
}

YRFL_SIM_API int cuThreadExchangeStreamCaptureMode(int* mode) {
  if (const int result = enter("cuThreadExchangeStreamCaptureMode")) return result;
  if (mode == nullptr || !is_capture_mode(*mode)) return kInvalidValue;
  exchange_capture_mode(*mode);
  return kSuccess;
}

YRFL_SIM_API int cuGraphDestroy(void* graph) {
  if (const int result = enter("cuGraphDestroy")) return result;
  return destroy_graph(graph) ? kSuccess : kInvalidValue;
}
