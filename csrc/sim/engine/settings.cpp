#include "engine/settings.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kLongestRendezvous = 48;  // with a name behind it, it is that of a socket

std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void refuse(const char* name, const std::string& expected, bool& valid) {
  report(std::string(name) + "='" + text(name) + "' is not " + expected);
  valid = false;
}

/// Keeps `value` where the variable is not set.
void read(const char* name, double low, double high, bool whole, double& value, bool& valid) {
  const std::string given = text(name);
  if (given.empty()) return;
  char* end = nullptr;
  const double number = std::strtod(given.c_str(), &end);
  if (*end == '\0' && number >= low && number <= high && (!whole || number == std::floor(number))) {
    value = number;
    return;
  }
  char expected[96];
  std::snprintf(expected, sizeof expected, "a %snumber from %.0f to %.0f", whole ? "whole " : "", low, high);
  refuse(name, expected, valid);
}

void read_switch(const char* name, bool& value, bool& valid) {
  const std::string given = text(name);
  if (!given.empty() && given != "0" && given != "1") refuse(name, "0 or 1", valid);
  value = given == "1";
}

Settings make() {
  Settings made;
  double devices = made.devices;
  auto memory_mb = static_cast<double>(made.device_memory_mb);
  read("YR_FASTLOAD_SIM_DEVICES", 1, 1024, true, devices, made.valid);
  read("YR_FASTLOAD_SIM_DEVICE_MEMORY_MB", 1, 1e9, true, memory_mb, made.valid);
  read("YR_FASTLOAD_SIM_LINK_GBPS", 0, 1e6, false, made.link_gbps, made.valid);
  read("YR_FASTLOAD_SIM_COMM_SETUP_MS", 0, 1e7, false, made.comm_setup_ms, made.valid);
  read("YR_FASTLOAD_SIM_STREAM_LAG_MS", 0, 1e7, false, made.stream_lag_ms, made.valid);
  read("HCCL_CONNECT_TIMEOUT", 1, 7200, true, made.connect_timeout_s, made.valid);
  read("HCCL_EXEC_TIMEOUT", 1, 17340, true, made.exec_timeout_s, made.valid);
  made.devices = static_cast<unsigned>(devices);
  made.device_memory_mb = static_cast<std::uint64_t>(memory_mb);
  made.faults = text("YR_FASTLOAD_SIM_FAULTS");
  made.control = text("YR_FASTLOAD_SIM_CONTROL");
  made.rendezvous = text("YR_FASTLOAD_SIM_RENDEZVOUS");
  if (!made.rendezvous.empty() && (made.rendezvous[0] != '/' || made.rendezvous.size() > kLongestRendezvous))
    refuse("YR_FASTLOAD_SIM_RENDEZVOUS", "an absolute path of at most 48 bytes", made.valid);
  read_switch("YR_FASTLOAD_SIM_TRACE", made.trace, made.valid);
  read_switch("YR_FASTLOAD_SIM_REPORT_LEAKS", made.report_leaks, made.valid);
  read_switch("YR_FASTLOAD_SIM_OPAQUE", made.opaque, made.valid);
  return made;
}

Clock::time_point after(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

const Settings& settings() {
  static const Settings* const made = new Settings(make());  // never destroyed: threads use it until the process ends
  return *made;
}

Clock::time_point connect_deadline() { return after(settings().connect_timeout_s); }
Clock::time_point exec_deadline() { return after(settings().exec_timeout_s); }

void report(const std::string& message) {
  const std::string line = "yr_fastload sim: " + message + "\n";
  static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

}  // namespace yr_fastload::sim
