#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/common.hpp"
#include "bindings/dlpack.hpp"

namespace yr_fastload::bindings {
namespace {

/// Reads tensors of one framework's class and its subclasses through the DLPack exchange API, in a quarter of the time
/// that attribute access takes. Anything not plain (another type, an unknown device, another layout, a lazy negative,
/// whatever the framework refuses) is left to the slower path, which can say what is wrong.
class DlpackReader {
 public:
  DlpackReader(py::handle kind, const py::capsule& api, py::object number_of, py::object device_of, py::object make)
      : kind_(kind), number_of_(std::move(number_of)), device_of_(std::move(device_of)), make_(std::move(make)) {
    constexpr const char* kName = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(api.ptr(), kName)) return;
    const auto* table = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(api.ptr(), kName));
    if (table->major == 1) read_ = table->dltensor_from_py_object;
  }

  /// Adds a row for the next value; whether it is plain. The row of one that is not holds zeros.
  bool add(py::handle value) {
    std::uint64_t address = 0;
    const Layout* layout = read(value, address);
    layout_of_.push_back(layout == nullptr ? 0 : layout->number);
    addresses_.push_back(address);
    sizes_.push_back(layout == nullptr ? 0 : layout->bytes);
    return layout != nullptr;
  }

  py::typing::List<py::object> layouts() const { return made_; }
  py::memoryview layout_of() const { return to_python(layout_of_); }
  py::memoryview addresses() const { return to_python(addresses_); }
  py::memoryview sizes() const { return to_python(sizes_); }

 private:
  struct Number {
    py::object dtype;  ///< Kept alive, so that its address stays unique.
    py::object name;
    std::uint64_t bytes;
  };
  struct Layout {
    std::uint64_t number;
    std::uint64_t bytes;
  };
  using Key = std::vector<std::int64_t>;  ///< The number's place in memory, the device, the shape.

  /// Null if it is not plain.
  const Layout* read(py::handle value, std::uint64_t& address) {
    if (read_ == nullptr || !is_plain(Py_TYPE(value.ptr()))) return nullptr;
    DLTensor tensor{};
    if (read_(value.ptr(), &tensor) != 0) {
      PyErr_Clear();
      return nullptr;
    }
    const std::uint64_t start = reinterpret_cast<std::uint64_t>(tensor.data) + tensor.byte_offset;
    const std::uint64_t count = dense_count(tensor);
    const bool is_complex = tensor.dtype.code == kDlpackComplex;  // which may be a lazy conjugate
    if (is_complex || count == 0 || start == 0) return nullptr;
    const Number& number = number_of(value);
    const py::object is_neg = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(value.ptr(), neg_.ptr()));
    if (!is_neg) throw py::error_already_set();
    if (is_neg.ptr() != Py_False) return nullptr;
    const Layout* layout = layout_of(tensor, number, count);
    if (layout != nullptr) address = start;
    return layout;
  }

  /// Types are few, tensors are many.
  bool is_plain(PyTypeObject* type) {
    if (type == plain_) return true;
    const py::handle handle(reinterpret_cast<PyObject*>(type));
    const int is_kind = PyObject_IsSubclass(handle.ptr(), kind_.ptr());
    if (is_kind < 0) throw py::error_already_set();
    if (is_kind == 0 || py::hasattr(handle, "materialize")) return false;  // torch's UninitializedParameter
    plain_ = type;
    return true;
  }

  /// Uses the framework's own dtype: DLPack cannot tell some apart, such as torch's int4 and int8.
  const Number& number_of(py::handle value) {
    const py::object dtype = py::reinterpret_steal<py::object>(PyObject_GetAttr(value.ptr(), dtype_.ptr()));
    if (!dtype) throw py::error_already_set();
    const auto found = numbers_.find(dtype.ptr());
    if (found != numbers_.end()) return found->second;
    const py::tuple made = number_of_(dtype);
    return numbers_.emplace(dtype.ptr(), Number{dtype, made[0], made[1].cast<std::uint64_t>()}).first->second;
  }

  /// Number of elements of a C-contiguous tensor; 0 if it is not contiguous, or empty.
  static std::uint64_t dense_count(const DLTensor& tensor) {
    std::int64_t count = 1;
    for (std::int32_t i = tensor.ndim; i-- > 0;) {
      if (tensor.strides != nullptr && tensor.shape[i] != 1 && tensor.strides[i] != count) return 0;
      count *= tensor.shape[i];
    }
    return static_cast<std::uint64_t>(count);
  }

  /// Null if the device is none whose tensors are read so.
  const Layout* layout_of(const DLTensor& tensor, const Number& number, std::uint64_t count) {
    key_.assign({reinterpret_cast<std::int64_t>(&number), tensor.device.device_type, tensor.device.device_id});
    key_.insert(key_.end(), tensor.shape, tensor.shape + tensor.ndim);
    auto found = layouts_.find(key_);
    if (found == layouts_.end()) {
      const py::object device = device_of_(tensor.device.device_type, tensor.device.device_id);
      if (device.is_none()) return nullptr;
      const std::uint64_t bytes = count * number.bytes;
      found = layouts_.emplace(key_, Layout{made_.size(), bytes}).first;
      made_.append(make(tensor, number, bytes, device));
    }
    return &found->second;
  }

  py::object make(const DLTensor& tensor, const Number& number, std::uint64_t bytes, const py::object& device) const {
    const auto rank = static_cast<std::size_t>(tensor.ndim);
    py::tuple shape(rank);
    py::tuple strides(rank);
    std::int64_t stride = 1;
    for (std::size_t i = rank; i-- > 0;) {
      shape[i] = py::int_(tensor.shape[i]);
      strides[i] = py::int_(stride);
      stride *= tensor.shape[i];
    }
    return make_(number.name, shape, strides, bytes, device);
  }

  int (*read_)(void*, DLTensor*) = nullptr;
  py::handle kind_;
  py::object number_of_;
  py::object device_of_;
  py::object make_;
  py::str neg_{"is_neg"};
  py::str dtype_{"dtype"};
  PyTypeObject* plain_ = nullptr;
  std::map<PyObject*, Number> numbers_;
  Key key_;
  std::map<Key, Layout> layouts_;
  py::typing::List<py::object> made_;
  std::vector<std::uint64_t> layout_of_;
  std::vector<std::uint64_t> addresses_;
  std::vector<std::uint64_t> sizes_;
};

/// Whether a value is of one of these types, not of a subclass, and has no attributes of its own.
bool is_bare(py::handle value, const py::tuple& types) {
  for (const py::handle type : types) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) != type.ptr()) continue;
    const py::object attributes = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(value.ptr(), nullptr));
    if (!attributes) throw py::error_already_set();
    return PyDict_Size(attributes.ptr()) == 0;
  }
  return false;
}

/// Whether all are Unicode text of 1 to max_chars characters.
bool are_names(const py::list& names, std::size_t max_chars) {
  for (const py::handle name : names) {
    if (!PyUnicode_Check(name.ptr())) return false;
    const Py_ssize_t chars = PyUnicode_GetLength(name.ptr());
    if (chars <= 0 || static_cast<std::size_t>(chars) > max_chars) return false;
    if (!PyUnicode_IS_COMPACT_ASCII(name.ptr()) && PyUnicode_AsUTF8AndSize(name.ptr(), nullptr) == nullptr) {
      PyErr_Clear();  // a lone surrogate
      return false;
    }
  }
  return true;
}

}  // namespace

void register_tensor_reader(py::module_& module) {
  module.def(
      "are_names",
      [](const py::typing::List<py::object>& names, std::size_t max_chars) { return are_names(names, max_chars); },
      py::arg("names"), py::arg("max_chars"), "Whether all of these are Unicode text of 1 to `max_chars` characters.");
  module.def(
      "read_tensors",
      [](const py::typing::List<py::object>& values, const py::type& kind, const py::capsule& api,
         const py::typing::Tuple<py::type, py::ellipsis>& bare, const py::object& check, const py::object& number_of,
         const py::object& device_of, const py::object& make) {
        DlpackReader reader(kind, api, number_of, device_of, make);
        py::typing::List<py::int_> left;
        for (std::size_t i = 0; i < values.size(); ++i) {
          const py::handle value = PyList_GET_ITEM(values.ptr(), static_cast<Py_ssize_t>(i));
          if (!is_bare(value, bare)) check(i);
          if (!reader.add(value)) left.append(i);
        }
        return std::make_tuple(reader.layouts(), reader.layout_of(), reader.addresses(), reader.sizes(), left);
      },
      py::arg("values"), py::arg("kind"), py::arg("api"), py::arg("bare"), py::arg("check"), py::arg("number_of"),
      py::arg("device_of"), py::arg("make"),
      "Read those values that are dense tensors of a class, by its DLPack exchange API. Returns the layouts that "
      "differ, each as make(dtype, shape, strides, bytes, device); for each value the number of its layout, its "
      "address and its bytes (uint64[N] each); and which values were not read, whose rows hold zeros. check(i) is "
      "called for each value that is not of one of the types `bare`, or has attributes. number_of(dtype): its name "
      "and item size; device_of(type, number): what `make` is given of a DLPack device, None where tensors are not "
      "read so.");
}

}  // namespace yr_fastload::bindings
