#pragma once

/// Part of the interface that openYuanrong's plugin, or another of these libraries, links.
#define YRFL_SIM_EXPORT __attribute__((visibility("default")))
#define YRFL_SIM_API extern "C" YRFL_SIM_EXPORT
