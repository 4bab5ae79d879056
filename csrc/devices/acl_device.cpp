#include "devices/acl_device.hpp"

#include <cstdint>
#include <memory>
#include <string>

#include "core/call_runner.hpp"
#include "core/error.hpp"
#include "devices/acl_operators.hpp"
#include "devices/acl_runtime.hpp"
#include "devices/acl_stream.hpp"

namespace yr_fastload {
namespace {

using namespace acl;

constexpr unsigned kAllocatingThreads = 2;

class AclDevice final : public Device {
 public:
  explicit AclDevice(int index) : index_(index) { check(ThreadDevice(index).result(), "aclrtSetDevice"); }

  const char* name() const noexcept override { return acl_.simulated ? "simulated-npu" : "npu"; }
  int index() const noexcept override { return index_; }
  bool cpu_accessible() const noexcept override { return acl_.cpu_accessible; }
  std::uint64_t memory_bytes() const override {
    constexpr int kHbm = 1;  // ACL_HBM_MEM
    const ThreadDevice bound(index_);
    std::size_t free = 0;
    std::size_t total = 0;
    return bound.result() == kSuccess && acl_.memory_info(kHbm, &free, &total) == kSuccess ? total : 0;
  }
  void bind_thread() override {
    check(acl_.set_device(index_), "aclrtSetDevice");
    relax_capture();
  }
  void wait_for_stream(std::uint64_t handle, Deadline deadline) override {
    const ThreadDevice bound(index_);
    check(bound.result(), "aclrtSetDevice");
    const AclError result = acl_.synchronize_stream(reinterpret_cast<void*>(handle), milliseconds_to(deadline));
    if (result == kStreamSyncTimeout)
      throw Error(ErrorCode::kTransferTimeout, "device", "what a stream was asked for was not done by the deadline");
    check(result, "aclrtSynchronizeStreamWithTimeout");
  }
  std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, true, deadline);
  }
  std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) override {
    return allocate(bytes, false, deadline);
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<AclStream>(index_); }
  std::unique_ptr<RowStream> make_row_stream() override { return acl::make_row_stream(*this); }

 private:
  /// While another thread captures a graph, threads may not copy synchronously, which openYuanrong's client can do on
  /// those that call it. What this thread does is not part of any graph.
  void relax_capture() const noexcept {
    constexpr int kRelaxed = 2;  // ACL_MODEL_RI_CAPTURE_MODE_RELAXED
    int mode = kRelaxed;
    if (acl_.exchange_capture_mode != nullptr) static_cast<void>(acl_.exchange_capture_mode(&mode));
  }

  /// Runs on a thread that can be abandoned: on a device that hangs this does not return.
  std::unique_ptr<Memory> allocate(std::size_t bytes, bool on_host, Deadline deadline) {
    return runner_.run(
        "device", deadline,
        [index = index_, bytes, on_host]() -> std::unique_ptr<Memory> {
          check(Acl::instance().set_device(index), "aclrtSetDevice");
          return std::make_unique<AclMemory>(index, bytes, on_host);
        },
        "device " + std::to_string(index_) + " gave no memory before the deadline");
  }

  const Acl& acl_ = Acl::instance();
  const int index_;
  CallRunner runner_{kAllocatingThreads, 0.0};
};

}  // namespace

std::unique_ptr<Device> open_acl_device(int index) { return std::make_unique<AclDevice>(index); }

unsigned acl_device_count() noexcept {
  try {
    std::uint32_t count = 0;
    return Acl::instance().device_count(&count) == kSuccess ? count : 0;
  } catch (...) {
    return 0;
  }
}

int current_acl_device() noexcept {
  try {
    std::int32_t index = -1;
    return Acl::instance().get_device(&index) == kSuccess ? index : -1;
  } catch (...) {
    return -1;
  }
}

}  // namespace yr_fastload
