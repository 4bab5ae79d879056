#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/common.hpp"
#include "core/locked_chunks.hpp"
#include "core/pinned_pool.hpp"
#include "core/row_digester.hpp"
#include "devices/acl_device.hpp"
#include "devices/cpu_device.hpp"
#include "devices/cuda_device.hpp"

namespace yr_fastload::bindings {
namespace {

constexpr double kAllocateSeconds = 60.0;

std::map<std::string, std::uint64_t> pool_stats(const PinnedPool& pool) {
  const PinnedPoolStats stats = pool.stats();
  return {{"cap_bytes", stats.cap_bytes},
          {"leased_bytes", stats.leased_bytes},
          {"cached_bytes", stats.cached_bytes},
          {"peak_bytes", stats.peak_bytes},
          {"locked_bytes", stats.locked_bytes}};
}

}  // namespace

void register_devices(py::module_& module) {
  py::class_<Device, std::shared_ptr<Device>>(module, "Device", "The memory that tensors live in.")
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("index", &Device::index, "Number on this machine; -1 for ordinary memory.")
      .def_property_readonly("memory_bytes", &Device::memory_bytes, "Of the device, all in all; 0 where nobody knows.")
      .def_property_readonly("cpu_accessible", &Device::cpu_accessible,
                             "Whether the CPU can load from and store to it.")
      .def_property_readonly(
          "verifies_on_the_way",
          [](const Device& device) { return device.cpu_accessible() || device.copies_are_checked(); },
          "Whether a load compares digests while it copies; if not, tensors have to be looked at afterwards.")
      .def(
          "wait_for_stream",
          [](Device& device, std::uint64_t handle, double deadline_s) {
            device.wait_for_stream(handle, Deadline::after(deadline_s));
          },
          py::arg("handle"), py::kw_only(), py::arg("deadline_s"), py::call_guard<WithoutGil>(),
          "Wait for what others have asked of a stream of theirs; nothing to wait for with ordinary memory.")
      .def(
          "read",
          [](Device& device, std::uint64_t address, std::size_t bytes, double deadline_s) {
            const Deadline deadline = Deadline::after(deadline_s);
            std::unique_ptr<Memory> staged;
            {
              const WithoutGil nogil;
              staged = device.allocate_page_locked(bytes, deadline);
              const auto stream = device.make_stream();
              stream->copy(Direction::kToHost, {staged->data(), reinterpret_cast<const std::byte*>(address), bytes});
              stream->synchronize(deadline);
            }
            return py::bytes(reinterpret_cast<const char*>(staged->data()), bytes);
          },
          py::arg("address"), py::arg("bytes"), py::kw_only(), py::arg("deadline_s"), "A copy of some of its memory.");
  module.def(
      "cpu_device", [] { return std::shared_ptr<Device>(std::make_shared<CpuDevice>()); },
      "Tensors in ordinary memory.");
  module.def(
      "acl_device", [](int index) { return share_without_gil(open_acl_device(index)); }, py::arg("index"),
      py::call_guard<WithoutGil>(),
      "A device of Ascend's runtime, real or simulated; raises DeviceError if there is none.");
  module.def("acl_device_count", &acl_device_count, py::call_guard<WithoutGil>(),
             "Number of devices that Ascend's runtime knows; 0 if it cannot be loaded. Loads it.");
  module.def("current_acl_device", &current_acl_device, py::call_guard<WithoutGil>(),
             "The device of this thread; -1 if it has none, or Ascend's runtime cannot be loaded. Loads it.");
  module.def(
      "cuda_device", [](int index) { return share_without_gil(open_cuda_device(index)); }, py::arg("index"),
      py::call_guard<WithoutGil>(),
      "A device of CUDA's driver, real or simulated; raises DeviceError where there is none.");
  module.def("cuda_driver_version", &cuda_driver_version, py::call_guard<WithoutGil>(),
             "The newest CUDA that the driver knows, as 12040 for 12.4; raises DeviceError where there is none.");
  module.def("cuda_device_name", &cuda_device_name, py::arg("index"), py::call_guard<WithoutGil>(),
             "As the driver calls it; raises DeviceError where there is no such device.");
  module.def("cuda_device_reaches", &cuda_device_reaches, py::arg("index"), py::arg("other"),
             py::call_guard<WithoutGil>(), "Whether a device can copy from the memory of another one.");
  module.def("cuda_device_of", &cuda_device_of, py::arg("address"), py::call_guard<WithoutGil>(),
             "The number of the CUDA device whose memory is at an address; raises DeviceError if it is no device's.");
  module.def("cuda_device_count", &cuda_device_count, py::call_guard<WithoutGil>(),
             "How many devices CUDA's driver knows; 0 where it cannot be loaded. Loads it.");

  using Lease = PinnedPool::Lease;
  py::class_<Lease>(module, "PinnedLease", "Page-locked memory on loan; returned with the object.")
      .def_property_readonly("address",
                             [](const Lease& lease) { return reinterpret_cast<std::uint64_t>(lease.data()); })
      .def_property_readonly("bytes", &Lease::bytes);
  py::class_<PinnedPool, std::shared_ptr<PinnedPool>>(module, "PinnedPool", "Page-locked memory up to a cap.")
      .def(py::init<std::shared_ptr<Device>, std::uint64_t>(), py::arg("device"), py::arg("cap_bytes"))
      .def(
          "try_lease",
          [](PinnedPool& pool, std::size_t bytes) { return pool.try_lease(bytes, Deadline::after(kAllocateSeconds)); },
          py::arg("bytes"), py::call_guard<WithoutGil>(), "A block; None if that would exceed the cap now.")
      .def(
          "lease",
          [](PinnedPool& pool, std::size_t bytes, double deadline_s) {
            return pool.lease(bytes, Deadline::after(deadline_s));
          },
          py::arg("bytes"), py::kw_only(), py::arg("deadline_s"), py::call_guard<WithoutGil>(), "Wait for a block.")
      .def("stats", &pool_stats);
  py::class_<LockedChunks, std::shared_ptr<LockedChunks>>(
      module, "LockedChunks", "Chunks in the worker's shared memory that are page-locked there for a device.")
      .def(py::init([](std::shared_ptr<Device> device) {
             return share_without_gil(std::make_unique<LockedChunks>(std::move(device)));
           }),
           py::arg("device"))
      .def(
          "settle", [](LockedChunks& locked, double deadline_s) { return locked.settle(Deadline::after(deadline_s)); },
          py::kw_only(), py::arg("deadline_s"), py::call_guard<WithoutGil>(),
          "Wait until all that the loads before have seen is locked; False at the deadline.")
      .def("take_refusal", &LockedChunks::take_refusal,
           "Why no more is locked, once; None if nothing has failed since.")
      .def("stats", [](const LockedChunks& locked) {
        const LockedChunksStats stats = locked.stats();
        return std::map<std::string, std::uint64_t>{{"chunks", stats.chunks}, {"locked_bytes", stats.locked_bytes}};
      });
  module.def(
      "digests_on_device",
      [](Device& device, PinnedPool& pool, double deadline_s) {
        device.bind_thread();
        return RowDigester(device, pool, Deadline::after(deadline_s), {}).works();
      },
      py::arg("device"), py::arg("pool"), py::kw_only(), py::arg("deadline_s"), py::call_guard<WithoutGil>(),
      "Whether a device takes digests of kind 'matrix64-1' itself. It becomes the calling thread's.");
}

}  // namespace yr_fastload::bindings
