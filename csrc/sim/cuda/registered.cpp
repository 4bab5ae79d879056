// Host memory that is page-locked where it is. A device finds it at an address of its own, so that whoever gives a
// kernel the CPU's is found out.
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/state.hpp"
#include "engine/export.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim::cuda {
namespace {

struct Locked {
  std::size_t bytes;
  std::uintptr_t shown;
};

struct Registered {
  std::mutex mutex;
  std::map<std::uintptr_t, Locked> all;

  static Registered& instance() {
    static Registered* const made = new Registered;  // never destroyed
    return *made;
  }

  /// The range that an address is in; the caller holds the mutex.
  std::map<std::uintptr_t, Locked>::iterator holder(std::uintptr_t address) {
    auto next = all.upper_bound(address);
    if (next == all.begin()) return all.end();
    --next;
    return address - next->first < next->second.bytes ? next : all.end();
  }
};

bool is_mapped(std::uintptr_t first, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = first / page * page;
  std::vector<unsigned char> resident((first - begin + bytes + page - 1) / page);
  return ::mincore(reinterpret_cast<void*>(begin), first - begin + bytes, resident.data()) == 0;
}

}  // namespace
}  // namespace yr_fastload::sim::cuda

using namespace yr_fastload::sim;
using namespace yr_fastload::sim::cuda;

YRFL_SIM_API int cuMemHostRegister_v2(void* data, std::size_t bytes, unsigned) {
  if (const int result = enter_unsafe("cuMemHostRegister")) return result;
  if (data == nullptr || bytes == 0) return kInvalidValue;
  if (const int result = refused(Operation::kRegister, kNotPermitted)) return result;
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  if (!is_mapped(first, bytes)) return kInvalidValue;
  Registered& registered = Registered::instance();
  const std::lock_guard<std::mutex> lock(registered.mutex);
  const auto next = registered.all.lower_bound(first);
  if (registered.holder(first) != registered.all.end() || (next != registered.all.end() && next->first < first + bytes))
    return kAlreadyRegistered;
  const std::uintptr_t shown = show(static_cast<std::byte*>(data), bytes);
  if (shown == 0) return kOutOfMemory;
  registered.all[first] = {bytes, shown};
  return kSuccess;
}

YRFL_SIM_API int cuMemHostUnregister(void* data) {
  if (const int result = enter_unsafe("cuMemHostUnregister")) return result;
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  Registered& registered = Registered::instance();
  const std::lock_guard<std::mutex> lock(registered.mutex);
  const auto found = registered.all.find(first);
  if (found == registered.all.end()) return kNotRegistered;
  const Locked locked = found->second;
  registered.all.erase(found);
  std::size_t bytes = 0;
  hide(locked.shown, bytes);
  if (is_mapped(first, locked.bytes)) return kSuccess;
  report("page-locked memory was unmapped before it was unregistered");
  return kInvalidValue;
}

YRFL_SIM_API int cuMemHostGetDevicePointer_v2(std::uint64_t* address, void* data, unsigned) {
  if (const int result = enter_context("cuMemHostGetDevicePointer")) return result;
  const auto wanted = reinterpret_cast<std::uintptr_t>(data);
  Registered& registered = Registered::instance();
  const std::lock_guard<std::mutex> lock(registered.mutex);
  const auto found = registered.holder(wanted);
  if (address == nullptr || found == registered.all.end()) return kInvalidValue;
  *address = found->second.shown + (wanted - found->first);
  return kSuccess;
}
