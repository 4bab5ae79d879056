#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/common.hpp"
#include "core/error.hpp"
#include "transports/ipc_reader.hpp"

namespace yr_fastload::bindings {
namespace {

using Allocations = std::vector<std::tuple<py::bytes, std::uint64_t, std::uint64_t>>;

bool holds(const SharedAllocation& allocation, std::uint64_t address) noexcept {
  return address >= allocation.address && address - allocation.address < allocation.bytes;
}

/// The allocations that these addresses lie in, each once; 0 lies nowhere.
std::vector<SharedAllocation> share(Device& device, Span<const std::uint64_t> addresses) {
  std::vector<std::uint64_t> sorted;
  for (const std::uint64_t address : addresses)
    if (address != 0) sorted.push_back(address);
  std::sort(sorted.begin(), sorted.end());
  std::vector<SharedAllocation> found;
  for (const std::uint64_t address : sorted)
    if (found.empty() || !holds(found.back(), address)) found.push_back(device.share(address));
  return found;
}

std::vector<SharedAllocation> native(const Allocations& allocations) {
  std::vector<SharedAllocation> made;
  for (const auto& [handle, address, bytes] : allocations) made.push_back({handle, address, bytes});
  return made;
}

std::vector<std::uint64_t> numbers(const py::buffer& array, const char* name) {
  const U64Array values(array, name);
  return {values.span().begin(), values.span().end()};
}

/// Addresses of this process's tensors, which the device will write to.
std::vector<std::uint64_t> targets(const Plan& plan, const py::buffer& addresses) {
  std::vector<std::uint64_t> made = numbers(addresses, "addresses");
  if (made.size() != plan.tensors)
    throw Error(ErrorCode::kInvalidArgument, "binding",
                std::to_string(made.size()) + " addresses for a plan of " + std::to_string(plan.tensors) + " tensors");
  for (const Blob& blob : plan.blobs)
    if (made[blob.tensor] == 0)
      throw Error(ErrorCode::kInvalidArgument, "binding", "tensor " + std::to_string(blob.tensor) + " has no address");
  return made;
}

}  // namespace

void register_ipc(py::module_& module) {
  module.def(
      "share_memory",
      [](Device& device, const py::buffer& addresses) {
        const U64Array array(addresses, "addresses");
        std::vector<SharedAllocation> found;
        {
          const WithoutGil nogil;
          found = share(device, array.span());
        }
        Allocations made;
        for (const SharedAllocation& each : found) made.emplace_back(py::bytes(each.handle), each.address, each.bytes);
        return made;
      },
      py::arg("device"), py::arg("addresses"),
      "The allocations that tensors lie in, as (handle, address, bytes), for other processes of this machine to open; "
      "raises DeviceError where they cannot.");
  py::class_<IpcReader, ChunkReader, std::shared_ptr<IpcReader>>(
      module, "IpcReader", "Reads chunks from device memory that another process of this machine shares.")
      .def(py::init([](std::shared_ptr<Device> device, std::shared_ptr<PinnedPool> pool, std::shared_ptr<Plan> plan,
                       const std::string& peer, const Allocations& allocations, const py::buffer& there,
                       const py::buffer& addresses, bool digests) {
             RemoteTensors remote{peer, native(allocations), numbers(there, "there")};
             return share_without_gil(std::make_unique<IpcReader>(
                 std::move(device), std::move(pool), plan, std::move(remote), targets(*plan, addresses), digests));
           }),
           py::arg("device"), py::arg("pool"), py::arg("plan"), py::kw_only(), py::arg("peer"), py::arg("allocations"),
           py::arg("there"), py::arg("addresses"), py::arg("digests"),
           "peer: its name for messages. allocations, there: what it shares, and where its tensors begin. addresses: "
           "of this process's tensors. digests: whether to take them on the way, where the device can.")
      .def(
          "open", [](IpcReader& reader, double deadline_s) { reader.open(Deadline::after(deadline_s)); }, py::kw_only(),
          py::arg("deadline_s"), py::call_guard<WithoutGil>(), "Open the memory; raises DeviceError if it is gone.")
      .def_property_readonly("arrived", &IpcReader::arrived, "Number of chunks that arrived.")
      .def_property_readonly("left_because", &IpcReader::left_because, "Why the peer was abandoned, if it was.");
}

}  // namespace yr_fastload::bindings
