#pragma once

#include <memory>

#include "core/object_store.hpp"
#include "datasystem/connection.hpp"

namespace yr_fastload {

/// The `host` transport: chunks are objects in the shared memory of the machine's openYuanrong worker, which this
/// process maps; a fetch moves no byte. Throws kUnavailable if no worker answers in time.
/// A store made before a fork refuses to work in the child: openYuanrong's threads stay in the parent.
std::unique_ptr<ObjectStore> connect_host_store(const Connection& connection);

}  // namespace yr_fastload
