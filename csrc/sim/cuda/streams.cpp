// Streams and events.
#include <algorithm>
#include <mutex>
#include <vector>

#include "cuda/state.hpp"
#include "engine/counters.hpp"
#include "engine/event.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"

namespace yr_fastload::sim::cuda {
namespace {

/// Streams that were destroyed with work under way: that ends by itself, and nobody waits for more than its last step,
/// which an event may have told of already.
class Ending {
 public:
  static constexpr int kLastStepMs = 5;

  static Ending& instance() {
    static Ending* const made = new Ending;  // never destroyed
    return *made;
  }
  void add(std::shared_ptr<Stream> stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stream->synchronize(kLastStepMs, kNotReady) != kNotReady) return;
    streams_.push_back(std::move(stream));
    const auto idle = [](const std::shared_ptr<Stream>& each) { return each->synchronize(0, kNotReady) != kNotReady; };
    streams_.erase(std::remove_if(streams_.begin(), streams_.end(), idle), streams_.end());
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Stream>> streams_;
};

std::shared_ptr<Event> event_of(void* handle) { return Handles<Event>::all().find(handle); }

}  // namespace

std::shared_ptr<Stream> stream_of(void* handle) {
  constexpr std::uintptr_t kDefaults = 2;  // 0, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD
  if (reinterpret_cast<std::uintptr_t>(handle) > kDefaults) return Handles<Stream>::all().find(handle);
  static auto* const made = new std::shared_ptr<Stream>(std::make_shared<Stream>(0));  // never destroyed
  return *made;
}

}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuStreamCreate(void** stream, unsigned) {
  if (const int result = enter_context("cuStreamCreate")) return result;
  if (stream == nullptr) return kInvalidValue;
  *stream = Handles<Stream>::all().add(std::make_shared<Stream>(yr_fastload::sim::cuda::current_device()));
  return kSuccess;
}

YRFL_SIM_API int cuStreamDestroy_v2(void* handle) {
  if (const int result = enter("cuStreamDestroy")) return result;
  auto stream = Handles<Stream>::all().remove(handle);
  if (stream == nullptr) return kInvalidHandle;
  Ending::instance().add(std::move(stream));
  return kSuccess;
}

YRFL_SIM_API int cuStreamSynchronize(void* handle) {
  if (const int result = enter_unsafe("cuStreamSynchronize")) return result;
  const auto stream = stream_of(handle);
  return stream == nullptr ? kInvalidHandle : settle(stream->synchronize(-1, 0));
}

YRFL_SIM_API int cuEventCreate(void** event, unsigned) {
  if (const int result = enter_context("cuEventCreate")) return result;
  if (event == nullptr) return kInvalidValue;
  *event = Handles<Event>::all().add(std::make_shared<Event>());
  return kSuccess;
}

YRFL_SIM_API int cuEventDestroy_v2(void* handle) {
  if (const int result = enter("cuEventDestroy")) return result;
  return Handles<Event>::all().remove(handle) == nullptr ? kInvalidHandle : kSuccess;
}

YRFL_SIM_API int cuEventRecord(void* handle, void* stream_handle) {
  if (const int result = enter_context("cuEventRecord")) return result;
  const auto event = event_of(handle);
  const auto stream = stream_of(stream_handle);
  if (event == nullptr || stream == nullptr) return kInvalidHandle;
  return settle(event->record(stream, event));
}

/// An event that was not recorded is done.
YRFL_SIM_API int cuEventQuery(void* handle) {
  if (const int result = enter("cuEventQuery")) return result;
  if (const int result = check_capture()) return result;
  const auto event = event_of(handle);
  if (event == nullptr) return kInvalidHandle;
  if (!event->recorded() || event->done_soon()) return kSuccess;
  const int error = event->error();
  return error == 0 ? kNotReady : settle(error);
}
