#include "datasystem/connection.hpp"

#include <datasystem/utils/connection.h>

#include <cmath>
#include <cstdint>

namespace yr_fastload {

namespace ds = ::datasystem;

namespace {

/// The worker's answers to unknown clients (tenant_auth_manager.cpp, authenticate.cpp, 0.8.1).
bool refused(const std::string& answer) {
  return answer.find("Not authorized") != std::string::npos || answer.find("K_NOT_AUTHORIZED") != std::string::npos ||
         answer.find("AK/SK or token not provide") != std::string::npos ||
         answer.find("Failed to verify client") != std::string::npos;
}

/// The worker's answer once max_client_num clients are connected (client_manager.cpp, 0.8.1).
bool full(const std::string& answer) { return answer.find("Client number upper to the limit") != std::string::npos; }

}  // namespace

std::size_t keys_at_once(const Connection& connection, std::size_t most) noexcept {
  return connection.credentials.tenant_id.empty() ? most : 1;
}

ds::ConnectOptions connect_options(const Connection& connection) {
  const Credentials& shown = connection.credentials;
  ds::ConnectOptions options;
  options.host = connection.host;
  options.port = connection.port;
  options.connectTimeoutMs = static_cast<std::int32_t>(std::lround(connection.connect_timeout_s * 1000));
  options.requestTimeoutMs = static_cast<std::int32_t>(std::lround(connection.rpc_timeout_s * 1000));
  options.clientPublicKey = shown.client_public_key;
  options.clientPrivateKey = shown.client_private_key;
  options.serverPublicKey = shown.server_public_key;
  options.accessKey = shown.access_key;
  options.secretKey = shown.secret_key;
  options.tenantId = shown.tenant_id;
  options.token = shown.token;
  return options;
}

Error cannot_connect(const Connection& connection, const Error& cause) {
  const std::string address = connection.address();
  const std::string answer = cause.what();
  ErrorCode code = ErrorCode::kUnavailable;
  std::string advice;
  if (full(answer)) {
    code = ErrorCode::kResourceExhausted;
    advice = "the openYuanrong worker at " + address +
             " has as many clients as it takes, its max_client_num; close loaders that are done, or start it with "
             "more; those of a killed process count until its client_dead_timeout_s has passed, two minutes by default";
  } else if (refused(answer)) {
    advice = "the openYuanrong worker at " + address +
             " refuses this client; give it the access_key, secret_key and tenant_id, or the token, that it knows";
  } else {
    advice = "no openYuanrong worker answers at " + address +
             "; start one with `yr-fastload worker start`, or set DS_WORKER_ADDR to one that runs";
    advice += connection.credentials.client_public_key.empty()
                  ? "; one that asks for curve keys answers nobody without them: set curve_key_dir"
                  : "; one that does not know the keys of curve_key_dir, or asks for none, does not answer either";
  }
  return Error(code, "connect", advice + " (" + answer + ")", {address});
}

}  // namespace yr_fastload
