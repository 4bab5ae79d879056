#pragma once

#include <cstddef>
#include <string>

#include "core/error.hpp"

namespace datasystem {
struct ConnectOptions;
}

namespace yr_fastload {

/// For which a client that is closed, or could not be connected, is waited for.
inline constexpr double kCloseSeconds = 1.0;

/// What a client shows the worker; empty where the worker asks for nothing. No message and no log holds any of it.
struct Credentials {
  std::string client_public_key;
  std::string client_private_key;
  std::string server_public_key;
  std::string access_key;
  std::string secret_key;
  std::string tenant_id;
  std::string token;
};

/// One openYuanrong worker, and how a client connects to it.
struct Connection {
  std::string host;
  int port = 0;
  double connect_timeout_s = 5.0;
  double rpc_timeout_s = 5.0;  ///< openYuanrong's own bound of one call; the deadline of a call may come first.
  Credentials credentials;
  bool is_alone = false;  ///< The worker is on loopback, where it has no others.

  std::string address() const { return host + ":" + std::to_string(port); }
};

/// Most keys of a call that makes objects in the worker's memory: `most`, but one for a tenant. For several keys
/// openYuanrong takes the memory of those below 1 MiB from the tenant without a name, and then refuses to publish what
/// is in it (seen in 0.8.1: AggregateAllocateHelper, "worker shmunit auth check failed").
std::size_t keys_at_once(const Connection& connection, std::size_t most) noexcept;

/// The same for openYuanrong's clients.
::datasystem::ConnectOptions connect_options(const Connection& connection);

/// What can be done about an attempt to connect that ended with `cause`: kResourceExhausted where the worker has as
/// many clients as it takes, else kUnavailable.
Error cannot_connect(const Connection& connection, const Error& cause);

}  // namespace yr_fastload
