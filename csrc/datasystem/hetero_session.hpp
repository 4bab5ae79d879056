#pragma once

#include <datasystem/hetero_client.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/call_runner.hpp"
#include "core/device.hpp"
#include "core/error.hpp"
#include "core/object_store.hpp"
#include "datasystem/connection.hpp"
#include "datasystem/exits.hpp"

namespace yr_fastload {

/// Blobs of one key.
using BlobList = ::datasystem::DeviceBlobList;

inline constexpr std::size_t kGreetingBytes = 64;
/// Keys per call that publishes: few, so that a withdrawal does not wait long for the thread.
inline constexpr std::size_t kPublishKeys = 16;

/// A connection of openYuanrong's heterogeneous client (HeteroClient) for one device.
///
/// Its calls, and its destructor, keep no bound: they wait for peers and for HCCL. So they run on a thread of the
/// session, with the device set, while their caller waits until its deadline. When the session goes while one is late,
/// or a transfer does not end, the client is left behind (datasystem/graveyard.hpp) together with everything that was
/// given to `keep`: what its threads may still read or write lives until they have ended.
class HeteroSession {
 public:
  /// Throws kUnavailable if no worker answers in time, kDevice if the client has no device runtime.
  HeteroSession(const Connection& connection, std::shared_ptr<Device> device);
  HeteroSession(const HeteroSession&) = delete;
  HeteroSession& operator=(const HeteroSession&) = delete;
  ~HeteroSession();

  /// Runs `act(HeteroClient&)`; it must own what it touches. Throws kTransferTimeout at the deadline.
  template <typename Act>
  auto call(const char* op, Deadline deadline, Act act) {
    check_process(op);
    return runner_.run(op, deadline, [shared = shared_, act = std::move(act)]() mutable {
      shared->device->bind_thread();
      return act(*shared->client);
    });
  }

  /// Runs `act(HeteroClient&)`, which must not throw, and does not wait for it.
  template <typename Act>
  void post(Act act) {
    runner_.post([shared = shared_, act = std::move(act)]() mutable {
      try {
        shared->device->bind_thread();
      } catch (const Error&) {
        // openYuanrong says the same, more clearly.
      }
      act(*shared->client);
    });
  }

  /// Like `post`. Until the futures that `act` returns are ready openYuanrong is at work, and the client must not go.
  template <typename Act>
  void post_expecting(Act act) {
    post([shared = shared_, act = std::move(act)](::datasystem::HeteroClient& client) {
      std::vector<::datasystem::Future> futures = act(client);
      const std::lock_guard<std::mutex> lock(shared->mutex);
      shared->drop_ready();
      for (::datasystem::Future& future : futures) shared->expected.push_back(std::move(future));
    });
  }

  /// Keeps an object alive until the client is gone.
  void keep(std::shared_ptr<void> object);

  /// Something is stuck: the destructor does not wait, and leaves the client behind.
  void give_up() noexcept;

  const std::shared_ptr<Device>& device() const noexcept { return shared_->device; }

  /// kGreetingBytes of the device, for the first transfer between two processes.
  BlobList greeting() const;

 private:
  struct Shared {
    std::shared_ptr<Device> device;
    std::mutex mutex;  // of the next two
    std::vector<std::shared_ptr<void>> kept;
    std::vector<::datasystem::Future> expected;
    void drop_ready();  // the caller holds the mutex
    std::shared_ptr<Memory> greeting;
    AtWork at_work;
    std::unique_ptr<::datasystem::HeteroClient> client;  // last: gone before what it may touch
  };
  void check_process(const char* op) const;
  bool still_expects();

  const pid_t pid_ = ::getpid();
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  std::atomic<bool> gave_up_{false};
  CallRunner runner_;
};

/// Where each tensor of a plan lies, and what keeps it there.
struct TensorMemory {
  std::vector<std::uint64_t> addresses;  ///< One a tensor of the plan; 0 where it owns no bytes.
  std::shared_ptr<void> owners;
};

}  // namespace yr_fastload
