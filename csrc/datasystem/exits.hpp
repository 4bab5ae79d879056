#pragma once

namespace yr_fastload {

// The exit handlers of the C library destroy what openYuanrong's threads use, and wait for these threads. A process in
// which that goes wrong ends without them, as by `os._exit`; what stdio has buffered is written.

/// Has every child that this process forks from now on end so; before the first client. There the handlers wait for
/// threads that stayed in the parent (seen in 0.8.1: ~ArenaManager), for ever.
void expect_forks();

/// Has this process end so if something of openYuanrong is still at work then (`AtWork`): its threads would find
/// memory that is gone. Handlers that were registered later come first all the same.
void expect_exit();

/// Counted as long as it lives.
class AtWork {
 public:
  AtWork() noexcept;
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;
  ~AtWork();

  /// To the end of the process.
  static void for_good();
};

}  // namespace yr_fastload
