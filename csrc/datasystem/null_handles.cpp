/// Parts of openYuanrong 0.8.1 that stand in for its own, where those look into null.
///
/// - When a worker dies, one thread of its client takes the connection down and sets a handle of it to null
///   (ZmqEpoll::RemoveFd), while another is about to pass that handle on (SockConnEntry::BackendToFrontend,
///   zmq_stub_conn.cpp) to a function that looks into it: the process is gone. Of 100 workers that were killed, three
///   took a client with them.
/// - A source is asked for a chunk by a process that has just died. CommWrapperBase::SubmitPipelineTask
///   (comm_wrapper_base.cpp) has CheckTranPointer see whether there is a pipeline to send by; where there is none that
///   one answers with what is known of the connection, and if nothing is known of it yet that is "OK".
/// - A thread of the client connects again to a worker that did not answer, for whoever asked last
///   (ZmqSockConnHelper::HandleConnectList, zmq_stub_conn.cpp); it takes a name from his connection
///   (ZmqStubConnMgrImpl::EncodeQueName), which is gone if he gave up meanwhile, and its pointer null: once while a
///   worker was killed and started a hundred times and twelve processes connected to it all the time.
///
/// The dynamic linker looks into this module before the library that it loads, so that the library's calls come here.
/// Where something else has loaded the library before, they do not, and all is as openYuanrong has it.

#include <datasystem/utils/status.h>
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

namespace datasystem {

class __attribute__((visibility("default"))) ZmqEpoll {
 public:
  Status SetPollOut(void* handle) const;
  Status UnsetPollOut(void* handle) const;
};

class RpcChannel;
class SockConnEntry;
class ZmqBaseStubConn;

/// As openYuanrong has it in 0.8.1 (zmq_stub_conn.h).
struct StubInfo : std::enable_shared_from_this<StubInfo> {
  std::int64_t stub_id;
  std::string service;
  bool uds;
  bool tcp_direct;
  std::string socket_name;
  std::shared_ptr<RpcChannel> channel;
  int channel_number;
  std::size_t pool_size;
  std::weak_ptr<ZmqBaseStubConn> connection;
  std::weak_ptr<SockConnEntry> entry;
};

using ReconnectInfo = std::pair<std::shared_ptr<SockConnEntry>, std::shared_ptr<StubInfo>>;

class __attribute__((visibility("default"))) ZmqSockConnHelper {
 public:
  Status GetEndPoint(const ReconnectInfo& who, std::string& path, int timeout);
};

class __attribute__((visibility("default"))) CommWrapperBase {
 public:
  Status CheckTranPointer(const void* pointer, const std::string& name);
};

namespace acl {

class AclDeviceManager {
 public:
  Status DSAclrtCreateEvent(void** event);
};

}  // namespace acl

/// As openYuanrong has it in 0.8.1 (device_pointer_wrapper.h).
class __attribute__((visibility("default"))) DeviceRtEventWrapper {
 public:
  Status RecordEvent(void* stream);

 private:
  [[maybe_unused]] void* functions_;  ///< The virtual ones.
  void* event_;
};

namespace {

using PollOut = Status (ZmqEpoll::*)(void*) const;
using EndPoint = Status (ZmqSockConnHelper::*)(const ReconnectInfo&, std::string&, int);
using Check = Status (CommWrapperBase::*)(const void*, const std::string&);
using Record = Status (DeviceRtEventWrapper::*)(void*);
using Devices = acl::AclDeviceManager* (*)();
using MakeEvent = Status (acl::AclDeviceManager::*)(void**);

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

Status ZmqSockConnHelper::GetEndPoint(const ReconnectInfo& who, std::string& path, int timeout) {
  static const EndPoint own = next<EndPoint>(
      "_ZN10datasystem17ZmqSockConnHelper11GetEndPointERKSt4pairISt10shared_ptrINS_13SockConnEntryEES2_INS_8StubInfoEE"
      "ERNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEi");
  const std::shared_ptr<ZmqBaseStubConn> held = who.second->connection.lock();
  // Not as where there is nothing to connect to, which would be remembered for those who still want to.
  if (held == nullptr || own == nullptr) return {StatusCode::K_RPC_UNAVAILABLE, "the connection was taken down"};
  return (this->*own)(who, path, timeout);
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

/// Makes the event where it is missing: whoever records one is on a device.
Status DeviceRtEventWrapper::RecordEvent(void* stream) {
  static const Record own = next<Record>("_ZN10datasystem20DeviceRtEventWrapper11RecordEventEPv");
  static const auto devices =
      reinterpret_cast<Devices>(::dlsym(RTLD_NEXT, "_ZN10datasystem3acl16AclDeviceManager8InstanceEv"));
  static const MakeEvent make = next<MakeEvent>("_ZN10datasystem3acl16AclDeviceManager18DSAclrtCreateEventEPPv");
  if (own == nullptr) return {StatusCode::K_RUNTIME_ERROR, "openYuanrong has no function that records events"};
  if (event_ == nullptr && devices != nullptr && make != nullptr) {
    Status made = (devices()->*make)(&event_);
    if (made.IsError()) return made;
  }
  return (this->*own)(stream);
}

}  // namespace datasystem
