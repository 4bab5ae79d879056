#include "engine/counters.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>

#include "engine/memory.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

struct Counts {
  std::mutex mutex;
  std::map<std::string, std::uint64_t> calls;
  std::map<std::string, std::uint64_t> sent;
  std::map<std::string, std::uint64_t> received;
  std::map<std::string, std::uint64_t> faults;
};

Counts& counts() {
  static Counts* const made = new Counts;  // never destroyed: threads count until the process ends
  return *made;
}

template <typename Map>
void write(std::ostream& out, const char* name, const Map& map) {
  out << '"' << name << "\": {";
  const char* comma = "";
  for (const auto& [key, value] : map) {
    out << comma << '"' << key << "\": " << value;
    comma = ", ";
  }
  out << '}';
}

std::string to_json() {
  const MemoryUse use = memory_use();
  std::ostringstream out;
  Counts& all = counts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  out << '{';
  write(out, "calls", all.calls);
  out << ", ";
  write(out, "sent_bytes", all.sent);
  out << ", ";
  write(out, "received_bytes", all.received);
  out << ", \"streams\": " << alive().streams << ", \"events\": " << alive().events
      << ", \"notifies\": " << alive().notifies << ", \"comms\": " << alive().comms << ", ";
  write(out, "device_bytes", use.bytes);
  out << ", ";
  write(out, "device_peak_bytes", use.peak_bytes);
  out << ", \"host_bytes\": " << use.host_bytes << ", ";
  write(out, "faults_hit", all.faults);
  out << ", ";
  write(out, "memory_errors", use.errors);
  out << '}';
  return out.str();
}

}  // namespace

void count_call(const char* name) {
  if (settings().trace) report(name);
  Counts& all = counts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  ++all.calls[name];
}

void count_sent(int peer, std::uint64_t bytes) {
  Counts& all = counts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.sent[std::to_string(peer)] += bytes;
}

void count_received(int peer, std::uint64_t bytes) {
  Counts& all = counts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.received[std::to_string(peer)] += bytes;
}

void count_fault(const std::string& what) {
  Counts& all = counts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  ++all.faults[what];
}

Alive& alive() {
  static Alive* const made = new Alive;
  return *made;
}

}  // namespace yr_fastload::sim

/// Writes the counters as JSON, cut to `capacity` bytes; returns how many it needs, the final zero included.
YRFL_SIM_API std::size_t yrfl_sim_counters(char* json, std::size_t capacity) {
  const std::string text = yr_fastload::sim::to_json();
  if (json != nullptr && capacity > 0) {
    const std::size_t count = std::min(capacity - 1, text.size());
    std::memcpy(json, text.data(), count);
    json[count] = '\0';
  }
  return text.size() + 1;
}
