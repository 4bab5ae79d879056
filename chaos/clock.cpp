// Preloaded: moves the wall clock of one process by what a file says, while its monotonic clocks go on as they are.
// Waits until a time of the wall clock are moved along, as the kernel's are when the clock is set.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::time_t kNoUptime = 500'000'000;  // seconds: later than any uptime, earlier than any date

constexpr std::time_t kNever = 8'000'000'000;  // seconds: in nanoseconds it still fits 64 bits

std::atomic<const std::atomic<std::int64_t>*> offset{nullptr};

std::int64_t moved_by() {
  const auto* at = offset.load();
  return at == nullptr ? 0 : at->load();
}

timespec plus(const timespec& time, std::int64_t nanoseconds) {
  if (time.tv_sec > kNever) return time;
  const std::int64_t sum = time.tv_sec * kSecond + time.tv_nsec + nanoseconds;
  return {static_cast<std::time_t>(sum / kSecond), static_cast<long>(sum % kSecond)};
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

using Clockwait = int (*)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
using SemClockwait = int (*)(sem_t*, clockid_t, const timespec*);
using Gettime = int (*)(clockid_t, timespec*);
Gettime gettime;

/// Looked up when first called: the thread of an allocator waits before any constructor of this library has run.
int cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock, const timespec* until) {
  static const auto own = next<Clockwait>("pthread_cond_clockwait");
  return own(condition, mutex, clock, until);
}

int sem_wait_on(sem_t* semaphore, clockid_t clock, const timespec* until) {
  static const auto own = next<SemClockwait>("sem_clockwait");
  return own(semaphore, clock, until);
}

}  // namespace

extern "C" {

/// The file holds nanoseconds, a signed number of eight bytes, and may be written at any time.
__attribute__((visibility("default"))) void chaos_clock_use(const char* path) {
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void* const at = ::mmap(nullptr, sizeof(std::int64_t), PROT_READ, MAP_SHARED, file, 0);
  ::close(file);
  if (at != MAP_FAILED) offset = static_cast<const std::atomic<std::int64_t>*>(at);
}

__attribute__((constructor)) void chaos_clock_start() {
  gettime = next<Gettime>("clock_gettime");
  if (const char* const path = std::getenv("CHAOS_CLOCK")) chaos_clock_use(path);
}

int clock_gettime(clockid_t clock, timespec* time) {
  const int status =
      gettime != nullptr ? gettime(clock, time) : static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
  if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *time = plus(*time, moved_by());
  return status;
}

int gettimeofday(timeval* __restrict time, void* __restrict) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  *time = {now.tv_sec, static_cast<suseconds_t>(now.tv_nsec / 1000)};
  return 0;
}

std::time_t time(std::time_t* at) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (at != nullptr) *at = now.tv_sec;
  return now.tv_sec;
}

/// A condition does not tell by which clock it waits, but the time does.
int pthread_cond_timedwait(pthread_cond_t* __restrict condition, pthread_mutex_t* __restrict mutex,
                           const timespec* __restrict until) {
  if (until->tv_sec < kNoUptime) return cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
  const timespec real = plus(*until, -moved_by());
  return cond_clockwait(condition, mutex, CLOCK_REALTIME, &real);
}

int pthread_cond_clockwait(pthread_cond_t* __restrict condition, pthread_mutex_t* __restrict mutex, clockid_t clock,
                           const timespec* __restrict until) {
  const timespec real = clock == CLOCK_REALTIME ? plus(*until, -moved_by()) : *until;
  return cond_clockwait(condition, mutex, clock, &real);
}

int sem_timedwait(sem_t* __restrict semaphore, const timespec* __restrict until) {
  const timespec real = plus(*until, -moved_by());
  return sem_wait_on(semaphore, CLOCK_REALTIME, &real);
}

}  // extern "C"
