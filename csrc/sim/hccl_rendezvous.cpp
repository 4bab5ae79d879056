#include "hccl_rendezvous.hpp"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "engine/codes.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kSliceMs = 20;
/// A connection that does not say who it is for so long is none of ours.
constexpr std::chrono::seconds kHelloTime{5};

struct Hello {
  char magic[8];
  std::int32_t rank;
  std::int32_t pid;
};
constexpr char kMagic[] = "YRFLSIM";

/// A socket that a peer can connect to, and the file that is its name, if it is one.
struct Listening {
  Descriptor socket;
  std::string file;

  Listening() = default;
  Listening(Descriptor made, std::string name) : socket(std::move(made)), file(std::move(name)) {}
  Listening(Listening&& other) noexcept
      : socket(std::move(other.socket)), file(std::exchange(other.file, std::string())) {}
  Listening& operator=(Listening&& other) noexcept {
    std::swap(socket, other.socket);
    file.swap(other.file);
    return *this;
  }
  ~Listening() {
    if (!file.empty()) ::unlink(file.c_str());
  }
};

struct Listener {
  Listening at;
  Clock::time_point stale;
};

/// Rendezvous that were opened here and that no rank of this process has gone to yet.
struct Listeners {
  std::mutex mutex;
  std::map<std::string, Listener> open;
  static Listeners& all() {
    static Listeners* const made = new Listeners;  // never destroyed
    return *made;
  }
};

bool is_file(const std::string& name) { return name[0] == '/'; }

/// A name is a file, which processes of all network namespaces find, or abstract: gone with its last descriptor.
::socklen_t make_address(const std::string& name, ::sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + (is_file(name) ? 0 : 1), name.data(), name.size());
  return static_cast<::socklen_t>(offsetof(::sockaddr_un, sun_path) + 1 + name.size());
}

/// A new name for a rendezvous; empty if there is none.
std::string make_name() {
  unsigned long long random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) return "";
  char name[kNameBytes];
  std::snprintf(name, sizeof name, "yr-fastload-sim-%d-%016llx", ::getpid(), random);
  const std::string& directory = settings().rendezvous;
  return directory.empty() ? name : directory + "/" + name;
}

Descriptor make_socket() { return Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

bool wait_readable(int socket, Clock::time_point end) {
  while (Clock::now() < end) {
    struct ::pollfd waiting{socket, POLLIN, 0};
    if (::poll(&waiting, 1, kSliceMs) > 0) return true;
  }
  return false;
}

/// Both ends say who they are. Nothing but the kernel's word counts for the user and, where they agree, the process.
int shake_hands(Descriptor socket, int rank, Clock::time_point end, Peer& peer) {
  struct ::ucred credentials{};
  ::socklen_t length = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0 || credentials.uid != ::geteuid())
    return kHcclTcpConnect;
  Hello mine{};
  std::memcpy(mine.magic, kMagic, sizeof mine.magic);
  mine.rank = rank;
  mine.pid = ::getpid();
  if (::send(socket.get(), &mine, sizeof mine, MSG_NOSIGNAL) != sizeof mine) return kHcclTcpConnect;
  if (!wait_readable(socket.get(), end)) return kHcclTimeout;
  Hello theirs{};
  if (::recv(socket.get(), &theirs, sizeof theirs, MSG_DONTWAIT) != sizeof theirs ||
      std::memcmp(theirs.magic, kMagic, sizeof theirs.magic) != 0)
    return kHcclTcpConnect;
  if (theirs.rank != 1 - rank) {
    report("HcclCommInitRootInfo: both ends are rank " + std::to_string(rank));
    return kHcclParameter;
  }
  peer.socket = std::move(socket);
  peer.pid = theirs.pid;
  peer.same_pids = credentials.pid == theirs.pid;
  return kHcclSuccess;
}

/// Connections from somebody else are turned away.
int accept_peer(int listener, int rank, Clock::time_point end, Peer& peer) {
  while (wait_readable(listener, end)) {
    Descriptor socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.get() < 0) continue;
    const int result = shake_hands(std::move(socket), rank, std::min(end, Clock::now() + kHelloTime), peer);
    if (result == kHcclSuccess || result == kHcclParameter) return result;
  }
  return kHcclTimeout;
}

int connect_peer(const std::string& name, int rank, Clock::time_point end, Peer& peer) {
  ::sockaddr_un address{};
  const ::socklen_t length = make_address(name, address);
  for (;;) {
    Descriptor socket = make_socket();
    if (::connect(socket.get(), reinterpret_cast<const ::sockaddr*>(&address), length) == 0)
      return shake_hands(std::move(socket), rank, end, peer);
    if (errno != EAGAIN && errno != EINTR) return kHcclTcpConnect;  // refused: who listened is gone, and the name
    if (Clock::now() >= end) return kHcclTimeout;
    std::this_thread::sleep_for(std::chrono::milliseconds(kSliceMs));
  }
}

}  // namespace

std::string open_rendezvous() {
  const std::string name = make_name();
  if (name.empty()) return "";
  ::sockaddr_un address{};
  const ::socklen_t length = make_address(name, address);
  Descriptor socket = make_socket();
  if (::bind(socket.get(), reinterpret_cast<const ::sockaddr*>(&address), length) != 0) return "";
  Listening at(std::move(socket), is_file(name) ? name : "");
  if (::listen(at.socket.get(), 4) != 0) return "";
  Listeners& all = Listeners::all();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (auto item = all.open.begin(); item != all.open.end();)
    item = Clock::now() > item->second.stale ? all.open.erase(item) : std::next(item);
  const auto patience = connect_deadline() - Clock::now();
  all.open.emplace(name, Listener{std::move(at), Clock::now() + 2 * patience});
  return name;
}

int meet(const std::string& name, int rank, Clock::time_point end, Peer& peer) {
  Listening listener;
  {
    Listeners& all = Listeners::all();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.open.find(name);
    if (found != all.open.end()) {
      listener = std::move(found->second.at);
      all.open.erase(found);  // the other rank may be in this process too: it connects
    }
  }
  const int socket = listener.socket.get();
  return socket >= 0 ? accept_peer(socket, rank, end, peer) : connect_peer(name, rank, end, peer);
}

}  // namespace yr_fastload::sim
