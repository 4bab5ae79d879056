#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transports/hetero_receiver.hpp"
#include "transports/packing.hpp"

namespace yr_fastload {

/// A process whose memory chunks can be read from.
struct D2dPeer {
  std::string name;  ///< For messages: host and process.
  std::string key_prefix;
};

struct D2dReaderOptions {
  double stall_s = 5.0;          ///< A peer that sends nothing for so long is left; less where the deadline is near.
  std::size_t chunks_ahead = 4;  ///< Asked for before they are needed.
};

/// Reads chunks from the device memory of one other process: straight into the tensors, or into landing memory where
/// the caller wants that, or the chunk travels packed.
///
/// By DevSubscribe, which is what DevMGet does inside, without its two faults: DevMGet waits at least a minute for each
/// key, and it makes the memory it received into a source for others behind our back. What DevMSet named stays named
/// (openYuanrong ends it after a DevSubscribe only if it came from DevPublish; 0.8.1,
/// MasterDevOcManager::AckRecvFinish).
///
/// It asks for what the peer serves already, and for nothing else: see `are_served`.
///
/// A transfer that is abandoned may go on writing when its peer wakes up. Where it writes into tensors, `in_flight`
/// tells which: whoever goes on to use these gives them other memory first. The old one lives until openYuanrong's
/// client is gone.
class D2dReader final : public ChunkReader {
 public:
  /// `tensors`: where chunks go that travel as they are; nullopt: landing memory for all.
  D2dReader(std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<const Plan> plan, D2dPeer peer,
            std::optional<TensorMemory> tensors, D2dReaderOptions options);

  const char* transport() const noexcept override { return "d2d"; }
  void read(Span<const std::uint64_t> chunks, const Deliver& deliver, const CancelFlag& cancelled,
            Deadline deadline) override;

  // After `read`:
  /// The bytes were not what was asked for, so the two ends may disagree about what comes next: later transfers use a
  /// new connection.
  void distrust();
  /// How many chunks came.
  std::uint64_t arrived() const noexcept { return arrived_; }
  /// Why the peer was left; empty if it was not.
  const std::string& left_because() const noexcept { return left_because_; }
  /// Chunks whose tensors may still be written to at any time.
  const std::vector<std::uint64_t>& in_flight() const noexcept { return in_flight_; }

 private:
  struct Pending {
    std::uint64_t chunk;
    Landing landing;  ///< Null where the chunk goes straight into tensors.
    ::datasystem::Future future;
  };

  bool done() const;
  std::size_t ahead() const;
  void look(Deadline deadline);
  void ask(Deadline deadline);
  bool take(const Deliver& deliver);
  void leave(std::string why);
  void abandon();
  bool lands(std::uint64_t chunk) const { return !tensors_ || travels_packed(*plan_, chunk); }
  BlobList targets(std::uint64_t chunk, const Landing& landing) const;

  const std::shared_ptr<HeteroReceiver> receiver_;
  const std::shared_ptr<const Plan> plan_;
  const D2dPeer peer_;
  const std::optional<TensorMemory> tensors_;
  const D2dReaderOptions options_;

  std::shared_ptr<HeteroSession> session_;
  std::deque<std::uint64_t> wanted_;  ///< Not known to be served yet; ascending.
  std::deque<std::uint64_t> served_;  ///< To be asked for.
  std::deque<Pending> pending_;
  std::vector<Landing> asking_;  ///< Of a call that has not returned.
  Deadline::Clock::time_point next_look_{};
  bool late_ = false;  ///< A call did not return in time, or failed.
  double stall_s_ = 0;
  Stopwatch since_;  // the last arrival
  std::uint64_t arrived_ = 0;
  std::string left_because_;
  std::vector<std::uint64_t> in_flight_;
};

}  // namespace yr_fastload
