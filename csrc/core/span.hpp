#pragma once

#include <cstddef>
#include <vector>

namespace yr_fastload {

/// Memory borrowed for the duration of a call; code that creates one says who owns the memory.
template <typename T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <typename U>
  Span(std::vector<U>& items) noexcept : data_(items.data()), size_(items.size()) {}
  template <typename U>
  Span(const std::vector<U>& items) noexcept : data_(items.data()), size_(items.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace yr_fastload
