#include "devices/cuda_device.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "core/call_runner.hpp"
#include "core/error.hpp"
#include "devices/cuda_driver.hpp"

namespace yr_fastload {
namespace {

using cuda::Address;
using cuda::Bound;
using cuda::check;
using cuda::Context;
using cuda::Driver;
using cuda::Handle;
using cuda::IpcHandle;
using cuda::Result;

constexpr unsigned kAllocatingThreads = 2;
constexpr unsigned kPortable = 1;       // CU_MEMHOSTALLOC_PORTABLE, _REGISTER_: page-locked for every device
constexpr unsigned kReadOnly = 8;       // CU_MEMHOSTREGISTER_READ_ONLY
constexpr unsigned kNonBlocking = 1;    // CU_STREAM_NON_BLOCKING: in no order with the legacy stream
constexpr unsigned kWithoutTiming = 2;  // CU_EVENT_DISABLE_TIMING
constexpr unsigned kKernelThreads = 128;
constexpr unsigned kDigestThreads = 256;
constexpr unsigned kEnablePeerAccess = 1;  // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
constexpr int kIpcCapable = 10;            // CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE

/// Runs up to this size are cheaper in batches by the kernel than by one call each.
constexpr std::size_t kSmallRun = std::size_t{64} << 10;
constexpr std::size_t kFewRuns = 4;

/// Polling interval: a copy takes some 50 us, and the driver has no wait with a timeout.
constexpr int kQueriesAtOnce = 4;
constexpr std::chrono::microseconds kQueryPause{20};

Address address(const std::byte* data) noexcept { return reinterpret_cast<Address>(data); }

class CudaMemory final : public Memory {
 public:
  CudaMemory(const Context& context, std::size_t bytes, bool on_host)
      : context_(context), bytes_(bytes), on_host_(on_host) {
    const Driver& driver = Driver::instance();
    const Bound bound(context);
    check(bound.result(), "cuCtxPushCurrent");
    if (on_host) {
      void* data = nullptr;
      const Result result = driver.allocate_host(&data, bytes, kPortable);
      if (result != cuda::kSuccess)
        throw Error(result == cuda::kOutOfMemory ? ErrorCode::kResourceExhausted : ErrorCode::kDevice, "device",
                    "cuMemHostAlloc of " + std::to_string(bytes) + " page-locked bytes failed with " +
                        driver.describe(result) + "; lower staging_bytes or copy_threads, or raise `ulimit -l`");
      data_ = static_cast<std::byte*>(data);
    } else {
      Address data = 0;
      check(driver.allocate(&data, bytes), "cuMemAlloc");
      data_ = reinterpret_cast<std::byte*>(data);
    }
  }
  ~CudaMemory() override {
    const Driver& driver = Driver::instance();
    const Bound bound(context_);  // whichever thread drops the last owner
    static_cast<void>(on_host_ ? driver.free_host(data_) : driver.free(address(data_)));
  }
  std::byte* data() const noexcept override { return data_; }
  std::size_t bytes() const noexcept override { return bytes_; }

 private:
  const Context& context_;
  const std::size_t bytes_;
  const bool on_host_;
  std::byte* data_ = nullptr;
};

/// Host memory that somebody else allocated, page-locked where it is.
class RegisteredPages final : public Memory {
 public:
  RegisteredPages(const Context& context, Span<const std::byte> pages) : context_(context), pages_(pages) {
    const Bound bound(context);
    check(bound.result(), "cuCtxPushCurrent");
    void* const first = const_cast<std::byte*>(pages.data());
    Result result = driver_.register_host(first, pages.size(), kPortable | kReadOnly);
    if (result == cuda::kNotSupported) result = driver_.register_host(first, pages.size(), kPortable);
    if (result != cuda::kSuccess)
      throw Error(result == cuda::kOutOfMemory ? ErrorCode::kResourceExhausted : ErrorCode::kDevice, "device",
                  "cuMemHostRegister of " + std::to_string(pages.size()) + " bytes failed with " +
                      driver_.describe(result) + "; raise `ulimit -l`");
    Address seen = 0;
    result = driver_.device_address(&seen, first, 0);
    if (result != cuda::kSuccess) {
      static_cast<void>(driver_.unregister_host(first));
      check(result, "cuMemHostGetDevicePointer");
    }
    data_ = reinterpret_cast<std::byte*>(seen);
  }
  ~RegisteredPages() override {
    const Bound bound(context_);
    static_cast<void>(driver_.unregister_host(const_cast<std::byte*>(pages_.data())));
  }
  std::byte* data() const noexcept override { return data_; }
  std::size_t bytes() const noexcept override { return pages_.size(); }

 private:
  const Driver& driver_ = Driver::instance();
  const Context& context_;
  const Span<const std::byte> pages_;
  std::byte* data_ = nullptr;
};

/// Memory of another process.
class SharedMemory final : public Memory {
 public:
  SharedMemory(const Context& context, const IpcHandle& handle) : context_(context) {
    const Bound bound(context);
    check(bound.result(), "cuCtxPushCurrent");
    Address address = 0;
    check(driver_.open_ipc_handle(&address, handle, kEnablePeerAccess), "cuIpcOpenMemHandle");
    data_ = reinterpret_cast<std::byte*>(address);
    Address base = 0;
    std::size_t bytes = 0;
    if (driver_.address_range(&base, &bytes, address) == cuda::kSuccess)
      bytes_ = static_cast<std::size_t>(base + bytes - address);
    else
      bytes_ = std::numeric_limits<std::size_t>::max();  // it does not tell of memory that it did not allocate
  }
  ~SharedMemory() override {
    const Bound bound(context_);
    static_cast<void>(driver_.close_ipc_handle(address(data_)));
  }
  std::byte* data() const noexcept override { return data_; }
  std::size_t bytes() const noexcept override { return bytes_; }

 private:
  const Driver& driver_ = Driver::instance();
  const Context& context_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

class CudaEvent final : public Event {
 public:
  CudaEvent(const Context& context, Handle stream) : context_(context), stream_(stream) {
    const Bound bound(context);
    check(bound.result(), "cuCtxPushCurrent");
    check(driver_.create_event(&event_, kWithoutTiming), "cuEventCreate");
  }
  ~CudaEvent() override {
    const Bound bound(context_);
    static_cast<void>(driver_.destroy_event(event_));
  }

  void record() override { check(driver_.record_event(event_, stream_), "cuEventRecord"); }
  void wait(Deadline deadline) override {
    for (int queries = 1;; ++queries) {
      const Result result = driver_.query_event(event_);
      if (result == cuda::kSuccess) return;
      if (result != cuda::kNotReady) check(result, "cuEventQuery");
      if (deadline.passed())
        throw Error(ErrorCode::kTransferTimeout, "device", "copies on the device were not done by the deadline");
      if (queries > kQueriesAtOnce) std::this_thread::sleep_for(kQueryPause);
    }
  }

 private:
  const Driver& driver_ = Driver::instance();
  const Context& context_;
  const Handle stream_;
  Handle event_ = nullptr;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(const Context& context) : context_(context), bound_(context) {
    check(bound_.result(), "cuCtxPushCurrent");
    check(driver_.create_stream(&stream_, kNonBlocking), "cuStreamCreate");
  }
  /// Does not wait for pending work.
  ~CudaStream() override { static_cast<void>(driver_.destroy_stream(stream_)); }

  void copy(Direction direction, const Copy& copy) override {
    switch (direction) {
      case Direction::kToDevice:
        return check(driver_.to_device(address(copy.destination), copy.source, copy.bytes, stream_), "cuMemcpyHtoD");
      case Direction::kToHost:
        return check(driver_.to_host(copy.destination, address(copy.source), copy.bytes, stream_), "cuMemcpyDtoH");
      case Direction::kOnDevice:
        return check(driver_.on_device(address(copy.destination), address(copy.source), copy.bytes, stream_),
                     "cuMemcpyDtoD");
    }
  }

  void copy_all(Direction direction, Span<const Copy> copies, Span<std::byte> notes) override {
    const auto is_small = [](const Copy& each) { return each.bytes <= kSmallRun; };
    const auto small = static_cast<std::size_t>(std::count_if(copies.begin(), copies.end(), is_small));
    const bool by_kernel =
        small > kFewRuns && small * sizeof(Copy) <= notes.size() && context_.copy_kernel() != nullptr;
    auto* const noted = reinterpret_cast<Copy*>(notes.data());
    unsigned count = 0;
    for (const Copy& each : copies) {
      if (by_kernel && is_small(each))
        noted[count++] = each;
      else
        copy(direction, each);
    }
    if (by_kernel) launch(noted, count);
  }

  void digest(Span<const DigestedPiece> pieces, std::uint64_t* sums) override {
    const DigestedPiece* first = pieces.data();
    void* arguments[] = {&first, &sums};
    check(driver_.launch(context_.digest_kernel(), static_cast<unsigned>(pieces.size()), 1, 1, kDigestThreads, 1, 1, 0,
                         stream_, arguments, nullptr),
          "cuLaunchKernel");
  }

  std::unique_ptr<Event> make_event() override { return std::make_unique<CudaEvent>(context_, stream_); }

  void synchronize(Deadline deadline) override {
    const auto event = make_event();
    event->record();
    event->wait(deadline);
  }

 private:
  /// The kernel accesses page-locked memory at the host's addresses (unified addressing).
  void launch(const Copy* copies, unsigned count) {
    void* arguments[] = {&copies, &count};
    check(driver_.launch(context_.copy_kernel(), count, 1, 1, kKernelThreads, 1, 1, 0, stream_, arguments, nullptr),
          "cuLaunchKernel");
  }

  const Driver& driver_ = Driver::instance();
  const Context& context_;
  const Bound bound_;  ///< A stream is used and destroyed by the thread that made it.
  Handle stream_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : context_(Context::of(index)), index_(index) {}

  const char* name() const noexcept override { return driver_.simulated ? "simulated-cuda" : "cuda"; }
  int index() const noexcept override { return index_; }
  bool cpu_accessible() const noexcept override { return false; }
  bool copies_are_checked() const noexcept override { return true; }  // PCIe and NVLink have checksums a packet
  void bind_thread() override {
    check(driver_.set_context(context_.handle()), "cuCtxSetCurrent");
    cuda::Relaxed::thread();
  }
  void wait_for_stream(std::uint64_t handle, Deadline deadline) override {
    const Bound bound(context_);
    check(bound.result(), "cuCtxPushCurrent");
    CudaEvent event(context_, reinterpret_cast<Handle>(handle));
    event.record();
    event.wait(deadline);
  }
  std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, true, deadline);
  }
  std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, false, deadline);
  }
  std::unique_ptr<Memory> lock_pages(Span<const std::byte> pages) override {
    return std::make_unique<RegisteredPages>(context_, pages);
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CudaStream>(context_); }
  bool takes_digests() const noexcept override { return context_.digest_kernel() != nullptr; }

  SharedAllocation share(std::uint64_t at) override {
    const Bound bound(context_);
    check(bound.result(), "cuCtxPushCurrent");
    std::uint64_t capable = 0;
    Address base = 0;
    std::size_t bytes = 0;
    check(driver_.pointer_attribute(&capable, kIpcCapable, at), "cuPointerGetAttribute");
    if (capable == 0)
      throw Error(ErrorCode::kDevice, "device",
                  "tensors lie in memory of CUDA device " + std::to_string(index_) +
                      " that other processes cannot open, as that of PyTorch's expandable segments, of "
                      "cudaMallocAsync, and of vLLM's sleep mode");
    check(driver_.address_range(&base, &bytes, at), "cuMemGetAddressRange");
    IpcHandle handle{};
    check(driver_.get_ipc_handle(&handle, base), "cuIpcGetMemHandle");
    return {{handle.bytes, sizeof handle.bytes}, base, bytes};
  }

  /// Runs on a thread that can be abandoned, as `allocate`: one for all, which are hundreds.
  std::vector<std::unique_ptr<Memory>> open_shared(const std::vector<std::string>& handles,
                                                   Deadline deadline) override {
    std::vector<IpcHandle> told(handles.size());
    for (std::size_t i = 0; i < handles.size(); ++i) {
      if (handles[i].size() != sizeof told[i].bytes)
        throw Error(ErrorCode::kInvalidArgument, "device",
                    "a handle of " + std::to_string(handles[i].size()) + " bytes");
      std::memcpy(told[i].bytes, handles[i].data(), sizeof told[i].bytes);
    }
    return runner_.run(
        "device", deadline,
        [&context = context_, told = std::move(told), deadline] {
          std::vector<std::unique_ptr<Memory>> opened;
          for (const IpcHandle& each : told) {
            if (deadline.passed()) break;  // nobody waits any more
            opened.push_back(std::make_unique<SharedMemory>(context, each));
          }
          return opened;
        },
        "CUDA device " + std::to_string(index_) + " opened no memory before the deadline");
  }

 private:
  /// Runs on a thread that can be abandoned: on a device that hangs this does not return.
  std::unique_ptr<Memory> allocate(std::size_t bytes, bool on_host, Deadline deadline) {
    return runner_.run(
        "device", deadline,
        [&context = context_, bytes, on_host]() -> std::unique_ptr<Memory> {
          return std::make_unique<CudaMemory>(context, bytes, on_host);
        },
        "CUDA device " + std::to_string(index_) + " gave no memory before the deadline");
  }

  const Driver& driver_ = Driver::instance();
  const Context& context_;
  const int index_;
  CallRunner runner_{kAllocatingThreads, 0.0};
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(int index) { return std::make_unique<CudaDevice>(index); }

unsigned cuda_device_count() noexcept {
  try {
    int count = 0;
    return Driver::instance().device_count(&count) == cuda::kSuccess ? static_cast<unsigned>(count) : 0;
  } catch (...) {
    return 0;
  }
}

int cuda_driver_version() {
  int version = 0;
  check(Driver::instance().driver_version(&version), "cuDriverGetVersion");
  return version;
}

std::string cuda_device_name(int index) {
  char name[256] = "";
  check(Driver::instance().device_name(name, sizeof name, index), "cuDeviceGetName");
  return name;
}

bool cuda_device_reaches(int index, int other) {
  int reaches = 0;
  check(Driver::instance().can_access_peer(&reaches, index, other), "cuDeviceCanAccessPeer");
  return reaches != 0;
}

int cuda_device_of(std::uint64_t address) {
  constexpr int kDeviceOrdinal = 9;  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
  int device = -1;
  check(Driver::instance().pointer_attribute(&device, kDeviceOrdinal, address), "cuPointerGetAttribute");
  return device;
}

}  // namespace yr_fastload
