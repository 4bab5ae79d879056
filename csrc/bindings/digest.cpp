#include "core/digest.hpp"

#include <tuple>

#include "bindings/common.hpp"

namespace yr_fastload::bindings {
void register_digest(py::module_& module) {
  module.attr("DIGEST_BLOCK_BYTES") = Digest::kBlockBytes;
  module.def("digest_backend", &digest_backend, "Instruction set of the digest on this machine.");
  module.def(
      "digest_keys",
      [] {
        const auto& keys = digest_keys();
        return to_python(std::vector<std::uint64_t>{keys.begin(), keys.end()});
      },
      "uint64[1024]: the key of every column of a digest block.");
  module.def(
      "digest",
      [](const py::buffer& data) {
        const py::buffer_info info = data.request();
        const Span<const std::byte> bytes = contiguous(info);
        const WithoutGil nogil;
        Digest digest;
        digest.update(bytes.data(), bytes.size());
        return digest.value();
      },
      py::arg("data"), "Digest of a contiguous buffer.");
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
