#include "devices/acl_operators.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/matrix_sums.hpp"
#include "devices/acl_runtime.hpp"
#include "devices/acl_stream.hpp"

namespace yr_fastload::acl {
namespace {

// Values of CANN's ABI (acl_base.h).
constexpr int kFloat = 0;
constexpr int kInt8 = 2;
constexpr int kInt32 = 3;
constexpr int kFormatNd = 2;

/// The functions of CANN's operator library used here (aclnn/acl_meta.h, aclnnop/aclnn_quant_matmul_v4.h): its only
/// product of int8 with sums in int32.
class Operators {
 public:
  static const Operators& instance() {
    static const Operators operators;
    return operators;
  }

  void* (*create_tensor)(const std::int64_t* shape, std::uint64_t dimensions, int type, const std::int64_t* strides,
                         std::int64_t offset, int format, const std::int64_t* storage_shape,
                         std::uint64_t storage_dimensions, void* data) = nullptr;
  AclError (*destroy_tensor)(const void*) = nullptr;
  AclError (*multiply_size)(const void* x1, const void* x2, const void* scale, const void* offset,
                            const void* pertoken_scale, const void* bias, bool transpose_x1, bool transpose_x2,
                            const void* out, std::uint64_t* workspace_bytes, void** executor) = nullptr;
  AclError (*multiply)(void* workspace, std::uint64_t workspace_bytes, void* executor, void* stream) = nullptr;

  bool complete() const noexcept {
    return create_tensor != nullptr && destroy_tensor != nullptr && multiply_size != nullptr && multiply != nullptr;
  }

 private:
  Operators() {
    for (const char* library : {"libopapi.so", "libopapi_nn.so", "libnnopbase.so"}) {  // CANN 8 has all in the first
      void* const handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
      if (handle == nullptr) continue;
      load(handle, create_tensor, "aclCreateTensor");
      load(handle, destroy_tensor, "aclDestroyTensor");
      load(handle, multiply_size, "aclnnQuantMatmulV4GetWorkspaceSize");
      load(handle, multiply, "aclnnQuantMatmulV4");
    }
  }

  template <typename Function>
  static void load(void* handle, Function& function, const char* name) {
    if (function == nullptr) function = reinterpret_cast<Function>(::dlsym(handle, name));
  }
};

/// What an operator is told of memory: int8, int32 or float32, one row after the other.
template <std::size_t kDimensions>
class AclTensor {
 public:
  AclTensor(int type, const std::array<std::int64_t, kDimensions>& shape, const std::byte* data) {
    std::array<std::int64_t, kDimensions> strides{};
    std::int64_t stride = 1;
    for (std::size_t i = kDimensions; i-- > 0; stride *= shape[i]) strides[i] = stride;
    tensor_ = operators_.create_tensor(shape.data(), kDimensions, type, strides.data(), 0, kFormatNd, shape.data(),
                                       kDimensions, const_cast<std::byte*>(data));
    if (tensor_ == nullptr) throw Error(ErrorCode::kDevice, "device", "aclCreateTensor failed");
  }
  AclTensor(const AclTensor&) = delete;
  AclTensor& operator=(const AclTensor&) = delete;
  ~AclTensor() { static_cast<void>(operators_.destroy_tensor(tensor_)); }
  const void* get() const noexcept { return tensor_; }

 private:
  const Operators& operators_ = Operators::instance();
  void* tensor_ = nullptr;
};

class AclRowStream final : public RowStream {
 public:
  explicit AclRowStream(Device& device) : device_(device), stream_(device.index()) {}

  void copy(Direction direction, const Copy& copy) override { stream_.copy(direction, copy); }
  std::unique_ptr<Event> make_event() override { return stream_.make_event(); }
  void synchronize(Deadline deadline) override { stream_.synchronize(deadline); }

  void zero(Span<std::byte> memory) override {
    stream_.note_work();
    check(acl_.memset_async(memory.data(), memory.size(), 0, memory.size(), stream_.handle()), "aclrtMemsetAsync");
  }

  void multiply(const std::byte* rows, std::size_t count, const std::byte* matrix, std::byte* sums,
                Deadline deadline) override {
    if (one_ == nullptr) upload_one(deadline);
    const auto height = static_cast<std::int64_t>(count);
    constexpr auto kInner = static_cast<std::int64_t>(RowSums::kRowBytes);
    constexpr auto kColumns = static_cast<std::int64_t>(RowSums::kDeviceColumns);
    const AclTensor<2> x1(kInt8, {height, kInner}, rows);
    const AclTensor<2> x2(kInt8, {kInner, kColumns}, matrix);
    const AclTensor<1> scale(kFloat, {1}, one_->data());  // has to be given, and changes no int32
    const AclTensor<2> out(kInt32, {height, kColumns}, sums);
    std::uint64_t workspace_bytes = 0;
    void* executor = nullptr;
    check(operators_.multiply_size(x1.get(), x2.get(), scale.get(), nullptr, nullptr, nullptr, false, false, out.get(),
                                   &workspace_bytes, &executor),
          "aclnnQuantMatmulV4GetWorkspaceSize");
    if (workspace_bytes > 0 && (workspace_ == nullptr || workspace_->bytes() < workspace_bytes)) {
      stream_.synchronize(deadline);  // what it was used for
      workspace_ = device_.allocate(workspace_bytes, deadline);
    }
    stream_.note_work();
    check(operators_.multiply(workspace_ == nullptr ? nullptr : workspace_->data(), workspace_bytes, executor,
                              stream_.handle()),
          "aclnnQuantMatmulV4");
  }

 private:
  void upload_one(Deadline deadline) {
    const std::unique_ptr<Memory> staged = device_.allocate_page_locked(sizeof(float), deadline);
    const float one = 1.0F;
    std::memcpy(staged->data(), &one, sizeof one);
    auto memory = device_.allocate(sizeof one, deadline);
    stream_.copy(Direction::kToDevice, {memory->data(), staged->data(), sizeof one});
    stream_.synchronize(deadline);
    one_ = std::move(memory);
  }

  const Acl& acl_ = Acl::instance();
  const Operators& operators_ = Operators::instance();
  Device& device_;
  std::unique_ptr<Memory> one_;
  std::unique_ptr<Memory> workspace_;
  AclStream stream_;  // goes first
};

}  // namespace

std::unique_ptr<RowStream> make_row_stream(Device& device) {
  return Operators::instance().complete() ? std::make_unique<AclRowStream>(device) : nullptr;
}

}  // namespace yr_fastload::acl
