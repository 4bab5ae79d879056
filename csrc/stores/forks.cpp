#include "stores/forks.hpp"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace yr_fastload {
namespace {

void leave(int status, void*) {
  std::fflush(nullptr);
  ::_exit(status);
}

void in_child() { ::on_exit(leave, nullptr); }  // the last to be registered comes first

}  // namespace

void expect_forks() {
  static const int once = ::pthread_atfork(nullptr, nullptr, in_child);
  static_cast<void>(once);
}

}  // namespace yr_fastload
