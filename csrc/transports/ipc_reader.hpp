#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/chunk_reader.hpp"
#include "core/device.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"

namespace yr_fastload {

/// Where the tensors of a plan lie in the memory of another process of this machine: what that process says.
struct RemoteTensors {
  std::string process;  ///< For messages: host and process.
  std::vector<SharedAllocation> allocations;
  std::vector<std::uint64_t> addresses;  ///< Of each tensor, there; 0 if it owns no bytes.
};

/// Reads chunks from the device memory of another process, by opening it: the device copies straight into the tensors,
/// and takes the digests on the way if it can and is asked to.
///
/// Nothing writes to the tensors once `read` has returned, unless the device hangs. A process that dies meanwhile takes
/// its memory with it or not: what came is as good as its digest.
class IpcReader final : public ChunkReader {
 public:
  /// Throws kIntegrity if a tensor lies in none of the allocations.
  IpcReader(std::shared_ptr<Device> device, std::shared_ptr<PinnedPool> pool, std::shared_ptr<const Plan> plan,
            RemoteTensors there, std::vector<std::uint64_t> addresses, bool digests);

  /// Opens the memory. Throws kDevice if the process or its memory has gone, or the memory is not what it says;
  /// kTransferTimeout at the deadline.
  void open(Deadline deadline);

  const char* transport() const noexcept override { return "d2d"; }
  /// Once, after `open`; closes the memory.
  void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
            Deadline deadline) override;

  // After `read`:
  /// How many chunks came.
  std::uint64_t arrived() const noexcept { return arrived_; }
  /// Why the process was left; empty if it was not.
  const std::string& left_because() const noexcept { return left_because_; }

 private:
  struct Opened {
    std::uint64_t first;  ///< Address there.
    std::uint64_t end;
    std::size_t allocation;
    std::unique_ptr<Memory> memory;  ///< Null until `open`.
  };

  class Closing;

  void copy(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled, Deadline deadline);
  std::vector<Copy> runs(std::uint64_t chunk);
  Opened& holder(std::uint64_t address, std::uint64_t bytes);

  const std::shared_ptr<Device> device_;
  const std::shared_ptr<PinnedPool> pool_;
  const std::shared_ptr<const Plan> plan_;
  const RemoteTensors there_;
  const std::vector<std::uint64_t> addresses_;
  const bool digests_;

  std::vector<Opened> opened_;  ///< In the order of addresses.
  std::uint64_t arrived_ = 0;
  std::string left_because_;
};

}  // namespace yr_fastload
