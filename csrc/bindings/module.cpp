#include "bindings/common.hpp"

PYBIND11_MODULE(_core, module) {
  using namespace yr_fastload::bindings;
  module.doc() = "Native core of yr_fastload_native; private, use the package's classes.";
  module.attr("__version__") = YRFL_VERSION;
  register_errors(module);
  register_plan(module);
  register_digest(module);
  register_tensors(module);
  register_tensor_reader(module);
  register_entries(module);
  register_devices(module);
  register_device_memory(module);
  register_stores(module);
  register_hetero(module);
  register_ipc(module);
  register_transfer(module);
  register_lease(module);
  register_testing(module);
}
