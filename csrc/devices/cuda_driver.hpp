#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace yr_fastload::cuda {

// Types and values of the driver's ABI (cuda.h; https://docs.nvidia.com/cuda/cuda-driver-api).
using Result = int;
using Address = std::uint64_t;  // CUdeviceptr
using Handle = void*;           // CUcontext, CUstream, CUevent, CUmodule, CUfunction
/// CUipcMemHandle: where and how an allocation can be opened by another process.
struct IpcHandle {
  char bytes[64];
};
constexpr Result kSuccess = 0;
constexpr Result kOutOfMemory = 2;
constexpr Result kNoDevice = 100;
constexpr Result kNotReady = 600;
constexpr Result kNotSupported = 801;

/// The functions of libcuda.so.1 that are used here.
class Driver {
 public:
  /// Loaded and initialised once a process, and never unloaded. Throws kDevice where there is no driver or no device.
  static const Driver& instance();

  Result (*device_count)(int*) = nullptr;
  Result (*device_name)(char*, int, int) = nullptr;
  Result (*can_access_peer)(int*, int, int) = nullptr;
  Result (*driver_version)(int*) = nullptr;
  Result (*retain_context)(Handle*, int) = nullptr;
  Result (*set_context)(Handle) = nullptr;
  Result (*get_context)(Handle*) = nullptr;
  Result (*push_context)(Handle) = nullptr;
  Result (*pop_context)(Handle*) = nullptr;
  Result (*allocate)(Address*, std::size_t) = nullptr;
  Result (*free)(Address) = nullptr;
  Result (*allocate_host)(void**, std::size_t, unsigned) = nullptr;
  Result (*free_host)(void*) = nullptr;
  Result (*register_host)(void*, std::size_t, unsigned) = nullptr;
  Result (*unregister_host)(void*) = nullptr;
  Result (*device_address)(Address*, void*, unsigned) = nullptr;
  Result (*pointer_attribute)(void*, int, Address) = nullptr;
  Result (*address_range)(Address*, std::size_t*, Address) = nullptr;
  Result (*get_ipc_handle)(IpcHandle*, Address) = nullptr;
  Result (*open_ipc_handle)(Address*, IpcHandle, unsigned) = nullptr;
  Result (*close_ipc_handle)(Address) = nullptr;
  Result (*to_device)(Address, const void*, std::size_t, Handle) = nullptr;
  Result (*to_host)(void*, Address, std::size_t, Handle) = nullptr;
  Result (*on_device)(Address, Address, std::size_t, Handle) = nullptr;
  Result (*create_stream)(Handle*, unsigned) = nullptr;
  Result (*destroy_stream)(Handle) = nullptr;
  Result (*create_event)(Handle*, unsigned) = nullptr;
  Result (*destroy_event)(Handle) = nullptr;
  Result (*record_event)(Handle, Handle) = nullptr;
  Result (*query_event)(Handle) = nullptr;
  Result (*load_module)(Handle*, const void*) = nullptr;
  Result (*get_function)(Handle*, Handle, const char*) = nullptr;
  Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**,
                   void**) = nullptr;
  Result (*exchange_capture_mode)(int*) = nullptr;
  bool simulated = false;

  /// "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory".
  std::string describe(Result result) const;

 private:
  Driver();
  template <typename Function>
  void load(Function& function, const char* name);

  void* library_ = nullptr;  // stays loaded
  Result (*error_name_)(Result, const char**) = nullptr;
  Result (*error_string_)(Result, const char**) = nullptr;
};

/// Throws kResourceExhausted where memory is short, kDevice for every other error.
void check(Result result, const char* call);

/// While a thread captures a graph in mode `global`, which is torch's default, whatever another thread does that a
/// graph could not repeat, such as to allocate or to ask whether an event is done, is refused and ends the capture. Not
/// so in mode `relaxed`, which the calling thread is in while this lives.
class Relaxed {
 public:
  Relaxed() noexcept { static_cast<void>(Driver::instance().exchange_capture_mode(&mode_)); }
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;
  ~Relaxed() { static_cast<void>(Driver::instance().exchange_capture_mode(&mode_)); }
  /// For a thread of this package's own, for good.
  static void thread() noexcept;

 private:
  static constexpr int kRelaxed = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED
  int mode_ = kRelaxed;               ///< The other of the two: what the thread is to be in next.
};

/// A device's primary context, which the whole process shares with torch and others. Retained when first asked for, and
/// never released: memory and streams of it may live until the process ends.
class Context {
 public:
  static const Context& of(int device);

  Handle handle() const noexcept { return handle_; }
  /// "NVIDIA H200".
  const std::string& device_name() const noexcept { return device_name_; }
  /// The kernel that copies many small runs; null where the driver cannot load it.
  Handle copy_kernel() const noexcept { return copy_kernel_; }
  /// The kernel that takes digests; null likewise.
  Handle digest_kernel() const noexcept { return digest_kernel_; }

 private:
  explicit Context(int device);

  Handle handle_ = nullptr;
  std::string device_name_;
  Handle copy_kernel_ = nullptr;
  Handle digest_kernel_ = nullptr;
};

/// Makes a context the calling thread's own while it lives: a caller's thread keeps the one that it had, and its mode.
class Bound {
 public:
  explicit Bound(const Context& context) noexcept : result_(Driver::instance().push_context(context.handle())) {}
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  ~Bound() {
    Handle popped = nullptr;
    if (result_ == kSuccess) static_cast<void>(Driver::instance().pop_context(&popped));
  }
  Result result() const noexcept { return result_; }

 private:
  const Relaxed relaxed_;
  const Result result_;
};

}  // namespace yr_fastload::cuda
