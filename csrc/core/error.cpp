#include "core/error.hpp"

namespace yr_fastload {

std::string abbreviate(const std::vector<std::string>& keys) {
  constexpr std::size_t kShown = 2;
  std::string text = "[";
  for (std::size_t i = 0; i < keys.size() && i < kShown; ++i) text += (i == 0 ? "" : ", ") + keys[i];
  if (keys.size() > kShown) text += ", +" + std::to_string(keys.size() - kShown);
  return text + "]";
}

}  // namespace yr_fastload
