#pragma once

#include <cstdint>

namespace yr_fastload::bindings {

// The part of the DLPack C ABI (version 0.x capsules named "dltensor") that describes a tensor.
// Source: https://dmlc.github.io/dlpack/latest/c_api.html
struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

/// Name of a capsule that nobody has taken yet.
inline constexpr const char* kDlpackName = "dltensor";

inline constexpr std::uint8_t kDlpackComplex = 5;

/// What a tensor type offers as `__dlpack_c_exchange_api__` since DLPack 1.3: a capsule named "dlpack_exchange_api".
struct DLPackExchangeAPI {
  std::uint32_t major;
  std::uint32_t minor;
  DLPackExchangeAPI* previous;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object;
  void* managed_tensor_to_py_object;
  int (*dltensor_from_py_object)(void* object, DLTensor* out);  ///< May be null. -1 and a Python error if it cannot.
  void* current_work_stream;
};

}  // namespace yr_fastload::bindings
