// Graphs: a stream that is captured runs nothing, and what others may not do meanwhile ends the capture. Graphs are not
// replayed.
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "cuda/state.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"

namespace yr_fastload::sim::cuda {
namespace {

enum Mode : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };  // CUstreamCaptureMode
enum Status : int { kNone = 0, kActive = 1, kInvalidated = 2 };   // CUstreamCaptureStatus

struct Graph {};

struct Capture {
  std::thread::id thread;
  int mode;
  bool valid;
};

struct Captures {
  std::mutex mutex;
  std::map<std::shared_ptr<Stream>, Capture> active;
  static Captures& all() {
    static Captures* const made = new Captures;  // never destroyed
    return *made;
  }
};

thread_local int mode_of_thread = kGlobal;

}  // namespace

int check_capture() {
  if (mode_of_thread == kRelaxed) return kSuccess;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  int result = kSuccess;
  for (auto& [stream, capture] : all.active) {
    const bool own = capture.thread == std::this_thread::get_id();
    if (capture.mode == kRelaxed || !(own || (capture.mode == kGlobal && mode_of_thread == kGlobal))) continue;
    capture.valid = false;
    result = kCaptureUnsupported;
  }
  return result;
}

}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuStreamBeginCapture_v2(void* handle, int mode) {
  if (const int result = enter_context("cuStreamBeginCapture")) return result;
  const auto stream = stream_of(handle);
  if (stream == nullptr) return kInvalidHandle;
  if (mode < kGlobal || mode > kRelaxed) return kInvalidValue;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (!all.active.emplace(stream, Capture{std::this_thread::get_id(), mode, true}).second) return kIllegalState;
  stream->capture(true);
  return kSuccess;
}

YRFL_SIM_API int cuStreamEndCapture(void* handle, void** graph) {
  if (const int result = enter_context("cuStreamEndCapture")) return result;
  if (graph == nullptr) return kInvalidValue;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(stream_of(handle));
  if (found == all.active.end()) return kIllegalState;
  const bool valid = found->second.valid;
  found->first->capture(false);
  all.active.erase(found);
  *graph = valid ? Handles<Graph>::all().add(std::make_shared<Graph>()) : nullptr;
  return valid ? kSuccess : kCaptureInvalidated;
}

YRFL_SIM_API int cuStreamIsCapturing(void* handle, int* status) {
  if (const int result = enter_context("cuStreamIsCapturing")) return result;
  if (status == nullptr) return kInvalidValue;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(stream_of(handle));
  *status = found == all.active.end() ? kNone : found->second.valid ? kActive : kInvalidated;
  return kSuccess;
}

YRFL_SIM_API int cuThreadExchangeStreamCaptureMode(int* mode) {
  if (const int result = enter("cuThreadExchangeStreamCaptureMode")) return result;
  if (mode == nullptr || *mode < kGlobal || *mode > kRelaxed) return kInvalidValue;
  std::swap(*mode, mode_of_thread);
  return kSuccess;
}

YRFL_SIM_API int cuGraphDestroy(void* graph) {
  if (const int result = enter("cuGraphDestroy")) return result;
  return Handles<Graph>::all().remove(graph) == nullptr ? kInvalidValue : kSuccess;
}
