#include "stores/hetero_session.hpp"

#include <cmath>

#include "stores/status.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

/// One: two first calls at once each make what serves their device, and the call whose one is superfluous waits seconds
/// for its threads to end (seen in 0.8.1: AsyncGetDevBuffer, ~ThreadPool). Calls only start transfers, and are short.
constexpr unsigned kCallThreads = 1;

}  // namespace

HeteroSession::HeteroSession(const HostStoreOptions& options, std::shared_ptr<Device> device)
    : runner_(kCallThreads, close_timeout_s_) {
  shared_->device = std::move(device);
  ds::ConnectOptions connect;
  connect.host = options.host;
  connect.port = options.port;
  connect.connectTimeoutMs = static_cast<std::int32_t>(std::lround(options.connect_timeout_s * 1000));
  connect.requestTimeoutMs = static_cast<std::int32_t>(std::lround(options.rpc_timeout_s * 1000));
  const std::string address = options.host + ":" + std::to_string(options.port);
  try {
    runner_.run("connect", Deadline::after(options.connect_timeout_s + 1.0), [connect, shared = shared_] {
      shared->device->bind_thread();
      auto client = std::make_unique<ds::HeteroClient>(connect);
      check(client->Init(), "connect", {});
      shared->client = std::move(client);
    });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kDevice) throw;
    throw Error(ErrorCode::kUnavailable, "connect",
                "no openYuanrong worker answers at " + address +
                    "; start one with `yr-fastload worker start`, or set DS_WORKER_ADDR to one that runs (" +
                    error.what() + ")",
                {address});
  }
}

HeteroSession::~HeteroSession() {
  if (::getpid() != pid_) {
    // Its threads stayed in the parent; a destructor that waits for them would never return.
    static_cast<void>(std::make_unique<std::shared_ptr<Shared>>(std::move(shared_)).release());
    return;
  }
  try {
    runner_.run("close", Deadline::after(close_timeout_s_), [shared = std::move(shared_)]() mutable {
      shared->device->bind_thread();
      shared.reset();
    });
  } catch (...) {
    // Late: its thread ends when openYuanrong lets it.
  }
}

void HeteroSession::keep(std::shared_ptr<void> object) {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->kept.push_back(std::move(object));
}

void HeteroSession::give_up() noexcept {
  close_timeout_s_ = 0;
  runner_.close_within(0);
}

void HeteroSession::check_process(const char* op) const {
  if (::getpid() != pid_)
    throw Error(ErrorCode::kInvalidArgument, op, "this connection was made before a fork; make a new one in the child");
}

}  // namespace yr_fastload
