/// A part of openYuanrong 0.8.1 that stands in for its own.
///
/// When a worker dies, one thread of its client takes the connection down and sets a handle of it to null
/// (ZmqEpoll::RemoveFd), while another is about to pass that handle on (SockConnEntry::BackendToFrontend,
/// zmq_stub_conn.cpp) to a function that looks into it: the process is gone. Of 100 workers that were killed, three
/// took a client with them.
///
/// The dynamic linker looks into this module before the library that it loads, so that the library's calls come here.
/// Where something else has loaded the library before, they do not, and all is as openYuanrong has it.

#include <datasystem/utils/status.h>
#include <dlfcn.h>

#include <cstddef>
#include <cstring>

namespace datasystem {

class __attribute__((visibility("default"))) ZmqEpoll {
 public:
  Status SetPollOut(void* handle) const;
  Status UnsetPollOut(void* handle) const;
};

namespace {

using PollOut = Status (ZmqEpoll::*)(void*) const;

/// openYuanrong's own, by its name in the library.
PollOut next(const char* symbol) {
  // As the ABI has a pointer to a function that is not virtual: its address, and nothing to add to `this`.
  struct {
    void* address;
    std::ptrdiff_t adjustment;
  } const parts{::dlsym(RTLD_NEXT, symbol), 0};
  static_assert(sizeof(parts) == sizeof(PollOut));
  PollOut made = nullptr;
  std::memcpy(&made, &parts, sizeof(made));
  return made;
}

Status gone() { return {StatusCode::K_NOT_FOUND, "the connection was taken down"}; }

}  // namespace

Status ZmqEpoll::SetPollOut(void* handle) const {
  static const PollOut own = next("_ZNK10datasystem8ZmqEpoll10SetPollOutEPv");
  return handle == nullptr || own == nullptr ? gone() : (this->*own)(handle);
}

Status ZmqEpoll::UnsetPollOut(void* handle) const {
  static const PollOut own = next("_ZNK10datasystem8ZmqEpoll12UnsetPollOutEPv");
  return handle == nullptr || own == nullptr ? gone() : (this->*own)(handle);
}

}  // namespace datasystem
