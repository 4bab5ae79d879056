#include <charconv>
#include <string>
#include <vector>

#include "bindings/common.hpp"
#include "core/plan.hpp"

namespace yr_fastload::bindings {
namespace {

/// Whether a name stands in JSON as it is, between quotes.
bool is_plain(const char* name, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i)
    if (name[i] < ' ' || name[i] == '"' || name[i] == '\\') return false;
  return true;
}

/// Writes JSON in its shortest form.
class JsonWriter {
 public:
  explicit JsonWriter(py::object quote) : quote_(std::move(quote)) {}

  void text(const char* text) { out_ += text; }
  void text(py::handle bytes) {
    out_.append(PyBytes_AS_STRING(bytes.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.ptr())));
  }

  template <typename T>
  void number(T value) {
    char digits[24];
    out_.append(digits, std::to_chars(std::begin(digits), std::end(digits), value).ptr);
  }

  void name(py::handle name) {
    if (PyUnicode_IS_COMPACT_ASCII(name.ptr())) {
      const auto* chars = reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(name.ptr()));
      const auto size = static_cast<std::size_t>(PyUnicode_GET_LENGTH(name.ptr()));
      if (is_plain(chars, size)) {
        out_ += '"';
        out_.append(chars, size);
        out_ += '"';
        return;
      }
    }
    text(py::bytes(quote_(name)));
  }

  void reserve(std::size_t bytes) { out_.reserve(bytes); }
  py::bytes bytes() const { return py::bytes(out_); }

 private:
  py::object quote_;
  std::string out_;
};

constexpr std::size_t kTypicalBytes = 96;  // of an entry

py::bytes encode_entries(const py::typing::List<py::str>& names, const py::typing::List<py::bytes>& layouts,
                         const py::buffer& layout_of, const Plan& plan, const py::buffer& owner,
                         const py::buffer& offset, const py::object& quote) {
  const U64Array numbers(layout_of, "layout_of");
  const U64Array owners(owner, "owner");
  const U64Array offsets(offset, "offset");
  const std::size_t count = names.size();
  if (numbers.size() != count || owners.size() != count || offsets.size() != count || plan.tensors != count)
    throw py::value_error("names, layouts, plan and owners differ in length");
  const Places at = places(plan);
  const auto name_of = [&](std::size_t i) {
    const py::handle name = PyList_GET_ITEM(names.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyUnicode_Check(name.ptr())) throw py::type_error("a name is no str");
    return name;
  };
  std::vector<py::bytes> texts;
  for (const py::handle layout : layouts) texts.emplace_back(py::reinterpret_borrow<py::object>(layout));
  JsonWriter json(quote);
  json.reserve(count * kTypicalBytes);
  json.text("[");
  for (std::size_t i = 0; i < count; ++i) {
    json.text(i == 0 ? "[" : ",[");
    json.name(name_of(i));
    json.text(",");
    json.text(texts.at(numbers.span()[i]));
    json.text(",");
    json.number(at.chunk[i]);
    json.text(",");
    json.number(at.offset[i]);
    const std::uint64_t within = owners.span()[i];
    if (within == i) {
      json.text(",null]");
      continue;
    }
    if (within >= count) throw py::value_error("an owner is no tensor");
    json.text(",[");
    json.name(name_of(within));
    json.text(",");
    json.number(offsets.span()[i]);
    json.text("]]");
  }
  json.text("]");
  return json.bytes();
}

}  // namespace

void register_entries(py::module_& module) {
  module.def("encode_entries", &encode_entries, py::arg("names"), py::arg("layouts"), py::arg("layout_of"),
             py::arg("plan"), py::arg("owner"), py::arg("offset"), py::arg("quote"),
             "A manifest's entries as JSON: of each tensor the name, the text of its layout (layouts[layout_of[i]]: "
             "dtype, shape, strides and bytes), chunk and offset, and the name of the tensor that it lies in with the "
             "offset there, null if none. quote(name): a name as JSON, where it is not plain ASCII.");
}

}  // namespace yr_fastload::bindings
