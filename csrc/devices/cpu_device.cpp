#include "devices/cpu_device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace yr_fastload {
namespace {

class LockedPages final : public Memory {
 public:
  explicit LockedPages(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    bytes_ = (bytes + page - 1) / page * page;
    void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      throw Error(ErrorCode::kResourceExhausted, "staging",
                  "mmap of " + std::to_string(bytes_) + " bytes failed: " + std::strerror(errno));
    data_ = static_cast<std::byte*>(memory);
    locked_ = ::mlock(data_, bytes_) == 0;
  }
  ~LockedPages() override { ::munmap(data_, bytes_); }

  std::byte* data() const noexcept override { return data_; }
  std::size_t bytes() const noexcept override { return bytes_; }
  bool locked() const noexcept override { return locked_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool locked_ = false;
};

/// Copies are complete when the call returns.
class CpuEvent final : public Event {
 public:
  void record() override {}
  void wait(Deadline) override {}
};

class CpuStream final : public Stream {
 public:
  void copy(Direction, const Copy& copy) override { std::memcpy(copy.destination, copy.source, copy.bytes); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(); }
  void synchronize(Deadline) override {}
};

}  // namespace

std::unique_ptr<Memory> CpuDevice::allocate_page_locked(std::size_t bytes, Deadline) {
  return std::make_unique<LockedPages>(bytes);
}

std::unique_ptr<Stream> CpuDevice::make_stream() { return std::make_unique<CpuStream>(); }

}  // namespace yr_fastload
