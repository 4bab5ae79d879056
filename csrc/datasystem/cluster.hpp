#pragma once

#include <string>
#include <vector>

#include "core/deadline.hpp"

namespace yr_fastload {

/// Addresses of the workers that a cluster's directory, `HOST:PORT[,HOST:PORT...]` of an etcd or of the metastore of
/// its head, calls ready. Throws kUnavailable if it does not answer, and kTransferTimeout if not in time.
std::vector<std::string> ready_workers(const std::string& directory, Deadline deadline);

}  // namespace yr_fastload
