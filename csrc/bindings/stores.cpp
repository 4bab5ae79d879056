#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/common.hpp"
#include "core/call_runner.hpp"
#include "core/private_memory.hpp"
#include "core/store_reader.hpp"
#include "datasystem/cluster.hpp"
#include "datasystem/exits.hpp"
#include "datasystem/graveyard.hpp"
#include "transports/host_store.hpp"

namespace yr_fastload::bindings {
namespace {

void register_connection(py::module_& module) {
  py::class_<Connection, std::shared_ptr<Connection>>(
      module, "Connection", "One openYuanrong worker and how to connect to it; its credentials cannot be read back.")
      .def(py::init([](const std::string& host, int port, double connect_timeout_s, double rpc_timeout_s,
                       const std::string& client_public_key, const std::string& client_private_key,
                       const std::string& server_public_key, const std::string& access_key,
                       const std::string& secret_key, const std::string& tenant_id, const std::string& token,
                       bool is_alone) {
             return Connection{
                 host,
                 port,
                 connect_timeout_s,
                 rpc_timeout_s,
                 {client_public_key, client_private_key, server_public_key, access_key, secret_key, tenant_id, token},
                 is_alone};
           }),
           py::arg("host"), py::arg("port"), py::kw_only(), py::arg("connect_timeout_s"), py::arg("rpc_timeout_s"),
           py::arg("client_public_key") = "", py::arg("client_private_key") = "", py::arg("server_public_key") = "",
           py::arg("access_key") = "", py::arg("secret_key") = "", py::arg("tenant_id") = "", py::arg("token") = "",
           py::arg("is_alone") = false)
      .def("__repr__", [](const Connection& connection) { return "<Connection " + connection.address() + ">"; });
}

std::shared_ptr<ObjectStore> connect(const Connection& connection) {
  std::unique_ptr<ObjectStore> store;
  {
    const WithoutGil nogil;
    store = connect_host_store(connection);
  }
  return share_without_gil(std::move(store));
}

std::vector<std::shared_ptr<PrivateMemory>> map_chunks(ChunkReader& reader, const std::vector<std::uint64_t>& chunks,
                                                       double deadline_s) {
  std::vector<std::unique_ptr<PrivateMemory>> mapped;
  {
    const WithoutGil nogil;
    std::map<std::uint64_t, std::unique_ptr<ObjectView>> came;
    const auto take = [&](Arrival arrival) {
      came[arrival.chunk] = std::move(arrival.view);
      return true;
    };
    reader.read({chunks.data(), chunks.size()}, take, CancelFlag(), Deadline::after(deadline_s));
    std::vector<std::unique_ptr<ObjectView>> views;
    for (const std::uint64_t chunk : chunks) views.push_back(std::move(came[chunk]));
    mapped = map_private(std::move(views));
  }
  std::vector<std::shared_ptr<PrivateMemory>> shared;
  for (auto& memory : mapped) shared.push_back(memory ? share_without_gil(std::move(memory)) : nullptr);
  return shared;
}

void register_private_memory(py::module_& module) {
  py::class_<PrivateMemory, std::shared_ptr<PrivateMemory>>(
      module, "PrivateMemory", py::buffer_protocol(),
      "An object's bytes, shared with all processes until this one writes to a page and gets its own copy of it.")
      .def_buffer([](PrivateMemory& memory) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(memory.bytes().data()),
                               static_cast<py::ssize_t>(memory.bytes().size()));
      })
      .def_property_readonly(
          "address", [](const PrivateMemory& memory) { return reinterpret_cast<std::uint64_t>(memory.bytes().data()); })
      .def_property_readonly("nbytes", [](const PrivateMemory& memory) { return memory.bytes().size(); })
      .def_property_readonly(
          "shared_address",
          [](const PrivateMemory& memory) { return reinterpret_cast<std::uint64_t>(memory.shared().data()); },
          "Their address in the shared mapping; not to be written to.")
      .def("detach", &PrivateMemory::detach, py::call_guard<WithoutGil>(), "Copy the pages that are still shared.")
      .def("forbid", &PrivateMemory::forbid, "From now on, touching the bytes ends the process.");
}

}  // namespace

void register_stores(py::module_& module) {
  register_connection(module);
  const auto nogil = py::call_guard<WithoutGil>();
  py::class_<ObjectStore, std::shared_ptr<ObjectStore>>(
      module, "ObjectStore",
      "Where chunks and small values are kept. TTLs are seconds; every call ends by its deadline.")
      .def_property_readonly("transport", &ObjectStore::transport)
      .def(
          "set",
          [](ObjectStore& store, const std::string& key, const py::bytes& value, std::uint32_t ttl_s,
             double deadline_s) {
            const std::string owned = value;
            const WithoutGil release;
            store.set(key, owned, ttl_s, Deadline::after(deadline_s));
          },
          py::arg("key"), py::arg("value"), py::kw_only(), py::arg("ttl_s"), py::arg("deadline_s"))
      .def(
          "set_if_absent",
          [](ObjectStore& store, const std::string& key, const py::bytes& value, std::uint32_t ttl_s,
             double deadline_s) {
            const std::string owned = value;
            const WithoutGil release;
            return store.set_if_absent(key, owned, ttl_s, Deadline::after(deadline_s));
          },
          py::arg("key"), py::arg("value"), py::kw_only(), py::arg("ttl_s"), py::arg("deadline_s"))
      .def(
          "set_all_if_absent",
          [](ObjectStore& store, const std::map<std::string, py::bytes>& values, std::uint32_t ttl_s,
             double deadline_s) {
            const KeyValues owned(values.begin(), values.end());
            const WithoutGil release;
            return store.set_all_if_absent(owned, ttl_s, Deadline::after(deadline_s));
          },
          py::arg("values"), py::kw_only(), py::arg("ttl_s"), py::arg("deadline_s"),
          "Set all keys, or none and return False if one exists. At most 8.")
      .def(
          "get",
          [](ObjectStore& store, const std::string& key, double deadline_s) -> std::optional<py::bytes> {
            std::optional<std::string> value;
            {
              const WithoutGil release;
              value = store.get(key, Deadline::after(deadline_s));
            }
            if (!value) return std::nullopt;
            return py::bytes(*value);
          },
          py::arg("key"), py::kw_only(), py::arg("deadline_s"), "The value, None if there is none.")
      .def(
          "get_many",
          [](ObjectStore& store, const Keys& keys, double deadline_s) {
            std::vector<std::optional<std::string>> values;
            {
              const WithoutGil release;
              values = store.get_many(keys, Deadline::after(deadline_s));
            }
            std::vector<std::optional<py::bytes>> each;
            for (const auto& value : values) each.push_back(value ? std::optional<py::bytes>(*value) : std::nullopt);
            return each;
          },
          py::arg("keys"), py::kw_only(), py::arg("deadline_s"), "The value of each key, None if there is none.")
      .def(
          "exist",
          [](ObjectStore& store, const Keys& keys, double deadline_s) {
            return store.exist(keys, Deadline::after(deadline_s));
          },
          py::arg("keys"), py::kw_only(), py::arg("deadline_s"), nogil)
      .def(
          "expire",
          [](ObjectStore& store, const Keys& keys, std::uint32_t ttl_s, double deadline_s) {
            return store.expire(keys, ttl_s, Deadline::after(deadline_s));
          },
          py::arg("keys"), py::kw_only(), py::arg("ttl_s"), py::arg("deadline_s"), nogil,
          "Give the keys a new TTL; returns those that did not exist.")
      .def(
          "erase",
          [](ObjectStore& store, const Keys& keys, double deadline_s) {
            store.erase(keys, Deadline::after(deadline_s));
          },
          py::arg("keys"), py::kw_only(), py::arg("deadline_s"), nogil);
  register_private_memory(module);
  module.def("connect_host_store", &connect, py::arg("connection"), "Connect to an openYuanrong worker.");
  py::class_<ChunkReader, std::shared_ptr<ChunkReader>>(
      module, "ChunkReader", "Brings the chunks of one generation to where they can be copied from.")
      .def_property_readonly("transport", &ChunkReader::transport);
  py::class_<StoreReader, ChunkReader, std::shared_ptr<StoreReader>>(module, "StoreReader",
                                                                     "Reads chunks that are objects of a store.")
      .def(py::init<std::shared_ptr<ObjectStore>, std::string, std::size_t, std::size_t>(), py::arg("store"),
           py::arg("key_prefix"), py::kw_only(), py::arg("first_batch"), py::arg("batch"));
  module.def("map_chunks", &map_chunks, py::arg("reader"), py::arg("chunks"), py::kw_only(), py::arg("deadline_s"),
             "Map these chunks privately, each once; None for one that is not there.");
  module.def(
      "ready_workers",
      [](const std::string& directory, double deadline_s) {
        return ready_workers(directory, Deadline::after(deadline_s));
      },
      py::arg("directory"), py::kw_only(), py::arg("deadline_s"), nogil,
      "Addresses of the workers that a cluster's etcd, or the metastore of its head, calls ready.");
  module.attr("MOST_CONNECTIONS_LEFT_BEHIND") = kMostToBeDestroyed;
  module.attr("MOST_THREADS_LEFT_BEHIND") = CallRunner::kMostLeftBehind;
  module.def("expect_exit", &expect_exit,
             "Make this process end without the C library's exit handlers if a connection is left then.");
  module.def("connections_left_behind", &to_be_destroyed,
             "Number of connections that may still be busy with a silent peer; each goes after some minutes.");
  module.def("threads_left_behind", &CallRunner::left_behind,
             "Number of threads that a frozen worker kept from ending with their store.");
}

}  // namespace yr_fastload::bindings
