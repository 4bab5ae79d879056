#pragma once

#include <cstddef>
#include <cstdint>

#include "core/digest.hpp"
#include "core/plan.hpp"

namespace yr_fastload {

/// The digest of a chunk whose blobs come in runs, each blob from front to back.
class RunDigest {
 public:
  explicit RunDigest(DigestKind kind) noexcept : kind_(kind), blob_(kind) {}

  /// Adds a run, `offset` bytes from its blob's start. `update` adds its bytes to the digest that it is given.
  template <typename Update>
  void add(const Blob& blob, std::uint64_t offset, std::size_t bytes, const Update& update) {
    if (offset == 0) blob_ = Digest(kind_);
    update(blob_);
    if (offset + bytes == blob.bytes) fold_.add(blob_.value());
  }

  std::uint64_t value() const noexcept { return fold_.value(); }

 private:
  const DigestKind kind_;
  Digest blob_;
  DigestFold fold_;
};

}  // namespace yr_fastload
