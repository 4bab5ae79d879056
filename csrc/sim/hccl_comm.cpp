#include "hccl_comm.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/faults.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kLookMs = 5;
constexpr std::uint64_t kSliceBytes = std::uint64_t{1} << 20;
constexpr double kSliceSeconds = 0.01;

}  // namespace

Comm::Comm(int socket, int peer, int rank) : socket_(socket), peer_(peer), rank_(rank) { ++alive().comms; }

Comm::~Comm() {
  ::close(socket_);
  --alive().comms;
}

void Comm::close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  ::shutdown(socket_, SHUT_RDWR);
  changed_.notify_all();
}

int Comm::async_error() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return error_;
}

int Comm::fail(int error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (error_ == 0) error_ = error;
  return error;
}

bool Comm::tell(const Message& message) {
  const std::lock_guard<std::mutex> lock(write_mutex_);
  const char* data = reinterpret_cast<const char*>(&message);
  for (std::size_t done = 0; done < sizeof message;) {
    const ssize_t count = ::send(socket_, data + done, sizeof message - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}

void Comm::announce(std::uint64_t number, const Transfer& transfer) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (number <= announced_) return;
    announced_ = number;
  }
  Message offer{};
  offer.word = Word::kSend;
  offer.number = number;
  offer.address = reinterpret_cast<std::uint64_t>(transfer.data);
  offer.bytes = transfer.bytes;
  offer.type = transfer.type;
  offer.gbps = link_gbps();
  static_cast<void>(tell(offer));  // a peer that is gone is noticed by who waits for its answer
}

/// Reads one word if there is one within a few milliseconds. False if the peer is gone.
bool Comm::look(std::unique_lock<std::mutex>& lock) {
  looking_ = true;
  lock.unlock();
  struct ::pollfd waiting{socket_, POLLIN, 0};
  Message message{};
  bool some = false;
  bool gone = false;
  if (::poll(&waiting, 1, kLookMs) > 0) {
    const ssize_t count = ::recv(socket_, &message, sizeof message, MSG_WAITALL);
    some = count == static_cast<ssize_t>(sizeof message);
    gone = !some && !(count < 0 && errno == EINTR);
  }
  lock.lock();
  looking_ = false;
  if (some && message.word == Word::kSend) offers_[message.number] = message;
  if (some && message.word == Word::kDone) answers_[message.number] = message.status;
  changed_.notify_all();
  return !gone;
}

/// Waits until `ready`, called under the mutex. Whoever waits first reads the socket for all.
int Comm::wait(const std::function<bool()>& ready, const Stream& stream) {
  const auto end = Clock::now() + std::chrono::duration<double>(settings().exec_timeout_s);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ready()) {
    if (closed_) return kHcclInternal;
    if (Clock::now() >= end) return kHcclTimeout;
    lock.unlock();
    const bool interrupted = stream.interrupted();
    lock.lock();
    if (interrupted) return kHcclInternal;
    if (looking_)
      changed_.wait_for(lock, std::chrono::milliseconds(kLookMs));
    else if (!look(lock) && !ready())
      return kHcclRemote;
  }
  return kHcclSuccess;
}

int Comm::send(std::uint64_t number, const Transfer& transfer, const Stream& stream) {
  const auto interrupted = [&] { return stream.interrupted() || async_error() != 0; };
  switch (hit(Operation::kSend, interrupted).action) {
    case Action::kFail:
      return fail(kHcclInternal);
    case Action::kDrop:
      ::shutdown(socket_, SHUT_RDWR);
      break;
    default:
      break;
  }
  if (!usable(transfer.data, transfer.bytes, "a send")) return fail(kHcclInternal);
  announce(number, transfer);
  const int result = wait([&] { return answers_.count(number) > 0; }, stream);
  if (result != kHcclSuccess) return fail(result);
  std::int32_t status = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    status = answers_[number];
    answers_.erase(number);
  }
  if (status != kHcclSuccess) return fail(status);
  count_sent(peer_, transfer.bytes);
  return kHcclSuccess;
}

int Comm::receive(std::uint64_t number, const Transfer& transfer, const Stream& stream) {
  const auto interrupted = [&] { return stream.interrupted() || async_error() != 0; };
  const Hit fault = hit(Operation::kRecv, interrupted);
  if (fault.action == Action::kFail) return fail(kHcclInternal);
  if (fault.action == Action::kDrop) ::shutdown(socket_, SHUT_RDWR);
  int result = wait([&] { return offers_.count(number) > 0; }, stream);
  if (result != kHcclSuccess) return fail(result);
  Message offer{};
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    offer = offers_[number];
    offers_.erase(number);
  }
  if (offer.bytes != transfer.bytes || offer.type != transfer.type) {
    report("a receive of " + std::to_string(transfer.bytes) + " bytes of type " + std::to_string(transfer.type) +
           " meets a send of " + std::to_string(offer.bytes) + " of type " + std::to_string(offer.type));
    result = kHcclParameter;
  } else if (!usable(transfer.data, transfer.bytes, "a receive")) {
    result = kHcclInternal;
  } else {
    result = pull(offer, transfer, stream);
  }
  if (result == kHcclSuccess && fault.action == Action::kCorrupt) corrupt(transfer.data, transfer.bytes, fault.value);
  Message answer{};
  answer.word = Word::kDone;
  answer.number = number;
  answer.status = result;
  if (!tell(answer) && result == kHcclSuccess) result = kHcclRemote;
  if (result != kHcclSuccess) return fail(result);
  count_received(peer_, transfer.bytes);
  return kHcclSuccess;
}

/// Copies from the peer's memory, at the pace of the slower end of the link.
int Comm::pull(const Message& offer, const Transfer& transfer, const Stream& stream) {
  const auto started = Clock::now();
  for (std::uint64_t done = 0; done < transfer.bytes;) {
    double gbps = link_gbps();
    if (offer.gbps > 0) gbps = gbps > 0 ? std::min(gbps, offer.gbps) : offer.gbps;
    std::uint64_t slice = transfer.bytes - done;
    if (gbps > 0) {
      const auto paced = static_cast<std::uint64_t>(gbps * 1e9 / 8 * kSliceSeconds);
      slice = std::min({slice, kSliceBytes, std::max<std::uint64_t>(paced, 4096)});
    }
    struct ::iovec here{static_cast<char*>(transfer.data) + done, slice};
    struct ::iovec there{reinterpret_cast<char*>(offer.address) + done, slice};
    const ssize_t count = ::process_vm_readv(peer_, &here, 1, &there, 1, 0);
    if (count <= 0) {
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EPERM)
        report("process_vm_readv is refused: a sandbox, or Yama's ptrace_scope above 1, keeps processes apart");
      return kHcclRemote;
    }
    done += static_cast<std::uint64_t>(count);
    if (gbps > 0) {
      const auto due = started + std::chrono::duration<double>(static_cast<double>(done) * 8 / (gbps * 1e9));
      while (Clock::now() < due) {
        if (stream.interrupted() || async_error() != 0) return kHcclInternal;
        {
          const std::lock_guard<std::mutex> lock(mutex_);
          if (closed_) return kHcclInternal;
        }
        std::this_thread::sleep_until(
            std::min(std::chrono::time_point_cast<Clock::duration>(due), Clock::now() + std::chrono::milliseconds(5)));
      }
    }
  }
  return kHcclSuccess;
}

}  // namespace yr_fastload::sim
