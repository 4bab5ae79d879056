// Preloaded: openYuanrong looks for NPUs with glob("/dev/davinci[0-9]*"). Here there are some; every other pattern is
// glibc's affair.
#include <dlfcn.h>
#include <fnmatch.h>
#include <glob.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

#include "engine/export.hpp"

namespace {

constexpr const char* kDevices = "/dev/davinci";
constexpr long kDefaultDevices = 8;
constexpr long kMostDevices = 1024;

/// A malformed number is reported by libascendcl.so, which reads the same variable.
long device_count() {
  const char* text = std::getenv("YR_FASTLOAD_SIM_DEVICES");
  const long count = text == nullptr || *text == '\0' ? kDefaultDevices : std::strtol(text, nullptr, 10);
  return count >= 1 && count <= kMostDevices ? count : kDefaultDevices;
}

/// glibc makes the list, so that globfree fits: of names without magic, which it takes as they are.
template <typename Glob, typename Found>
int find(Glob real, const char* pattern, int flags, int (*failed)(const char*, int), Found* found) {
  bool any = false;
  for (long device = 0; pattern != nullptr && device < device_count(); ++device) {
    if (std::strncmp(pattern, kDevices, std::strlen(kDevices)) != 0) break;
    const std::string name = kDevices + std::to_string(device);
    if (::fnmatch(pattern, name.c_str(), FNM_PATHNAME) != 0) continue;
    const int result = real(name.c_str(), (flags | GLOB_NOCHECK) | (any ? GLOB_APPEND : 0), failed, found);
    if (result != 0) return result;
    any = true;
  }
  return any ? 0 : real(pattern, flags, failed, found);
}

}  // namespace

YRFL_SIM_API int glob(const char* pattern, int flags, int (*failed)(const char*, int), ::glob_t* found) {
  static const auto real = reinterpret_cast<std::add_pointer_t<decltype(::glob)>>(::dlsym(RTLD_NEXT, "glob"));
  return find(real, pattern, flags, failed, found);
}

YRFL_SIM_API int glob64(const char* pattern, int flags, int (*failed)(const char*, int), ::glob64_t* found) {
  static const auto real = reinterpret_cast<std::add_pointer_t<decltype(::glob64)>>(::dlsym(RTLD_NEXT, "glob64"));
  return find(real, pattern, flags, failed, found);
}
