#pragma once

#include <memory>

#include "core/device.hpp"

namespace yr_fastload {

/// A thread's stream, made for its first copy: making one takes a driver's lock, which others may need at that moment.
class LazyStream {
 public:
  explicit LazyStream(Device& device) : device_(device) {}
  Stream* operator->() {
    if (!stream_) stream_ = device_.make_stream();
    return stream_.get();
  }

 private:
  Device& device_;
  std::unique_ptr<Stream> stream_;
};

}  // namespace yr_fastload
