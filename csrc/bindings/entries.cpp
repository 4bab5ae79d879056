#include <algorithm>
#include <charconv>
#include <memory>
#include <string_view>
#include <vector>

#include "bindings/common.hpp"
#include "core/plan.hpp"

namespace yr_fastload::bindings {
namespace {

/// Names as they stand in JSON.
class JsonNames {
 public:
  JsonNames(const py::list& names, const py::object& quote) {
    texts_.reserve(names.size());
    for (const py::handle name : names) {
      if (!PyUnicode_Check(name.ptr())) throw py::type_error("a name is no str");
      if (PyUnicode_IS_COMPACT_ASCII(name.ptr())) {
        const std::string_view text(reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(name.ptr())),
                                    static_cast<std::size_t>(PyUnicode_GET_LENGTH(name.ptr())));
        if (is_plain(text)) {
          texts_.push_back({text, true});
          continue;
        }
      }
      quoted_.emplace_back(quote(name));
      texts_.push_back({std::string_view(quoted_.back()), false});
    }
  }

  /// Upper bound, bytes.
  std::size_t size(std::size_t i) const { return texts_[i].text.size() + 2; }

  char* write(std::size_t i, char* to) const {
    const Text& name = texts_[i];
    if (name.plain) *to++ = '"';
    to = std::copy(name.text.begin(), name.text.end(), to);
    if (name.plain) *to++ = '"';
    return to;
  }

 private:
  struct Text {
    std::string_view text;
    bool plain;  ///< It stands between quotes as it is.
  };

  static bool is_plain(std::string_view text) {
    bool plain = true;
    for (const char each : text) plain &= each >= ' ' && each != '"' && each != '\\';  // no branch: many at once
    return plain;
  }

  std::vector<Text> texts_;
  std::vector<py::bytes> quoted_;
};

constexpr std::size_t kNumberChars = 20;                     // 2^64
constexpr std::size_t kBesideChars = 32 + 3 * kNumberChars;  // of an entry: brackets, commas, null, numbers

char* write(char* to, std::string_view text) { return std::copy(text.begin(), text.end(), to); }

template <typename T>
char* write_number(char* to, T value) {
  return std::to_chars(to, to + kNumberChars, value).ptr;
}

py::bytes encode_entries(const py::typing::List<py::str>& names, const py::typing::List<py::bytes>& layouts,
                         const py::buffer& layout_of, const Plan& plan, const py::buffer& owner,
                         const py::buffer& offset, const py::object& quote) {
  const U64Array numbers(layout_of, "layout_of");
  const U64Array owners(owner, "owner");
  const U64Array offsets(offset, "offset");
  const std::size_t count = names.size();
  if (numbers.size() != count || owners.size() != count || offsets.size() != count || plan.tensors != count)
    throw py::value_error("names, layouts, plan and owners differ in length");
  const JsonNames json_names(names, quote);
  std::vector<py::bytes> kept;
  std::vector<std::string_view> texts;
  for (const py::handle layout : layouts) {
    kept.emplace_back(py::reinterpret_borrow<py::object>(layout));
    texts.emplace_back(kept.back());
  }
  std::size_t bound = 2;
  for (std::size_t i = 0; i < count; ++i) {
    if (owners.span()[i] >= count) throw py::value_error("an owner is no tensor");
    bound += json_names.size(i) + texts.at(numbers.span()[i]).size() + json_names.size(owners.span()[i]) + kBesideChars;
  }
  const Places at = places(plan);
  const std::unique_ptr<char[]> json(new char[bound]);  // not zeroed
  char* to = write(json.get(), "[");
  for (std::size_t i = 0; i < count; ++i) {
    to = json_names.write(i, write(to, i == 0 ? "[" : ",["));
    to = write(write(write(to, ","), texts[numbers.span()[i]]), ",");
    to = write_number(write(write_number(to, at.chunk[i]), ","), at.offset[i]);
    const std::uint64_t within = owners.span()[i];
    if (within == i) {
      to = write(to, ",null]");
    } else {
      to = write(json_names.write(within, write(to, ",[")), ",");
      to = write(write_number(to, offsets.span()[i]), "]]");
    }
  }
  to = write(to, "]");
  return py::bytes(json.get(), static_cast<std::size_t>(to - json.get()));
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
