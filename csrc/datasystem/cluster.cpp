#include "datasystem/cluster.hpp"

#include <datasystem/utils/service_discovery.h>

#include <algorithm>

#include "core/call_runner.hpp"
#include "datasystem/status.hpp"

namespace yr_fastload {

namespace ds = ::datasystem;

std::vector<std::string> ready_workers(const std::string& directory, Deadline deadline) {
  // On a thread that can be left behind, with all that it uses: a directory that does not answer is waited for.
  const auto ask = [directory] {
    ds::ServiceDiscoveryOptions options;
    options.etcdAddress = directory;
    options.affinityPolicy = ds::ServiceAffinityPolicy::RANDOM;
    ds::ServiceDiscovery discovery(options);
    check(discovery.Init(), "cluster", {directory});
    std::vector<std::string> here;
    std::vector<std::string> workers;
    check(discovery.GetAllWorkers(here, workers), "cluster", {directory});
    workers.insert(workers.end(), here.begin(), here.end());
    std::sort(workers.begin(), workers.end());
    return workers;
  };
  return CallRunner(1, 0).run("cluster", deadline, ask,
                              "the directory of the cluster at " + directory + " did not answer before the deadline");
}

}  // namespace yr_fastload
