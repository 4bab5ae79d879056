#include "bindings/common.hpp"

#include <memory>
#include <utility>

#include "testing/memory_store.hpp"

namespace yr_fastload::bindings {

void register_testing(py::module_& core) {
  py::module_ module = core.def_submodule("testing", "What tests pass in where openYuanrong's worker would be.");
  const auto nogil = py::call_guard<WithoutGil>();
  py::class_<MemoryStore, ObjectStore, std::shared_ptr<MemoryStore>>(
      module, "MemoryStore",
      "A store inside the process that does what a worker's store does, and fails on demand. Nobody else sees it.")
      .def(py::init<>(), nogil)
      .def("keys", &MemoryStore::keys, nogil, "All keys that hold something.")
      .def("clear", &MemoryStore::clear, nogil, "Forget everything, as a worker that was started anew.")
      .def("advance", &MemoryStore::advance, nogil, py::arg("seconds"),
           "Let this time pass for everything that has a TTL, at once.")
      .def(
          "set_faults",
          [](MemoryStore& store, Keys missing, Keys corrupt, Keys truncated, Keys refuse_seal, Keys unknown,
             Keys no_copy, double fetch_delay_s, double fetch_bytes_per_s, double fetch_call_s,
             unsigned refused_fetches, std::uint64_t readable_bytes, std::uint64_t capacity_bytes, bool unreachable) {
            store.set_faults({std::move(missing), std::move(corrupt), std::move(truncated), std::move(refuse_seal),
                              std::move(unknown), std::move(no_copy), fetch_delay_s, fetch_bytes_per_s, fetch_call_s,
                              refused_fetches, readable_bytes, capacity_bytes, unreachable});
          },
          py::kw_only(), py::arg("missing") = Keys(), py::arg("corrupt") = Keys(), py::arg("truncated") = Keys(),
          py::arg("refuse_seal") = Keys(), py::arg("unknown") = Keys(), py::arg("no_copy") = Keys(),
          py::arg("fetch_delay_s") = 0.0, py::arg("fetch_bytes_per_s") = 0.0, py::arg("fetch_call_s") = 0.0,
          py::arg("refused_fetches") = 0, py::arg("readable_bytes") = UINT64_MAX,
          py::arg("capacity_bytes") = UINT64_MAX, py::arg("unreachable") = false,
          "What goes wrong from now on, instead of what did. Of these keys a fetch finds none, one bit flipped, or the "
          "last byte gone, or their chunks are refused, or nobody knows whether they exist, or no other host finds a "
          "copy; every fetch takes longer, "
          "or as long as its bytes take, and is given up after a time; this many are refused; no more bytes fit that "
          "are being read, or that are stored; no call is answered.");
}

}  // namespace yr_fastload::bindings
