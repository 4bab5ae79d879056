// Memory that processes open of each other: parts of a file without a name that its process holds.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "cuda/state.hpp"
#include "engine/export.hpp"

namespace yr_fastload::sim::cuda {

/// CUipcMemHandle.
struct Opaque {
  char bytes[64];
};

namespace {

/// What is in it here.
struct Handle {
  int process;
  int file;
  std::uint64_t offset;
  std::uint64_t bytes;
  int device;
  char name[36];  ///< Of the file: another process may have the number by now.
};
static_assert(sizeof(Handle) == sizeof(Opaque));

std::string link_of(int process, int file) {
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
  char name[sizeof(Handle::name)] = {};
  const ::ssize_t length = ::readlink(path.c_str(), name, sizeof name - 1);
  return length < 0 ? std::string() : std::string(name, static_cast<std::size_t>(length));
}

std::byte* map(const Handle& handle) {
  if (link_of(handle.process, handle.file) != handle.name) return nullptr;
  const std::string path = "/proc/" + std::to_string(handle.process) + "/fd/" + std::to_string(handle.file);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  void* const mapped =
      ::mmap(nullptr, handle.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, static_cast<::off_t>(handle.offset));
  ::close(file);
  return mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
}

/// What is open, and how often: the same memory is shown at one address.
struct Open {
  std::mutex mutex;
  std::map<std::string, std::uintptr_t> address_of;
  std::map<std::uintptr_t, int> times;

  static Open& instance() {
    static Open* const made = new Open;  // never destroyed
    return *made;
  }
};

}  // namespace
}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuMemGetAddressRange_v2(std::uint64_t* base, std::size_t* bytes, std::uint64_t address) {
  if (const int result = enter_context("cuMemGetAddressRange")) return result;
  const auto allocation = find_allocation(reinterpret_cast<void*>(address));
  if (!allocation) return kInvalidValue;
  if (base != nullptr) *base = allocation->first;
  if (bytes != nullptr) *bytes = allocation->bytes;
  return kSuccess;
}

YRFL_SIM_API int cuIpcGetMemHandle(Opaque* opaque, std::uint64_t address) {
  if (const int result = enter_context("cuIpcGetMemHandle")) return result;
  const auto allocation = find_allocation(reinterpret_cast<void*>(address));
  if (opaque == nullptr || !allocation || !allocation->own) return kInvalidValue;
  Handle handle{::getpid(), shared_file(), allocation->offset, allocation->bytes, allocation->device, {}};
  const std::string name = link_of(handle.process, handle.file);
  name.copy(handle.name, sizeof handle.name - 1);
  std::memcpy(opaque, &handle, sizeof handle);
  return kSuccess;
}

YRFL_SIM_API int cuIpcOpenMemHandle_v2(std::uint64_t* address, Opaque opaque, unsigned) {
  if (const int result = enter_unsafe("cuIpcOpenMemHandle")) return result;
  if (address == nullptr) return kInvalidValue;
  Handle handle{};
  std::memcpy(&handle, &opaque, sizeof handle);
  if (handle.process == ::getpid()) return kInvalidContext;
  if (handle.device != current_device() && match(Operation::kPeer).action == Action::kFail) return kNoPeerAccess;
  if (const int result = refused(Operation::kOpen, kMapFailed)) return result;
  const std::string key(opaque.bytes, sizeof opaque.bytes);
  Open& open = Open::instance();
  const std::lock_guard<std::mutex> lock(open.mutex);
  const auto known = open.address_of.find(key);
  if (known != open.address_of.end()) {
    ++open.times[known->second];
    *address = known->second;
    return kSuccess;
  }
  std::byte* const mapped = map(handle);
  const std::uintptr_t shown = mapped == nullptr ? 0 : show(mapped, handle.bytes);
  if (shown == 0) return kMapFailed;
  open.address_of[key] = shown;
  open.times[shown] = 1;
  *address = shown;
  return kSuccess;
}

YRFL_SIM_API int cuIpcCloseMemHandle(std::uint64_t address) {
  if (const int result = enter_unsafe("cuIpcCloseMemHandle")) return result;
  Open& open = Open::instance();
  const std::lock_guard<std::mutex> lock(open.mutex);
  const auto times = open.times.find(address);
  if (times == open.times.end()) return kInvalidValue;
  if (--times->second > 0) return kSuccess;
  open.times.erase(times);
  for (auto each = open.address_of.begin(); each != open.address_of.end(); ++each)
    if (each->second == address) {
      open.address_of.erase(each);
      break;
    }
  std::size_t bytes = 0;
  std::byte* const mapped = hide(address, bytes);
  if (mapped != nullptr) ::munmap(mapped, bytes);
  return kSuccess;
}
