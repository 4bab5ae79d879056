// libhccl.so: communicators of two ranks, and transfers between them.
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/device.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/handles.hpp"
#include "engine/settings.hpp"
#include "hccl_comm.hpp"
#include "hccl_transfer.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;

int join(const std::string& name, int rank, void** handle) {
  const auto end = connect_deadline();
  const Hit hit = match(Operation::kComm);
  if (hit.action == Action::kFail) return kHcclInternal;
  sit_out(hit, [end] { return Clock::now() >= end; });
  // Lets the peer read this process's memory where Yama's ptrace_scope is 1.
  ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  Peer peer;
  const int result = meet(name, rank, end, peer);
  if (result != kHcclSuccess) return result;
  const std::chrono::duration<double, std::milli> setup(settings().comm_setup_ms);
  const auto ready = Clock::now() + std::chrono::duration_cast<Clock::duration>(setup);
  std::this_thread::sleep_until(std::min(ready, end));
  if (ready > end) return kHcclTimeout;
  *handle = Handles<Comm>::all().add(std::make_shared<Comm>(std::move(peer), rank));
  return kHcclSuccess;
}

int transfer(void* data, std::uint64_t count, int type, std::uint32_t rank, void* comm_handle, void* stream_handle,
             bool sends) {
  static constexpr std::uint64_t kItemBytes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};  // by HcclDataType
  if (comm_handle == nullptr || stream_handle == nullptr || data == nullptr) return kHcclPointer;
  if (type < 0 || static_cast<std::size_t>(type) >= std::size(kItemBytes)) return kHcclParameter;
  if (count > UINT64_MAX / kItemBytes[type]) return kHcclParameter;
  const auto comm = Handles<Comm>::all().find(comm_handle);
  const auto stream = find_stream(stream_handle);
  if (comm == nullptr || stream == nullptr || static_cast<int>(rank) != 1 - comm->rank()) return kHcclParameter;
  if (count == 0) return kHcclSuccess;  // as HCCL does: nothing is to be moved
  if (comm->error() != 0) return comm->error();
  if (stream->error() != 0) return kHcclRuntime;
  return comm->issue(sends, [&](std::uint64_t number) {
    const auto made = std::make_shared<Transfer>(comm, number, data, count * kItemBytes[type], type);
    Task task;
    if (sends) {
      task.run = [made](const Stream& self) { return made->send(self); };
      task.early = [made] { return made->announce(); };
    } else {
      task.run = [made](const Stream& self) { return made->receive(self); };
    }
    return stream->push(std::move(task)) == kAclSuccess ? kHcclSuccess : kHcclRuntime;
  });
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int HcclGetRootInfo(char* root_info) {
  count_call("HcclGetRootInfo");
  if (root_info == nullptr) return kHcclPointer;
  if (current_device() < 0) return kHcclRuntime;
  const std::string name = open_rendezvous();
  if (name.empty()) return kHcclTcpConnect;
  std::memset(root_info, 0, kRootInfoBytes);
  std::memcpy(root_info, name.data(), name.size());
  return kHcclSuccess;
}

YRFL_SIM_API int HcclCommInitRootInfoConfig(std::uint32_t ranks, const char* root_info, std::uint32_t rank,
                                            const void* config, void** handle) {
  count_call("HcclCommInitRootInfoConfig");
  if (root_info == nullptr || config == nullptr || handle == nullptr) return kHcclPointer;
  if (ranks != 2 || rank > 1 || ::strnlen(root_info, kNameBytes) % kNameBytes == 0) return kHcclParameter;
  return current_device() < 0 ? kHcclRuntime : join(root_info, static_cast<int>(rank), handle);
}

YRFL_SIM_API int HcclCommInitRootInfo(std::uint32_t ranks, const char* root_info, std::uint32_t rank, void** handle) {
  count_call("HcclCommInitRootInfo");
  if (root_info == nullptr || handle == nullptr) return kHcclPointer;
  if (ranks != 2 || rank > 1 || ::strnlen(root_info, kNameBytes) % kNameBytes == 0) return kHcclParameter;
  return current_device() < 0 ? kHcclRuntime : join(root_info, static_cast<int>(rank), handle);
}

YRFL_SIM_API int HcclCommDestroy(void* handle) {
  count_call("HcclCommDestroy");
  const auto comm = Handles<Comm>::all().remove(handle);
  if (comm == nullptr) return kHcclParameter;
  comm->close();
  return kHcclSuccess;
}

YRFL_SIM_API int HcclGetCommAsyncError(void* handle, int* error) {
  count_call("HcclGetCommAsyncError");
  if (error == nullptr) return kHcclPointer;
  const auto comm = Handles<Comm>::all().find(handle);
  if (comm == nullptr) return kHcclParameter;
  *error = comm->error();
  return kHcclSuccess;
}

YRFL_SIM_API int HcclSend(void* data, std::uint64_t count, int type, std::uint32_t rank, void* comm, void* stream) {
  count_call("HcclSend");
  return transfer(data, count, type, rank, comm, stream, true);
}

YRFL_SIM_API int HcclRecv(void* data, std::uint64_t count, int type, std::uint32_t rank, void* comm, void* stream) {
  count_call("HcclRecv");
  return transfer(data, count, type, rank, comm, stream, false);
}
