#pragma once

#include <future>
#include <memory>
#include <mutex>
#include <string>

#include "core/chunk_reader.hpp"
#include "core/pinned_pool.hpp"
#include "core/plan.hpp"
#include "datasystem/hetero_session.hpp"

namespace yr_fastload {

/// The key that every source serves beside its chunks.
std::string greeting_key(const std::string& key_prefix);

/// Which of these keys have a source now. Never waits for one.
///
/// A key that has none must not be subscribed: when it gets one, openYuanrong answers the reader before it tells the
/// source (0.8.1, MasterDevOcManager::PutP2PMetaImpl). The reader's next question may overtake, and then the two ends
/// of the connection move different keys: HCCL matches by order alone.
std::vector<bool> are_served(::datasystem::HeteroClient& client, const Keys& keys);

/// Device memory for one chunk: lent to a transfer, then read as a view. Whoever holds it last gives it back.
using Landing = std::shared_ptr<PinnedPool::Lease>;

/// The receiving side of a process: a session, and memory of the device where chunks land.
///
/// Chunks land in memory of their own and are copied from there to the tensors by the pipeline's threads, never by
/// openYuanrong: a transfer that is abandoned may go on writing when its peer wakes up, and must not reach a tensor.
/// The copy is on the device, next to a transfer between devices. Safe to use from many threads.
class HeteroReceiver {
 public:
  HeteroReceiver(Connection connection, std::shared_ptr<Device> device, std::uint64_t landing_bytes);

  /// Starts to connect in the background if there is no session.
  void prepare();

  /// Subscribes a key of kGreetingBytes in the background, so that openYuanrong sets up the way to the
  /// device of whoever published it, if somebody has. Nobody waits for the bytes.
  void greet(const std::string& key);

  /// The session, once connected. Throws what connecting threw, kTransferTimeout at the deadline.
  std::shared_ptr<HeteroSession> session(Deadline deadline);

  /// Something in this session is stuck or broken: the next one asked for is new.
  void discard(const std::shared_ptr<HeteroSession>& session);

  /// Device memory for a chunk, null if there is no room; `wait`s a moment for some first. Throws kTransferTimeout if
  /// the device gives none by the deadline.
  Landing land(std::size_t bytes, bool wait, Deadline deadline);
  PinnedPoolStats landing_stats() const { return landing_.stats(); }
  int device_index() const noexcept { return device_->index(); }
  const Connection& connection() const noexcept { return connection_; }

 private:
  using Connecting = std::shared_future<std::shared_ptr<HeteroSession>>;
  Connecting connecting();

  const Connection connection_;
  const std::shared_ptr<Device> device_;
  PinnedPool landing_;
  std::mutex mutex_;
  Connecting connecting_;
  std::string greeted_;  ///< In this session, last.
  CallRunner runner_;
};

/// Where the blobs of a chunk land.
BlobList landing_blobs(const Plan& plan, std::uint64_t chunk, const Landing& landing, int device);

/// The bytes that landed.
std::unique_ptr<ObjectView> landing_view(Landing landing, std::uint64_t bytes);

}  // namespace yr_fastload
