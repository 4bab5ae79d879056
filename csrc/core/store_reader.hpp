#pragma once

#include <memory>
#include <string>

#include "core/chunk_reader.hpp"

namespace yr_fastload {

/// Reads chunks that are objects of a store.
class StoreReader final : public ChunkReader {
 public:
  /// `key_prefix` + number is the key of a chunk. The first call to the store requests `first_batch` chunks, later ones
  /// `batch`.
  StoreReader(std::shared_ptr<ObjectStore> store, std::string key_prefix, std::size_t first_batch, std::size_t batch);

  const char* transport() const noexcept override { return store_->transport(); }
  void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
            Deadline deadline) override;

 private:
  const std::shared_ptr<ObjectStore> store_;
  const std::string key_prefix_;
  const std::size_t first_batch_;
  const std::size_t batch_;
};

}  // namespace yr_fastload
