"""A local openYuanrong worker, for machines without one."""

from yr_fastload_native.worker.home import WorkerStatus
from yr_fastload_native.worker.keys import make_curve_keys
from yr_fastload_native.worker.local import LocalWorker

__all__ = ["LocalWorker", "WorkerStatus", "make_curve_keys"]
