#include "core/digest.hpp"

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "bindings/common.hpp"
#include "core/matrix_sums.hpp"

namespace yr_fastload::bindings {
void register_digest(py::module_& module) {
  module.attr("DIGEST_BLOCK_BYTES") = Digest::kBlockBytes;
  module.def("digest_names", [] { return kDigestNames; }, "Of the digests that there are.");
  module.def(
      "digest_backend",
      [](const std::string& kind) {
        return digest_named(kind) == DigestKind::kNh ? digest_backend() : matrix_backend();
      },
      py::arg("kind") = kDigestNames[0], "Instruction set of a digest on this machine.");
  module.def(
      "matrix_numbers",
      [] {
        const auto& numbers = matrix_numbers();
        return py::bytes(reinterpret_cast<const char*>(numbers.data()), numbers.size());
      },
      "uint8[8192 + 64 * 9]: of column c, the numbers from 64 * c on.");
  module.def(
      "row_sums",
      [](const py::buffer& data, const char* backend) -> std::optional<std::array<std::int32_t, RowSums::kColumns>> {
        const py::buffer_info info = data.request();
        const Span<const std::byte> bytes = contiguous(info);
        if (bytes.size() > RowSums::kRowBytes) throw py::value_error("more than one row");
        const detail::RowFunction sums = detail::row_function(backend);
        if (sums == nullptr) return std::nullopt;
        return sums(bytes.data(), bytes.size()).values;
      },
      py::arg("data"), py::arg("backend"),
      "Sums of one row by the code of an instruction set; None if this machine has it not. For tests.");
  module.def(
      "digest_keys",
      [] {
        const auto& keys = digest_keys();
        return to_python(std::vector<std::uint64_t>{keys.begin(), keys.end()});
      },
      "uint64[1024]: the key of every column of a digest block.");
  module.def(
      "digest",
      [](const py::buffer& data, const std::string& kind) {
        const py::buffer_info info = data.request();
        const Span<const std::byte> bytes = contiguous(info);
        Digest digest(digest_named(kind));
        const WithoutGil nogil;
        digest.update(bytes.data(), bytes.size());
        return digest.value();
      },
      py::arg("data"), py::arg("kind") = kDigestNames[0], "Digest of a contiguous buffer.");
  module.def(
      "copy_and_digest",
      [](const py::buffer& destination, const py::buffer& source) {
        const py::buffer_info to = destination.request(true), from = source.request();
        const Span<const std::byte> bytes = contiguous(from);
        if (contiguous(to).size() != bytes.size()) throw py::value_error("the buffers differ in size");
        const WithoutGil nogil;
        Digest digest;
        digest.update_and_copy(static_cast<std::byte*>(to.ptr), bytes.data(), bytes.size());
        return digest.value();
      },
      py::arg("destination"), py::arg("source"), "Copy a contiguous buffer; returns its digest.");
  module.def(
      "fold_digests",
      [](const py::buffer& digests) {
        const U64Array values(digests, "digests");
        DigestFold fold;
        for (const std::uint64_t value : values.span()) fold.add(value);
        return fold.value();
      },
      py::arg("digests"), "Digest of a chunk from its blobs' digests, in order.");
  module.def(
      "digest_block_sums",
      [](const py::buffer& data) {
        const py::buffer_info info = data.request();
        const Span<const std::byte> bytes = contiguous(info);
        if (bytes.size() > Digest::kBlockBytes) throw py::value_error("more than one digest block");
        return std::make_tuple(detail::block_sum_generic(bytes.data(), bytes.size()),
                               detail::block_sum_best(bytes.data(), bytes.size()));
      },
      py::arg("data"), "Sum of one block from portable code and from the code this machine uses; for tests.");
}

}  // namespace yr_fastload::bindings
