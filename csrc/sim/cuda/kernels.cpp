// Modules and kernels: the one that this package brings, done by the CPU.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "cuda/state.hpp"
#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim::cuda {
namespace {

constexpr const char* kCopyRuns = "yrfl_copy_runs";

struct Module {};
struct Function {
  std::string name;
};

/// As csrc/devices/cuda_copy_kernel.cu has it.
struct Run {
  void* destination;
  const void* source;
  std::uint64_t bytes;
};

int copy_runs(const Run* runs, unsigned count, const Stream& stream) {
  for (unsigned i = 0; i < count; ++i) {
    void* const to = bytes_of(runs[i].destination, runs[i].bytes);
    const void* const from = bytes_of(runs[i].source, runs[i].bytes);
    if (to == nullptr || from == nullptr) return kAclRtCopyData;
    if (const int result = copy(to, from, runs[i].bytes, [&stream] { return stream.interrupted(); })) return result;
  }
  return kAclSuccess;
}

}  // namespace
}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuModuleLoadData(void** module, const void* image) {
  if (const int result = enter_context("cuModuleLoadData")) return result;
  if (module == nullptr || image == nullptr) return kInvalidValue;
  if (std::strncmp(static_cast<const char*>(image), ".version", 8) != 0) return kInvalidImage;
  *module = Handles<Module>::all().add(std::make_shared<Module>());
  return kSuccess;
}

YRFL_SIM_API int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (const int result = enter_context("cuModuleGetFunction")) return result;
  if (function == nullptr || name == nullptr) return kInvalidValue;
  if (Handles<Module>::all().find(module) == nullptr) return kInvalidHandle;
  if (std::strcmp(name, kCopyRuns) != 0) return kNotFound;
  *function = Handles<Function>::all().add(std::make_shared<Function>(Function{name}));
  return kSuccess;
}

YRFL_SIM_API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                unsigned block_y, unsigned block_z, unsigned, void* handle, void** arguments, void**) {
  if (const int result = enter_context("cuLaunchKernel")) return result;
  if (grid_x * grid_y * grid_z == 0 || block_x * block_y * block_z == 0 || arguments == nullptr) return kInvalidValue;
  const auto stream = stream_of(handle);
  if (Handles<Function>::all().find(function) == nullptr || stream == nullptr) return kInvalidHandle;
  const Run* const runs = *static_cast<const Run**>(arguments[0]);
  const unsigned count = *static_cast<const unsigned*>(arguments[1]);
  return settle(stream->push({[runs, count](const Stream& self) {
                                const int result = copy_runs(runs, count, self);
                                settle(result);
                                return result;
                              },
                              nullptr}));
}
