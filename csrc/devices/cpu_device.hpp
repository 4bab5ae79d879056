#pragma once

#include "core/device.hpp"

namespace yr_fastload {

/// Tensors in ordinary memory; copies are done when the call returns. Page-locked memory is page-aligned, and locked if
/// RLIMIT_MEMLOCK allows it.
class CpuDevice final : public Device {
 public:
  const char* name() const noexcept override { return "cpu"; }
  int index() const noexcept override { return -1; }
  bool cpu_accessible() const noexcept override { return true; }
  void bind_thread() override {}
  std::unique_ptr<Memory> allocate_page_locked(std::size_t bytes, Deadline deadline) override;
  std::unique_ptr<Memory> allocate(std::size_t bytes, Deadline deadline) override {
    return allocate_page_locked(bytes, deadline);
  }
  std::unique_ptr<Stream> make_stream() override;
};

}  // namespace yr_fastload
