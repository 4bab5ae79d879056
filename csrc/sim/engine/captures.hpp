#pragma once

#include <memory>

#include "engine/stream.hpp"

/// Streams that are captured into graphs, which run nothing meanwhile, and what threads may not do until the captures
/// end. CANN and CUDA number the modes alike.
namespace yr_fastload::sim {

enum CaptureMode : int { kCaptureGlobal = 0, kCaptureThreadLocal = 1, kCaptureRelaxed = 2 };
enum class CaptureStatus : int { kNone = 0, kActive = 1, kInvalidated = 2 };

struct CaptureInfo {
  CaptureStatus status = CaptureStatus::kNone;
  void* graph = nullptr;
};

bool is_capture_mode(int mode);

/// False if the stream is captured already.
bool begin_capture(const std::shared_ptr<Stream>& stream, int mode);
CaptureInfo capture_of(const std::shared_ptr<Stream>& stream);
/// What `capture_of` said until now.
CaptureInfo end_capture(const std::shared_ptr<Stream>& stream);
/// False for a graph that is none.
bool destroy_graph(void* graph);

/// Gives the calling thread another mode, and the caller the one that it had.
void exchange_capture_mode(int& mode);

/// Whether the calling thread may not do now what no graph could repeat. Captures that it would disturb are invalid
/// from then on.
bool refused_by_captures();

}  // namespace yr_fastload::sim
