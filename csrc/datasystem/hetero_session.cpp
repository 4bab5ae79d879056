#include "datasystem/hetero_session.hpp"

#include <algorithm>

#include "datasystem/graveyard.hpp"
#include "datasystem/status.hpp"

namespace yr_fastload {
namespace {

namespace ds = ::datasystem;

/// One at a time: two concurrent first calls both create their device's state, and the one whose state is superfluous
/// waits seconds for its threads to end (0.8.1: AsyncGetDevBuffer, ~ThreadPool). Calls only start transfers: short.
constexpr unsigned kCallThreads = 1;

}  // namespace

HeteroSession::HeteroSession(const Connection& connection, std::shared_ptr<Device> device)
    : runner_(kCallThreads, kCloseSeconds) {
  check_left_behind();
  expect_forks();
  shared_->device = std::move(device);
  const Deadline deadline = Deadline::after(connection.connect_timeout_s + kCloseSeconds);
  shared_->greeting = shared_->device->allocate(kGreetingBytes, deadline);
  try {
    runner_.run("connect", deadline, [options = connect_options(connection), shared = shared_] {
      shared->device->bind_thread();
      auto client = std::make_unique<ds::HeteroClient>(options);
      check(client->Init(), "connect", {});
      shared->client = std::move(client);
    });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kDevice) throw;
    throw cannot_connect(connection, error);
  }
}

HeteroSession::~HeteroSession() {
  const bool too_early = gave_up_ || still_expects();
  auto destroy = [shared = std::move(shared_)]() mutable {
    shared->device->bind_thread();
    shared.reset();
  };
  try {
    if (too_early)
      destroy_later(std::move(destroy));
    else
      runner_.run("close", Deadline::after(kCloseSeconds), std::move(destroy));
  } catch (...) {
    // Late: its thread ends when openYuanrong returns.
  }
}

bool HeteroSession::still_expects() {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->drop_ready();
  return !shared_->expected.empty();
}

void HeteroSession::Shared::drop_ready() {
  const auto ready = [](ds::Future& future) { return future.Get(0).GetCode() != ds::K_FUTURE_TIMEOUT; };
  expected.erase(std::remove_if(expected.begin(), expected.end(), ready), expected.end());
}

BlobList HeteroSession::greeting() const {
  BlobList list;
  list.deviceIdx = device()->index();
  list.blobs.push_back({shared_->greeting->data(), kGreetingBytes});
  return list;
}

void HeteroSession::keep(std::shared_ptr<void> object) {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->kept.push_back(std::move(object));
}

void HeteroSession::give_up() noexcept {
  gave_up_ = true;
  runner_.close_within(0);
}

void HeteroSession::check_process(const char* op) const {
  if (::getpid() != pid_)
    throw Error(ErrorCode::kInvalidArgument, op, "this connection was made before a fork; make a new one in the child");
}

}  // namespace yr_fastload
