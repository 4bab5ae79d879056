#include "core/digest_chunks.hpp"

#include <atomic>
#include <cstddef>
#include <optional>
#include <utility>

#include "core/copy_threads.hpp"
#include "core/crew.hpp"
#include "core/device_copies.hpp"
#include "core/digest.hpp"
#include "core/row_digester.hpp"
#include "core/run_digest.hpp"
#include "core/slots.hpp"
#include "core/transfer_progress.hpp"

namespace yr_fastload {
namespace {

class ChunkDigests {
 public:
  ChunkDigests(Device& device, PinnedPool& pool, const Plan& plan, Span<const std::uint64_t> addresses,
               Span<const std::uint64_t> chunks, const TransferOptions& options)
      : device_(device),
        pool_(pool),
        plan_(plan),
        addresses_(addresses),
        chunks_(chunks),
        options_(options),
        digests_(chunks.size()) {}

  std::vector<std::uint64_t> run() {
    const unsigned threads = reading_threads(device_, pool_, options_, chunks_.size());
    if (device_.takes_digests())
      crew_.start([this] { take_on_device(); });
    else
      for (unsigned i = 0; i < threads; ++i) crew_.start([this] { take_all(); });
    progress_.wait(crew_, "digest");
    return std::move(digests_);
  }

 private:
  /// By a device that takes digests itself.
  void take_on_device() {
    device_.bind_thread();
    DeviceCopies copies(device_, pool_, DeviceCopies::Digests::kTaken, options_.deadline);
    std::size_t taken = 0;
    const auto take = [&] {
      progress_.add(plan_.chunk_bytes[chunks_[taken]]);
      digests_[taken++] = *copies.take();
    };
    std::vector<Copy> runs;
    for (const std::uint64_t chunk : chunks_) {
      runs.clear();
      for (const Blob& blob : plan_.chunk(chunk))
        runs.push_back({nullptr, blob.in(addresses_), static_cast<std::size_t>(blob.bytes)});
      copies.begin(runs);
      while (copies.busy() && copies.under_way() > 0) take();
      if (cancelled_.raised()) return;
    }
    while (copies.under_way() > 0) take();
  }

  void take_all() {
    std::optional<Downloader> downloader;
    if (!device_.cpu_accessible()) {
      device_.bind_thread();
      if (take_by_rows()) return;
      downloader.emplace(device_, pool_, options_.deadline);
    }
    for (std::size_t index; (index = next_.fetch_add(1)) < chunks_.size();) {
      const auto digest = downloader ? downloaded(chunks_[index], *downloader) : here(chunks_[index]);
      if (!digest) return;
      digests_[index] = *digest;
    }
  }

  /// Those of all that is left, by a device that multiplies; false if it cannot, and nothing was taken.
  bool take_by_rows() {
    if (options_.digest != DigestKind::kMatrix) return false;
    RowDigester digester(device_, pool_, options_.deadline,
                         [this](std::size_t index, std::uint64_t digest, std::uint64_t bytes) {
                           digests_[index] = digest;
                           progress_.add(bytes);
                         });
    if (!digester.works()) return false;
    for (std::size_t index; !cancelled_.raised() && (index = next_.fetch_add(1)) < chunks_.size();) {
      for (const Blob& blob : plan_.chunk(chunks_[index])) digester.add(blob.in(addresses_), blob.bytes);
      digester.end_chunk(index);
    }
    digester.finish();
    return true;
  }

  /// Nullopt if the transfer was cancelled.
  std::optional<std::uint64_t> here(std::uint64_t chunk) {
    DigestFold fold;
    for (const Blob& blob : plan_.chunk(chunk))
      if (!progress_.digest(blob.in(addresses_), blob.bytes, fold)) return std::nullopt;
    return fold.value();
  }

  std::optional<std::uint64_t> downloaded(std::uint64_t chunk, Downloader& downloader) {
    RunDigest digest(options_.digest);
    const auto take = [&](const Blob& blob, std::uint64_t offset, const std::byte* data, std::size_t bytes) {
      digest.add(blob, offset, bytes, [&](Digest& of_blob) { of_blob.update(data, bytes); });
      progress_.add(bytes);
      return !cancelled_.raised();
    };
    if (!downloader.read(plan_.chunk(chunk), addresses_, take)) return std::nullopt;
    return digest.value();
  }

  Device& device_;
  PinnedPool& pool_;
  const Plan& plan_;
  const Span<const std::uint64_t> addresses_;
  const Span<const std::uint64_t> chunks_;
  const TransferOptions& options_;

  std::vector<std::uint64_t> digests_;  ///< In the order of `chunks_`.
  std::atomic<std::size_t> next_{0};
  CancelFlag cancelled_;
  TransferProgress progress_{cancelled_, options_, plan_.total_bytes};
  Crew crew_{cancelled_};  // last: its destructor joins the threads that use all of the above
};

}  // namespace

std::vector<std::uint64_t> digest_chunks(Device& device, PinnedPool& pool, const Plan& plan,
                                         Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                                         const TransferOptions& options) {
  return ChunkDigests(device, pool, plan, addresses, chunks, options).run();
}

}  // namespace yr_fastload
