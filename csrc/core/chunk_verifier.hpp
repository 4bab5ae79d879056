#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "core/deadline.hpp"
#include "core/load_result.hpp"
#include "core/plan.hpp"
#include "core/span.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// Compares the digest of each chunk of a load with what it should be, and keeps what became of it. Thread-safe.
class ChunkVerifier {
 public:
  ChunkVerifier(const Plan& plan, Span<const std::uint64_t> digests, const TransferOptions& options);

  /// Whether this is the digest of the chunk, or nobody wants to know; if not, the chunk has failed.
  bool matches(std::uint64_t chunk, std::uint64_t digest);
  /// The same of a chunk in its tensors: it has arrived then.
  void accept(std::uint64_t chunk, std::uint64_t digest);
  /// That of a chunk, whatever `verify` says.
  std::uint64_t wanted(std::uint64_t chunk) const noexcept { return digests_[chunk]; }

  void arrived(std::uint64_t chunk);
  void fail(std::uint64_t chunk, ErrorCode code, std::string detail);
  /// Some chunk arrived that nobody here could compare.
  void not_verified();
  /// What a thread did until now, since `watch` was created.
  void note(Stage stage, std::uint64_t chunk, unsigned thread, const Stopwatch& watch);

  /// Once all threads have ended.
  LoadResult take_result();

 private:
  const Plan& plan_;
  const Span<const std::uint64_t> digests_;
  const TransferOptions& options_;
  std::mutex mutex_;
  LoadResult result_;
};

}  // namespace yr_fastload
