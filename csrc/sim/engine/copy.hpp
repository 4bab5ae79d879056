#pragma once

#include <cstddef>

#include "engine/export.hpp"
#include "engine/faults.hpp"

namespace yr_fastload::sim {

/// A copy by a device, with the faults that are installed for copies. An aclError.
YRFL_SIM_EXPORT int copy(void* destination, const void* source, std::size_t bytes, const Interrupted& interrupted);

}  // namespace yr_fastload::sim
