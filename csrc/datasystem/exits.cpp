#include "datasystem/exits.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace yr_fastload {
namespace {

std::atomic<unsigned> at_work{0};

void leave(int status, void*) {
  std::fflush(nullptr);
  ::_exit(status);
}

void leave_if_at_work(int status, void* unused) {
  if (at_work > 0) leave(status, unused);
}

void in_child() { ::on_exit(leave, nullptr); }  // the last to be registered comes first

}  // namespace

void expect_forks() {
  static const int once = ::pthread_atfork(nullptr, nullptr, in_child);
  static_cast<void>(once);
}

void expect_exit() { ::on_exit(leave_if_at_work, nullptr); }

AtWork::AtWork() noexcept { ++at_work; }

AtWork::~AtWork() { --at_work; }

void AtWork::for_good() {
  static const unsigned once = ++at_work;
  static_cast<void>(once);
}

}  // namespace yr_fastload
