// The receiving half of a transfer: bytes from the peer's memory, at the pace of the link.
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "engine/codes.hpp"
#include "engine/faults.hpp"
#include "hccl_comm.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
/// Who interrupts a transfer waits for one slice at most.
constexpr std::uint64_t kSliceBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kPacedSliceBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kLeastSliceBytes = 4096;
constexpr double kPacedSliceSeconds = 0.01;
constexpr std::chrono::milliseconds kSleepSlice{5};
/// What the socket's buffer holds, so that who serves it never waits.
constexpr std::uint64_t kPullBytes = 64 << 10;
constexpr double kBitsOfGigabit = 1e9;

}  // namespace

int Comm::fetch(const Word& offer, void* destination, const Patience& patience) {
  for (std::uint64_t done = 0; done < offer.bytes;) {
    const int interrupted = interruption(patience);
    if (interrupted != kHcclSuccess) return interrupted;
    double gbps = link_gbps();
    if (offer.gbps > 0) gbps = gbps > 0 ? std::min(gbps, offer.gbps) : offer.gbps;
    std::uint64_t slice = std::min(offer.bytes - done, reads_memory_ ? kSliceBytes : kPullBytes);
    if (gbps > 0) {
      const double paced = gbps * kBitsOfGigabit / 8 * kPacedSliceSeconds;
      const auto bytes = paced < kPacedSliceBytes ? static_cast<std::uint64_t>(paced) : kPacedSliceBytes;
      slice = std::min(slice, std::max(bytes, kLeastSliceBytes));
    }
    const auto due = reserve(slice, gbps);
    std::uint64_t copied = 0;
    int result = fetch_slice(offer, done, slice, static_cast<char*>(destination) + done, patience, copied);
    if (result == kHcclSuccess && gbps > 0) result = sleep_until(due, patience);
    if (result != kHcclSuccess) return result;
    done += copied;
  }
  return kHcclSuccess;
}

/// When the link is through with these bytes; it begins with them when it is through with those before.
Clock::time_point Comm::reserve(std::uint64_t bytes, double gbps) {
  if (gbps <= 0) return {};
  const std::chrono::duration<double> takes(static_cast<double>(bytes) * 8 / (gbps * kBitsOfGigabit));
  const std::lock_guard<std::mutex> lock(mutex_);
  link_free_at_ = std::max(link_free_at_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(takes);
  return link_free_at_;
}

int Comm::sleep_until(Clock::time_point due, const Patience& patience) {
  while (Clock::now() < due) {
    const int interrupted = interruption(patience);
    if (interrupted != kHcclSuccess) return interrupted;
    std::this_thread::sleep_until(std::min(due, Clock::now() + kSleepSlice));
  }
  return kHcclSuccess;
}

int Comm::fetch_slice(const Word& offer, std::uint64_t offset, std::uint64_t bytes, char* destination,
                      const Patience& patience, std::uint64_t& done) {
  if (!reads_memory_) return fetch_by_words(offer, offset, bytes, destination, patience, done);
  struct ::iovec here{destination, bytes};
  struct ::iovec there{reinterpret_cast<char*>(offer.address) + offset, bytes};
  const ssize_t count = ::process_vm_readv(peer_.pid, &here, 1, &there, 1, 0);
  if (count > 0) {
    done = static_cast<std::uint64_t>(count);
    return kHcclSuccess;
  }
  // A sandbox, or Yama's ptrace_scope above 1, keeps the two processes apart.
  if (count < 0 && (errno == EPERM || errno == ENOSYS)) {
    reads_memory_ = false;
    return fetch_by_words(offer, offset, bytes, destination, patience, done);
  }
  return count < 0 && errno == ESRCH ? kHcclRemote : kHcclInternal;
}

int Comm::fetch_by_words(const Word& offer, std::uint64_t offset, std::uint64_t bytes, char* destination,
                         const Patience& patience, std::uint64_t& done) {
  Word pull{};
  pull.kind = Word::Kind::kPull;
  pull.number = offer.number;
  pull.address = offset;
  pull.bytes = std::min(bytes, kPullBytes);
  if (!tell(pull)) return kHcclRemote;
  const int result = wait([&] { return data_.count(offer.number) > 0; }, patience);
  if (result != kHcclSuccess) return result;
  std::vector<char> data;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    data = std::move(data_[offer.number]);
    data_.erase(offer.number);
  }
  if (data.size() != pull.bytes) return kHcclRemote;
  std::memcpy(destination, data.data(), data.size());
  done = data.size();
  return kHcclSuccess;
}

}  // namespace yr_fastload::sim
