// libhccl.so: communicators of two ranks, and transfers between them.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
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

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kRootInfoBytes = 4108;  // HCCL_ROOT_INFO_BYTES
constexpr std::size_t kNameBytes = 64;
constexpr int kSliceMs = 20;

/// Closes a descriptor unless it was let go of.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

/// Sockets of the root infos that this process gave out and nobody has joined yet.
struct Listeners {
  std::mutex mutex;
  std::map<std::string, int> sockets;
  static Listeners& all() {
    static Listeners* const made = new Listeners;  // never destroyed
    return *made;
  }
};

::socklen_t make_address(const std::string& name, ::sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // abstract: gone with its last descriptor
  return static_cast<::socklen_t>(offsetof(::sockaddr_un, sun_path) + 1 + name.size());
}

/// Waits until `ready` gives a descriptor.
template <typename Ready>
Descriptor wait_for(Clock::time_point end, const Ready& ready) {
  for (;;) {
    const int number = ready();
    if (number >= 0 || Clock::now() >= end) return Descriptor(number);
  }
}

Descriptor accept_one(int listener, Clock::time_point end) {
  return wait_for(end, [&] {
    struct ::pollfd waiting{listener, POLLIN, 0};
    return ::poll(&waiting, 1, kSliceMs) > 0 ? ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC) : -1;
  });
}

Descriptor connect_to(const std::string& name, Clock::time_point end) {
  ::sockaddr_un address{};
  const ::socklen_t length = make_address(name, address);
  Descriptor made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  while (::connect(made.get(), reinterpret_cast<const ::sockaddr*>(&address), length) != 0) {
    // Refused: whoever listened is gone, and with it the name.
    if (errno == ECONNREFUSED || Clock::now() >= end) return Descriptor();
    std::this_thread::sleep_for(std::chrono::milliseconds(kSliceMs));
  }
  return made;
}

/// The process at the other end, 0 if it is another user's.
int peer_of(int socket) {
  struct ::ucred peer{};
  ::socklen_t length = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != ::geteuid()) return 0;
  return peer.pid;
}

/// Both ends say their rank: nobody goes on before the other is there.
int shake_hands(int socket, std::int32_t rank, Clock::time_point end) {
  if (::send(socket, &rank, sizeof rank, MSG_NOSIGNAL) != sizeof rank) return kHcclTcpConnect;
  std::int32_t other = -1;
  while (Clock::now() < end) {
    struct ::pollfd waiting{socket, POLLIN, 0};
    if (::poll(&waiting, 1, kSliceMs) <= 0) continue;
    if (::recv(socket, &other, sizeof other, MSG_WAITALL) != sizeof other) return kHcclTcpConnect;
    return other + rank == 1 ? kHcclSuccess : kHcclParameter;
  }
  return kHcclTimeout;
}

int transfer(void* data, std::uint64_t count, int type, std::uint32_t rank, void* comm_handle, void* stream_handle,
             bool sends) {
  static constexpr std::uint64_t kItemBytes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};  // by HcclDataType
  if (data == nullptr) return kHcclPointer;
  if (type < 0 || static_cast<std::size_t>(type) >= std::size(kItemBytes) || count == 0) return kHcclParameter;
  const auto comm = Handles<Comm>::all().find(comm_handle);
  const auto stream = find_stream(stream_handle);
  if (comm == nullptr || stream == nullptr || static_cast<int>(rank) != 1 - comm->rank()) return kHcclParameter;
  if (stream->error() != 0) return kHcclInternal;
  const Transfer what{data, count * kItemBytes[type], type};
  if (sends) {
    const std::uint64_t number = comm->next_send();
    stream->push(
        {[=](const Stream& self) { return comm->send(number, what, self); }, [=] { comm->announce(number, what); }});
  } else {
    const std::uint64_t number = comm->next_recv();
    stream->push({[=](const Stream& self) { return comm->receive(number, what, self); }, nullptr});
  }
  return kHcclSuccess;
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API int HcclGetRootInfo(char* root_info) {
  count_call("HcclGetRootInfo");
  static std::atomic<unsigned> made{0};
  if (root_info == nullptr) return kHcclPointer;
  if (current_device() < 0) return kHcclInternal;
  char name[kNameBytes];
  std::snprintf(name, sizeof name, "yr-fastload-sim-%d-%u", ::getpid(), made++);
  ::sockaddr_un address{};
  const ::socklen_t length = make_address(name, address);
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(socket.get(), reinterpret_cast<const ::sockaddr*>(&address), length) != 0 ||
      ::listen(socket.get(), 1) != 0)
    return kHcclTcpConnect;
  std::memset(root_info, 0, kRootInfoBytes);
  std::memcpy(root_info, name, std::strlen(name));
  Listeners& all = Listeners::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.sockets[name] = socket.release();
  return kHcclSuccess;
}

YRFL_SIM_API int HcclCommInitRootInfoConfig(std::uint32_t ranks, const char* root_info, std::uint32_t rank, const void*,
                                            void** handle) {
  count_call("HcclCommInitRootInfoConfig");
  if (root_info == nullptr || handle == nullptr) return kHcclPointer;
  if (ranks != 2 || rank > 1 || ::strnlen(root_info, kNameBytes) == kNameBytes) return kHcclParameter;
  if (current_device() < 0) return kHcclInternal;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(settings().connect_timeout_s));
  if (hit(Operation::kComm, [end] { return Clock::now() >= end; }).action == Action::kFail) return kHcclTcpConnect;
  // Lets the peer read this process's memory where Yama's ptrace_scope is 1.
  ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
  const std::string name = root_info;
  int listener = -1;
  {
    Listeners& all = Listeners::all();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.sockets.find(name);
    if (found != all.sockets.end()) {
      listener = found->second;
      all.sockets.erase(found);
    }
  }
  const Descriptor closing(listener);
  Descriptor socket = listener >= 0 ? accept_one(listener, end) : connect_to(name, end);
  if (socket.get() < 0) return Clock::now() >= end ? kHcclTimeout : kHcclTcpConnect;
  const int peer = peer_of(socket.get());
  if (peer == 0) return kHcclTcpConnect;
  const int result = shake_hands(socket.get(), static_cast<std::int32_t>(rank), end);
  if (result != kHcclSuccess) return result;
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(settings().comm_setup_ms));
  *handle = Handles<Comm>::all().add(std::make_shared<Comm>(socket.release(), peer, static_cast<int>(rank)));
  return kHcclSuccess;
}

YRFL_SIM_API int HcclCommInitRootInfo(std::uint32_t ranks, const char* root_info, std::uint32_t rank, void** handle) {
  return HcclCommInitRootInfoConfig(ranks, root_info, rank, nullptr, handle);
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
  const auto comm = Handles<Comm>::all().find(handle);
  if (comm == nullptr || error == nullptr) return kHcclParameter;
  *error = comm->async_error();
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
