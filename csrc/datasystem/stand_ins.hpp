#pragma once

#include <datasystem/utils/status.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

/// What is called instead of a few functions of openYuanrong 0.8.1's library, by that library itself.
///
/// It calls its own functions by a table, as shared libraries do. When this module is loaded, the table gets the
/// address of ours in place of theirs, whoever has loaded the library before.
namespace yr_fastload {

namespace stand_ins {

/// The library's own function of that name; null if it has none.
void* find(const char* symbol) noexcept;

/// Has the library call something else instead of it.
void replace(const char* symbol, void* stand_in) noexcept;

}  // namespace stand_ins

/// One of them, which stands in as soon as it is made. `own` is what it stands in for; members of classes are functions
/// of their object, as the ABI has them.
template <typename Function>
class StandIn {
 public:
  StandIn(const char* symbol, Function* stand_in) noexcept : own(reinterpret_cast<Function*>(stand_ins::find(symbol))) {
    if (own != nullptr) stand_ins::replace(symbol, reinterpret_cast<void*>(stand_in));
  }

  Function* const own;
};

}  // namespace yr_fastload

/// As openYuanrong has it in 0.8.1 (zmq_stub_conn.h).
namespace datasystem {

class RpcChannel;
class SockConnEntry;
class ZmqBaseStubConn;

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

}  // namespace datasystem
