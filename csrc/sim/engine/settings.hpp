#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "engine/export.hpp"

namespace yr_fastload::sim {

/// What the environment says, read once. A malformed value is reported on stderr, and `valid` is false.
struct Settings {
  bool valid = true;
  unsigned devices = 8;                    ///< YR_FASTLOAD_SIM_DEVICES
  std::uint64_t device_memory_mb = 65536;  ///< YR_FASTLOAD_SIM_DEVICE_MEMORY_MB, a device and process
  double link_gbps = 0;                    ///< YR_FASTLOAD_SIM_LINK_GBPS, gigabits; 0 is as fast as memory
  double comm_setup_ms = 0;                ///< YR_FASTLOAD_SIM_COMM_SETUP_MS
  std::string faults;                      ///< YR_FASTLOAD_SIM_FAULTS
  std::string control;                     ///< YR_FASTLOAD_SIM_CONTROL, a file with more of them
  std::string rendezvous;                  ///< YR_FASTLOAD_SIM_RENDEZVOUS, a directory; empty: none is needed
  bool trace = false;                      ///< YR_FASTLOAD_SIM_TRACE
  bool report_leaks = false;               ///< YR_FASTLOAD_SIM_REPORT_LEAKS
  bool opaque = false;                     ///< YR_FASTLOAD_SIM_OPAQUE: the CPU cannot reach memory of an NPU
  double stream_lag_ms = 0;                ///< YR_FASTLOAD_SIM_STREAM_LAG_MS, of a framework's streams
  double connect_timeout_s = 120;          ///< HCCL_CONNECT_TIMEOUT
  double exec_timeout_s = 1836;            ///< HCCL_EXEC_TIMEOUT
};

YRFL_SIM_EXPORT const Settings& settings();

/// When a rendezvous, or an operation, that begins now is given up.
YRFL_SIM_EXPORT std::chrono::steady_clock::time_point connect_deadline();
YRFL_SIM_EXPORT std::chrono::steady_clock::time_point exec_deadline();

/// One line on stderr: "yr_fastload sim: ...".
YRFL_SIM_EXPORT void report(const std::string& message);

}  // namespace yr_fastload::sim
