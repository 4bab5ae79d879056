#pragma once

#include <cstdlib>

#include "engine/export.hpp"
#include "engine/settings.hpp"

/// A function that nothing here implements: it must exist for the plugin to load, and must not be believed when called.
#define YRFL_SIM_UNIMPLEMENTED(name)                     \
  YRFL_SIM_API void name() {                             \
    yr_fastload::sim::report(#name " is not simulated"); \
    std::abort();                                        \
  }
