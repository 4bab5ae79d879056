#include "core/load_chunks.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/channel.hpp"
#include "core/chunk_copier.hpp"
#include "core/chunk_verifier.hpp"
#include "core/copy_threads.hpp"
#include "core/crew.hpp"
#include "core/deadline.hpp"
#include "core/device_copies.hpp"
#include "core/direct_copies.hpp"
#include "core/error.hpp"
#include "core/peaks.hpp"
#include "core/slots.hpp"
#include "core/transfer_progress.hpp"

namespace yr_fastload {
namespace {

class Load {
 public:
  Load(ChunkReader& reader, const LoadTarget& target, Span<const std::uint64_t> chunks,
       Span<const std::uint64_t> digests)
      : reader_(reader),
        target_(target),
        chunks_(chunks),
        fetched_(std::max<std::size_t>(1, target.options.chunks_in_flight / 2), &transfer_peaks().chunks_in_flight),
        locked_(std::max<std::size_t>(1, target.options.chunks_in_flight / 2)),
        verifier_(target.plan, digests, target.options),
        progress_(cancelled_, target.options, target.plan.total_bytes) {}

  LoadResult run() {
    check_staging();
    crew_.on_cancel([this] {
      fetched_.close();
      locked_.close();
    });
    const unsigned threads = copiers();
    if (copies_directly())
      if (auto memory = target_.pool.try_lease(DeviceCopies::kBytes, target_.options.deadline)) {
        direct_memory_.emplace(std::move(*memory));
        target_.options.locked->begin_load();
      }
    crew_.start([this] { read_all(); });
    for (unsigned i = 0; i < threads; ++i) crew_.start([this, i] { copy_all(i + 1); });
    if (direct_memory_) crew_.start([this, threads] { copy_locked(threads + 1); });
    progress_.wait(crew_, "load");
    if (target_.options.locked != nullptr) target_.options.locked->end_load();
    return verifier_.take_result();
  }

 private:
  unsigned copiers() const {
    const unsigned size = copy_threads(target_.options, chunks_.size());
    return target_.uploads() ? Slots::threads(target_.pool, size, copies_directly() ? DeviceCopies::kBytes : 0) : size;
  }

  /// Only where digests tell: what is locked may not be what the worker shows any more. Only beside slots, which take
  /// what is not locked.
  bool copies_directly() const {
    const TransferOptions& options = target_.options;
    return options.locked != nullptr && options.verify && options.digest == DigestKind::kNh && target_.uploads() &&
           target_.device.takes_digests() && target_.pool.fits(Slots::kBytes + DeviceCopies::kBytes);
  }

  /// Called before the first byte is written, so that a failure leaves the tensors untouched.
  void check_staging() const {
    const std::uint64_t cap = target_.pool.stats().cap_bytes;
    for (const std::uint64_t chunk : chunks_)
      if (target_.stages(Place::kHost) && !target_.pool.fits(target_.plan.chunk_bytes[chunk]))
        throw Error(ErrorCode::kResourceExhausted, "load",
                    "chunks of " + std::to_string(target_.plan.chunk_bytes[chunk]) +
                        " bytes do not fit in staging_bytes=" + std::to_string(cap) + "; raise it");
  }

  void read_all() {
    Stopwatch watch;
    const Deliver deliver = [&](Arrival arrival) {
      verifier_.note(Stage::kFetch, arrival.chunk, 0, watch);
      const bool more = hand_over(std::move(arrival));
      watch = {};  // waiting for room is no fetching
      return more;
    };
    reader_.read(chunks_, deliver, cancelled_, target_.options.deadline);
    fetched_.close();
    locked_.close();
  }

  bool hand_over(Arrival arrival) {
    const std::uint64_t chunk = arrival.chunk;
    if (!arrival.view) {
      verifier_.fail(chunk, arrival.code, std::move(arrival.detail));
      return !cancelled_.raised();
    }
    const std::uint64_t bytes = target_.plan.chunk_bytes[chunk];
    if (arrival.view->bytes().size() != bytes) {
      verifier_.fail(chunk, ErrorCode::kIntegrity,
                     "has " + std::to_string(arrival.view->bytes().size()) + " bytes, not " + std::to_string(bytes));
      return !cancelled_.raised();
    }
    FetchedChunk fetched{chunk, std::move(arrival.view), nullptr};
    if (direct_memory_ && fetched.view->place() == Place::kHost)
      fetched.locked = target_.options.locked->find(fetched.view->bytes());
    return fetched.locked ? locked_.push(std::move(fetched)) : fetched_.push(std::move(fetched));
  }

  void copy_all(unsigned thread) {
    target_.device.bind_thread();
    ChunkCopier copier(target_, progress_, verifier_);
    while (auto item = fetched_.pop()) {
      const Stopwatch watch;
      const Stage stage = item->view->place() == Place::kTensors ? Stage::kDigest : Stage::kCopy;
      const bool done = copier.copy(*item);
      verifier_.note(stage, item->chunk, thread, watch);
      if (!done) return;
    }
    copier.drain();
  }

  /// One thread has the device copy chunk after chunk, so that nothing is left for it to wait for but digests.
  void copy_locked(unsigned thread) {
    target_.device.bind_thread();
    DirectCopies copies(target_.device, std::move(*direct_memory_), target_.options.deadline);
    while (auto item = locked_.pop()) {
      const std::vector<Copy> runs = runs_of(*item);
      copies.begin(std::move(*item), runs);
      while (copies.busy() && !cancelled_.raised()) take(copies, thread);
    }
    while (copies.under_way() > 0 && !cancelled_.raised()) take(copies, thread);
  }

  std::vector<Copy> runs_of(const FetchedChunk& item) const {
    std::vector<Copy> runs;
    for (const Blob& blob : target_.plan.chunk(item.chunk))
      runs.push_back({blob.in(target_.addresses), item.view->bytes().data() + blob.chunk_offset, blob.bytes});
    return runs;
  }

  void take(DirectCopies& copies, unsigned thread) {
    const Stopwatch watch;
    const DirectCopies::Taken taken = copies.take();
    const std::uint64_t chunk = taken.item.chunk;
    verifier_.note(Stage::kCopy, chunk, thread, watch);
    progress_.add(target_.plan.chunk_bytes[chunk]);
    if (taken.digest != verifier_.wanted(chunk)) target_.options.locked->drop(taken.item.locked);
    verifier_.accept(chunk, taken.digest);
  }

  ChunkReader& reader_;
  const LoadTarget& target_;
  const Span<const std::uint64_t> chunks_;

  Channel<FetchedChunk> fetched_;
  Channel<FetchedChunk> locked_;
  std::optional<PinnedPool::Lease> direct_memory_;
  CancelFlag cancelled_;
  ChunkVerifier verifier_;
  TransferProgress progress_;
  Crew crew_{cancelled_};  // last: its destructor joins the threads that use all of the above
};

}  // namespace

LoadResult load_chunks(ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan,
                       Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                       Span<const std::uint64_t> digests, const TransferOptions& options) {
  const LoadTarget target{device, pool, plan, addresses, options};
  return Load(reader, target, chunks, digests).run();
}

}  // namespace yr_fastload
