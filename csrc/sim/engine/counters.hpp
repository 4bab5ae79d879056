#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "engine/export.hpp"

namespace yr_fastload::sim {

/// Counts a call by name; with the trace on, says so.
YRFL_SIM_EXPORT void count_call(const char* name);

/// Bytes that went to, and came from, another process.
YRFL_SIM_EXPORT void count_sent(int peer, std::uint64_t bytes);
YRFL_SIM_EXPORT void count_received(int peer, std::uint64_t bytes);
YRFL_SIM_EXPORT void count_fault(const std::string& what);

/// Things of each kind that are alive.
struct Alive {
  std::atomic<std::int64_t> streams{0};
  std::atomic<std::int64_t> events{0};
  std::atomic<std::int64_t> notifies{0};
  std::atomic<std::int64_t> comms{0};
};
YRFL_SIM_EXPORT Alive& alive();

}  // namespace yr_fastload::sim
