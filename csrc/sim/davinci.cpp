// Preloaded: openYuanrong looks for NPUs with glob("/dev/davinci[0-9]*"). Here there are some; every other pattern is
// glibc's affair.
#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "engine/export.hpp"

namespace {

constexpr const char* kDevices = "/dev/davinci";
using Glob = int (*)(const char*, int, int (*)(const char*, int), ::glob_t*);

unsigned device_count() {
  const char* text = std::getenv("YR_FASTLOAD_SIM_DEVICES");
  const long count = text == nullptr ? 8 : std::strtol(text, nullptr, 10);
  return count >= 1 && count <= 1024 ? static_cast<unsigned>(count) : 8;
}

}  // namespace

YRFL_SIM_API int glob(const char* pattern, int flags, int (*failed)(const char*, int), ::glob_t* found) {
  static const auto real = reinterpret_cast<Glob>(::dlsym(RTLD_NEXT, "glob"));
  if (pattern == nullptr || std::strncmp(pattern, kDevices, std::strlen(kDevices)) != 0)
    return real(pattern, flags, failed, found);
  // glibc makes the list, so that globfree fits: of names without magic, which it takes as they are.
  for (unsigned device = 0; device < device_count(); ++device) {
    const std::string name = kDevices + std::to_string(device);
    const int result = real(name.c_str(), (flags | GLOB_NOCHECK) | (device > 0 ? GLOB_APPEND : 0), failed, found);
    if (result != 0) return result;
  }
  return 0;
}
