#include "engine/captures.hpp"

#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/handles.hpp"

namespace yr_fastload::sim {
namespace {

struct Graph {};

struct Capture {
  std::thread::id thread;
  int mode;
  CaptureInfo info;
};

struct Captures {
  std::mutex mutex;
  std::map<std::shared_ptr<Stream>, Capture> active;
  static Captures& all() {
    static Captures* const made = new Captures;  // never destroyed
    return *made;
  }
};

thread_local int mode_of_thread = kCaptureGlobal;

}  // namespace

bool is_capture_mode(int mode) { return mode >= kCaptureGlobal && mode <= kCaptureRelaxed; }

bool begin_capture(const std::shared_ptr<Stream>& stream, int mode) {
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.active.count(stream) > 0) return false;
  void* const graph = Handles<Graph>::all().add(std::make_shared<Graph>());
  all.active[stream] = {std::this_thread::get_id(), mode, {CaptureStatus::kActive, graph}};
  stream->capture(true);
  return true;
}

CaptureInfo capture_of(const std::shared_ptr<Stream>& stream) {
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(stream);
  return found == all.active.end() ? CaptureInfo{} : found->second.info;
}

CaptureInfo end_capture(const std::shared_ptr<Stream>& stream) {
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.active.find(stream);
  if (found == all.active.end()) return {};
  const CaptureInfo info = found->second.info;
  stream->capture(false);
  all.active.erase(found);
  return info;
}

bool destroy_graph(void* graph) { return Handles<Graph>::all().remove(graph) != nullptr; }

void exchange_capture_mode(int& mode) { std::swap(mode, mode_of_thread); }

bool refused_by_captures() {
  if (mode_of_thread == kCaptureRelaxed) return false;
  Captures& all = Captures::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  bool refused = false;
  for (auto& [stream, capture] : all.active) {
    const bool own = capture.thread == std::this_thread::get_id();
    const bool minds = own || (capture.mode == kCaptureGlobal && mode_of_thread == kCaptureGlobal);
    if (capture.mode == kCaptureRelaxed || !minds) continue;
    capture.info.status = CaptureStatus::kInvalidated;
    refused = true;
  }
  return refused;
}

}  // namespace yr_fastload::sim
