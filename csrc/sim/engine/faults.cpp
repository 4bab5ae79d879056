#include "engine/faults.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "engine/counters.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLookInterval{5};
constexpr std::chrono::milliseconds kWaitSlice{2};

const std::map<std::string, Operation> kOperations = {{"send", Operation::kSend}, {"recv", Operation::kRecv},
                                                      {"copy", Operation::kCopy}, {"malloc", Operation::kMalloc},
                                                      {"comm", Operation::kComm}, {"link", Operation::kLink}};
const std::map<std::string, Action> kActions = {
    {"fail", Action::kFail},       {"delay_ms", Action::kDelay},  {"freeze", Action::kFreeze}, {"drop", Action::kDrop},
    {"corrupt", Action::kCorrupt}, {"oom", Action::kOutOfMemory}, {"gbps", Action::kRate}};

struct Fault {
  std::string text;
  Operation operation = Operation::kSend;
  std::uint64_t first = 1;
  std::uint64_t last = UINT64_MAX;
  Action action = Action::kNone;
  double value = 0;
  std::uint64_t seen = 0;
};

/// OP[@N[+]]:ACTION[=VALUE]
std::optional<Fault> parse(const std::string& text) {
  Fault fault;
  fault.text = text;
  const auto colon = text.find(':');
  if (colon == std::string::npos) return std::nullopt;
  const std::string left = text.substr(0, colon);
  const auto at = left.find('@');
  const auto operation = kOperations.find(left.substr(0, at));
  if (operation == kOperations.end()) return std::nullopt;
  fault.operation = operation->second;
  if (at != std::string::npos) {
    char* end = nullptr;
    const std::string number = left.substr(at + 1);
    fault.first = std::strtoull(number.c_str(), &end, 10);
    if (fault.first == 0 || end == number.c_str() || (*end != '\0' && std::string(end) != "+")) return std::nullopt;
    if (*end == '\0') fault.last = fault.first;
  }
  const std::string right = text.substr(colon + 1);
  const auto equals = right.find('=');
  const auto action = kActions.find(right.substr(0, equals));
  if (action == kActions.end()) return std::nullopt;
  fault.action = action->second;
  const bool takes_value =
      fault.action == Action::kDelay || fault.action == Action::kCorrupt || fault.action == Action::kRate;
  if (takes_value != (equals != std::string::npos)) return std::nullopt;
  if (takes_value) {
    char* end = nullptr;
    const std::string number = right.substr(equals + 1);
    fault.value = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0' || !(fault.value >= 0)) return std::nullopt;
  }
  if ((fault.operation == Operation::kLink) != (fault.action == Action::kRate)) return std::nullopt;
  if (fault.action == Action::kOutOfMemory && fault.operation != Operation::kMalloc) return std::nullopt;
  return fault;
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

class Faults {
 public:
  Faults() { valid_ = add(settings().faults, "YR_FASTLOAD_SIM_FAULTS"); }

  bool valid() const { return valid_; }

  Hit match(Operation operation) {
    const std::lock_guard<std::mutex> lock(mutex_);
    look();
    Hit hit;
    for (auto* faults : {&fixed_, &controlled_})
      for (Fault& fault : *faults) {
        if (fault.operation != operation) continue;
        ++fault.seen;
        if (fault.seen < fault.first || fault.seen > fault.last || hit.action != Action::kNone) continue;
        hit = {fault.action, fault.value};
        count_fault(fault.text);
      }
    return hit;
  }

  /// Whether something still freezes this kind of operation.
  bool freezes(Operation operation) {
    const std::lock_guard<std::mutex> lock(mutex_);
    look();
    for (const auto* faults : {&fixed_, &controlled_})
      for (const Fault& fault : *faults)
        if (fault.operation == operation && fault.action == Action::kFreeze) return true;
    return false;
  }

  double rate() {
    const std::lock_guard<std::mutex> lock(mutex_);
    look();
    for (const auto* faults : {&controlled_, &fixed_})
      for (const Fault& fault : *faults)
        if (fault.action == Action::kRate) return fault.value;
    return settings().link_gbps;
  }

 private:
  bool add(const std::string& text, const std::string& from) {
    bool valid = true;
    std::string lines = text;
    std::replace(lines.begin(), lines.end(), ';', '\n');
    std::istringstream stream(lines);
    for (std::string line; std::getline(stream, line);) {
      line = trimmed(line);
      if (line.empty() || line[0] == '#') continue;
      if (const auto fault = parse(line)) {
        (from == settings().control ? controlled_ : fixed_).push_back(*fault);
      } else {
        report(from + ": '" + line + "' is no fault; see docs/simulated-ascend.md");
        valid = false;
      }
    }
    return valid;
  }

  /// Reads the control file again if it is another one than before; looks at it every few milliseconds at most.
  void look() {
    if (settings().control.empty() || Clock::now() < next_look_) return;
    next_look_ = Clock::now() + kLookInterval;
    struct ::stat info{};
    Seen seen;
    if (::stat(settings().control.c_str(), &info) == 0)
      seen = {static_cast<std::int64_t>(info.st_ino), info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    if (seen == seen_) return;
    seen_ = seen;
    controlled_.clear();
    std::ifstream file(settings().control);
    std::stringstream text;
    text << file.rdbuf();
    add(text.str(), settings().control);
  }

  using Seen = std::vector<std::int64_t>;

  std::mutex mutex_;
  bool valid_ = true;
  std::vector<Fault> fixed_;
  std::vector<Fault> controlled_;
  Clock::time_point next_look_{};
  Seen seen_;
};

Faults& faults() {
  static Faults* const made = new Faults;  // never destroyed: threads ask it until the process ends
  return *made;
}

}  // namespace

Hit hit(Operation operation, const Interrupted& interrupted) {
  const Hit hit = faults().match(operation);
  if (hit.action == Action::kDelay) {
    const auto end = Clock::now() + std::chrono::duration<double, std::milli>(hit.value);
    while (Clock::now() < end && !(interrupted && interrupted())) std::this_thread::sleep_for(kWaitSlice);
  }
  while (hit.action == Action::kFreeze && faults().freezes(operation) && !(interrupted && interrupted()))
    std::this_thread::sleep_for(kWaitSlice);
  return hit;
}

double link_gbps() { return faults().rate(); }

bool faults_valid() { return faults().valid(); }

}  // namespace yr_fastload::sim
