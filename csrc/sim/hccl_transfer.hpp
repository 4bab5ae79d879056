#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "engine/faults.hpp"
#include "engine/memory.hpp"
#include "engine/stream.hpp"
#include "hccl_comm.hpp"

namespace yr_fastload::sim {

/// One send or receive, from the call until it is done. One that ends otherwise, dropped with its stream for example,
/// fails its comm.
class Transfer {
 public:
  Transfer(std::shared_ptr<Comm> comm, std::uint64_t number, void* data, std::uint64_t bytes, std::int32_t type);
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer();

  // Tasks of a stream; they return an aclError.
  int send(const Stream& stream);
  int receive(const Stream& stream);

  /// Offers a send to the peer before its turn, unless something is to go wrong with it.
  bool announce();

 private:
  int run_send(const Patience& patience);
  int run_receive(const Patience& patience);
  int finish(int result);
  void sit_out_fault(const Patience& patience) const;
  bool offer();

  const std::shared_ptr<Comm> comm_;
  const std::uint64_t number_;
  void* const data_;
  const std::uint64_t bytes_;
  const std::int32_t type_;
  // Of a send; the stream's mutex orders `announce` before `send`.
  std::optional<Hit> hit_;
  std::optional<MemoryInUse> memory_;
  bool done_ = false;
};

}  // namespace yr_fastload::sim
