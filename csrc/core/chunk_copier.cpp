#include "core/chunk_copier.hpp"

#include "core/digest.hpp"
#include "core/error.hpp"

namespace yr_fastload {

bool ChunkCopier::copy(const FetchedChunk& item) {
  const Place place = item.view->place();
  if (target_.uploads() && place == Place::kHost) return upload(item);
  if (target_.stages(place)) return copy_staged(item);
  if (!target_.device.cpu_accessible()) return copy_on_device(item);
  return place == Place::kTensors ? digest_in_place(item) : copy_here(item);
}

void ChunkCopier::drain() {
  if (uploader_) uploader_->drain();
}

/// Starts the next chunk while the device copies this one; arrival is reported once the copy is done.
bool ChunkCopier::upload(const FetchedChunk& item) {
  const TransferOptions& options = target_.options;
  if (!uploader_) uploader_.emplace(target_.device, target_.pool, options.deadline, options.digest);
  DigestFold fold;
  const std::byte* source = item.view->bytes().data();
  const auto step = [this](std::uint64_t bytes) {
    progress_.add(bytes);
    return !progress_.cancelled();
  };
  for (const Blob& blob : target_.plan.chunk(item.chunk))
    if (!uploader_->copy(tensor(blob), source + blob.chunk_offset, blob.bytes, options.verify ? &fold : nullptr, step))
      return false;
  uploader_->flush();
  if (options.arrived) uploader_->drain();
  if (!target_.device.copies_are_checked()) verifier_.not_verified();
  verifier_.accept(item.chunk, fold.value());
  return true;
}

bool ChunkCopier::copy_staged(const FetchedChunk& item) {
  const PinnedPool::Lease staging = target_.pool.lease(target_.plan.chunk_bytes[item.chunk], target_.options.deadline);
  const bool landed = item.view->place() == Place::kDevice && !target_.device.cpu_accessible();
  const auto digest = landed ? download(item, staging.data()) : copy_blobs(item, staging.data());
  if (!digest) return false;
  if (!verifier_.matches(item.chunk, *digest)) return true;
  for (const Blob& blob : target_.plan.chunk(item.chunk))
    stream_->copy(Direction::kToDevice, {tensor(blob), staging.data() + blob.chunk_offset, blob.bytes});
  stream_->synchronize(target_.options.deadline);
  if (arrived_unharmed(item.chunk)) verifier_.arrived(item.chunk);
  return true;
}

/// Brings a chunk from the device's memory to `staging`; its digest, or nullopt if the load was cancelled.
std::optional<std::uint64_t> ChunkCopier::download(const FetchedChunk& item, std::byte* staging) {
  const Span<const std::byte> landed = item.view->bytes();
  stream_->copy(Direction::kToHost, {staging, landed.data(), landed.size()});
  stream_->synchronize(target_.options.deadline);
  DigestFold fold;
  for (const Blob& blob : target_.plan.chunk(item.chunk))
    if (target_.options.verify && !progress_.digest(staging + blob.chunk_offset, blob.bytes, fold)) return std::nullopt;
  if (!target_.options.verify) progress_.add(target_.plan.chunk_bytes[item.chunk]);
  return fold.value();
}

/// Verifies the tensors rather than the staging memory: the device's copy can go wrong too.
bool ChunkCopier::arrived_unharmed(std::uint64_t chunk) {
  if (!target_.options.verify || target_.device.copies_are_checked()) return true;
  if (!target_.device.cpu_accessible()) {  // whoever asked for it has to look, on the device
    verifier_.not_verified();
    return true;
  }
  DigestFold fold;
  for (const Blob& blob : target_.plan.chunk(chunk)) {
    Digest digest(target_.options.digest);
    digest.update(tensor(blob), blob.bytes);
    fold.add(digest.value());
  }
  if (fold.value() == verifier_.wanted(chunk)) return true;
  verifier_.fail(chunk, ErrorCode::kIntegrity, "was damaged between staging memory and its tensors");
  return false;
}

/// The CPU cannot see these bytes: they are verified here only if their digest was taken on the way.
bool ChunkCopier::copy_on_device(const FetchedChunk& item) {
  if (item.view->place() == Place::kDevice) {
    const std::byte* source = item.view->bytes().data();
    for (const Blob& blob : target_.plan.chunk(item.chunk))
      stream_->copy(Direction::kOnDevice, {tensor(blob), source + blob.chunk_offset, blob.bytes});
    stream_->synchronize(target_.options.deadline);
  }
  progress_.add(target_.plan.chunk_bytes[item.chunk]);
  if (const auto digest = item.view->digest()) {
    verifier_.accept(item.chunk, *digest);
  } else {
    verifier_.not_verified();
    verifier_.arrived(item.chunk);
  }
  return !progress_.cancelled();
}

bool ChunkCopier::copy_here(const FetchedChunk& item) {
  const auto digest = copy_blobs(item, nullptr);
  if (digest) verifier_.accept(item.chunk, *digest);
  return digest.has_value();
}

bool ChunkCopier::digest_in_place(const FetchedChunk& item) {
  DigestFold fold;
  for (const Blob& blob : target_.plan.chunk(item.chunk)) {
    if (!target_.options.verify)
      progress_.add(blob.bytes);
    else if (!progress_.digest(tensor(blob), blob.bytes, fold))
      return false;
  }
  verifier_.accept(item.chunk, fold.value());
  return true;
}

/// To `staging`, or to the tensors if that is null; the digest, or nullopt if the load was cancelled.
std::optional<std::uint64_t> ChunkCopier::copy_blobs(const FetchedChunk& item, std::byte* staging) {
  DigestFold fold;
  const std::byte* source = item.view->bytes().data();
  for (const Blob& blob : target_.plan.chunk(item.chunk)) {
    std::byte* const to = staging != nullptr ? staging + blob.chunk_offset : tensor(blob);
    if (!progress_.copy(to, source + blob.chunk_offset, blob.bytes, target_.options.verify ? &fold : nullptr))
      return std::nullopt;
  }
  return fold.value();
}

}  // namespace yr_fastload
