#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "stores/hetero_receiver.hpp"

namespace yr_fastload {

/// A process whose memory chunks can be read from.
struct D2dPeer {
  std::string name;  ///< For messages: host and process.
  std::string key_prefix;
};

/// What became of a peer in a read.
struct D2dPeerUse {
  std::string name;
  std::uint64_t chunks = 0;  ///< That came from it.
  std::string left_because;  ///< Empty if it was not left.
};

struct D2dReaderOptions {
  double stall_s = 5.0;          ///< A peer that sends nothing for so long is left; less where the deadline is near.
  std::size_t chunks_ahead = 4;  ///< Asked for before they are needed.
};

/// Reads chunks from the device memory of other processes, from one peer at a time, in the order given; the next one
/// is asked for what is missing when one stalls, fails or is gone.
///
/// By DevSubscribe, which is what DevMGet does inside, without its two faults: DevMGet waits at least a minute for each
/// key, and it makes the memory it received into a source for others, which landing memory must not become. What
/// DevMSet named stays named (openYuanrong ends it after a DevSubscribe only if it came from DevPublish; 0.8.1,
/// MasterDevOcManager::AckRecvFinish).
class D2dReader final : public ChunkReader {
 public:
  D2dReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan, std::vector<D2dPeer> peers,
            D2dReaderOptions options);

  const char* transport() const noexcept override { return "d2d"; }

  void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
            Deadline deadline) override;

  std::vector<D2dPeerUse> uses() const;

 private:
  class Pull;

  const std::shared_ptr<HeteroReceiver> receiver_;
  const std::shared_ptr<const Plan> plan_;
  const std::vector<D2dPeer> peers_;
  const D2dReaderOptions options_;
  mutable std::mutex mutex_;
  std::vector<D2dPeerUse> uses_;
};

}  // namespace yr_fastload
