// Graphs: a stream that is captured runs nothing, and others may not do everything meanwhile. Graphs are not replayed.
#include "acl_capture.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/stream.hpp"
#include "unimplemented.hpp"

namespace yr_fastload::sim {
namespace {

enum Mode : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };  // aclmdlRICaptureMode
enum Status : int { kNone = 0, kActive = 1 };                     // aclmdlRICaptureStatus

struct Graph {};

struct Capture {
  std::thread::id thread;
  int mode;
  void* graph;
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

int check_capture_mode() {
  if (mode_of_thread == kRelaxed) return kAclSuccess;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto forbids = [](const auto& item) {
    const Capture& capture = item.second;
    if (capture.mode == kRelaxed) return false;
    return capture.thread == std::this_thread::get_id() || (capture.mode == kGlobal && mode_of_thread == kGlobal);
  };
  return std::any_of(all.active.begin(), all.active.end(), forbids) ? kAclRtCaptureModeNotSupported : kAclSuccess;
}

}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int aclmdlRICaptureBegin(void* handle, int mode) {
  count_call("aclmdlRICaptureBegin");
  if (mode < kGlobal || mode > kRelaxed) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  void* const graph = Handles<Graph>::all().add(std::make_shared<Graph>());
  if (!all.active.emplace(stream, Capture{std::this_thread::get_id(), mode, graph}).second) {
    Handles<Graph>::all().remove(graph);
    return kAclRtStreamCaptured;
  }
  stream->capture(true);
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRICaptureEnd(void* handle, void** graph) {
  count_call("aclmdlRICaptureEnd");
  if (graph == nullptr) return kAclRtParamInvalid;
  const auto stream = find_stream(handle);
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(stream);
  if (found == all.active.end()) return kAclRtStreamNotCaptured;
  *graph = found->second.graph;
  stream->capture(false);
  all.active.erase(found);
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRICaptureGetInfo(void* handle, int* status, void** graph) {
  count_call("aclmdlRICaptureGetInfo");
  if (status == nullptr || graph == nullptr) return kAclRtParamInvalid;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(find_stream(handle));
  *status = found == all.active.end() ? kNone : kActive;
  *graph = found == all.active.end() ? nullptr : found->second.graph;
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRICaptureThreadExchangeMode(int* mode) {
  count_call("aclmdlRICaptureThreadExchangeMode");
  if (mode == nullptr || *mode < kGlobal || *mode > kRelaxed) return kAclRtParamInvalid;
  std::swap(*mode, mode_of_thread);
  return kAclSuccess;
}

YRFL_SIM_API int aclmdlRIDestroy(void* graph) {
  count_call("aclmdlRIDestroy");
  return Handles<Graph>::all().remove(graph) == nullptr ? kAclRtParamInvalid : kAclSuccess;
}

YRFL_SIM_UNIMPLEMENTED(aclmdlRIExecuteAsync)
