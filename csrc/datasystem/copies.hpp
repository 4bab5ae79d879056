#pragma once

#include <memory>

#include "core/call_runner.hpp"
#include "core/object_store.hpp"
#include "datasystem/connection.hpp"

namespace yr_fastload {

/// Finds objects of a cluster that are listed and cannot be had: openYuanrong knows of no copy any more.
///
/// When a worker has stood still for longer than the node dead timeout, the others forget that it has copies, and keep
/// the metadata. If they are not told again when it goes on (0.8.1: RemoveMetaByWorker, "no object copy exists"),
/// nobody but clients of that worker reads the object, while `Exist` and `Expire` go on to say that it is there. Where
/// copies are is told to ObjectClient alone, which is another connection: made when it is needed first, and not to a
/// worker on loopback, which has no others. Thread-safe.
class Copies {
 public:
  explicit Copies(const Connection& connection);

  /// Which of these have none. Those of which that cannot be found out in a part of the time are not among them.
  Keys without(const Keys& keys, Deadline deadline) noexcept;

 private:
  struct State;

  std::shared_ptr<State> state_;
  CallRunner runner_;
};

}  // namespace yr_fastload
