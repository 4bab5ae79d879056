#include "core/publish_chunks.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "core/backing.hpp"
#include "core/channel.hpp"
#include "core/copy.hpp"
#include "core/copy_threads.hpp"
#include "core/crew.hpp"
#include "core/deadline.hpp"
#include "core/digest.hpp"
#include "core/mapped_files.hpp"
#include "core/peaks.hpp"
#include "core/run_digest.hpp"
#include "core/slots.hpp"
#include "core/transfer_progress.hpp"

namespace yr_fastload {
namespace {

constexpr std::size_t kReserveKeys = 1000;
constexpr double kCleanUpSeconds = 2.0;

/// Sums seconds of several threads.
class SharedSeconds {
 public:
  void add(const Stopwatch& watch) {
    const double seconds = watch.seconds();
    const std::lock_guard<std::mutex> lock(mutex_);
    total_ += seconds;
  }
  double total() const { return total_; }

 private:
  std::mutex mutex_;
  double total_ = 0;
};

class Publish {
 public:
  Publish(ObjectStore& store, Device& device, PinnedPool& pool, const Plan& plan, Span<const std::uint64_t> addresses,
          const std::string& key_prefix, std::uint32_t ttl_s, const TransferOptions& options)
      : store_(store),
        device_(device),
        pool_(pool),
        plan_(plan),
        addresses_(addresses),
        keys_(chunk_keys(key_prefix, plan.chunks())),
        first_(first_shared_chunk(plan)),
        ttl_s_(ttl_s),
        options_(options),
        filled_(std::max<std::size_t>(1, options.chunks_in_flight), &transfer_peaks().chunks_in_flight) {
    if (options_.verify) result_.digests.resize(plan_.chunks());
  }

  PublishResult run() {
    try {
      reserve_all();
      crew_.on_cancel([this] { filled_.close(); });
      crew_.start([this] { seal_all(); });
      const unsigned copiers = reading_threads(device_, pool_, options_, plan_.chunks());
      copying_ = copiers;
      for (unsigned i = 0; i < copiers; ++i) crew_.start([this] { fill_all(); });
      progress_.wait(crew_, "publish");
    } catch (...) {
      crew_.stop();
      take_back();
      throw;
    }
    result_.seconds.copy = copy_seconds_.total();
    result_.seconds.seal = seal_seconds_.total();
    return std::move(result_);
  }

 private:
  /// Called before the first byte is copied, so that a pool that is too small is reported at once.
  void reserve_all() {
    const Stopwatch watch;
    for (std::size_t first = 0; first < keys_.size(); first += kReserveKeys) {
      const std::size_t count = std::min(kReserveKeys, keys_.size() - first);
      const Keys keys(keys_.begin() + static_cast<std::ptrdiff_t>(first),
                      keys_.begin() + static_cast<std::ptrdiff_t>(first + count));
      auto drafts = store_.reserve(keys, {plan_.chunk_bytes.data() + first, count}, ttl_s_, options_.deadline);
      for (auto& draft : drafts) drafts_.push_back(std::move(draft));
    }
    result_.seconds.reserve = watch.seconds();
  }

  void fill_all() {
    std::optional<Downloader> downloader;
    MappedFileReader reader(options_.files);
    if (!device_.cpu_accessible()) {
      device_.bind_thread();
      downloader.emplace(device_, pool_, options_.deadline);
    }
    for (;;) {
      const std::uint64_t turn = next_.fetch_add(1);
      if (turn >= plan_.chunks()) break;
      const std::uint64_t chunk = (first_ + turn) % plan_.chunks();
      const Stopwatch watch;
      if (!(downloader ? download(chunk, *downloader) : fill(chunk, reader))) return;
      copy_seconds_.add(watch);
      if (!filled_.push(chunk)) return;
    }
    if (copying_.fetch_sub(1) == 1) filled_.close();
  }

  bool fill(std::uint64_t chunk, MappedFileReader& reader) {
    std::byte* object = drafts_[chunk]->bytes().data();
    DigestFold fold;
    std::uint64_t end = 0;
    for (const Blob& blob : plan_.chunk(chunk)) {
      std::memset(object + end, 0, blob.chunk_offset - end);  // alignment: no stranger's bytes
      const std::byte* const source = blob.in(addresses_);
      std::byte* const to = object + blob.chunk_offset;
      DigestFold* const taken = options_.verify ? &fold : nullptr;
      const MappedFile* const file = reader.find(source, blob.bytes);
      if (file != nullptr ? !progress_.read(reader, *file, to, source, blob.bytes, taken)
                          : !progress_.copy(to, source, blob.bytes, taken))
        return false;
      end = blob.chunk_offset + blob.bytes;
    }
    if (options_.verify) result_.digests[chunk] = fold.value();
    return true;
  }

  bool download(std::uint64_t chunk, Downloader& downloader) {
    std::byte* object = drafts_[chunk]->bytes().data();
    Backing backing = progress_.backing(object, plan_.chunk_bytes[chunk]);
    RunDigest digest(options_.digest);
    std::uint64_t end = 0;
    const auto take = [&](const Blob& blob, std::uint64_t offset, const std::byte* data, std::size_t bytes) {
      backing.reach(blob.chunk_offset + offset + bytes);
      if (offset == 0) std::memset(object + end, 0, blob.chunk_offset - end);  // alignment: no stranger's bytes
      std::byte* const to = object + blob.chunk_offset + offset;
      end = blob.chunk_offset + offset + bytes;
      progress_.add(bytes);
      if (options_.verify)
        digest.add(blob, offset, bytes, [&](Digest& of_blob) { of_blob.update_and_copy(to, data, bytes); });
      else
        copy_bytes(to, data, bytes);
      return !cancelled_.raised();
    };
    if (!downloader.read(plan_.chunk(chunk), addresses_, take)) return false;
    if (options_.verify) result_.digests[chunk] = digest.value();
    return true;
  }

  void seal_all() {
    if (options_.stored) crew_.wake();  // there is room for all
    while (auto first = filled_.pop()) {
      std::vector<std::unique_ptr<ObjectDraft>> batch;
      batch.push_back(std::move(drafts_[*first]));
      const Stopwatch watch;
      store_.seal(std::move(batch), options_.deadline);
      seal_seconds_.add(watch);
      if (!options_.stored) continue;
      options_.stored(*first, options_.verify ? result_.digests[*first] : 0);
      crew_.wake();
    }
  }

  /// Includes chunks whose sealing was never confirmed: the store may have them.
  void take_back() noexcept {
    drafts_.clear();
    try {
      store_.erase(keys_, Deadline::after(kCleanUpSeconds).earlier(options_.deadline.and_a_moment()));
    } catch (...) {
      // The store is gone or stuck; its objects expire with their TTL. The first error is the one to report.
    }
  }

  ObjectStore& store_;
  Device& device_;
  PinnedPool& pool_;
  const Plan& plan_;
  const Span<const std::uint64_t> addresses_;
  const Keys keys_;
  const std::uint64_t first_;  ///< Whoever reads tensors in their order as they come needs small ones all the time.
  const std::uint32_t ttl_s_;
  const TransferOptions& options_;

  std::vector<std::unique_ptr<ObjectDraft>> drafts_;
  std::atomic<std::uint64_t> next_{0};
  std::atomic<unsigned> copying_{0};
  PublishResult result_;
  SharedSeconds copy_seconds_;
  SharedSeconds seal_seconds_;
  Channel<std::uint64_t> filled_;
  CancelFlag cancelled_;
  TransferProgress progress_{cancelled_, options_, plan_.total_bytes};
  Crew crew_{cancelled_};  // last: its destructor joins the threads that use all of the above
};

}  // namespace

PublishResult publish_chunks(ObjectStore& store, Device& device, PinnedPool& pool, const Plan& plan,
                             Span<const std::uint64_t> addresses, const std::string& key_prefix, std::uint32_t ttl_s,
                             const TransferOptions& options) {
  return Publish(store, device, pool, plan, addresses, key_prefix, ttl_s, options).run();
}

}  // namespace yr_fastload
