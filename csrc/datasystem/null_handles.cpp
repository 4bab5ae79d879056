/// Functions that stand in for those of openYuanrong 0.8.1 that look into null (stand_ins.hpp).
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

#include <memory>
#include <string>

#include "datasystem/stand_ins.hpp"

namespace yr_fastload {

namespace {

namespace ds = ::datasystem;

using PollOut = ds::Status(const void* epoll, void* handle);
using EndPoint = ds::Status(void* helper, const ds::ReconnectInfo& who, std::string& path, int timeout);
using CheckPointer = ds::Status(void* connection, const void* pointer, const std::string& name);

/// As openYuanrong has it in 0.8.1 (device_pointer_wrapper.h).
struct EventWrapper {
  [[maybe_unused]] void* functions;  ///< The virtual ones.
  void* event;
};
using RecordEvent = ds::Status(EventWrapper* wrapper, void* stream);
using Devices = void*();
using MakeEvent = ds::Status(void* devices, void** event);

ds::Status gone() { return {ds::StatusCode::K_NOT_FOUND, "the connection was taken down"}; }

PollOut set_poll_out, unset_poll_out;
CheckPointer check_pointer;
RecordEvent record_event;

}  // namespace

__attribute__((visibility("default"))) EndPoint get_end_point;  // tests call it

namespace {

const StandIn<PollOut> set_out{"_ZNK10datasystem8ZmqEpoll10SetPollOutEPv", set_poll_out};
const StandIn<PollOut> unset_out{"_ZNK10datasystem8ZmqEpoll12UnsetPollOutEPv", unset_poll_out};
const StandIn<EndPoint> end_point{
    "_ZN10datasystem17ZmqSockConnHelper11GetEndPointERKSt4pairISt10shared_ptrINS_13SockConnEntryEES2_INS_8StubInfoEEE"
    "RNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEi",
    get_end_point};
const StandIn<CheckPointer> check{
    "_ZN10datasystem15CommWrapperBase16CheckTranPointerEPKvRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    check_pointer};
const StandIn<RecordEvent> record{"_ZN10datasystem20DeviceRtEventWrapper11RecordEventEPv", record_event};

ds::Status set_poll_out(const void* epoll, void* handle) {
  return handle == nullptr ? gone() : set_out.own(epoll, handle);
}

ds::Status unset_poll_out(const void* epoll, void* handle) {
  return handle == nullptr ? gone() : unset_out.own(epoll, handle);
}

ds::Status check_pointer(void* connection, const void* pointer, const std::string& name) {
  ds::Status status = check.own(connection, pointer, name);
  if (pointer != nullptr || status.IsError()) return status;
  return {ds::StatusCode::K_HCCL_ERROR, "the connection has no " + name};
}

/// Makes the event where it is missing: whoever records one is on a device.
ds::Status record_event(EventWrapper* wrapper, void* stream) {
  static const auto devices =
      reinterpret_cast<Devices*>(stand_ins::find("_ZN10datasystem3acl16AclDeviceManager8InstanceEv"));
  static const auto make =
      reinterpret_cast<MakeEvent*>(stand_ins::find("_ZN10datasystem3acl16AclDeviceManager18DSAclrtCreateEventEPPv"));
  if (wrapper->event == nullptr && devices != nullptr && make != nullptr) {
    ds::Status made = make(devices(), &wrapper->event);
    if (made.IsError()) return made;
  }
  return record.own(wrapper, stream);
}

}  // namespace

ds::Status get_end_point(void* helper, const ds::ReconnectInfo& who, std::string& path, int timeout) {
  const std::shared_ptr<ds::ZmqBaseStubConn> held = who.second->connection.lock();
  // Not as where there is nothing to connect to, which would be remembered for those who still want to.
  if (held == nullptr) return {ds::StatusCode::K_RPC_UNAVAILABLE, "the connection was taken down"};
  return end_point.own(helper, who, path, timeout);
}

}  // namespace yr_fastload
