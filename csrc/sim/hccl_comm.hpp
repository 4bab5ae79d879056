#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/stream.hpp"

namespace yr_fastload::sim {

/// What is to be moved by one send or receive.
struct Transfer {
  void* data = nullptr;
  std::uint64_t bytes = 0;
  std::int32_t type = 0;
};

/// The way between two ranks: a Unix socket for words, and the peer's memory for bytes.
///
/// Sends and receives are matched in the order in which they were called on each side, whatever streams they run in: as
/// HCCL does, and as it must be where two streams use one comm. A sender describes its memory in a word, the receiver
/// copies it with process_vm_readv, the nearest thing to a device's DMA, and answers; then both are done.
class Comm {
 public:
  Comm(int socket, int peer, int rank);
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;
  ~Comm();

  int rank() const { return rank_; }
  std::uint64_t next_send() { return ++sends_; }
  std::uint64_t next_recv() { return ++recvs_; }

  /// Tells the peer of a send. Once; cheap.
  void announce(std::uint64_t number, const Transfer& transfer);
  /// These run in a stream and return a HcclResult.
  int send(std::uint64_t number, const Transfer& transfer, const Stream& stream);
  int receive(std::uint64_t number, const Transfer& transfer, const Stream& stream);

  /// Ends all transfers with an error.
  void close();
  int async_error() const;

 private:
  enum class Word : std::uint32_t { kSend = 1, kDone = 2 };
  struct Message {
    Word word;
    std::int32_t status;
    std::uint64_t number;
    std::uint64_t address;
    std::uint64_t bytes;
    std::int32_t type;
    std::int32_t reserved;
    double gbps;
  };

  int wait(const std::function<bool()>& ready, const Stream& stream);
  bool look(std::unique_lock<std::mutex>& lock);
  bool tell(const Message& message);
  int fail(int error);
  int pull(const Message& offer, const Transfer& transfer, const Stream& stream);

  const int socket_;
  const int peer_;
  const int rank_;
  std::uint64_t sends_ = 0;  // both guarded by the caller's order of calls
  std::uint64_t recvs_ = 0;

  std::mutex write_mutex_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t announced_ = 0;
  std::map<std::uint64_t, Message> offers_;
  std::map<std::uint64_t, std::int32_t> answers_;
  bool looking_ = false;
  bool closed_ = false;
  int error_ = 0;
};

}  // namespace yr_fastload::sim
