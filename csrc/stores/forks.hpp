#pragma once

namespace yr_fastload {

/// Has every child that this process forks from now on end without the exit handlers of the C library; before the first
/// client. Those of openYuanrong wait for threads that stayed in the parent (seen in 0.8.1: ~ArenaManager), for ever.
/// `os._exit` does no more, and that is how Python's multiprocessing ends a child.
void expect_forks();

}  // namespace yr_fastload
