#include "engine/settings.hpp"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>

namespace yr_fastload::sim {
namespace {

void read(const char* name, double low, double high, double& value, bool& valid) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return;
  char* end = nullptr;
  errno = 0;
  const double number = std::strtod(text, &end);
  if (*end == '\0' && errno == 0 && number >= low && number <= high) {
    value = number;
    return;
  }
  report(std::string(name) + "=" + text + " is not a number from " + std::to_string(low) + " to " +
         std::to_string(high));
  valid = false;
}

std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Settings make() {
  Settings made;
  double devices = made.devices;
  double memory_mb = static_cast<double>(made.device_memory_mb);
  read("YR_FASTLOAD_SIM_DEVICES", 1, 1024, devices, made.valid);
  read("YR_FASTLOAD_SIM_DEVICE_MEMORY_MB", 1, 1e9, memory_mb, made.valid);
  read("YR_FASTLOAD_SIM_LINK_GBPS", 0, 1e6, made.link_gbps, made.valid);
  read("YR_FASTLOAD_SIM_COMM_SETUP_MS", 0, 1e7, made.comm_setup_ms, made.valid);
  read("HCCL_CONNECT_TIMEOUT", 1, 7200, made.connect_timeout_s, made.valid);
  read("HCCL_EXEC_TIMEOUT", 1, 17340, made.exec_timeout_s, made.valid);
  made.devices = static_cast<unsigned>(devices);
  made.device_memory_mb = static_cast<std::uint64_t>(memory_mb);
  made.faults = text("YR_FASTLOAD_SIM_FAULTS");
  made.control = text("YR_FASTLOAD_SIM_CONTROL");
  made.trace = text("YR_FASTLOAD_SIM_TRACE") == "1";
  made.report_leaks = text("YR_FASTLOAD_SIM_REPORT_LEAKS") == "1";
  return made;
}

}  // namespace

const Settings& settings() {
  static const Settings* const made = new Settings(make());  // never destroyed: threads use it until the process ends
  return *made;
}

void report(const std::string& message) {
  const std::string line = "yr_fastload sim: " + message + "\n";
  static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

}  // namespace yr_fastload::sim
