// Memory of devices, which the CPU cannot reach, and page-locked memory of the host; copies.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "cuda/state.hpp"
#include "engine/blocks.hpp"
#include "engine/codes.hpp"
#include "engine/copy.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/faults.hpp"
#include "engine/memory.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim::cuda {
namespace {

constexpr std::size_t kAddresses = std::size_t{1} << 42;
constexpr std::size_t kFewestAddresses = std::size_t{1} << 38;
constexpr std::size_t kAllocation = 4096;
constexpr int kDeviceOrdinal = 9;  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
constexpr int kIpcCapable = 10;    // CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE

struct Range {
  int device;
  std::size_t bytes;
  std::byte* backing;  ///< Stays when it is freed, so that a late access is seen: the engine knows it.
  std::uint64_t offset = 0;
  bool own = true;
};

/// Every address that was ever handed out; none is handed out twice, and one allocation often begins where the one
/// before it ends, as on a real device: a copy across both is refused all the same.
struct Ranges {
  std::mutex mutex;
  std::map<std::uintptr_t, Range> all;
  std::uintptr_t next = 0;

  /// 0 if there are none left. The caller holds the mutex.
  std::uintptr_t reserve(std::size_t bytes) {
    if (next == 0) {
      std::size_t all_bytes = kAddresses;
      void* first = reserve_addresses(all_bytes);
      while (first == nullptr && all_bytes > kFewestAddresses)  // the thread sanitizer leaves 1.5 TiB
        first = reserve_addresses(all_bytes /= 2);
      if (first == nullptr) return 0;
      next = reinterpret_cast<std::uintptr_t>(first);
      end_ = next + all_bytes;
    }
    const std::size_t whole = (bytes + kAllocation - 1) / kAllocation * kAllocation;
    if (whole > end_ - next) return 0;
    return std::exchange(next, next + whole);
  }

  static Ranges& instance() {
    static Ranges* const made = new Ranges;  // never destroyed
    return *made;
  }

 private:
  std::uintptr_t end_ = 0;
};

/// Where an allocation lies in the file of all; none is given out twice.
std::uint64_t next_offset(std::size_t bytes) {
  static std::atomic<std::uint64_t> next{0};
  return next.fetch_add((bytes + kAllocation - 1) / kAllocation * kAllocation);
}

bool find(const void* data, std::uintptr_t& first, Range& range) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  Ranges& ranges = Ranges::instance();
  const std::lock_guard<std::mutex> lock(ranges.mutex);
  auto next = ranges.all.upper_bound(address);
  if (next == ranges.all.begin()) return false;
  --next;
  first = next->first;
  range = next->second;
  return address - first < range.bytes;
}

int result_of(int engine_result) {
  if (engine_result == kAclSuccess) return kSuccess;
  return engine_result == kAclRtMemoryAllocation ? kOutOfMemory : kInvalidValue;
}

int copy_now(void* destination, const void* source, std::size_t bytes) {
  void* const to = bytes_of(destination, bytes);
  const void* const from = bytes_of(source, bytes);
  if (to == nullptr || from == nullptr) return kInvalidValue;
  return settle(copy(to, from, bytes, [] { return false; }));
}

int copy_later(void* destination, const void* source, std::size_t bytes, void* handle) {
  void* const to = bytes_of(destination, bytes);
  const void* const from = bytes_of(source, bytes);
  if (to == nullptr || from == nullptr || bytes == 0) return kInvalidValue;
  const auto stream = stream_of(handle);
  if (stream == nullptr) return kInvalidHandle;
  const int result = stream->push({[=](const Stream& self) {
                                     const int copied = copy(to, from, bytes, [&self] { return self.interrupted(); });
                                     settle(copied);
                                     return copied;
                                   },
                                   nullptr});
  return settle(result);
}

void* pointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

void* bytes_of(const void* data, std::size_t bytes) {
  std::uintptr_t first = 0;
  Range range{};
  if (!find(data, first, range)) return const_cast<void*>(data);
  const std::size_t offset = reinterpret_cast<std::uintptr_t>(data) - first;
  return bytes > range.bytes - offset ? nullptr : range.backing + offset;
}

std::optional<Allocation> find_allocation(const void* data) {
  std::uintptr_t first = 0;
  Range range{};
  if (!find(data, first, range)) return std::nullopt;
  return Allocation{range.device, first, range.bytes, range.offset, range.own};
}

int shared_file() {
  static const int made = [] {
    const int file = ::memfd_create(("yrfl-cuda-" + std::to_string(std::random_device()())).c_str(), MFD_CLOEXEC);
    return file >= 0 && ::ftruncate(file, static_cast<::off_t>(kAddresses)) == 0 ? file : -1;
  }();
  return made;
}

std::uintptr_t show(std::byte* mapped, std::size_t bytes) {
  Ranges& ranges = Ranges::instance();
  const std::lock_guard<std::mutex> lock(ranges.mutex);
  const std::uintptr_t shown = ranges.reserve(bytes);
  if (shown != 0) ranges.all[shown] = {current_device(), bytes, mapped, 0, false};
  return shown;
}

std::byte* hide(std::uintptr_t address, std::size_t& bytes) {
  Ranges& ranges = Ranges::instance();
  const std::lock_guard<std::mutex> lock(ranges.mutex);
  const auto found = ranges.all.find(address);
  if (found == ranges.all.end() || found->second.own) return nullptr;
  std::byte* const mapped = found->second.backing;
  bytes = found->second.bytes;
  ranges.all.erase(found);
  return mapped;
}

bool is_device_memory(const void* data) {
  std::uintptr_t first = 0;
  Range range{};
  return find(data, first, range);
}

}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
  if (const int result = enter_unsafe("cuMemAlloc")) return result;
  if (address == nullptr || bytes == 0) return kInvalidValue;
  if (const int result = refused(Operation::kMalloc, kInvalidValue)) return result;
  void* backing = nullptr;
  const InFile place{shared_file(), next_offset(bytes)};
  if (const int result = result_of(allocate(current_device(), bytes, &backing, Reach::kDirect, place))) return result;
  Ranges& ranges = Ranges::instance();
  const std::lock_guard<std::mutex> lock(ranges.mutex);
  const std::uintptr_t shown = ranges.reserve(bytes);
  if (shown == 0) {
    release(backing, false);
    return kOutOfMemory;
  }
  ranges.all[shown] = {current_device(), bytes, static_cast<std::byte*>(backing), place.offset};
  *address = shown;
  return kSuccess;
}

YRFL_SIM_API int cuMemFree_v2(std::uint64_t address) {
  if (const int result = enter_unsafe("cuMemFree")) return result;
  const auto allocation = find_allocation(pointer(address));
  if (!allocation || !allocation->own) return kInvalidValue;
  return result_of(release(bytes_of(pointer(address), 1), false));
}

/// Of device memory; the driver knows page-locked memory of the host too.
YRFL_SIM_API int cuPointerGetAttribute(void* value, int attribute, std::uint64_t address) {
  if (const int result = enter("cuPointerGetAttribute")) return result;
  if (attribute != kDeviceOrdinal && attribute != kIpcCapable) {
    report("cuPointerGetAttribute of " + std::to_string(attribute) + " is not simulated");
    std::abort();
  }
  std::uintptr_t first = 0;
  Range range{};
  if (value == nullptr || !find(pointer(address), first, range)) return kInvalidValue;
  *static_cast<int*>(value) =
      attribute == kDeviceOrdinal ? range.device : range.own && match(Operation::kShare).action != Action::kFail;
  return kSuccess;
}

YRFL_SIM_API int cuMemHostAlloc(void** data, std::size_t bytes, unsigned) {
  if (const int result = enter_unsafe("cuMemHostAlloc")) return result;
  if (const int result = refused(Operation::kPin, kInvalidValue)) return result;
  return result_of(allocate(kHost, bytes, data));
}

YRFL_SIM_API int cuMemFreeHost(void* data) {
  if (const int result = enter_unsafe("cuMemFreeHost")) return result;
  return data == nullptr ? kInvalidValue : result_of(release(data, true));
}

YRFL_SIM_API int cuMemcpyHtoD_v2(std::uint64_t destination, const void* source, std::size_t bytes) {
  if (const int result = enter_unsafe("cuMemcpyHtoD")) return result;
  return is_device_memory(pointer(destination)) ? copy_now(pointer(destination), source, bytes) : kInvalidValue;
}

YRFL_SIM_API int cuMemcpyDtoH_v2(void* destination, std::uint64_t source, std::size_t bytes) {
  if (const int result = enter_unsafe("cuMemcpyDtoH")) return result;
  return is_device_memory(pointer(source)) ? copy_now(destination, pointer(source), bytes) : kInvalidValue;
}

YRFL_SIM_API int cuMemcpyHtoDAsync_v2(std::uint64_t destination, const void* source, std::size_t bytes, void* stream) {
  if (const int result = enter_context("cuMemcpyHtoDAsync")) return result;
  if (!is_device_memory(pointer(destination)) || is_device_memory(source)) return kInvalidValue;
  return copy_later(pointer(destination), source, bytes, stream);
}

YRFL_SIM_API int cuMemcpyDtoHAsync_v2(void* destination, std::uint64_t source, std::size_t bytes, void* stream) {
  if (const int result = enter_context("cuMemcpyDtoHAsync")) return result;
  if (!is_device_memory(pointer(source)) || is_device_memory(destination)) return kInvalidValue;
  return copy_later(destination, pointer(source), bytes, stream);
}

YRFL_SIM_API int cuMemcpyDtoDAsync_v2(std::uint64_t destination, std::uint64_t source, std::size_t bytes,
                                      void* stream) {
  if (const int result = enter_context("cuMemcpyDtoDAsync")) return result;
  if (!is_device_memory(pointer(destination)) || !is_device_memory(pointer(source))) return kInvalidValue;
  return copy_later(pointer(destination), pointer(source), bytes, stream);
}
