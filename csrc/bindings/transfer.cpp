#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>

#include "bindings/common.hpp"
#include "core/crew.hpp"
#include "core/deadline.hpp"
#include "core/digest_chunks.hpp"
#include "core/load_chunks.hpp"
#include "core/peaks.hpp"
#include "core/publish_chunks.hpp"
#include "devices/cpu_device.hpp"
#include "transports/d2d_source.hpp"

namespace yr_fastload::bindings {
namespace {

using Seconds = std::map<std::string, double>;
using Spans = std::vector<std::tuple<std::string, std::uint64_t, unsigned, double, double>>;
using Failures = std::vector<std::tuple<std::uint64_t, std::string, std::string>>;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kInvalidArgument, "binding", what); }

void check_addresses(const Plan& plan, const U64Array& addresses, Span<const Blob> blobs) {
  if (addresses.size() != plan.tensors)
    refuse(std::to_string(addresses.size()) + " addresses for a plan of " + std::to_string(plan.tensors) + " tensors");
  for (const Blob& blob : blobs)
    if (addresses.span()[blob.tensor] == 0) refuse("tensor " + std::to_string(blob.tensor) + " has no address");
}

void check_chunks(const Plan& plan, Span<const std::uint64_t> chunks) {
  for (const std::uint64_t chunk : chunks)
    if (chunk >= plan.chunks()) refuse("chunk " + std::to_string(chunk) + " is not in the plan");
}

TransferOptions options_of(unsigned copy_threads, unsigned chunks_in_flight, bool verify, const std::string& digest,
                           double deadline_s, const Progress& progress, std::uint64_t total_bytes) {
  TransferOptions options;
  options.digest = digest_named(digest);
  options.copy_threads = copy_threads;
  options.chunks_in_flight = chunks_in_flight;
  options.verify = verify;
  options.deadline = Deadline::after(deadline_s);
  options.progress = progress_callback(progress, total_bytes);
  return options;
}

Seconds seconds_of(const StageSeconds& seconds) {
  return {{"reserve", seconds.reserve}, {"copy", seconds.copy}, {"seal", seconds.seal}};
}

Spans spans_of(const std::vector<StageSpan>& spans) {
  constexpr const char* kNames[] = {"fetch", "copy", "digest"};
  Spans made;
  for (const StageSpan& span : spans)
    made.emplace_back(kNames[static_cast<std::size_t>(span.stage)], span.chunk, span.thread, span.begin, span.seconds);
  return made;
}

std::tuple<std::uint64_t, bool, Spans, Failures> load(
    ChunkReader& reader, Device& device, PinnedPool& pool, const Plan& plan, const py::buffer& addresses,
    const py::buffer& chunks, const py::buffer& digests, unsigned copy_threads, unsigned chunks_in_flight, bool verify,
    bool stage, double deadline_s, const Progress& progress, const std::optional<std::shared_ptr<D2dSource>>& source,
    const std::string& digest, const std::optional<std::shared_ptr<LockedChunks>>& locked) {
  const U64Array address_array(addresses, "addresses");
  const U64Array chunk_array(chunks, "chunks");
  const U64Array digest_array(digests, "digests");
  check_addresses(plan, address_array, plan.blobs);
  check_chunks(plan, chunk_array.span());
  if (verify && digest_array.size() != plan.chunks()) refuse("the plan's chunks and the digests differ in number");
  TransferOptions options =
      options_of(copy_threads, chunks_in_flight, verify, digest, deadline_s, progress, plan.total_bytes);
  options.stage = stage;
  if (locked) options.locked = locked->get();
  if (source) options.arrived = [&source](std::uint64_t chunk) { (*source)->offer(chunk); };
  LoadResult result;
  {
    const WithoutGil nogil;
    result =
        load_chunks(reader, device, pool, plan, address_array.span(), chunk_array.span(), digest_array.span(), options);
  }
  Failures failures;
  for (const ChunkFailure& failure : result.failures)
    failures.emplace_back(failure.chunk, kErrorTable[static_cast<std::size_t>(failure.code)].name, failure.detail);
  return {result.bytes, result.verified, spans_of(result.spans), failures};
}

using GivenDevice = std::optional<std::shared_ptr<Device>>;
using GivenPool = std::optional<std::shared_ptr<PinnedPool>>;

/// The tensors' device: the caller's, or ordinary memory.
class TensorDevice {
 public:
  TensorDevice(const GivenDevice& device, const GivenPool& pool)
      : device_(device ? *device : std::make_shared<CpuDevice>()),
        pool_(pool ? *pool : std::make_shared<PinnedPool>(device_, 0)) {}
  Device& device() const noexcept { return *device_; }
  PinnedPool& pool() const noexcept { return *pool_; }

 private:
  std::shared_ptr<Device> device_;
  std::shared_ptr<PinnedPool> pool_;
};

using GivenFiles = std::vector<std::tuple<std::uint64_t, std::uint64_t, int>>;
using Stored = std::vector<std::tuple<std::uint64_t, std::uint64_t>>;
using ToldStored = std::optional<py::typing::Callable<void(Stored)>>;

/// Chunks that threads have stored, until the waiting thread tells Python of them; at first, of none.
class StoredSince {
 public:
  void add(std::uint64_t chunk, std::uint64_t digest) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stored_.emplace_back(chunk, digest);
  }

  /// Call it without the GIL.
  void tell(py::handle told) {
    Stored stored;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stored.swap(stored_);
    }
    const bool begins = !std::exchange(has_begun_, true);
    if (!begins && stored.empty()) return;
    const WithGil gil;
    if (begins) told(Stored());
    if (!stored.empty()) told(stored);
  }

 private:
  bool has_begun_ = false;
  std::mutex mutex_;
  Stored stored_;
};

std::tuple<py::memoryview, Seconds> publish(ObjectStore& store, const Plan& plan, const py::buffer& addresses,
                                            const std::string& key_prefix, std::uint32_t ttl_s, unsigned copy_threads,
                                            unsigned chunks_in_flight, bool verify, double deadline_s,
                                            const Progress& progress, const GivenDevice& device, const GivenPool& pool,
                                            const ToldStored& stored, const GivenFiles& files,
                                            const std::string& digest) {
  const TensorDevice tensors(device, pool);
  const U64Array address_array(addresses, "addresses");
  check_addresses(plan, address_array, plan.blobs);
  TransferOptions options =
      options_of(copy_threads, chunks_in_flight, verify, digest, deadline_s, progress, plan.total_bytes);
  for (const auto& [address, bytes, file] : files)
    options.files.push_back({reinterpret_cast<const std::byte*>(address), bytes, file});
  StoredSince since;
  if (stored) {
    options.stored = [&since](std::uint64_t chunk, std::uint64_t of) { since.add(chunk, of); };
    options.progress = [&since, told = py::handle(*stored), before = options.progress](std::uint64_t done) {
      before(done);
      since.tell(told);
    };
  }
  PublishResult result;
  {
    const WithoutGil nogil;
    result =
        publish_chunks(store, tensors.device(), tensors.pool(), plan, address_array.span(), key_prefix, ttl_s, options);
  }
  return {to_python(result.digests), seconds_of(result.seconds)};
}

std::vector<std::uint64_t> all_chunks(const Plan& plan) {
  std::vector<std::uint64_t> chunks(plan.chunks());
  std::iota(chunks.begin(), chunks.end(), 0);
  return chunks;
}

py::memoryview digests(const Plan& plan, const py::buffer& addresses, unsigned copy_threads, double deadline_s,
                       const Progress& progress, const std::optional<py::buffer>& chunks, const GivenDevice& device,
                       const GivenPool& pool, const std::string& digest) {
  const TensorDevice tensors(device, pool);
  const U64Array address_array(addresses, "addresses");
  std::vector<std::uint64_t> wanted;
  if (chunks) {
    const U64Array chunk_array(*chunks, "chunks");
    wanted.assign(chunk_array.span().begin(), chunk_array.span().end());
  } else {
    wanted = all_chunks(plan);
  }
  check_chunks(plan, wanted);
  for (const std::uint64_t chunk : wanted) check_addresses(plan, address_array, plan.chunk(chunk));
  const TransferOptions options = options_of(copy_threads, 1, true, digest, deadline_s, progress, plan.total_bytes);
  std::vector<std::uint64_t> values;
  {
    const WithoutGil nogil;
    values = digest_chunks(tensors.device(), tensors.pool(), plan, address_array.span(), wanted, options);
  }
  return to_python(values);
}

/// Whole tensors, dealt round-robin in slices, so that threads share one large tensor.
double memcpy_seconds(const py::buffer& destinations, const py::buffer& sources, const py::buffer& sizes,
                      unsigned threads) {
  constexpr std::uint64_t kSlice = std::uint64_t{8} << 20;
  const U64Array to(destinations, "destinations");
  const U64Array from(sources, "sources");
  const U64Array bytes(sizes, "sizes");
  if (to.size() != from.size() || to.size() != bytes.size()) refuse("the arrays differ in length");
  const WithoutGil nogil;
  const Stopwatch watch;
  CancelFlag never;
  Crew crew(never);
  for (unsigned thread = 0; thread < threads; ++thread)
    crew.start([&, thread] {
      std::uint64_t slice = 0;
      for (std::size_t i = 0; i < bytes.size(); ++i)
        for (std::uint64_t offset = 0; offset < bytes.span()[i]; offset += kSlice)
          if (slice++ % threads == thread)
            std::memcpy(reinterpret_cast<std::byte*>(to.span()[i]) + offset,
                        reinterpret_cast<const std::byte*>(from.span()[i]) + offset,
                        std::min(kSlice, bytes.span()[i] - offset));
    });
  crew.wait(Deadline::after(3600), {});
  return watch.seconds();
}

}  // namespace

void register_transfer(py::module_& module) {
  module.def("chunk_keys", &chunk_keys, py::arg("prefix"), py::arg("count"), "The key of every chunk.");
  module.def("load_chunks", &load, py::arg("reader"), py::arg("device"), py::arg("pool"), py::arg("plan"),
             py::arg("addresses"), py::arg("chunks"), py::kw_only(), py::arg("digests"), py::arg("copy_threads"),
             py::arg("chunks_in_flight"), py::arg("verify"), py::arg("stage"), py::arg("deadline_s"),
             py::arg("progress") = py::none(), py::arg("source") = py::none(), py::arg("digest") = kDigestNames[0],
             py::arg("locked") = py::none(),
             "Copy chunks into tensors, and offer them to `source` as they arrive; returns (bytes, whether they were "
             "verified, [(stage, chunk, thread, begin, seconds)], [(chunk, code, detail)] of failures).");
  module.def(
      "publish_chunks", &publish, py::arg("store"), py::arg("plan"), py::arg("addresses"), py::kw_only(),
      py::arg("key_prefix"), py::arg("ttl_s"), py::arg("copy_threads"), py::arg("chunks_in_flight"), py::arg("verify"),
      py::arg("deadline_s"), py::arg("progress") = py::none(), py::arg("device") = py::none(),
      py::arg("pool") = py::none(), py::arg("stored") = py::none(), py::arg("files") = GivenFiles(),
      py::arg("digest") = kDigestNames[0],
      "Copy tensors, by default of ordinary memory, into chunks, and tell `stored` of them, [(chunk, digest)], as they "
      "can be read, and of none once there is room for all; returns (digest of each chunk, seconds by stage). files: "
      "(address, bytes, descriptor) of mapped ones that tensors may lie in, which are read by calls then.");
  module.def("end_transfers", &end_transfers,
             "End every transfer, including later ones, with SystemExit in the waiting thread.");
  module.def("digest_chunks", &digests, py::arg("plan"), py::arg("addresses"), py::kw_only(), py::arg("copy_threads"),
             py::arg("deadline_s"), py::arg("progress") = py::none(), py::arg("chunks") = py::none(),
             py::arg("device") = py::none(), py::arg("pool") = py::none(), py::arg("digest") = kDigestNames[0],
             "Digest of each of these chunks, by default of all; moves nothing.");
  module.def(
      "transfer_peaks",
      [] {
        const TransferPeaks& peaks = transfer_peaks();
        return std::map<std::string, std::uint64_t>{{"chunks_in_flight", peaks.chunks_in_flight.most()},
                                                    {"copy_threads", peaks.copy_threads.most()}};
      },
      "The most that any single transfer in this process used of what its options limit.");
  module.def("memcpy_seconds", &memcpy_seconds, py::arg("destinations"), py::arg("sources"), py::arg("sizes"),
             py::arg("threads"), "Time a plain memcpy of these ranges on this many threads.");
}

}  // namespace yr_fastload::bindings
