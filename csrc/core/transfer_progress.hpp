#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/backing.hpp"
#include "core/crew.hpp"
#include "core/digest.hpp"
#include "core/mapped_files.hpp"
#include "core/transfer_options.hpp"

namespace yr_fastload {

/// How far the threads of one transfer have come. They copy and digest through it, in slices, so that it is up to date
/// and a cancelled transfer ends at once. Thread-safe.
class TransferProgress {
 public:
  TransferProgress(const CancelFlag& cancelled, const TransferOptions& options, std::uint64_t total_bytes)
      : cancelled_(cancelled), options_(options), total_bytes_(total_bytes) {}

  /// Copies a blob, with its digest if there is a fold. False if the transfer was cancelled on the way.
  bool copy(std::byte* destination, const std::byte* source, std::uint64_t bytes, DigestFold* fold);

  /// The same for bytes of a file, whose digest is of what was read.
  bool read(MappedFileReader& reader, const MappedFile& file, std::byte* destination, const std::byte* source,
            std::uint64_t bytes, DigestFold* fold);

  /// The digest alone.
  bool digest(const std::byte* source, std::uint64_t bytes, DigestFold& fold);

  /// For copies that do not go through it: where they go, and what came there.
  Backing backing(std::byte* destination, std::uint64_t bytes) noexcept { return {destination, bytes, huge_pages_}; }
  void add(std::uint64_t bytes) noexcept { bytes_.fetch_add(bytes, std::memory_order_relaxed); }

  bool cancelled() const noexcept { return cancelled_.raised(); }

  /// Waits for the transfer's threads. Throws what one of them threw, and kTransferTimeout at the deadline.
  void wait(Crew& crew, const char* op) const;

 private:
  template <typename Work>
  bool slices(std::uint64_t bytes, DigestFold* fold, const Work& work);

  const CancelFlag& cancelled_;
  const TransferOptions& options_;
  const std::uint64_t total_bytes_;
  std::atomic<std::uint64_t> bytes_{0};
  Backing::HugePages huge_pages_{true};
};

}  // namespace yr_fastload
