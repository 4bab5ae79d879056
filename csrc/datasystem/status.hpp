#pragma once

#include <datasystem/utils/status.h>

#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "core/object_store.hpp"

namespace yr_fastload {

/// The row of our error table that an openYuanrong status belongs to.
ErrorCode code_of(::datasystem::StatusCode code) noexcept;

/// "K_NOT_FOUND (3): first line of the message".
std::string describe(const ::datasystem::Status& status);

/// Throws what `status` says; `keys` go into the message and into `failed_keys`.
void check(const ::datasystem::Status& status, const char* op, const Keys& keys);

/// Calls `act(batch)` for runs of at most `most` keys.
template <typename Act>
void in_batches(const Keys& keys, std::size_t most, const Act& act) {
  for (std::size_t first = 0; first < keys.size(); first += most) {
    const auto begin = keys.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = keys.begin() + static_cast<std::ptrdiff_t>(std::min(first + most, keys.size()));
    act(Keys(begin, end));
  }
}

}  // namespace yr_fastload
