#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/export.hpp"

namespace yr_fastload::sim {

enum class Operation {
  kSend,
  kRecv,
  kCopy,
  kMalloc,
  kComm,
  kLink,
  kQuery,
  kInit,
  kPin,
  kShare,
  kOpen,
  kRegister,
  kPeer
};
enum class Action { kNone, kFail, kDelay, kFreeze, kDrop, kCorrupt, kOutOfMemory, kRate, kCode };

/// What is to go wrong with one operation.
struct Hit {
  Action action = Action::kNone;
  double value = 0;   ///< kDelay: ms; kCorrupt: bytes; kCode: what the call returns
  std::string fault;  ///< as it was written
};

/// True if who waits is to give up.
using Interrupted = std::function<bool()>;

/// Counts an operation, and says what is to go wrong with it.
YRFL_SIM_EXPORT Hit match(Operation operation);

/// Waits for a delay or a freeze to pass; nothing to wait for with the others. `interrupted` is asked every few
/// milliseconds meanwhile. A freeze ends when its fault is no longer in the control file.
YRFL_SIM_EXPORT void sit_out(const Hit& hit, const Interrupted& interrupted);

/// Gigabits a second of a comm of this process; 0 is no limit.
YRFL_SIM_EXPORT double link_gbps();

/// Whether the faults of the environment and of the control file, as it was at first, could be parsed.
bool faults_valid();

/// Flips `count` bytes, spread over the range.
YRFL_SIM_EXPORT void corrupt(void* data, std::uint64_t bytes, double count);

}  // namespace yr_fastload::sim
