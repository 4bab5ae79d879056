// Modules and kernels: those that this package brings, done by the CPU.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "cuda/state.hpp"
#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim::cuda {
namespace {

constexpr const char* kCopyRuns = "yrfl_copy_runs";
constexpr const char* kDigestPieces = "yrfl_digest_pieces";

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

/// As csrc/devices/cuda_digest_kernel.cu has it, and all that follows.
struct Piece {
  void* destination;
  const void* source;
  std::uint64_t bytes;
  std::uint64_t first_block;
};

constexpr std::uint64_t kBlockKey = 0x9e3779b97f4a7c15ULL;
constexpr std::uint64_t kBlockBytes = 8192;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

const std::array<std::uint64_t, kBlockBytes / sizeof(std::uint64_t)>& keys() {
  static const auto made = [] {
    std::array<std::uint64_t, kBlockBytes / sizeof(std::uint64_t)> all{};
    for (std::size_t column = 0; column < all.size(); ++column) all[column] = mix((column + 1) * kBlockKey);
    return all;
  }();
  return made;
}

std::uint64_t sum_of_block(const std::byte* data, std::uint64_t bytes) {
  std::uint64_t sum = 0;
  for (std::uint64_t offset = 0; offset < bytes; offset += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + offset, std::min<std::uint64_t>(sizeof word, bytes - offset));
    const std::uint64_t key = keys()[offset / sizeof word];
    const auto low = static_cast<std::uint32_t>(word + key);
    const auto high = static_cast<std::uint32_t>((word >> 32) + (key >> 32));
    sum += std::uint64_t{low} * high + word;
  }
  return sum;
}

int digest_pieces(const Piece* pieces, std::uint64_t* sums, unsigned count, const Stream& stream) {
  for (unsigned i = 0; i < count; ++i) {
    const Piece& piece = pieces[i];
    const void* from = is_device_memory(piece.source) ? bytes_of(piece.source, piece.bytes) : nullptr;
    if (from == nullptr) return kAclRtCopyData;
    if (piece.destination != nullptr) {
      void* const to = bytes_of(piece.destination, piece.bytes);
      if (to == nullptr) return kAclRtCopyData;
      if (const int result = copy(to, from, piece.bytes, [&stream] { return stream.interrupted(); })) return result;
      from = to;  // what was written is what counts: it may be damaged on purpose
    }
    const MemoryInUse used(from, piece.bytes, "a digest");
    if (!used.valid()) return kAclRtCopyData;
    sums[i] = 0;
    for (std::uint64_t done = 0; done < piece.bytes; done += kBlockBytes)
      sums[i] += mix(sum_of_block(used.bytes() + done, std::min(kBlockBytes, piece.bytes - done)) +
                     (piece.first_block + done / kBlockBytes + 1) * kBlockKey);
  }
  return kAclSuccess;
}

}  // namespace
}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuModuleLoadData(void** module, const void* image) {
  if (const int result = enter_unsafe("cuModuleLoadData")) return result;
  if (module == nullptr || image == nullptr) return kInvalidValue;
  if (std::strncmp(static_cast<const char*>(image), ".version", 8) != 0) return kInvalidImage;
  *module = Handles<Module>::all().add(std::make_shared<Module>());
  return kSuccess;
}

YRFL_SIM_API int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (const int result = enter_context("cuModuleGetFunction")) return result;
  if (function == nullptr || name == nullptr) return kInvalidValue;
  if (Handles<Module>::all().find(module) == nullptr) return kInvalidHandle;
  if (std::strcmp(name, kCopyRuns) != 0 && std::strcmp(name, kDigestPieces) != 0) return kNotFound;
  *function = Handles<Function>::all().add(std::make_shared<Function>(Function{name}));
  return kSuccess;
}

YRFL_SIM_API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                unsigned block_y, unsigned block_z, unsigned, void* handle, void** arguments, void**) {
  if (const int result = enter_context("cuLaunchKernel")) return result;
  if (grid_x * grid_y * grid_z == 0 || block_x * block_y * block_z == 0 || arguments == nullptr) return kInvalidValue;
  const auto stream = stream_of(handle);
  const auto called = Handles<Function>::all().find(function);
  if (called == nullptr || stream == nullptr) return kInvalidHandle;
  std::function<int(const Stream&)> work;
  if (called->name == kCopyRuns) {
    const Run* const runs = *static_cast<const Run**>(arguments[0]);
    const unsigned count = *static_cast<const unsigned*>(arguments[1]);
    work = [runs, count](const Stream& self) { return copy_runs(runs, count, self); };
  } else {
    const Piece* const pieces = *static_cast<const Piece**>(arguments[0]);
    std::uint64_t* const sums = *static_cast<std::uint64_t**>(arguments[1]);
    work = [pieces, sums, grid_x](const Stream& self) { return digest_pieces(pieces, sums, grid_x, self); };
  }
  return settle(stream->push({[work](const Stream& self) {
                                const int result = work(self);
                                settle(result);
                                return result;
                              },
                              nullptr}));
}
