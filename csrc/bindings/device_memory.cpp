#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/common.hpp"
#include "bindings/dlpack.hpp"
#include "core/error.hpp"
#include "core/pinned_pool.hpp"
#include "core/slots.hpp"

namespace yr_fastload::bindings {
namespace {

constexpr double kDeviceMemorySeconds = 60.0;

/// A block of a device's memory, and what its bytes pass through on their way to the CPU.
class DeviceMemory {
 public:
  DeviceMemory(std::shared_ptr<Device> device, std::size_t bytes)
      : device_(std::move(device)),
        memory_(device_->allocate(bytes, Deadline::after(kDeviceMemorySeconds))),
        bytes_(bytes),
        staging_(device_, Slots::kBytes) {}

  std::uint64_t address() const noexcept { return reinterpret_cast<std::uint64_t>(memory_->data()); }
  std::uint64_t bytes() const noexcept { return bytes_; }
  int device_index() const noexcept { return device_->index(); }

  void write(std::uint64_t offset, Span<const std::byte> data, Deadline deadline) {
    check(offset, data.size());
    Uploader uploader(*device_, staging_, deadline);
    uploader.copy(memory_->data() + offset, data.data(), data.size(), nullptr, [](std::uint64_t) { return true; });
    uploader.drain();
  }

  void read(std::uint64_t offset, Span<std::byte> into, Deadline deadline) {
    check(offset, into.size());
    if (into.size() == 0) return;
    const Blob whole{0, offset, into.size(), 0};
    const std::uint64_t start = address();
    Downloader(*device_, staging_, deadline)
        .read({&whole, 1}, {&start, 1}, [&](const Blob&, std::uint64_t done, const std::byte* data, std::size_t run) {
          std::memcpy(into.data() + done, data, run);
          return true;
        });
  }

  /// All of it, by the device itself.
  void copy_from(const DeviceMemory& source, Deadline deadline) {
    check(0, source.bytes_);
    const auto stream = device_->make_stream();
    stream->copy(Direction::kOnDevice, {memory_->data(), source.memory_->data(), source.bytes_});
    stream->synchronize(deadline);
  }

  void check(std::uint64_t offset, std::uint64_t bytes) const {
    if (offset > bytes_ || bytes > bytes_ - offset)
      throw Error(ErrorCode::kInvalidArgument, "device",
                  std::to_string(bytes) + " bytes at " + std::to_string(offset) + " of " + std::to_string(bytes_));
  }

 private:
  const std::shared_ptr<Device> device_;
  const std::unique_ptr<Memory> memory_;
  const std::uint64_t bytes_;
  PinnedPool staging_;
};

/// What a DLPack capsule points to: the tensor, and what keeps its memory.
struct Exported {
  DLManagedTensor managed{};
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  std::shared_ptr<DeviceMemory> memory;
};

py::capsule export_tensor(const std::shared_ptr<DeviceMemory>& memory, std::uint64_t offset, std::int32_t device_type,
                          DLDataType dtype, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
  if (shape.size() != strides.size()) throw py::value_error("shape and strides differ in length");
  auto made = std::make_unique<Exported>();
  made->shape = std::move(shape);
  made->strides = std::move(strides);
  made->memory = memory;
  DLTensor& tensor = made->managed.dl_tensor;
  tensor.data = reinterpret_cast<void*>(memory->address());
  tensor.byte_offset = offset;
  tensor.device = {device_type, memory->device_index()};
  tensor.ndim = static_cast<std::int32_t>(made->shape.size());
  tensor.dtype = dtype;
  tensor.shape = made->shape.data();
  tensor.strides = made->strides.data();
  made->managed.manager_ctx = made.get();
  made->managed.deleter = [](DLManagedTensor* self) { delete static_cast<Exported*>(self->manager_ctx); };
  DLManagedTensor* const managed = &made.release()->managed;
  return py::capsule(managed, kDlpackName, [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, kDlpackName)) return;  // whoever took it renamed it, and lets go of it
    auto* const unused = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kDlpackName));
    unused->deleter(unused);
  });
}

}  // namespace

void register_device_memory(py::module_& module) {
  py::class_<DeviceMemory, std::shared_ptr<DeviceMemory>>(module, "DeviceMemory", "A block of a device's own memory.")
      .def(py::init([](std::shared_ptr<Device> device, std::uint64_t bytes) {
             std::unique_ptr<DeviceMemory> made;
             {
               const WithoutGil nogil;
               made = std::make_unique<DeviceMemory>(std::move(device), bytes);
             }
             return share_without_gil(std::move(made));
           }),
           py::arg("device"), py::arg("bytes"))
      .def_property_readonly("address", &DeviceMemory::address)
      .def_property_readonly("bytes", &DeviceMemory::bytes)
      .def(
          "write",
          [](DeviceMemory& memory, std::uint64_t offset, const py::buffer& data, double deadline_s) {
            const py::buffer_info info = data.request();
            const Span<const std::byte> bytes = contiguous(info);
            const WithoutGil nogil;
            memory.write(offset, bytes, Deadline::after(deadline_s));
          },
          py::arg("offset"), py::arg("data"), py::kw_only(), py::arg("deadline_s"),
          "Copy a contiguous buffer to the device.")
      .def(
          "read_into",
          [](DeviceMemory& memory, std::uint64_t offset, const py::buffer& into, double deadline_s) {
            const py::buffer_info info = into.request(true);
            const Span<std::byte> bytes{static_cast<std::byte*>(info.ptr), contiguous(info).size()};
            const WithoutGil nogil;
            memory.read(offset, bytes, Deadline::after(deadline_s));
          },
          py::arg("offset"), py::arg("into"), py::kw_only(), py::arg("deadline_s"),
          "Fill a contiguous buffer from the device.")
      .def(
          "copy_from",
          [](DeviceMemory& memory, const DeviceMemory& source, double deadline_s) {
            memory.copy_from(source, Deadline::after(deadline_s));
          },
          py::arg("source"), py::kw_only(), py::arg("deadline_s"), py::call_guard<WithoutGil>(),
          "Copy another block of the same device to the beginning of this one.")
      .def(
          "dlpack",
          [](const std::shared_ptr<DeviceMemory>& memory, std::uint64_t offset, std::int32_t device_type,
             std::uint8_t code, std::uint8_t bits, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
            return export_tensor(memory, offset, device_type, {code, bits, 1}, std::move(shape), std::move(strides));
          },
          py::arg("offset"), py::kw_only(), py::arg("device_type"), py::arg("code"), py::arg("bits"), py::arg("shape"),
          py::arg("strides"),
          "A DLPack capsule of a tensor that begins there; keeps the memory as long as it is used.");
}

}  // namespace yr_fastload::bindings
