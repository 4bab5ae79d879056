#pragma once

#include <functional>
#include <string>

#include "engine/export.hpp"

namespace yr_fastload::sim {

enum class Operation { kSend, kRecv, kCopy, kMalloc, kComm, kLink };
enum class Action { kNone, kFail, kDelay, kFreeze, kDrop, kCorrupt, kOutOfMemory, kRate };

/// What is to go wrong with one operation.
struct Hit {
  Action action = Action::kNone;
  double value = 0;  ///< kDelay: ms; kCorrupt: bytes; kRate: gigabits a second
};

/// True if who waits is to give up.
using Interrupted = std::function<bool()>;

/// Counts an operation, and says what is to go wrong with it. A delay or a freeze has been waited for when it returns;
/// `interrupted` (may be null) is asked every few milliseconds meanwhile.
YRFL_SIM_EXPORT Hit hit(Operation operation, const Interrupted& interrupted);

/// Gigabits a second of a comm of this process; 0 is no limit.
YRFL_SIM_EXPORT double link_gbps();

/// Whether the environment's faults could be parsed.
bool faults_valid();

}  // namespace yr_fastload::sim
