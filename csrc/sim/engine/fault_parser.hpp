#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/faults.hpp"

namespace yr_fastload::sim {

struct Fault {
  std::string text;
  Operation operation = Operation::kSend;
  std::uint64_t first = 1;
  std::uint64_t last = UINT64_MAX;
  Action action = Action::kNone;
  double value = 0;
  std::uint64_t seen = 0;  ///< Operations of its kind since it was installed.
};

/// Faults separated by `;` or newlines; `#` begins a comment. What is none is reported on stderr as part of `from`, and
/// clears `valid`.
std::vector<Fault> parse_faults(const std::string& text, const std::string& from, bool& valid);

}  // namespace yr_fastload::sim
