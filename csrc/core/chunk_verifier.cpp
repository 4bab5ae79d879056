#include "core/chunk_verifier.hpp"

#include <algorithm>
#include <utility>

namespace yr_fastload {

ChunkVerifier::ChunkVerifier(const Plan& plan, Span<const std::uint64_t> digests, const TransferOptions& options)
    : plan_(plan), digests_(digests), options_(options) {
  result_.verified = options.verify;
}

bool ChunkVerifier::matches(std::uint64_t chunk, std::uint64_t digest) {
  if (!options_.verify || digest == digests_[chunk]) return true;
  fail(chunk, ErrorCode::kIntegrity, "does not match its digest");
  return false;
}

void ChunkVerifier::accept(std::uint64_t chunk, std::uint64_t digest) {
  if (matches(chunk, digest)) arrived(chunk);
}

void ChunkVerifier::arrived(std::uint64_t chunk) {
  std::uint64_t bytes = 0;
  for (const Blob& blob : plan_.chunk(chunk)) bytes += blob.bytes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    result_.bytes += bytes;
  }
  if (options_.arrived) options_.arrived(chunk);
}

void ChunkVerifier::fail(std::uint64_t chunk, ErrorCode code, std::string detail) {
  const std::lock_guard<std::mutex> lock(mutex_);
  result_.failures.push_back({chunk, code, std::move(detail)});
}

void ChunkVerifier::not_verified() {
  const std::lock_guard<std::mutex> lock(mutex_);
  result_.verified = false;
}

void ChunkVerifier::note(Stage stage, std::uint64_t chunk, unsigned thread, const Stopwatch& watch) {
  const double seconds = watch.seconds();
  const std::lock_guard<std::mutex> lock(mutex_);
  result_.spans.push_back({stage, chunk, thread, watch.start(), seconds});
}

LoadResult ChunkVerifier::take_result() {
  std::sort(result_.failures.begin(), result_.failures.end(),
            [](const ChunkFailure& a, const ChunkFailure& b) { return a.chunk < b.chunk; });
  return std::move(result_);
}

}  // namespace yr_fastload
