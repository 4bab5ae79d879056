#pragma once

#include <cstdint>

#include "engine/export.hpp"

namespace yr_fastload::sim {

/// Device of the calling thread; -1 until it sets one.
YRFL_SIM_EXPORT int current_device();

YRFL_SIM_EXPORT bool device_exists(std::int64_t device);

}  // namespace yr_fastload::sim
