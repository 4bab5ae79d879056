// libruntime.so: notifies, which order streams, and FFTS+ tasks, which are graphs of copies.
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"
#include "engine/stream.hpp"
#include "unimplemented.hpp"

namespace yr_fastload::sim {
namespace {

constexpr std::chrono::milliseconds kWaitSlice{5};

/// A count that one stream raises and another waits for and takes.
class Notify {
 public:
  Notify() { ++alive().notifies; }
  ~Notify() { --alive().notifies; }

  void record() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++count_;
    }
    changed_.notify_all();
  }

  int wait(const Stream& stream) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (count_ == 0) {
      changed_.wait_for(lock, kWaitSlice);
      if (stream.interrupted()) return kAclRtInternalError;
    }
    --count_;
    return kAclSuccess;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t count_ = 0;
};

// The part of FFTS+'s descriptors that is used here; as in CANN's rt_ffts_plus_define.h.
constexpr std::uint32_t kFftsPlus = 3;    // RT_GNL_CTRL_TYPE_FFTS_PLUS_FLAG: what the wheel asks for (0.8.1)
constexpr std::uint16_t kSdma = 0x0008;   // RT_CTX_TYPE_SDMA
constexpr std::uint16_t kLabel = 0x0500;  // RT_CTX_TYPE_LABEL
constexpr std::size_t kSuccessors = 26;   // RT_CTX_SUCCESSOR_NUM

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
static_assert(sizeof(Context) == 128, "the size of a descriptor");
static_assert(offsetof(Context, source_low) == 88 && offsetof(Context, destination_low) == 100 &&
                  offsetof(Context, bytes) == 112,
              "the places of an SDMA descriptor's fields");

struct TaskInfo {
  const void* sqe;
  const void* contexts;
  std::size_t bytes;
};

void* pointer(std::uint32_t low, std::uint32_t high) {
  return reinterpret_cast<void*>(std::uintptr_t{high} << 32 | low);
}

/// Only what can be run is accepted, before it is launched.
bool valid(const std::vector<Context>& graph) {
  std::vector<unsigned> predecessors(graph.size(), 0);
  for (const Context& context : graph) {
    if (context.type != kSdma && context.type != kLabel) {
      report("FFTS+ context type " + std::to_string(context.type) + " is not simulated");
      return false;
    }
    if (context.successors > kSuccessors) return false;
    for (unsigned i = 0; i < context.successors; ++i) {
      if (context.successor[i] >= graph.size()) return false;
      ++predecessors[context.successor[i]];
    }
  }
  for (std::size_t i = 0; i < graph.size(); ++i)
    if (predecessors[i] != graph[i].predecessors_initially) return false;
  return true;
}

/// Runs each context when all before it in the graph have run.
int run(const std::vector<Context>& graph, const Stream& stream) {
  std::vector<unsigned> waits;
  std::deque<std::size_t> ready;
  for (std::size_t i = 0; i < graph.size(); ++i) {
    waits.push_back(graph[i].predecessors_initially);
    if (waits[i] == 0) ready.push_back(i);
  }
  std::size_t done = 0;
  for (; !ready.empty(); ++done) {
    const Context& context = graph[ready.front()];
    ready.pop_front();
    if (context.type == kSdma) {
      const int result = copy(pointer(context.destination_low, context.destination_high),
                              pointer(context.source_low, context.source_high), context.bytes,
                              [&stream] { return stream.interrupted(); });
      if (result != kAclSuccess) return result;
    }
    for (unsigned i = 0; i < context.successors; ++i)
      if (--waits[context.successor[i]] == 0) ready.push_back(context.successor[i]);
  }
  return done == graph.size() ? kAclSuccess : kAclRtInternalError;  // a circle
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int rtNotifyCreate(std::int32_t, void** handle) {
  count_call("rtNotifyCreate");
  if (handle == nullptr) return kAclRtParamInvalid;
  *handle = Handles<Notify>::all().add(std::make_shared<Notify>());
  return kAclSuccess;
}

YRFL_SIM_API int rtNotifyDestroy(void* handle) {
  count_call("rtNotifyDestroy");
  return Handles<Notify>::all().remove(handle) == nullptr ? kAclRtInvalidHandle : kAclSuccess;
}

YRFL_SIM_API int rtNotifyRecord(void* handle, void* stream_handle) {
  count_call("rtNotifyRecord");
  const auto notify = Handles<Notify>::all().find(handle);
  const auto stream = find_stream(stream_handle);
  if (notify == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  stream->push({[notify](const Stream&) {
                  notify->record();
                  return 0;
                },
                nullptr});
  return stream->error();
}

YRFL_SIM_API int rtNotifyWait(void* handle, void* stream_handle) {
  count_call("rtNotifyWait");
  const auto notify = Handles<Notify>::all().find(handle);
  const auto stream = find_stream(stream_handle);
  if (notify == nullptr || stream == nullptr) return kAclRtInvalidHandle;
  stream->push({[notify](const Stream& self) { return notify->wait(self); }, nullptr});
  return stream->error();
}

YRFL_SIM_API int rtGetDeviceInfo(std::uint32_t, std::int32_t, std::int32_t, std::int64_t* value) {
  count_call("rtGetDeviceInfo");
  if (value == nullptr) return kAclRtParamInvalid;
  *value = 0;  // the physical chip, the only thing that is asked for
  return kAclSuccess;
}

YRFL_SIM_API int rtGeneralCtrl(std::uintptr_t* input, std::uint32_t count, std::uint32_t kind) {
  count_call("rtGeneralCtrl");
  if (input == nullptr || count != 2) return kAclRtParamInvalid;
  if (kind != kFftsPlus) {
    report("rtGeneralCtrl of type " + std::to_string(kind) + " is not simulated");
    return kAclRtParamInvalid;
  }
  const auto* info = reinterpret_cast<const TaskInfo*>(input[0]);
  const auto stream = find_stream(reinterpret_cast<void*>(input[1]));
  if (stream == nullptr) return kAclRtInvalidHandle;
  if (info->contexts == nullptr || info->bytes % sizeof(Context) != 0) return kAclRtParamInvalid;
  std::vector<Context> graph(info->bytes / sizeof(Context));
  std::memcpy(graph.data(), info->contexts, info->bytes);  // the caller uses its buffer again
  if (!valid(graph)) return kAclRtParamInvalid;
  stream->push({[graph = std::move(graph)](const Stream& self) { return run(graph, self); }, nullptr});
  return stream->error();
}

YRFL_SIM_UNIMPLEMENTED(rtDeviceGetBareTgid)
YRFL_SIM_UNIMPLEMENTED(rtGetDevicePhyIdByIndex)
YRFL_SIM_UNIMPLEMENTED(rtGetNotifyAddress)
YRFL_SIM_UNIMPLEMENTED(rtGetNotifyID)
YRFL_SIM_UNIMPLEMENTED(rtGetSocVersion)
YRFL_SIM_UNIMPLEMENTED(rtGetVisibleDeviceIdByLogicDeviceId)
YRFL_SIM_UNIMPLEMENTED(rtIpcCloseMemory)
YRFL_SIM_UNIMPLEMENTED(rtIpcOpenMemory)
YRFL_SIM_UNIMPLEMENTED(rtIpcOpenNotify)
YRFL_SIM_UNIMPLEMENTED(rtIpcSetMemoryName)
YRFL_SIM_UNIMPLEMENTED(rtIpcSetNotifyName)
YRFL_SIM_UNIMPLEMENTED(rtMalloc)
YRFL_SIM_UNIMPLEMENTED(rtNotifyGetAddrOffset)
YRFL_SIM_UNIMPLEMENTED(rtRDMADBSend)
YRFL_SIM_UNIMPLEMENTED(rtSetIpcMemPid)
YRFL_SIM_UNIMPLEMENTED(rtSetIpcNotifyPid)
