#include "devices/cuda_driver.hpp"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>

#include "core/error.hpp"
#include "devices/cuda_copy_kernel.hpp"
#include "devices/cuda_digest_kernel.hpp"

namespace yr_fastload::cuda {
namespace {

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorCode::kDevice, "device", what); }

/// Errors after which every call of the process fails (cuda.h: "the process must be terminated and relaunched").
bool is_lasting(Result result) noexcept {
  constexpr Result kLasting[] = {214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719};
  for (const Result each : kLasting)
    if (result == each) return true;
  return false;
}

/// A kernel of ours for the calling thread's context; null if the driver cannot load it.
Handle kernel(const char* ptx, const char* name) noexcept {
  const Driver& driver = Driver::instance();
  Handle module = nullptr;
  Handle function = nullptr;
  if (driver.load_module(&module, ptx) != kSuccess) return nullptr;
  return driver.get_function(&function, module, name) == kSuccess ? function : nullptr;
}

}  // namespace

const Driver& Driver::instance() {
  static const Driver driver;
  return driver;
}

Driver::Driver() {
  library_ = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr)
    fail(std::string("libcuda.so.1 cannot be loaded: ") + ::dlerror() +
         "; install NVIDIA's driver, give the container its devices, or run under `yr-fastload sim --device cuda --`");
  Result (*initialize)(unsigned) = nullptr;
  load(initialize, "cuInit");
  load(error_name_, "cuGetErrorName");
  load(error_string_, "cuGetErrorString");
  load(device_count, "cuDeviceGetCount");
  load(device_name, "cuDeviceGetName");
  load(can_access_peer, "cuDeviceCanAccessPeer");
  load(driver_version, "cuDriverGetVersion");
  load(retain_context, "cuDevicePrimaryCtxRetain");
  load(set_context, "cuCtxSetCurrent");
  load(get_context, "cuCtxGetCurrent");
  load(push_context, "cuCtxPushCurrent_v2");
  load(pop_context, "cuCtxPopCurrent_v2");
  load(allocate, "cuMemAlloc_v2");
  load(free, "cuMemFree_v2");
  load(allocate_host, "cuMemHostAlloc");
  load(free_host, "cuMemFreeHost");
  load(register_host, "cuMemHostRegister_v2");
  load(unregister_host, "cuMemHostUnregister");
  load(device_address, "cuMemHostGetDevicePointer_v2");
  load(pointer_attribute, "cuPointerGetAttribute");
  load(address_range, "cuMemGetAddressRange_v2");
  load(get_ipc_handle, "cuIpcGetMemHandle");
  load(open_ipc_handle, "cuIpcOpenMemHandle_v2");
  load(close_ipc_handle, "cuIpcCloseMemHandle");
  load(to_device, "cuMemcpyHtoDAsync_v2");
  load(to_host, "cuMemcpyDtoHAsync_v2");
  load(on_device, "cuMemcpyDtoDAsync_v2");
  load(create_stream, "cuStreamCreate");
  load(destroy_stream, "cuStreamDestroy_v2");
  load(create_event, "cuEventCreate");
  load(destroy_event, "cuEventDestroy_v2");
  load(record_event, "cuEventRecord");
  load(query_event, "cuEventQuery");
  load(load_module, "cuModuleLoadData");
  load(get_function, "cuModuleGetFunction");
  load(launch, "cuLaunchKernel");
  load(exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
  simulated = ::dlsym(library_, "yrfl_sim_counters") != nullptr;
  const Result result = initialize(0);
  if (result == kNoDevice) fail("cuInit failed with " + describe(result) + "; CUDA_VISIBLE_DEVICES may hide them");
  if (result != kSuccess) fail("cuInit failed with " + describe(result));
}

template <typename Function>
void Driver::load(Function& function, const char* name) {
  function = reinterpret_cast<Function>(::dlsym(library_, name));
  if (function == nullptr) fail(std::string("libcuda.so.1 has no ") + name + "; update NVIDIA's driver");
}

std::string Driver::describe(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  const bool known = error_name_(result, &name) == kSuccess && name != nullptr;
  std::string described = (known ? name : "CUDA error") + (" (" + std::to_string(result) + ")");
  if (error_string_(result, &text) == kSuccess && text != nullptr) described += std::string(": ") + text;
  return described;
}

void check(Result result, const char* call) {
  if (result == kSuccess) return;
  const ErrorCode code = result == kOutOfMemory ? ErrorCode::kResourceExhausted : ErrorCode::kDevice;
  std::string detail = std::string(call) + " failed with " + Driver::instance().describe(result);
  if (is_lasting(result)) detail += "; CUDA takes no more calls of this process: start it anew";
  throw Error(code, "device", detail);
}

void Relaxed::thread() noexcept {
  int mode = kRelaxed;
  static_cast<void>(Driver::instance().exchange_capture_mode(&mode));
}

const Context& Context::of(int device) {
  static std::mutex mutex;
  static auto* const made = new std::map<int, std::unique_ptr<Context>>;  // never destroyed
  const std::lock_guard<std::mutex> lock(mutex);
  auto& context = (*made)[device];
  if (context == nullptr) context.reset(new Context(device));
  return *context;
}

Context::Context(int device) {
  const Driver& driver = Driver::instance();
  const Relaxed relaxed;
  int count = 0;
  check(driver.device_count(&count), "cuDeviceGetCount");
  if (device < 0 || device >= count)
    fail("there is no CUDA device " + std::to_string(device) + "; this process sees " + std::to_string(count));
  char name[256] = "";
  check(driver.device_name(name, sizeof name, device), "cuDeviceGetName");  // the n-th device's handle is n
  device_name_ = name;
  check(driver.retain_context(&handle_, device), "cuDevicePrimaryCtxRetain");
  const Bound bound(*this);
  check(bound.result(), "cuCtxPushCurrent");
  // Where the driver has no compiler for them, small runs are copied one by one, and the CPU takes the digests.
  copy_kernel_ = kernel(kCopyKernel, kCopyKernelName);
  digest_kernel_ = kernel(kDigestKernel, kDigestKernelName);
}

}  // namespace yr_fastload::cuda
