/// Functions that stand in for those of openYuanrong 0.8.1 that wait without a pause (stand_ins.hpp).
///
/// A thread of the client connects again to a worker that has gone, each second (ZmqSockConnHelper::HandleConnectList,
/// zmq_stub_conn.cpp). In between it asks for the time, again and again: two thirds of a core in each process, as long
/// as its worker is away. Here it sleeps until the next try is due, unless somebody else wants to be connected.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "datasystem/stand_ins.hpp"

namespace yr_fastload {

namespace {

namespace ds = ::datasystem;

using Clock = std::chrono::steady_clock;
using Add = void(void* helper, const std::shared_ptr<ds::StubInfo>& who);
using Interrupt = void(void* helper);
using Connect = void(void* helper, std::shared_ptr<ds::StubInfo>& stub, std::shared_ptr<ds::SockConnEntry>& entry,
                     std::unique_lock<std::mutex>& list, void* socket, ds::ReconnectInfo& who);

constexpr auto kBetweenAttempts = std::chrono::seconds(1);
constexpr auto kNap = std::chrono::milliseconds(10);

std::atomic<std::uint64_t> added{0};
std::atomic<bool> interrupted{false};

/// Of the thread that connects: when those who could not be connected are due again.
class Attempts {
 public:
  void begin(const std::shared_ptr<ds::StubInfo>& who) { begun_ += due_.erase(who.get()) == 0; }
  void failed(const std::shared_ptr<ds::StubInfo>& who) { due_[who.get()] = {who, Clock::now() + kBetweenAttempts}; }

  /// Sleeps until somebody is due; not while somebody who was added has yet to have his turn.
  void pause() {
    const std::uint64_t known = added;
    if (begun_ != known && awaited_ != known) {
      awaited_ = known;  // once: he may have given up
      return;
    }
    begun_ = known;
    while (!interrupted && added == known && !is_anybody_due()) std::this_thread::sleep_for(kNap);
  }

 private:
  struct Due {
    std::weak_ptr<ds::StubInfo> who;
    Clock::time_point at;
  };

  /// Also if nobody waits; whoever is found here is told of once.
  bool is_anybody_due() {
    const Clock::time_point now = Clock::now();
    bool found = false;
    for (auto each = due_.begin(); each != due_.end();) {
      if (each->second.who.expired()) {
        each = due_.erase(each);
        continue;
      }
      if (each->second.at <= now) {
        each->second.at = Clock::time_point::max();
        found = true;
      }
      ++each;
    }
    return found || due_.empty();
  }

  std::unordered_map<const ds::StubInfo*, Due> due_;
  std::uint64_t begun_ = 0;
  std::uint64_t awaited_ = 0;
};

Add add;
Interrupt interrupt;
Connect connect;

const StandIn<Add> adding{"_ZN10datasystem17ZmqSockConnHelper17AddStubToConnListERKSt10shared_ptrINS_8StubInfoEE", add};
const StandIn<Interrupt> interrupting{"_ZN10datasystem17ZmqSockConnHelper12InterruptAllEv", interrupt};
const StandIn<Connect> connecting{
    "_ZN10datasystem17ZmqSockConnHelper27HandleConnectListAfterCheckERSt10shared_ptrINS_8StubInfoEERS1_INS_"
    "13SockConnEntryEERSt11unique_lockISt5mutexERNS_10UnixSockFdERSt4pairIS6_S3_E",
    connect};

void add(void* helper, const std::shared_ptr<ds::StubInfo>& who) {
  adding.own(helper, who);
  ++added;
}

void interrupt(void* helper) {
  interrupted = true;
  interrupting.own(helper);
}

/// Its own leaves the list locked when the attempt has failed and is to be repeated.
void connect(void* helper, std::shared_ptr<ds::StubInfo>& stub, std::shared_ptr<ds::SockConnEntry>& entry,
             std::unique_lock<std::mutex>& list, void* socket, ds::ReconnectInfo& who) {
  thread_local Attempts attempts;
  attempts.begin(stub);
  connecting.own(helper, stub, entry, list, socket, who);
  if (list.owns_lock()) {
    list.unlock();
    attempts.failed(stub);
  }
  attempts.pause();
}

}  // namespace

}  // namespace yr_fastload
