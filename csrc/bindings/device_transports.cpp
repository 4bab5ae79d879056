#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/common.hpp"
#include "transports/d2d_reader.hpp"
#include "transports/d2d_source.hpp"
#include "transports/staged.hpp"

namespace yr_fastload::bindings {
namespace {

/// Checks arrays that openYuanrong and HCCL will read by address, while they can still be refused.
TensorMemory memory_of(const Plan& plan, const py::buffer& addresses, py::object owners) {
  const U64Array array(addresses, "addresses");
  if (array.size() != plan.tensors)
    throw Error(ErrorCode::kInvalidArgument, "binding",
                std::to_string(array.size()) + " addresses for a plan of " + std::to_string(plan.tensors) + " tensors");
  for (const Blob& blob : plan.blobs)
    if (array.span()[blob.tensor] == 0)
      throw Error(ErrorCode::kInvalidArgument, "binding", "tensor " + std::to_string(blob.tensor) + " has no address");
  return {{array.span().begin(), array.span().end()}, keep_python(std::move(owners))};
}

void register_source(py::module_& module) {
  const auto nogil = py::call_guard<WithoutGil>();
  py::class_<D2dSource, std::shared_ptr<D2dSource>>(
      module, "D2dSource", "Serves chunks by reference, from the memory of tensors on a device.")
      .def(py::init([](const Connection& connection, std::shared_ptr<Device> device, std::vector<std::string> lanes,
                       std::shared_ptr<Plan> plan, const py::buffer& addresses, py::object owners) {
             TensorMemory memory = memory_of(*plan, addresses, std::move(owners));
             std::unique_ptr<D2dSource> source;
             {
               const WithoutGil release;
               source = std::make_unique<D2dSource>(connection, std::move(device), std::move(lanes), std::move(plan),
                                                    std::move(memory));
             }
             return share_without_gil(std::move(source));
           }),
           py::arg("connection"), py::kw_only(), py::arg("device"), py::arg("lanes"), py::arg("plan"),
           py::arg("addresses"), py::arg("owners"), "lanes: prefixes of keys, each for one reader at a time.")
      .def("offer", &D2dSource::offer, py::arg("chunk"), nogil, "Queue a chunk whose bytes are in the tensors.")
      .def("start", &D2dSource::start, nogil, "Start to publish the keys of offered chunks.")
      .def(
          "wait", [](D2dSource& source, double deadline_s) { source.wait(Deadline::after(deadline_s)); }, py::kw_only(),
          py::arg("deadline_s"), nogil, "Wait until all offered chunks can be read.")
      .def("serving", &D2dSource::serving, nogil, "Number of chunks that can be read.")
      .def(
          "withdraw", [](D2dSource& source, double deadline_s) { source.withdraw(Deadline::after(deadline_s)); },
          py::kw_only(), py::arg("deadline_s"), nogil, "Withdraw all keys and release the tensors. Idempotent.");
}

void register_readers(py::module_& module) {
  const auto nogil = py::call_guard<WithoutGil>();
  py::class_<HeteroReceiver, std::shared_ptr<HeteroReceiver>>(
      module, "HeteroReceiver", "A connection for one device, and device memory for arriving chunks.")
      .def(py::init([](const Connection& connection, std::shared_ptr<Device> device, std::uint64_t landing_bytes) {
             return share_without_gil(std::make_unique<HeteroReceiver>(connection, std::move(device), landing_bytes));
           }),
           py::arg("connection"), py::kw_only(), py::arg("device"), py::arg("landing_bytes"))
      .def("prepare", &HeteroReceiver::prepare, nogil, "Start connecting in the background.")
      .def(
          "greet",
          [](HeteroReceiver& receiver, const std::string& key_prefix) { receiver.greet(greeting_key(key_prefix)); },
          py::arg("key_prefix"), nogil, "Start connecting to a source in the background.")
      .def("stats", [](const HeteroReceiver& receiver) {
        const PinnedPoolStats stats = receiver.landing_stats();
        return std::map<std::string, std::uint64_t>{
            {"cap_bytes", stats.cap_bytes}, {"leased_bytes", stats.leased_bytes}, {"peak_bytes", stats.peak_bytes}};
      });
  py::class_<D2dReader, ChunkReader, std::shared_ptr<D2dReader>>(
      module, "D2dReader", "Reads chunks from the device memory of another process.")
      .def(py::init([](std::shared_ptr<HeteroReceiver> receiver, std::shared_ptr<Plan> plan, const std::string& peer,
                       const std::string& key_prefix, double stall_s, std::size_t chunks_ahead,
                       const std::optional<py::buffer>& addresses, py::object owners) {
             std::optional<TensorMemory> tensors;
             if (addresses) tensors = memory_of(*plan, *addresses, std::move(owners));
             return std::make_shared<D2dReader>(std::move(receiver), std::move(plan), D2dPeer{peer, key_prefix},
                                                std::move(tensors), D2dReaderOptions{stall_s, chunks_ahead});
           }),
           py::arg("receiver"), py::arg("plan"), py::kw_only(), py::arg("peer"), py::arg("key_prefix"),
           py::arg("stall_s"), py::arg("chunks_ahead"), py::arg("addresses") = py::none(),
           py::arg("owners") = py::none(),
           "peer: its name for messages. addresses: of the tensors to read straight into; None for landing memory.")
      .def("distrust", &D2dReader::distrust, nogil, "Make later transfers use a new connection.")
      .def_property_readonly("arrived", &D2dReader::arrived, "Number of chunks that arrived.")
      .def_property_readonly("left_because", &D2dReader::left_because, "Why the peer was abandoned, if it was.")
      .def_property_readonly("in_flight", &D2dReader::in_flight, "Chunks that may still be written to at any time.");
  py::class_<StagedReader, ChunkReader, std::shared_ptr<StagedReader>>(module, "StagedReader",
                                                                       "Reads chunks of a staged publication.")
      .def(py::init<std::shared_ptr<HeteroReceiver>, std::shared_ptr<Plan>, std::string, std::size_t>(),
           py::arg("receiver"), py::arg("plan"), py::arg("key_prefix"), py::kw_only(), py::arg("chunks_ahead"));
}

}  // namespace

void register_hetero(py::module_& module) {
  register_source(module);
  register_readers(module);
  module.attr("STAGED_CHUNK_BYTES") = kStagedChunkBytes;
  module.def(
      "publish_staged",
      [](const std::shared_ptr<HeteroReceiver>& connection, std::shared_ptr<Plan> plan, const py::buffer& addresses,
         py::object owners, const std::string& key_prefix, std::uint32_t ttl_s, double deadline_s) {
        TensorMemory memory = memory_of(*plan, addresses, std::move(owners));
        const WithoutGil nogil;
        publish_staged(*connection, std::move(plan), std::move(memory), key_prefix, ttl_s, Deadline::after(deadline_s));
      },
      py::arg("connection"), py::arg("plan"), py::arg("addresses"), py::kw_only(), py::arg("owners"),
      py::arg("key_prefix"), py::arg("ttl_s"), py::arg("deadline_s"),
      "Copy all chunks from the device into objects of the worker.");
}

}  // namespace yr_fastload::bindings
