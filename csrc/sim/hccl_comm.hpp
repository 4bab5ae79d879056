#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "engine/stream.hpp"
#include "hccl_rendezvous.hpp"

namespace yr_fastload::sim {

/// Why a wait in a comm ends early, besides the comm's own end.
struct Patience {
  const Stream* stream;
  std::chrono::steady_clock::time_point end;
};

/// What one end says to the other: a word, and behind `kData` its bytes.
struct Word {
  enum class Kind : std::uint32_t {
    kOffer = 1,  ///< A send: where its bytes are.
    kAnswer,     ///< A receive is done, or failed.
    kPull,       ///< A receive asks for bytes, because it may not read the sender's memory.
    kData,
  };
  Kind kind;
  std::int32_t type;     ///< kOffer: HcclDataType
  std::uint64_t number;  ///< Of the send, from 1.
  std::uint64_t address;
  std::uint64_t bytes;
  std::int32_t status;  ///< kAnswer: HcclResult
  std::int32_t reserved;
  double gbps;  ///< kOffer: limit of the sender's link, 0 for none
};

/// A communicator of two ranks: a Unix socket for words, and the peer's memory for bytes.
///
/// Sends and receives are matched in the order in which they were called on each side, whatever streams they run in. A
/// sender offers its memory, the receiver copies it with process_vm_readv, the nearest thing to a device's DMA, and
/// answers; then both are done. After a transfer has failed, or was dropped, the two ends can no longer agree on the
/// order: so the comm fails as a whole, at both ends.
class Comm {
 public:
  Comm(Peer peer, int rank);
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;
  ~Comm();

  int rank() const { return rank_; }
  int peer_pid() const { return peer_.pid; }

  /// Numbers a send or receive and runs `push` with it: in one stream the order of numbers is that of tasks.
  int issue(bool sends, const std::function<int(std::uint64_t)>& push);

  /// Offers bytes; they have to stay until the answer, or until the comm has failed.
  void offer(std::uint64_t number, const void* data, std::uint64_t bytes, std::int32_t type);
  void answer(std::uint64_t number, int status);

  // These wait, and return a HcclResult.
  int wait_answer(std::uint64_t number, const Patience& patience);
  int wait_offer(std::uint64_t number, const Patience& patience, Word& offer);
  /// Copies what was offered.
  int fetch(const Word& offer, void* destination, const Patience& patience);

  /// Ends everything at both ends. The first error stays; returns `error`.
  int fail(int error);
  int error() const { return error_; }

  /// Fails, and waits until no transfer touches memory any more.
  void close();

  /// A transfer that runs.
  class Running {
   public:
    explicit Running(Comm& comm) : comm_(comm) { ++comm_.running_; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running() { --comm_.running_; }

   private:
    Comm& comm_;
  };

 private:
  struct Bytes {
    const char* data;
    std::uint64_t bytes;
  };

  int wait(const std::function<bool()>& ready, const Patience& patience);
  bool look(std::unique_lock<std::mutex>& lock, const Patience& patience);
  bool read(void* data, std::size_t bytes, bool patient, const Patience& patience, bool& gone);
  bool tell(const Word& word, const std::vector<char>& data = {});
  void serve(const Word& pull);
  int fetch_slice(const Word& offer, std::uint64_t offset, std::uint64_t bytes, char* destination,
                  const Patience& patience, std::uint64_t& done);
  int fetch_by_words(const Word& offer, std::uint64_t offset, std::uint64_t bytes, char* destination,
                     const Patience& patience, std::uint64_t& done);
  std::chrono::steady_clock::time_point reserve(std::uint64_t bytes, double gbps);
  int sleep_until(std::chrono::steady_clock::time_point due, const Patience& patience);
  int interruption(const Patience& patience) const;

  const Peer peer_;
  const int rank_;
  std::mutex issue_mutex_;
  std::uint64_t sends_ = 0;
  std::uint64_t recvs_ = 0;

  std::atomic<int> error_{0};
  std::atomic<int> running_{0};
  std::atomic<bool> reads_memory_;

  std::mutex write_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Bytes> offered_;
  std::map<std::uint64_t, std::int32_t> answers_;
  std::map<std::uint64_t, Word> offers_;
  std::map<std::uint64_t, std::vector<char>> data_;
  bool looking_ = false;
  std::chrono::steady_clock::time_point link_free_at_{};
};

}  // namespace yr_fastload::sim
