#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/common.hpp"
#include "bindings/dlpack.hpp"

namespace yr_fastload::bindings {
namespace {

/// Address of a tensor's bytes, with a reference to whatever keeps them alive.
struct TensorView {
  std::uint64_t address = 0;
  std::uint64_t item_bytes = 0;
  std::string format;                        ///< struct-module format; empty for DLPack.
  std::tuple<int, int, int> dtype{0, 0, 0};  ///< DLPack (code, bits, lanes).
  std::tuple<int, int> device{1, 0};         ///< DLPack (type, id); 1 is the CPU.
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  ///< In elements; empty means C-contiguous.
  bool readonly = false;
  std::shared_ptr<void> owner;
};

TensorView buffer_view(const py::buffer& object) {
  const auto info = std::make_shared<py::buffer_info>(object.request());
  TensorView view;
  view.address = reinterpret_cast<std::uint64_t>(info->ptr);
  view.item_bytes = static_cast<std::uint64_t>(info->itemsize);
  view.format = info->format;
  view.shape.assign(info->shape.begin(), info->shape.end());
  for (const py::ssize_t stride : info->strides) {
    if (info->itemsize == 0 || stride % info->itemsize != 0)
      throw py::value_error("the buffer's strides are not multiples of its item size");
    view.strides.push_back(stride / info->itemsize);
  }
  view.readonly = info->readonly;
  view.owner = info;
  return view;
}

TensorView dlpack_view(const py::capsule& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), kDlpackName))
    throw py::value_error("not an unused DLPack capsule (named \"dltensor\")");
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kDlpackName));
  // Renaming the capsule takes ownership, by the DLPack protocol.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  TensorView view;
  view.owner = std::shared_ptr<void>(managed, [](void* pointer) {
    auto* tensor = static_cast<DLManagedTensor*>(pointer);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
  const DLTensor& tensor = managed->dl_tensor;
  view.address = reinterpret_cast<std::uint64_t>(tensor.data) + tensor.byte_offset;
  view.item_bytes = (std::uint64_t{tensor.dtype.bits} * tensor.dtype.lanes + 7) / 8;
  view.dtype = {tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes};
  view.device = {tensor.device.device_type, tensor.device.device_id};
  view.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) view.strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  return view;
}

}  // namespace

void register_tensors(py::module_& module) {
  py::class_<TensorView>(module, "TensorView", "Where a tensor's bytes are; keeps them there as long as it lives.")
      .def_readonly("address", &TensorView::address)
      .def_readonly("item_bytes", &TensorView::item_bytes)
      .def_readonly("format", &TensorView::format)
      .def_readonly("dtype", &TensorView::dtype)
      .def_readonly("device", &TensorView::device)
      .def_readonly("shape", &TensorView::shape)
      .def_readonly("strides", &TensorView::strides)
      .def_readonly("readonly", &TensorView::readonly);
  module.def("buffer_view", &buffer_view, py::arg("object"), "View of an object with the buffer protocol.");
  module.def("dlpack_view", &dlpack_view, py::arg("capsule"), "View of a DLPack capsule, which it uses up.");
}

}  // namespace yr_fastload::bindings
