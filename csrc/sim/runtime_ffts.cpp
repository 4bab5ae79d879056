// FFTS+ tasks: graphs of copies that a stream runs as one task.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

// The part of FFTS+ that is used here; as in CANN's rt_stars.h, rt_stars_define.h and rt_ffts_plus_define.h.
constexpr std::uint32_t kFftsPlus = 3;      // RT_GNL_CTRL_TYPE_FFTS_PLUS
constexpr std::uint16_t kFftsPlusType = 4;  // RT_FFTS_PLUS_TYPE
constexpr std::uint16_t kSdma = 0x0008;     // RT_CTX_TYPE_SDMA
constexpr std::uint16_t kLabel = 0x0500;    // RT_CTX_TYPE_LABEL
constexpr std::size_t kSuccessors = 26;     // RT_CTX_SUCCESSOR_NUM

struct Sqe {
  std::uint8_t header[8];
  std::uint16_t type;  ///< In the three lowest bits.
  std::uint8_t reserved[14];
  std::uint16_t contexts;
  std::uint16_t ready_contexts;
  std::uint8_t rest[36];
};
static_assert(sizeof(Sqe) == 64 && offsetof(Sqe, contexts) == 24, "the layout of rtFftsPlusSqe_t");

struct Context {
  std::uint16_t type;
  std::uint8_t successors;
  std::uint8_t flags;
  std::uint8_t reserved1[2];
  std::uint8_t predecessors_initially;
  std::uint8_t predecessors;
  std::uint32_t reserved2;
  std::uint16_t successor[kSuccessors];
  std::uint32_t reserved3[2];
  std::uint16_t thread_id;
  std::uint16_t thread_dimension;
  std::uint32_t sdma_header;
  std::uint32_t reserved4[2];
  std::uint32_t source_low;
  std::uint32_t source_high;
  std::uint32_t source_offset;
  std::uint32_t destination_low;
  std::uint32_t destination_high;
  std::uint32_t destination_offset;
  std::uint32_t bytes;
  std::uint32_t tail_bytes;
  std::uint32_t reserved5[2];
};
static_assert(sizeof(Context) == 128, "the size of rtFftsPlusComCtx_t");
static_assert(offsetof(Context, source_low) == 88 && offsetof(Context, destination_low) == 100 &&
                  offsetof(Context, bytes) == 112,
              "the layout of rtFftsPlusSdmaCtx_t");

/// The beginning of rtFftsPlusTaskInfo_t.
struct TaskInfo {
  const Sqe* sqe;
  const void* contexts;
  std::size_t bytes;
};

using Graph = std::vector<Context>;

void* pointer(std::uint32_t low, std::uint32_t high) {
  return reinterpret_cast<void*>(std::uintptr_t{high} << 32 | low);
}

int refuse(const std::string& why) {
  report("FFTS+ task refused: " + why);
  return kAclRtParamInvalid;
}

/// Contexts in an order in which each follows all that it depends on; shorter than the graph if there is a circle.
std::vector<std::size_t> sorted(const Graph& graph) {
  std::vector<unsigned> awaited;
  std::deque<std::size_t> ready;
  for (std::size_t i = 0; i < graph.size(); ++i) {
    awaited.push_back(graph[i].predecessors_initially);
    if (awaited[i] == 0) ready.push_back(i);
  }
  std::vector<std::size_t> order;
  for (; !ready.empty(); ready.pop_front()) {
    const Context& context = graph[ready.front()];
    order.push_back(ready.front());
    for (unsigned i = 0; i < context.successors; ++i)
      if (--awaited[context.successor[i]] == 0) ready.push_back(context.successor[i]);
  }
  return order;
}

/// Refuses what the hardware could not run, or would run otherwise than its author meant.
int check(const Graph& graph, const Sqe& sqe) {
  if ((sqe.type & 7) != kFftsPlusType) return refuse("type " + std::to_string(sqe.type & 7));
  if (sqe.contexts != graph.size())
    return refuse(std::to_string(sqe.contexts) + " contexts in the SQE, " + std::to_string(graph.size()) + " given");
  std::vector<unsigned> predecessors(graph.size(), 0);
  std::size_t ready = 0;
  for (std::size_t i = 0; i < graph.size(); ++i) {
    const Context& context = graph[i];
    if (context.type != kSdma && context.type != kLabel) {
      report("FFTS+ context type " + std::to_string(context.type) + " is not simulated");
      return kAclRtFeatureNotSupported;
    }
    if (context.predecessors_initially == 0) ++ready;
    if (context.successors > kSuccessors) return refuse("too many successors of context " + std::to_string(i));
    for (unsigned j = 0; j < context.successors; ++j) {
      if (context.successor[j] >= graph.size()) return refuse("no such successor of context " + std::to_string(i));
      ++predecessors[context.successor[j]];
    }
  }
  for (std::size_t i = 0; i < graph.size(); ++i)
    if (predecessors[i] != graph[i].predecessors_initially || predecessors[i] != graph[i].predecessors)
      return refuse("context " + std::to_string(i) + " does not count its predecessors");
  if (sqe.ready_contexts != ready)
    return refuse(std::to_string(ready) + " contexts are ready, not " + std::to_string(sqe.ready_contexts));
  return sorted(graph).size() == graph.size() ? kAclSuccess : refuse("a circle of contexts");
}

int run(const Graph& graph, const Stream& stream) {
  for (const std::size_t i : sorted(graph)) {
    const Context& context = graph[i];
    if (context.type != kSdma) continue;
    const int result = copy(pointer(context.destination_low, context.destination_high),
                            pointer(context.source_low, context.source_high), context.bytes,
                            [&stream] { return stream.interrupted(); });
    if (result != kAclSuccess) return result;
  }
  return kAclSuccess;
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int rtGeneralCtrl(std::uintptr_t* input, std::uint32_t count, std::uint32_t type) {
  count_call("rtGeneralCtrl");
  if (input == nullptr) return kAclRtParamInvalid;
  if (type != kFftsPlus || count != 2) {
    report("rtGeneralCtrl of type " + std::to_string(type) + " is not simulated");
    return kAclRtFeatureNotSupported;
  }
  const auto* const info = reinterpret_cast<const TaskInfo*>(input[0]);
  const auto stream = find_stream(reinterpret_cast<void*>(input[1]));
  if (stream == nullptr) return kAclRtInvalidHandle;
  if (info == nullptr || info->sqe == nullptr || info->contexts == nullptr || info->bytes == 0 ||
      info->bytes % sizeof(Context) != 0)
    return kAclRtParamInvalid;
  Graph graph(info->bytes / sizeof(Context));
  std::memcpy(graph.data(), info->contexts, info->bytes);  // the caller uses its buffer again
  const int result = check(graph, *info->sqe);
  if (result != kAclSuccess) return result;
  return stream->push({[graph = std::move(graph)](const Stream& self) { return run(graph, self); }, nullptr});
}
