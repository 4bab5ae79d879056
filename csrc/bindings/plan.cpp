#include "core/plan.hpp"

#include <memory>
#include <tuple>
#include <vector>

#include "bindings/common.hpp"

namespace yr_fastload::bindings {
namespace {

std::vector<std::uint64_t> flatten(const Plan& plan) {
  std::vector<std::uint64_t> rows;
  rows.reserve(plan.blobs.size() * 4);
  for (const Blob& blob : plan.blobs)
    rows.insert(rows.end(), {blob.tensor, blob.tensor_offset, blob.bytes, blob.chunk_offset});
  return rows;
}

}  // namespace

void register_plan(py::module_& module) {
  py::class_<Blob>(module, "Blob", "One run of bytes of one tensor, and its place in a chunk.")
      .def_readonly("tensor", &Blob::tensor, "Index of the tensor.")
      .def_readonly("tensor_offset", &Blob::tensor_offset, "Where it begins in the tensor, bytes.")
      .def_readonly("bytes", &Blob::bytes)
      .def_readonly("chunk_offset", &Blob::chunk_offset, "Where it begins in the chunk, bytes.");
  py::class_<Plan, std::shared_ptr<Plan>>(module, "Plan", "How tensors are divided into chunks of blobs; immutable.")
      .def_property_readonly("chunks", &Plan::chunks)
      .def_readonly("tensors", &Plan::tensors)
      .def_readonly("total_bytes", &Plan::total_bytes)
      .def_property_readonly("chunk_bytes", [](const Plan& plan) { return to_python(plan.chunk_bytes); })
      .def_property_readonly("first_blob", [](const Plan& plan) { return to_python(plan.first_blob); })
      .def_property_readonly(
          "blobs", [](const Plan& plan) { return to_python(flatten(plan)); },
          "uint64[4 * blobs]: tensor, offset in the tensor, bytes, offset in the chunk.")
      .def(
          "chunk",
          [](const Plan& plan, std::uint64_t index) {
            if (index >= plan.chunks()) throw py::index_error("the plan has no such chunk");
            const Span<const Blob> blobs = plan.chunk(index);
            return std::vector<Blob>(blobs.begin(), blobs.end());
          },
          py::arg("index"), "The blobs of one chunk, in its order.")
      .def(
          "places",
          [](const Plan& plan) {
            const Places found = places(plan);
            return std::make_tuple(to_python(found.chunk), to_python(found.offset));
          },
          "For each tensor the chunk of its first blob, -1 if it does not move (int64[N]), and the offset there "
          "(uint64[N]).");

  module.attr("BLOB_ALIGNMENT") = kBlobAlignment;
  module.def(
      "make_plan",
      [](const py::buffer& tensor_bytes, std::uint64_t chunk_bytes, std::uint64_t max_blobs) {
        const U64Array sizes(tensor_bytes, "tensor_bytes");
        const WithoutGil nogil;
        return std::make_shared<Plan>(make_plan(sizes.span(), {chunk_bytes, max_blobs}));
      },
      py::arg("tensor_bytes"), py::kw_only(), py::arg("chunk_bytes"), py::arg("max_blobs"),
      "Plan the transfer of tensors of these sizes (uint64[N], bytes; 0 does not move).");

  module.def(
      "find_sharing",
      [](const py::buffer& addresses, const py::buffer& tensor_bytes) {
        const U64Array starts(addresses, "addresses");
        const U64Array sizes(tensor_bytes, "tensor_bytes");
        if (starts.size() != sizes.size()) throw py::value_error("addresses and tensor_bytes differ in length");
        Sharing sharing;
        {
          const WithoutGil nogil;
          sharing = find_sharing(starts.span(), sizes.span());
        }
        return std::make_tuple(to_python(sharing.owner), to_python(sharing.offset), to_python(sharing.moving));
      },
      py::arg("addresses"), py::arg("tensor_bytes"),
      "For each tensor, the index of the one whose memory it lies in, the offset there in bytes, and how many of its "
      "own bytes move.");
}

}  // namespace yr_fastload::bindings
