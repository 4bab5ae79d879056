#include "core/lease.hpp"

#include <string>
#include <tuple>

#include "bindings/common.hpp"

namespace yr_fastload::bindings {

void register_lease(py::module_& module) {
  const auto nogil = py::call_guard<WithoutGil>();
  py::class_<Lease, std::shared_ptr<Lease>>(module, "Lease", "One source's share in keeping a generation published.")
      .def(py::init([](std::shared_ptr<ObjectStore> store, const std::string& head_key, const py::bytes& head_value,
                       const std::string& slot_prefix, const std::string& owner, const Keys& data_keys,
                       std::uint32_t lease_s, std::uint32_t data_s, double deadline_s, const std::string& place_key,
                       const py::bytes& place_value, const std::string& slot_key, const Keys& entry_keys,
                       const std::string& entry_value) {
             LeaseKeys keys{head_key,  head_value,  slot_prefix, owner,      data_keys,
                            place_key, place_value, slot_key,    entry_keys, entry_value};
             std::unique_ptr<Lease> lease;
             {
               const WithoutGil release;
               lease = std::make_unique<Lease>(std::move(store), std::move(keys), LeaseTimes{lease_s, data_s},
                                               Deadline::after(deadline_s));
             }
             return share_without_gil(std::move(lease));
           }),
           py::arg("store"), py::kw_only(), py::arg("head_key"), py::arg("head_value"), py::arg("slot_prefix"),
           py::arg("owner"), py::arg("data_keys"), py::arg("lease_s"), py::arg("data_s"), py::arg("deadline_s"),
           py::arg("place_key") = "", py::arg("place_value") = py::bytes(), py::arg("slot_key") = "",
           py::arg("entry_keys") = Keys{}, py::arg("entry_value") = "")
      .def(
          "status",
          [](const Lease& lease) {
            const LeaseStatus status = lease.status();
            return std::make_tuple(std::string(lease_state_name(status.state)), status.renewed_s_ago,
                                   status.last_error);
          },
          "(state, seconds since the last renewal, last error): live, superseded, lost or left.")
      .def(
          "sources", [](const Lease& lease, double deadline_s) { return lease.sources(Deadline::after(deadline_s)); },
          py::kw_only(), py::arg("deadline_s"), nogil)
      .def(
          "leave", [](Lease& lease, double deadline_s) { lease.leave(Deadline::after(deadline_s)); }, py::kw_only(),
          py::arg("deadline_s"), nogil);
}

}  // namespace yr_fastload::bindings
