/// Parts of openYuanrong 0.8.1 that stand in for its own, where those look into null.
///
/// - When a worker dies, one thread of its client takes the connection down and sets a handle of it to null
///   (ZmqEpoll::RemoveFd), while another is about to pass that handle on (SockConnEntry::BackendToFrontend,
///   zmq_stub_conn.cpp) to a function that looks into it: the process is gone. Of 100 workers that were killed, three
///   took a client with them.
/// - A source is asked for a chunk by a process that has just died. CommWrapperBase::SubmitPipelineTask
///   (comm_wrapper_base.cpp) has CheckTranPointer see whether there is a pipeline to send by; where there is none that
///   one answers with what is known of the connection, and if nothing is known of it yet that is "OK".
///
/// The dynamic linker looks into this module before the library that it loads, so that the library's calls come here.
/// Where something else has loaded the library before, they do not, and all is as openYuanrong has it.

#include <datasystem/utils/status.h>
#include <dlfcn.h>

#include <cstddef>
#include <cstring>
#include <string>

namespace datasystem {

class __attribute__((visibility("default"))) ZmqEpoll {
 public:
  Status SetPollOut(void* handle) const;
  Status UnsetPollOut(void* handle) const;
};

class __attribute__((visibility("default"))) CommWrapperBase {
 public:
  Status CheckTranPointer(const void* pointer, const std::string& name);
};

namespace {

using PollOut = Status (ZmqEpoll::*)(void*) const;
using Check = Status (CommWrapperBase::*)(const void*, const std::string&);

/// openYuanrong's own, by its name in the library.
template <typename Function>
Function next(const char* symbol) {
  // As the ABI has a pointer to a function that is not virtual: its address, and nothing to add to `this`.
  struct {
    void* address;
    std::ptrdiff_t adjustment;
  } const parts{::dlsym(RTLD_NEXT, symbol), 0};
  static_assert(sizeof(parts) == sizeof(Function));
  Function made = nullptr;
  std::memcpy(&made, &parts, sizeof(made));
  return made;
}

Status gone() { return {StatusCode::K_NOT_FOUND, "the connection was taken down"}; }

}  // namespace

Status ZmqEpoll::SetPollOut(void* handle) const {
  static const PollOut own = next<PollOut>("_ZNK10datasystem8ZmqEpoll10SetPollOutEPv");
  return handle == nullptr || own == nullptr ? gone() : (this->*own)(handle);
}

Status ZmqEpoll::UnsetPollOut(void* handle) const {
  static const PollOut own = next<PollOut>("_ZNK10datasystem8ZmqEpoll12UnsetPollOutEPv");
  return handle == nullptr || own == nullptr ? gone() : (this->*own)(handle);
}

Status CommWrapperBase::CheckTranPointer(const void* pointer, const std::string& name) {
  static const Check own = next<Check>(
      "_ZN10datasystem15CommWrapperBase16CheckTranPointerEPKvRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE");
  if (own != nullptr) {
    Status status = (this->*own)(pointer, name);
    if (pointer != nullptr || status.IsError()) return status;
  }
  if (pointer != nullptr) return Status::OK();
  return {StatusCode::K_HCCL_ERROR, "the connection has no " + name};
}

}  // namespace datasystem
