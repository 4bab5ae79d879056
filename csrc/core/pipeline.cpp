#include "core/pipeline.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "core/backing.hpp"
#include "core/copy.hpp"
#include "core/device_copies.hpp"
#include "core/digest.hpp"
#include "core/direct_copies.hpp"
#include "core/row_digester.hpp"
#include "core/slots.hpp"

namespace yr_fastload {
namespace {

/// Bytes copied between two checks of the cancel flag: under a millisecond of work.
constexpr std::size_t kSliceBytes = std::size_t{1} << 20;
constexpr std::size_t kReserveKeys = 1000;
constexpr double kCleanUpSeconds = 2.0;

std::byte* at(std::uint64_t address, std::uint64_t offset) noexcept {
  return reinterpret_cast<std::byte*>(address) + offset;
}

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

/// State shared by the threads of one transfer.
class Progress {
 public:
  Progress(const CancelFlag& cancelled, const TransferOptions& options) : cancelled_(cancelled), options_(options) {}

  /// Copies a blob in slices, with its digest if asked. False if the crew was cancelled on the way.
  bool copy(std::byte* destination, const std::byte* source, std::uint64_t bytes, DigestFold* fold) {
    Backing reached = backing(destination, bytes);
    return slices(bytes, fold, [&](std::uint64_t done, std::size_t slice, Digest& digest) {
      reached.reach(done + slice);
      if (fold != nullptr)
        digest.update_and_copy(destination + done, source + done, slice);
      else
        copy_bytes(destination + done, source + done, slice);
    });
  }

  /// The same for bytes of a file, whose digest is of what was read.
  bool read(MappedFileReader& reader, const MappedFile& file, std::byte* destination, const std::byte* source,
            std::uint64_t bytes, DigestFold* fold) {
    Backing reached = backing(destination, bytes);
    return slices(bytes, fold, [&](std::uint64_t done, std::size_t slice, Digest& digest) {
      reached.reach(done + slice);
      reader.read(file, source + done, destination + done, slice);
      if (fold != nullptr) digest.update(destination + done, slice);
    });
  }

  bool digest_only(const std::byte* source, std::uint64_t bytes, DigestFold& fold) {
    return slices(bytes, &fold,
                  [&](std::uint64_t done, std::size_t slice, Digest& digest) { digest.update(source + done, slice); });
  }

  /// Where the other threads' copies go; `copy` is for its own.
  Backing backing(std::byte* destination, std::uint64_t bytes) noexcept { return {destination, bytes, huge_pages_}; }

  void add(std::uint64_t bytes) noexcept { bytes_.fetch_add(bytes, std::memory_order_relaxed); }

  Tick tick() const {
    if (!options_.progress) return {};
    return [this] { options_.progress(bytes_.load(std::memory_order_relaxed)); };
  }

  std::uint64_t bytes() const noexcept { return bytes_.load(); }

 private:
  template <typename Work>
  bool slices(std::uint64_t bytes, DigestFold* fold, const Work& work) {
    Digest digest(options_.digest);
    for (std::uint64_t done = 0; done < bytes;) {
      if (cancelled_.raised()) return false;
      const auto slice = static_cast<std::size_t>(std::min<std::uint64_t>(bytes - done, kSliceBytes));
      work(done, slice, digest);
      done += slice;
      bytes_.fetch_add(slice, std::memory_order_relaxed);
    }
    if (fold != nullptr) fold->add(digest.value());
    return true;
  }

  static_assert(kSliceBytes % Digest::kBlockBytes == 0, "a slice ends where a digest block does");

  const CancelFlag& cancelled_;
  const TransferOptions& options_;
  std::atomic<std::uint64_t> bytes_{0};
  Backing::HugePages huge_pages_{true};
};

void wait_or_time_out(Crew& crew, const Progress& progress, const TransferOptions& options, const Plan& plan,
                      const char* op) {
  const Tick tick = progress.tick();
  if (crew.wait(options.deadline, tick)) {
    if (tick) tick();  // who watches sees the end
    return;
  }
  throw Error(ErrorCode::kTransferTimeout, op,
              "deadline passed with " + std::to_string(progress.bytes()) + " of " + std::to_string(plan.total_bytes) +
                  " bytes copied");
}

unsigned crew_size(const TransferOptions& options, std::uint64_t chunks) {
  const auto size = static_cast<unsigned>(
      std::min<std::uint64_t>(std::max(1U, options.copy_threads), std::max<std::uint64_t>(1, chunks)));
  transfer_peaks().copy_threads.note(size);
  return size;
}

/// A thread's stream, made for its first copy: making one takes a driver's lock, which others may need at that moment.
class LazyStream {
 public:
  explicit LazyStream(Device& device) : device_(device) {}
  Stream* operator->() {
    if (!stream_) stream_ = device_.make_stream();
    return stream_.get();
  }

 private:
  Device& device_;
  std::unique_ptr<Stream> stream_;
};

class Load {
 public:
  Load(ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan, Span<const std::uint64_t> addresses,
       Span<const std::uint64_t> chunks, Span<const std::uint64_t> digests, const TransferOptions& options)
      : reader_(reader),
        device_(device),
        pool_(pool),
        plan_(plan),
        addresses_(addresses),
        chunks_(chunks),
        digests_(digests),
        options_(options),
        fetched_(std::max<std::size_t>(1, options.chunks_in_flight / 2), &transfer_peaks().chunks_in_flight),
        locked_(std::max<std::size_t>(1, options.chunks_in_flight / 2)) {
    result_.verified = options.verify;
  }

  LoadResult run() {
    check_staging();
    crew_.on_cancel([this] {
      fetched_.close();
      locked_.close();
    });
    const unsigned threads = copiers();
    if (copies_directly())
      if (auto memory = pool_.try_lease(DeviceCopies::kBytes, options_.deadline)) {
        direct_memory_.emplace(std::move(*memory));
        options_.locked->begin_load();
      }
    crew_.start([this] { read_all(); });
    for (unsigned i = 0; i < threads; ++i) crew_.start([this, i] { copy_all(i + 1); });
    if (direct_memory_) crew_.start([this, threads] { copy_locked(threads + 1); });
    wait_or_time_out(crew_, progress_, options_, plan_, "load");
    if (options_.locked != nullptr) options_.locked->end_load();
    std::sort(result_.failures.begin(), result_.failures.end(),
              [](const ChunkFailure& a, const ChunkFailure& b) { return a.chunk < b.chunk; });
    return std::move(result_);
  }

 private:
  bool stages(Place place) const noexcept { return options_.stage && place != Place::kTensors; }
  bool uploads() const noexcept { return !options_.stage && !device_.cpu_accessible(); }

  unsigned copiers() const {
    const unsigned size = crew_size(options_, chunks_.size());
    return uploads() ? Slots::threads(pool_, size, copies_directly() ? DeviceCopies::kBytes : 0) : size;
  }

  /// Only where digests tell: what is locked may not be what the worker shows any more. Only beside slots, which take
  /// what is not locked.
  bool copies_directly() const {
    return options_.locked != nullptr && options_.verify && options_.digest == DigestKind::kNh && uploads() &&
           device_.takes_digests() && pool_.fits(Slots::kBytes + DeviceCopies::kBytes);
  }

  /// Called before the first byte is written, so that a failure leaves the tensors untouched.
  void check_staging() const {
    const std::uint64_t cap = pool_.stats().cap_bytes;
    for (const std::uint64_t chunk : chunks_)
      if (stages(Place::kHost) && !pool_.fits(plan_.chunk_bytes[chunk]))
        throw Error(ErrorCode::kResourceExhausted, "load",
                    "chunks of " + std::to_string(plan_.chunk_bytes[chunk]) +
                        " bytes do not fit in staging_bytes=" + std::to_string(cap) + "; raise it");
  }

  void read_all() {
    Stopwatch watch;
    const Deliver deliver = [&](Arrival arrival) {
      note(Stage::kFetch, arrival.chunk, 0, watch);
      const bool more = hand_over(std::move(arrival));
      watch = {};  // waiting for room is no fetching
      return more;
    };
    reader_.read(chunks_, deliver, cancelled_, options_.deadline);
    fetched_.close();
    locked_.close();
  }

  void note(Stage stage, std::uint64_t chunk, unsigned thread, const Stopwatch& watch) {
    const double seconds = watch.seconds();
    const std::lock_guard<std::mutex> lock(mutex_);
    result_.spans.push_back({stage, chunk, thread, watch.start(), seconds});
  }

  bool hand_over(Arrival arrival) {
    const std::uint64_t chunk = arrival.chunk;
    if (!arrival.view) {
      fail(chunk, arrival.code, std::move(arrival.detail));
      return !cancelled_.raised();
    }
    if (arrival.view->bytes().size() != plan_.chunk_bytes[chunk]) {
      fail(chunk, ErrorCode::kIntegrity,
           "has " + std::to_string(arrival.view->bytes().size()) + " bytes, not " +
               std::to_string(plan_.chunk_bytes[chunk]));
      return !cancelled_.raised();
    }
    FetchedChunk fetched{chunk, std::move(arrival.view), nullptr};
    if (direct_memory_ && fetched.view->place() == Place::kHost)
      fetched.locked = options_.locked->find(fetched.view->bytes());
    return fetched.locked ? locked_.push(std::move(fetched)) : fetched_.push(std::move(fetched));
  }

  /// One thread has the device copy chunk after chunk, so that nothing is left for it to wait for but digests.
  void copy_locked(unsigned thread) {
    device_.bind_thread();
    DirectCopies copies(device_, std::move(*direct_memory_), options_.deadline);
    while (auto item = locked_.pop()) {
      const std::vector<Copy> runs = runs_of(*item);
      copies.begin(std::move(*item), runs);
      while (copies.busy() && !cancelled_.raised()) take(copies, thread);
    }
    while (copies.under_way() > 0 && !cancelled_.raised()) take(copies, thread);
  }

  std::vector<Copy> runs_of(const FetchedChunk& item) const {
    std::vector<Copy> runs;
    for (const Blob& blob : plan_.chunk(item.chunk))
      runs.push_back({tensor(blob), item.view->bytes().data() + blob.chunk_offset, blob.bytes});
    return runs;
  }

  void take(DirectCopies& copies, unsigned thread) {
    const Stopwatch watch;
    const DirectCopies::Taken taken = copies.take();
    const std::uint64_t chunk = taken.item.chunk;
    note(Stage::kCopy, chunk, thread, watch);
    progress_.add(plan_.chunk_bytes[chunk]);
    if (taken.digest != digests_[chunk]) options_.locked->drop(taken.item.locked);
    accept_if_equal(chunk, taken.digest, [] { return true; });
  }

  void copy_all(unsigned thread) {
    device_.bind_thread();
    LazyStream stream(device_);
    std::optional<Uploader> uploader;
    while (auto item = fetched_.pop()) {
      const Stopwatch watch;
      const Place place = item->view->place();
      if (uploads() && place == Place::kHost && !uploader)
        uploader.emplace(device_, pool_, options_.deadline, options_.digest);
      const bool done = uploader && place == Place::kHost ? upload(*item, *uploader) : copy_one(*item, stream);
      note(place == Place::kTensors ? Stage::kDigest : Stage::kCopy, item->chunk, thread, watch);
      if (!done) return;
    }
    if (uploader) uploader->drain();
  }

  /// False if the crew was cancelled.
  bool copy_one(const FetchedChunk& item, LazyStream& stream) {
    const Place place = item.view->place();
    if (stages(place)) return copy_staged(item, stream);
    if (!device_.cpu_accessible()) return copy_on_device(item, stream);
    return place == Place::kTensors ? verify_in_place(item) : copy_direct(item);
  }

  bool copy_direct(const FetchedChunk& item) {
    return copy_blobs(item, [this](const Blob& blob) { return tensor(blob); }, [] { return true; });
  }

  /// Starts the next chunk while the device copies this one; arrival is reported once the copy is done.
  bool upload(const FetchedChunk& item, Uploader& uploader) {
    DigestFold fold;
    const std::byte* source = item.view->bytes().data();
    const auto step = [this](std::uint64_t bytes) {
      progress_.add(bytes);
      return !cancelled_.raised();
    };
    for (const Blob& blob : plan_.chunk(item.chunk))
      if (!uploader.copy(tensor(blob), source + blob.chunk_offset, blob.bytes, options_.verify ? &fold : nullptr, step))
        return false;
    uploader.flush();
    if (options_.arrived) uploader.drain();
    if (!device_.copies_are_checked()) not_verified();
    accept_if_equal(item.chunk, fold.value(), [] { return true; });
    return true;
  }

  void not_verified() {
    const std::lock_guard<std::mutex> lock(mutex_);
    result_.verified = false;
  }

  bool copy_staged(const FetchedChunk& item, LazyStream& stream) {
    const PinnedPool::Lease staging = pool_.lease(plan_.chunk_bytes[item.chunk], options_.deadline);
    const auto upload = [&] {
      for (const Blob& blob : plan_.chunk(item.chunk))
        stream->copy(Direction::kToDevice, {tensor(blob), staging.data() + blob.chunk_offset, blob.bytes});
      stream->synchronize(options_.deadline);
      return arrived_unharmed(item.chunk);
    };
    if (item.view->place() == Place::kDevice && !device_.cpu_accessible()) {
      const Span<const std::byte> landed = item.view->bytes();
      stream->copy(Direction::kToHost, {staging.data(), landed.data(), landed.size()});
      stream->synchronize(options_.deadline);
      return check_staged(item, staging.data(), upload);
    }
    return copy_blobs(item, [&](const Blob& blob) { return staging.data() + blob.chunk_offset; }, upload);
  }

  template <typename Accept>
  bool check_staged(const FetchedChunk& item, const std::byte* staged, const Accept& accept) {
    DigestFold fold;
    for (const Blob& blob : plan_.chunk(item.chunk))
      if (options_.verify && !progress_.digest_only(staged + blob.chunk_offset, blob.bytes, fold)) return false;
    if (!options_.verify) progress_.add(plan_.chunk_bytes[item.chunk]);
    accept_if_equal(item.chunk, fold.value(), accept);
    return true;
  }

  /// Verifies the tensors rather than the staging memory: the device's copy can go wrong too.
  bool arrived_unharmed(std::uint64_t chunk) {
    if (!options_.verify || device_.copies_are_checked()) return true;
    if (!device_.cpu_accessible()) {  // whoever asked for it has to look, on the device
      not_verified();
      return true;
    }
    DigestFold fold;
    for (const Blob& blob : plan_.chunk(chunk)) {
      Digest digest(options_.digest);
      digest.update(tensor(blob), blob.bytes);
      fold.add(digest.value());
    }
    if (fold.value() == digests_[chunk]) return true;
    fail(chunk, ErrorCode::kIntegrity, "was damaged between staging memory and its tensors");
    return false;
  }

  /// The CPU cannot see these bytes: they are verified here only if their digest was taken on the way.
  bool copy_on_device(const FetchedChunk& item, LazyStream& stream) {
    if (item.view->place() == Place::kDevice) {
      const std::byte* source = item.view->bytes().data();
      for (const Blob& blob : plan_.chunk(item.chunk))
        stream->copy(Direction::kOnDevice, {tensor(blob), source + blob.chunk_offset, blob.bytes});
      stream->synchronize(options_.deadline);
    }
    progress_.add(plan_.chunk_bytes[item.chunk]);
    if (const auto digest = item.view->digest()) {
      accept_if_equal(item.chunk, *digest, [] { return true; });
    } else {
      not_verified();
      arrived(item.chunk);
    }
    return !cancelled_.raised();
  }

  bool verify_in_place(const FetchedChunk& item) {
    DigestFold fold;
    for (const Blob& blob : plan_.chunk(item.chunk)) {
      if (!options_.verify)
        progress_.add(blob.bytes);
      else if (!progress_.digest_only(tensor(blob), blob.bytes, fold))
        return false;
    }
    accept_if_equal(item.chunk, fold.value(), [] { return true; });
    return true;
  }

  /// False if the crew was cancelled; a chunk of another digest is a failure, not the end. `accept` says whether an
  /// equal one is in its tensors.
  template <typename Destination, typename Accept>
  bool copy_blobs(const FetchedChunk& item, const Destination& destination, const Accept& accept) {
    DigestFold fold;
    const std::byte* source = item.view->bytes().data();
    for (const Blob& blob : plan_.chunk(item.chunk))
      if (!progress_.copy(destination(blob), source + blob.chunk_offset, blob.bytes, options_.verify ? &fold : nullptr))
        return false;
    accept_if_equal(item.chunk, fold.value(), accept);
    return true;
  }

  template <typename Accept>
  void accept_if_equal(std::uint64_t chunk, std::uint64_t digest, const Accept& accept) {
    if (options_.verify && digest != digests_[chunk])
      return fail(chunk, ErrorCode::kIntegrity, "does not match its digest");
    if (accept()) arrived(chunk);
  }

  std::byte* tensor(const Blob& blob) const noexcept { return at(addresses_[blob.tensor], blob.tensor_offset); }

  void arrived(std::uint64_t chunk) {
    std::uint64_t bytes = 0;
    for (const Blob& blob : plan_.chunk(chunk)) bytes += blob.bytes;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      result_.bytes += bytes;
    }
    if (options_.arrived) options_.arrived(chunk);
  }

  void fail(std::uint64_t chunk, ErrorCode code, std::string detail) {
    const std::lock_guard<std::mutex> lock(mutex_);
    result_.failures.push_back({chunk, code, std::move(detail)});
  }

  ChunkReader& reader_;
  Device& device_;
  PinnedPool& pool_;
  const Plan& plan_;
  const Span<const std::uint64_t> addresses_;
  const Span<const std::uint64_t> chunks_;
  const Span<const std::uint64_t> digests_;
  const TransferOptions& options_;

  std::mutex mutex_;
  LoadResult result_;
  Channel<FetchedChunk> fetched_;
  Channel<FetchedChunk> locked_;
  std::optional<PinnedPool::Lease> direct_memory_;
  CancelFlag cancelled_;
  Progress progress_{cancelled_, options_};
  Crew crew_{cancelled_};  // last: its destructor joins the threads that use all of the above
};

/// Number of threads that read tensors of this device.
unsigned reading_threads(const Device& device, const PinnedPool& pool, const TransferOptions& options,
                         std::uint64_t chunks) {
  const unsigned size = crew_size(options, chunks);
  return device.cpu_accessible() ? size : Slots::threads(pool, size);
}

/// Adds a run of a blob to the blob's digest, and at the end of the blob that digest to `fold`.
template <typename Update>
void add_run(DigestKind kind, Digest& digest, DigestFold& fold, const Blob& blob, std::uint64_t offset,
             std::size_t bytes, const Update& update) {
  if (offset == 0) digest = Digest(kind);
  update();
  if (offset + bytes == blob.bytes) fold.add(digest.value());
}

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
      wait_or_time_out(crew_, progress_, options_, plan_, "publish");
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
      const std::byte* const source = at(addresses_[blob.tensor], blob.tensor_offset);
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
    DigestFold fold;
    Digest digest;
    std::uint64_t end = 0;
    const auto take = [&](const Blob& blob, std::uint64_t offset, const std::byte* data, std::size_t bytes) {
      backing.reach(blob.chunk_offset + offset + bytes);
      if (offset == 0) std::memset(object + end, 0, blob.chunk_offset - end);  // alignment: no stranger's bytes
      std::byte* const to = object + blob.chunk_offset + offset;
      end = blob.chunk_offset + offset + bytes;
      progress_.add(bytes);
      if (options_.verify)
        add_run(options_.digest, digest, fold, blob, offset, bytes, [&] { digest.update_and_copy(to, data, bytes); });
      else
        copy_bytes(to, data, bytes);
      return !cancelled_.raised();
    };
    if (!downloader.read(plan_.chunk(chunk), addresses_, take)) return false;
    if (options_.verify) result_.digests[chunk] = fold.value();
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
  Progress progress_{cancelled_, options_};
  Crew crew_{cancelled_};  // last: its destructor joins the threads that use all of the above
};

/// As `digest_chunks`, by a device that takes digests itself.
void digest_on_device(Device& device, PinnedPool& pool, const Plan& plan, Span<const std::uint64_t> addresses,
                      Span<const std::uint64_t> chunks, const TransferOptions& options, Progress& progress,
                      const CancelFlag& cancelled, std::vector<std::uint64_t>& digests) {
  device.bind_thread();
  DeviceCopies copies(device, pool, DeviceCopies::Digests::kTaken, options.deadline);
  std::size_t taken = 0;
  const auto take = [&] {
    progress.add(plan.chunk_bytes[chunks[taken]]);
    digests[taken++] = *copies.take();
  };
  std::vector<Copy> runs;
  for (const std::uint64_t chunk : chunks) {
    runs.clear();
    for (const Blob& blob : plan.chunk(chunk))
      runs.push_back({nullptr, at(addresses[blob.tensor], blob.tensor_offset), static_cast<std::size_t>(blob.bytes)});
    copies.begin(runs);
    while (copies.busy() && copies.under_way() > 0) take();
    if (cancelled.raised()) return;
  }
  while (copies.under_way() > 0) take();
}

}  // namespace

LoadResult load_chunks(ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan,
                       Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                       Span<const std::uint64_t> digests, const TransferOptions& options) {
  return Load(reader, device, pool, plan, addresses, chunks, digests, options).run();
}

PublishResult publish_chunks(ObjectStore& store, Device& device, PinnedPool& pool, const Plan& plan,
                             Span<const std::uint64_t> addresses, const std::string& key_prefix, std::uint32_t ttl_s,
                             const TransferOptions& options) {
  return Publish(store, device, pool, plan, addresses, key_prefix, ttl_s, options).run();
}

std::vector<std::uint64_t> digest_chunks(Device& device, PinnedPool& pool, const Plan& plan,
                                         Span<const std::uint64_t> addresses, Span<const std::uint64_t> chunks,
                                         const TransferOptions& options) {
  std::vector<std::uint64_t> digests(chunks.size());
  std::atomic<std::size_t> next{0};
  CancelFlag cancelled;
  Progress progress(cancelled, options);
  const auto here = [&](std::uint64_t chunk, DigestFold& fold) {
    for (const Blob& blob : plan.chunk(chunk))
      if (!progress.digest_only(at(addresses[blob.tensor], blob.tensor_offset), blob.bytes, fold)) return false;
    return true;
  };
  const auto downloaded = [&](Downloader& downloader, std::uint64_t chunk, DigestFold& fold) {
    Digest digest(options.digest);
    return downloader.read(plan.chunk(chunk), addresses,
                           [&](const Blob& blob, std::uint64_t offset, const std::byte* data, std::size_t bytes) {
                             add_run(options.digest, digest, fold, blob, offset, bytes,
                                     [&] { digest.update(data, bytes); });
                             progress.add(bytes);
                             return !cancelled.raised();
                           });
  };
  /// Of all that is left; false if the device cannot, and nothing was taken.
  const auto by_the_device = [&] {
    if (options.digest != DigestKind::kMatrix) return false;
    RowDigester digester(device, pool, options.deadline,
                         [&](std::size_t index, std::uint64_t digest, std::uint64_t bytes) {
                           digests[index] = digest;
                           progress.add(bytes);
                         });
    if (!digester.works()) return false;
    for (std::size_t index; !cancelled.raised() && (index = next.fetch_add(1)) < chunks.size();) {
      for (const Blob& blob : plan.chunk(chunks[index]))
        digester.add(at(addresses[blob.tensor], blob.tensor_offset), blob.bytes);
      digester.end_chunk(index);
    }
    digester.finish();
    return true;
  };
  Crew crew(cancelled);
  if (device.takes_digests())
    crew.start([&] { digest_on_device(device, pool, plan, addresses, chunks, options, progress, cancelled, digests); });
  for (unsigned i = 0; i < reading_threads(device, pool, options, chunks.size()) && !device.takes_digests(); ++i)
    crew.start([&] {
      std::optional<Downloader> downloader;
      if (!device.cpu_accessible()) {
        device.bind_thread();
        if (by_the_device()) return;
        downloader.emplace(device, pool, options.deadline);
      }
      for (std::size_t index; (index = next.fetch_add(1)) < chunks.size();) {
        DigestFold fold;
        if (!(downloader ? downloaded(*downloader, chunks[index], fold) : here(chunks[index], fold))) return;
        digests[index] = fold.value();
      }
    });
  wait_or_time_out(crew, progress, options, plan, "digest");
  return digests;
}

}  // namespace yr_fastload
