// CANN's operator library, as far as this package calls it: products of int8 matrices with sums in int32.
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/codes.hpp"
#include "engine/counters.hpp"
#include "engine/export.hpp"
#include "engine/memory.hpp"
#include "engine/stream.hpp"

namespace yr_fastload::sim {
namespace {

constexpr int kFloat = 0;
constexpr int kInt8 = 2;
constexpr int kInt32 = 3;
constexpr int kFormatNd = 2;
constexpr int kNullPointer = 161001;        // ACLNN_ERR_PARAM_NULLPTR
constexpr int kInvalid = 161002;            // ACLNN_ERR_PARAM_INVALID
constexpr std::int64_t kMostInner = 65535;  // of the last dimension
constexpr std::uint64_t kWorkspaceBytes = 4096;

struct Tensor {
  int type;
  std::vector<std::int64_t> shape;
  std::byte* data;
  std::size_t bytes;

  bool is(int wanted, std::size_t dimensions) const { return type == wanted && shape.size() == dimensions; }
};

/// What the first of an operator's two calls leaves for the second.
struct Product {
  Tensor rows;
  Tensor matrix;
  Tensor out;
};

std::size_t size_of(int type) {
  if (type == kInt8) return 1;
  return type == kFloat || type == kInt32 ? 4 : 0;
}

/// A column's numbers one after the other; false if one is negative.
bool by_columns(const std::int8_t* matrix, std::size_t inner, std::size_t columns, std::vector<std::uint8_t>& found) {
  found.resize(inner * columns);
  bool negative = false;
  for (std::size_t i = 0; i < inner; ++i)
    for (std::size_t column = 0; column < columns; ++column) {
      negative |= matrix[i * columns + column] < 0;
      found[column * inner + i] = static_cast<std::uint8_t>(matrix[i * columns + column]);
    }
  return !negative;
}

/// Of signed and unsigned bytes, for which CPUs have an instruction; compilers find it.
template <typename Number>
inline __attribute__((always_inline)) void multiply(const std::int8_t* row, const Number* numbers, std::size_t inner,
                                                    std::size_t columns, std::int32_t* out) {
  for (std::size_t column = 0; column < columns; ++column) {
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < inner; ++i) sum += row[i] * numbers[column * inner + i];
    out[column] = sum;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void multiply_vnni(
    const std::int8_t* row, const std::uint8_t* numbers, std::size_t inner, std::size_t columns, std::int32_t* out) {
  multiply(row, numbers, inner, columns, out);
}

bool has_vnni() { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"); }
#endif

void multiply_row(const std::int8_t* row, const std::vector<std::uint8_t>& numbers, bool positive, std::size_t inner,
                  std::size_t columns, std::int32_t* out) {
#if defined(__x86_64__)
  static const bool vnni = has_vnni();
  if (positive && vnni) return multiply_vnni(row, numbers.data(), inner, columns, out);
#endif
  if (positive) return multiply(row, numbers.data(), inner, columns, out);
  multiply(row, reinterpret_cast<const std::int8_t*>(numbers.data()), inner, columns, out);
}

int run(const Product& product, const Stream& stream) {
  const MemoryInUse rows(product.rows.data, product.rows.bytes, "a product");
  const MemoryInUse matrix(product.matrix.data, product.matrix.bytes, "a product");
  const MemoryInUse out(product.out.data, product.out.bytes, "a product");
  if (!rows.valid() || !matrix.valid() || !out.valid()) return kAclRtInternalError;
  const auto inner = static_cast<std::size_t>(product.matrix.shape[0]);
  const auto columns = static_cast<std::size_t>(product.matrix.shape[1]);
  std::vector<std::uint8_t> numbers;
  const bool positive = by_columns(reinterpret_cast<const std::int8_t*>(matrix.bytes()), inner, columns, numbers);
  for (std::size_t row = 0; row < static_cast<std::size_t>(product.rows.shape[0]); ++row) {
    if (stream.interrupted()) return kAclRtInternalError;
    multiply_row(reinterpret_cast<const std::int8_t*>(rows.bytes()) + row * inner, numbers, positive, inner, columns,
                 reinterpret_cast<std::int32_t*>(out.bytes()) + row * columns);
  }
  return kAclSuccess;
}

}  // namespace
}  // namespace yr_fastload::sim

using namespace yr_fastload::sim;

YRFL_SIM_API void* aclCreateTensor(const std::int64_t* shape, std::uint64_t dimensions, int type,
                                   const std::int64_t* strides, std::int64_t offset, int format, const std::int64_t*,
                                   std::uint64_t, void* data) {
  count_call("aclCreateTensor");
  std::size_t bytes = size_of(type);
  if (shape == nullptr || data == nullptr || bytes == 0 || format != kFormatNd || offset != 0) return nullptr;
  std::int64_t stride = 1;
  for (std::uint64_t i = dimensions; i-- > 0; stride *= shape[i]) {
    if (shape[i] <= 0 || strides == nullptr || strides[i] != stride) return nullptr;
    bytes *= static_cast<std::size_t>(shape[i]);
  }
  return new Tensor{type, {shape, shape + dimensions}, static_cast<std::byte*>(data), bytes};
}

YRFL_SIM_API int aclDestroyTensor(const void* tensor) {
  delete static_cast<const Tensor*>(tensor);
  return kAclSuccess;
}

YRFL_SIM_API int aclnnQuantMatmulV4GetWorkspaceSize(const void* x1, const void* x2, const void* scale,
                                                    const void* offset, const void* pertoken_scale, const void* bias,
                                                    bool transpose_x1, bool transpose_x2, const void* out,
                                                    std::uint64_t* workspace_bytes, void** executor) {
  count_call("aclnnQuantMatmulV4GetWorkspaceSize");
  if (x1 == nullptr || x2 == nullptr || scale == nullptr || out == nullptr || workspace_bytes == nullptr ||
      executor == nullptr)
    return kNullPointer;
  const auto& rows = *static_cast<const Tensor*>(x1);
  const auto& matrix = *static_cast<const Tensor*>(x2);
  const auto& sums = *static_cast<const Tensor*>(out);
  if (offset != nullptr || pertoken_scale != nullptr || bias != nullptr || transpose_x1 || transpose_x2 ||
      !static_cast<const Tensor*>(scale)->is(kFloat, 1) || !rows.is(kInt8, 2) || !matrix.is(kInt8, 2) ||
      !sums.is(kInt32, 2))
    return kInvalid;
  if (rows.shape[1] != matrix.shape[0] || rows.shape[1] > kMostInner || matrix.shape[1] > kMostInner ||
      sums.shape != std::vector<std::int64_t>{rows.shape[0], matrix.shape[1]})
    return kInvalid;
  *workspace_bytes = kWorkspaceBytes;
  *executor = new Product{rows, matrix, sums};
  return kAclSuccess;
}

YRFL_SIM_API int aclnnQuantMatmulV4(void* workspace, std::uint64_t workspace_bytes, void* executor, void* handle) {
  count_call("aclnnQuantMatmulV4");
  if (executor == nullptr) return kNullPointer;
  const std::shared_ptr<Product> product(static_cast<Product*>(executor));
  if (workspace == nullptr || workspace_bytes < kWorkspaceBytes) return kInvalid;
  const auto stream = find_stream(handle);
  if (stream == nullptr) return kAclRtInvalidHandle;
  return stream->push({[product](const Stream& self) { return run(*product, self); }, nullptr});
}
