#pragma once

#include <cstddef>
#include <functional>

namespace yr_fastload {

/// Runs `destroy` in some minutes, on a thread of its own; not at all if the process ends before.
///
/// A client of openYuanrong that goes while one of its threads waits for a peer takes down the process: the thread
/// wakes up to memory that is gone (seen in 0.8.1: CommFactory::ProcessCommCreationInSend waits up to a minute for a
/// reader that died). So a client that may have such a thread outlives every wait of openYuanrong and of HCCL.
void destroy_later(std::function<void()> destroy);

/// How many of them are still to be destroyed.
std::size_t to_be_destroyed();

constexpr std::size_t kMostToBeDestroyed = 64;

/// Throws kResourceExhausted where this process has left behind as much as it may, of these and of threads.
void check_left_behind();

}  // namespace yr_fastload
