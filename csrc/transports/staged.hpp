#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transports/hetero_receiver.hpp"

namespace yr_fastload {

/// Largest chunk of a staged publication. openYuanrong moves bytes between device and worker through a pool of 100 MiB:
/// keys of 64 MiB did not fit into it, 64 keys of 8 MiB in one call did (measured, 0.8.1).
inline constexpr std::uint64_t kStagedChunkBytes = std::uint64_t{8} << 20;

/// Copies all chunks of a plan from the device into objects of the worker's host memory, which live on without this
/// process. Throws what `ObjectStore::reserve` throws; when it throws, the caller erases `chunk_keys(key_prefix)`.
void publish_staged(HeteroReceiver& connection, std::shared_ptr<const Plan> plan, TensorMemory memory,
                    const std::string& key_prefix, std::uint32_t ttl_s, Deadline deadline);

/// Reads chunks that `publish_staged` wrote, into device memory.
class StagedReader final : public ChunkReader {
 public:
  StagedReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan, std::string key_prefix,
               std::size_t chunks_ahead);

  const char* transport() const noexcept override { return "staged"; }
  void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
            Deadline deadline) override;

 private:
  class Pull;

  const std::shared_ptr<HeteroReceiver> receiver_;
  const std::shared_ptr<const Plan> plan_;
  const std::string key_prefix_;
  const std::size_t chunks_ahead_;
};

}  // namespace yr_fastload
