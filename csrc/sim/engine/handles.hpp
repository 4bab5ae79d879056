#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace yr_fastload::sim {

/// Objects behind opaque handles: a handle that was never given out, or was given back, finds nothing. Whoever holds
/// what `find` returned keeps it alive.
template <typename T>
class Handles {
 public:
  void* add(std::shared_ptr<T> object) {
    const std::lock_guard<std::mutex> lock(mutex_);
    void* const handle = reinterpret_cast<void*>(next_ += 16);
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  std::shared_ptr<T> find(void* handle) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<T> remove(void* handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = objects_.find(handle);
    if (found == objects_.end()) return nullptr;
    auto object = std::move(found->second);
    objects_.erase(found);
    return object;
  }
  std::vector<std::shared_ptr<T>> objects() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::shared_ptr<T>> found;
    for (const auto& [handle, object] : objects_) found.push_back(object);
    return found;
  }

  /// The handles of a kind; never destroyed, because threads may use them until the process ends.
  static Handles& all() {
    static Handles* const made = new Handles;
    return *made;
  }

 private:
  mutable std::mutex mutex_;
  std::uintptr_t next_ = 0x5100000000;
  std::map<void*, std::shared_ptr<T>> objects_;
};

}  // namespace yr_fastload::sim
