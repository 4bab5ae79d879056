#include "core/store_reader.hpp"

#include <algorithm>
#include <utility>

namespace yr_fastload {

StoreReader::StoreReader(std::shared_ptr<ObjectStore> store, std::string key_prefix, std::size_t first_batch,
                         std::size_t batch)
    : store_(std::move(store)),
      key_prefix_(std::move(key_prefix)),
      first_batch_(std::max<std::size_t>(1, std::min(first_batch, batch))),
      batch_(std::max<std::size_t>(1, batch)) {}

void StoreReader::read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
                       Deadline deadline) {
  for (std::size_t first = 0; first < chunks.size() && !cancelled.raised();) {
    // The first batch is small, so that copying starts at once; later ones are large, because a call to the store waits
    // for a core while all of them copy.
    const std::size_t count = std::min(first == 0 ? first_batch_ : batch_, chunks.size() - first);
    Keys keys;
    for (std::size_t i = 0; i < count; ++i) keys.push_back(chunk_key(key_prefix_, chunks[first + i]));
    auto views = store_->fetch(keys, deadline);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t chunk = chunks[first + i];
      const bool there = views[i] != nullptr;
      if (!deliver(
              {chunk, std::move(views[i]), ErrorCode::kPartialTransfer, there ? "" : "is not in the store any more"}))
        return;
    }
    first += count;
  }
}

}  // namespace yr_fastload
