#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/chunk_reader.hpp"

namespace yr_fastload {

/// Reads chunks that are objects of a store, which may have to get them from other hosts first.
///
/// A call that fails is made again, with fewer chunks, more time and after a pause, as long as the store itself answers
/// and the deadline has not passed; what has come meanwhile is not asked for again. A chunk fails only if the store
/// says that it has no such object.
class StoreReader final : public ChunkReader {
 public:
  /// `key_prefix` + number is the key of a chunk. The first call to the store requests `first_batch` chunks, later ones
  /// at most `batch`.
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
