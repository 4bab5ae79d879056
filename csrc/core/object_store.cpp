#include "core/object_store.hpp"

namespace yr_fastload {

std::string chunk_key(const std::string& prefix, std::uint64_t index) { return prefix + std::to_string(index); }

Keys chunk_keys(const std::string& prefix, std::uint64_t count) {
  Keys keys;
  keys.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) keys.push_back(chunk_key(prefix, i));
  return keys;
}

}  // namespace yr_fastload
