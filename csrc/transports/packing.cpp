#include "transports/packing.hpp"

#include <cstring>

namespace yr_fastload {

bool travels_packed(const Plan& plan, std::uint64_t chunk) {
  const Span<const Blob> blobs = plan.chunk(chunk);
  std::uint64_t bytes = 0;
  for (const Blob& blob : blobs) bytes += blob.bytes;
  return blobs.size() > 1 && bytes / blobs.size() <= kSmallTensorBytes;
}

std::shared_ptr<Memory> pack(const Plan& plan, std::uint64_t chunk, const TensorMemory& tensors, Device& device,
                             Deadline deadline) {
  std::shared_ptr<Memory> packed = device.allocate(plan.chunk_bytes[chunk], deadline);
  const std::unique_ptr<Stream> stream = device.cpu_accessible() ? nullptr : device.make_stream();
  std::uint64_t end = 0;
  for (const Blob& blob : plan.chunk(chunk)) {
    std::byte* const destination = packed->data() + blob.chunk_offset;
    const auto* const source = reinterpret_cast<const std::byte*>(tensors.addresses[blob.tensor] + blob.tensor_offset);
    if (stream) {
      stream->copy(Direction::kOnDevice, {destination, source, blob.bytes});
    } else {
      std::memset(packed->data() + end, 0, blob.chunk_offset - end);  // alignment: no stranger's bytes
      std::memcpy(destination, source, blob.bytes);
    }
    end = blob.chunk_offset + blob.bytes;
  }
  if (stream) stream->synchronize(deadline);
  return packed;
}

BlobList tensor_blobs(const Plan& plan, std::uint64_t chunk, const TensorMemory& tensors, int device) {
  BlobList list;
  list.deviceIdx = device;
  for (const Blob& blob : plan.chunk(chunk))
    list.blobs.push_back({reinterpret_cast<void*>(tensors.addresses[blob.tensor] + blob.tensor_offset), blob.bytes});
  return list;
}

BlobList one_blob(std::byte* data, std::uint64_t bytes, int device) {
  BlobList list;
  list.deviceIdx = device;
  list.blobs.push_back({data, bytes});
  return list;
}

}  // namespace yr_fastload
