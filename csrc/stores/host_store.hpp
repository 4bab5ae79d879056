#pragma once

#include <memory>
#include <string>

#include "core/object_store.hpp"

namespace yr_fastload {

struct HostStoreOptions {
  std::string host;
  int port = 0;
  double connect_timeout_s = 5.0;
  double rpc_timeout_s = 5.0;  ///< openYuanrong's own bound of one call; the deadline of a call may come first.
};

/// The `host` transport: chunks are objects in the shared memory of the machine's openYuanrong worker, which this
/// process maps; a fetch moves no byte. Throws kUnavailable if no worker answers in time.
/// A store made before a fork refuses to work in the child: openYuanrong's threads stay in the parent.
std::unique_ptr<ObjectStore> connect_host_store(const HostStoreOptions& options);

}  // namespace yr_fastload
