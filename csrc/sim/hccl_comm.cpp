#include "hccl_comm.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/faults.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kLookMs = 10;
/// The other end answers a small transfer sooner than a sleeping thread wakes up.
constexpr std::chrono::microseconds kSpin{30};
constexpr std::chrono::seconds kCloseTime{10};

}  // namespace

Comm::Comm(Peer peer, int rank) : peer_(std::move(peer)), rank_(rank), reads_memory_(peer_.same_pids) {
  ++alive().comms;
  // Words are small and answered: a socket that takes none for so long has a peer that is stopped.
  const struct ::timeval timeout{static_cast<::time_t>(settings().exec_timeout_s), 0};
  ::setsockopt(peer_.socket.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
}

Comm::~Comm() { --alive().comms; }

int Comm::issue(bool sends, const std::function<int(std::uint64_t)>& push) {
  const std::lock_guard<std::mutex> lock(issue_mutex_);
  return push(sends ? ++sends_ : ++recvs_);
}

int Comm::fail(int error) {
  int none = 0;
  if (error_.compare_exchange_strong(none, error)) ::shutdown(peer_.socket.get(), SHUT_RDWR);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    offered_.clear();
  }
  changed_.notify_all();
  return error;
}

void Comm::close() {
  fail(kHcclInternal);
  const auto end = Clock::now() + kCloseTime;
  while (running_ > 0 && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void Comm::offer(std::uint64_t number, const void* data, std::uint64_t bytes, std::int32_t type) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    offered_[number] = {static_cast<const char*>(data), bytes};
  }
  Word word{};
  word.kind = Word::Kind::kOffer;
  word.type = type;
  word.number = number;
  word.address = reinterpret_cast<std::uint64_t>(data);
  word.bytes = bytes;
  word.gbps = link_gbps();
  tell(word);  // a peer that is gone is noticed by who waits for its answer
}

void Comm::answer(std::uint64_t number, int status) {
  Word word{};
  word.kind = Word::Kind::kAnswer;
  word.number = number;
  word.status = status;
  tell(word);
}

int Comm::wait_answer(std::uint64_t number, const Patience& patience) {
  const int result = wait([&] { return answers_.count(number) > 0; }, patience);
  const std::lock_guard<std::mutex> lock(mutex_);
  offered_.erase(number);
  if (result != kHcclSuccess) return result;
  const int status = answers_[number];
  answers_.erase(number);
  return status;
}

int Comm::wait_offer(std::uint64_t number, const Patience& patience, Word& offer) {
  const int result = wait([&] { return offers_.count(number) > 0; }, patience);
  if (result != kHcclSuccess) return result;
  const std::lock_guard<std::mutex> lock(mutex_);
  offer = offers_[number];
  offers_.erase(number);
  return kHcclSuccess;
}

int Comm::interruption(const Patience& patience) const {
  if (error_ != 0) return error_;
  if (patience.stream->interrupted()) return kHcclInternal;
  return Clock::now() >= patience.end ? kHcclTimeout : kHcclSuccess;
}

/// Waits until `ready`, called under the mutex. Whoever waits first reads the socket for all.
int Comm::wait(const std::function<bool()>& ready, const Patience& patience) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ready()) {
    lock.unlock();
    const int result = interruption(patience);
    lock.lock();
    if (ready()) break;
    if (result != kHcclSuccess) return result;
    if (looking_)
      changed_.wait_for(lock, std::chrono::milliseconds(kLookMs));
    else if (!look(lock, patience) && !ready())
      return error_ != 0 ? error_.load() : kHcclRemote;
  }
  return kHcclSuccess;
}

/// Reads one word if there is one within a few milliseconds. False if the peer is gone.
bool Comm::look(std::unique_lock<std::mutex>& lock, const Patience& patience) {
  looking_ = true;
  lock.unlock();
  Word word{};
  std::vector<char> data;
  bool gone = false;
  bool some = read(&word, sizeof word, false, patience, gone);
  if (some && word.kind == Word::Kind::kData) {
    data.resize(word.bytes);
    some = read(data.data(), data.size(), true, patience, gone);
    gone = !some;  // in the middle of a word there is no way on
  }
  if (some && word.kind == Word::Kind::kPull) serve(word);
  lock.lock();
  looking_ = false;
  if (some && word.kind == Word::Kind::kOffer) offers_[word.number] = word;
  if (some && word.kind == Word::Kind::kAnswer) answers_[word.number] = word.status;
  if (some && word.kind == Word::Kind::kData) data_[word.number] = std::move(data);
  changed_.notify_all();
  return !gone;
}

/// False if nothing came in time, or the peer is `gone`. Once something came it waits for the rest; `patient` waits for
/// the first byte too.
bool Comm::read(void* data, std::size_t bytes, bool patient, const Patience& patience, bool& gone) {
  const auto spin_end = Clock::now() + kSpin;
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t count = ::recv(peer_.socket.get(), static_cast<char*>(data) + done, bytes - done, MSG_DONTWAIT);
    if (count > 0) {
      done += static_cast<std::size_t>(count);
      continue;
    }
    if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
      gone = true;
      return false;
    }
    if (Clock::now() < spin_end) {
      ::sched_yield();
      continue;
    }
    struct ::pollfd waiting{peer_.socket.get(), POLLIN, 0};
    const bool quiet = ::poll(&waiting, 1, kLookMs) <= 0;
    if (quiet && done == 0 && !patient) return false;
    if (quiet && interruption(patience) != kHcclSuccess) return false;
  }
  return true;
}

bool Comm::tell(const Word& word, const std::vector<char>& data) {
  const auto write = [this](const char* from, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t count = ::send(peer_.socket.get(), from, bytes, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      from += count;
      bytes -= static_cast<std::size_t>(count);
    }
    return true;
  };
  const std::lock_guard<std::mutex> lock(write_mutex_);
  return write(reinterpret_cast<const char*>(&word), sizeof word) && write(data.data(), data.size());
}

/// Sends bytes of what was offered. They are taken under the mutex: when the offer ends, their owner may free them.
void Comm::serve(const Word& pull) {
  Word word{};
  word.kind = Word::Kind::kData;
  word.number = pull.number;
  std::vector<char> data;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = offered_.find(pull.number);
    if (found == offered_.end() || pull.address > found->second.bytes ||
        pull.bytes > found->second.bytes - pull.address)
      return;
    const char* const from = found->second.data + pull.address;
    data.assign(from, from + pull.bytes);
  }
  word.bytes = data.size();
  tell(word, data);
}

}  // namespace yr_fastload::sim
