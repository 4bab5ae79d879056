#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace yr_fastload::sim {

constexpr std::size_t kRootInfoBytes = 4108;  // HCCL_ROOT_INFO_BYTES
constexpr std::size_t kNameBytes = 96;

/// Closes a descriptor unless it was let go of.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

/// The other end, once both ends know each other.
struct Peer {
  Descriptor socket;
  ::pid_t pid = 0;
  bool same_pids = false;  ///< Whether `pid` names it here too: its memory can be asked for.
};

/// Opens a rendezvous in this process, and names it; empty if it cannot. One that nobody joins is closed when another
/// is opened much later.
std::string open_rendezvous();

/// Meets the other rank of two at a rendezvous, in whichever process it was opened. A HcclResult.
int meet(const std::string& name, int rank, std::chrono::steady_clock::time_point end, Peer& peer);

}  // namespace yr_fastload::sim
