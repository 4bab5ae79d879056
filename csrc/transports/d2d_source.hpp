#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/plan.hpp"
#include "datasystem/hetero_session.hpp"

namespace yr_fastload {

/// Serves chunks from the memory of tensors, by reference: DevMSet names the memory, and openYuanrong reads it whenever
/// somebody asks. So the owners of the tensors are kept until openYuanrong's client is gone, not only until the keys
/// are.
///
/// Small tensors travel packed (transports/packing.hpp): those are copied, when they are offered, to device memory that
/// this holds as long.
///
/// Chunks are offered one by one, also while this process itself still pulls others; a thread of the session names them
/// to the worker, which takes one call a key. Keys belong to one source: whoever reads knows whom it asks.
///
/// Every chunk is named once a lane, and one reader at a time uses a lane: when two fetch one key together,
/// openYuanrong loses the second one's event and drops what it was to send after it, so that every later key of this
/// reader is the wrong one (0.8.1, PromiseWithEvent::GetEvent, P2PSubscribe::ProcessP2PSend).
class D2dSource {
 public:
  /// Costs nothing yet. `lanes`: prefixes; one of them + number is the key of a chunk.
  D2dSource(const Connection& connection, std::shared_ptr<Device> device, Keys lanes, std::shared_ptr<const Plan> plan,
            TensorMemory memory);
  D2dSource(const D2dSource&) = delete;
  D2dSource& operator=(const D2dSource&) = delete;
  ~D2dSource();  ///< Withdraws if nobody did; waits a second for it at most, and never throws.

  /// Queues a chunk whose bytes are in the tensors. Cheap, and from any thread.
  void offer(std::uint64_t chunk);

  /// Connects, and begins to name what was offered, in the background. Until then nobody can read it.
  void start();

  /// Waits until all that was offered can be read. Throws kPartialTransfer with the keys that cannot, kTransferTimeout.
  void wait(Deadline deadline);

  /// Chunks that can be read.
  std::size_t serving() const;

  /// Takes all keys back, disconnects and lets go of the tensors. Idempotent. What is not done at the deadline goes on
  /// in the background; where a reader does not let go of a key, or openYuanrong does not answer within half a minute,
  /// the connection is left behind, and with it the tensors.
  void withdraw(Deadline deadline);

 private:
  struct State;
  void pump_if_idle();  // the caller holds the state's mutex

  const std::shared_ptr<State> state_;  // shared with threads that may be left behind
  CallRunner runner_;                   // connects, and leaves
};

}  // namespace yr_fastload
