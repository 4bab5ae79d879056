#include "engine/faults.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>
#include <tuple>
#include <vector>

#include "engine/counters.hpp"
#include "engine/fault_parser.hpp"
#include "engine/settings.hpp"

namespace yr_fastload::sim {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLookInterval{5};
constexpr std::chrono::milliseconds kWaitSlice{2};

/// The faults of the environment, which stay, and of the control file, which come and go.
class Faults {
 public:
  Faults() {
    fixed_ = parse_faults(settings().faults, "YR_FASTLOAD_SIM_FAULTS", valid_);
    look();
  }

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
        hit = {fault.action, fault.value, fault.text};
        count_fault(fault.text);
      }
    return hit;
  }

  bool installed(const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    look();
    const auto same = [&text](const Fault& fault) { return fault.text == text; };
    return std::any_of(fixed_.begin(), fixed_.end(), same) || std::any_of(controlled_.begin(), controlled_.end(), same);
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
  using Seen = std::tuple<std::uint64_t, std::int64_t, std::int64_t, std::int64_t>;

  /// Reads the control file again if it is another one than before; looks at it every few milliseconds at most.
  void look() {
    const std::string& path = settings().control;
    if (path.empty() || Clock::now() < next_look_) return;
    next_look_ = Clock::now() + kLookInterval;
    struct ::stat info{};
    Seen seen;
    if (::stat(path.c_str(), &info) == 0) seen = {info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    if (seen == seen_) return;
    seen_ = seen;
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    std::vector<Fault> faults = parse_faults(text.str(), path, valid_);
    for (Fault& fault : faults)  // a line that stays goes on counting
      for (const Fault& before : controlled_)
        if (before.text == fault.text) fault.seen = before.seen;
    controlled_ = std::move(faults);
  }

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

Hit match(Operation operation) { return faults().match(operation); }

void sit_out(const Hit& hit, const Interrupted& interrupted) {
  const auto goes_on = [&hit, delayed_until = Clock::now() + std::chrono::duration<double, std::milli>(hit.value)] {
    if (hit.action == Action::kDelay) return Clock::now() < delayed_until;
    return hit.action == Action::kFreeze && faults().installed(hit.fault);
  };
  while (goes_on() && !interrupted()) std::this_thread::sleep_for(kWaitSlice);
}

double link_gbps() { return faults().rate(); }

bool faults_valid() { return faults().valid(); }

void corrupt(void* data, std::uint64_t bytes, double count) {
  const auto flips = static_cast<std::uint64_t>(std::min(count, static_cast<double>(bytes)));
  for (std::uint64_t i = 0; i < flips; ++i)
    static_cast<unsigned char*>(
        data)[(2 * i + 1) * (bytes / (2 * flips)) + (2 * i + 1) * (bytes % (2 * flips)) / (2 * flips)] ^= 0x55;
}

}  // namespace yr_fastload::sim
