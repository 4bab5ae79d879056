# Everything a checkout needs goes into .venv*; nothing needs root. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WHEEL := $(VENV)/wheel/.built
PACKAGE := $$(echo $(VENV)/wheel/*.whl)
SOURCES := pyproject.toml CMakeLists.txt LICENSE $(shell find csrc python -type f ! -name '*.pyc')
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp')
ARGS ?=
SEED ?= 1
ROUNDS ?= 150
# Tests wait much of the time: more of them than cores. Those of a file share what they need; files are begun in order of
# their names, the fault campaign first, which takes longest.
JOBS ?= 5
BESIDE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# On a machine that others use a bound may pass that holds on a quiet one. What fails twice fails; what fails once is named.
TWICE := --reruns 1 -raR
# uv: pip takes eight times as long. It does not compile modules; each is compiled when it is first imported, and that kept.
INSTALL := $(BIN)/python tools/install.py --python
unexport PYTHONDONTWRITEBYTECODE
# Not $(MAKE), which `make -n` runs together with what stands beside it.
AGAIN = $(MAKE) --no-print-directory

# Under the address sanitizer, and by `make test` only there: what ends at a bad moment.
LIFETIME := tests/sim/test_lifetime.py
THREADED := $(wildcard tests/unit/test_transfer_*.py) tests/unit/test_pinned_pool.py tests/unit/test_lease.py
ASAN = PYTHONPATH=$(CURDIR)/build/asan ./tools/with-asan $(BIN)/python -m pytest
TSAN = PYTHONPATH=$(CURDIR)/build/tsan ./tools/with-tsan $(BIN)/python -m pytest
# While a process forks, the allocator inside openYuanrong's library holds more locks than the detector can count.
FORKING := TSAN_OPTIONS=detect_deadlocks=0

VLLM_HERE := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")')
VLLM_OLDER := 0.27.1 0.14.1 0.10.0

.PHONY: help demo demo-vllm test environments chaos chaos-hosts test-vllm test-vllm-matrix test-all test-asan test-tsan lint format stubs docs bench bench-smoke gpu-check ptx dist site screenshot clean

help:  ## show this list
	@echo 'usage: make TARGET [ARGS="..."]'
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

demo: $(VENV)/.installed  ## pull a model in a second process; ARGS="--size-mb 512"
	$(BIN)/yr-fastload demo $(ARGS)

demo-vllm: .venv-vllm/.develop  ## two vLLM instances on this CPU, phase by phase; installs vLLM, 2.3 GB; ARGS="--eager"
	.venv-vllm/bin/python tools/demo_vllm.py $(ARGS)

ifneq ($(ARGS),)
test: $(VENV)/.develop
	$(BIN)/python -m pytest $(ARGS)
else
test: environments  ## what CI runs; ARGS="-k plan" picks of those that need no vLLM
	$(BIN)/python -m pytest $(BESIDE) $(TWICE) -m 'not long' --ignore=$(LIFETIME)
	@$(AGAIN) test-asan ARGS='-n $(JOBS) $(TWICE) -m "not long" $(LIFETIME) $(THREADED)'
	@$(AGAIN) test-vllm ARGS='-m "not long"'
endif

test-all: test  ## what takes hours too: whole campaigns, everything under sanitizers, older versions of vLLM
	$(BIN)/python -m pytest -m long
	@$(if $(VLLM_HERE),$(AGAIN) build/ray/.installed)
	@$(AGAIN) test-vllm ARGS='-m long'
	@$(AGAIN) test-asan test-tsan chaos chaos-hosts test-vllm-matrix ARGS=

environments: $(VENV)/.develop build/asan/.develop build/torch-npu/.installed $(if $(VLLM_HERE),.venv-vllm/.develop)  ## all that `make test` needs; -j3 is quicker

chaos: $(VENV)/.develop  ## ten minutes of faults; SEED=2 ROUNDS=150 ARGS="--only 17"
	$(BIN)/python -m chaos --seed $(SEED) --rounds $(ROUNDS) $(ARGS)

chaos-hosts: $(VENV)/.develop  ## the same on three hosts, network namespaces: root, iproute2, etcd-server; SEED=2 ROUNDS=100
	$(BIN)/python -m chaos.hosts --seed $(SEED) --rounds $(ROUNDS) $(ARGS)

test-vllm:  ## tests/e2e with real vLLM on the CPU; ARGS="-k tensor"
	@$(if $(VLLM_HERE), \
	  $(AGAIN) .venv-vllm/.develop && .venv-vllm/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 600 tests/e2e $(ARGS), \
	  echo "vLLM 0.32.0 needs Python 3.11: tests/e2e left out; name one by PYTHON=...")

test-vllm-matrix:  ## tests/e2e with older versions of vLLM: 13 GB, an hour
	@for version in $(VLLM_OLDER); do \
	  $(AGAIN) .venv-vllm-$$version/.develop && \
	  .venv-vllm-$$version/bin/python -m pytest tests/e2e $(ARGS) || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "tests/e2e failed with vLLM$$failed" >&2; exit 1; }

test-asan: build/asan/.develop  ## tests under AddressSanitizer and UBSan
	$(ASAN) $(ARGS)

test-tsan: build/tsan/.develop  ## threaded parts under ThreadSanitizer
	$(TSAN) $(THREADED)
	$(FORKING) $(TSAN) tests/sim/test_runtime_*.py
	$(FORKING) $(TSAN) tests/sim/test_d2d.py -k "bytes_arrive or numpy_arrays or faults_of or damaged or another_source"
	$(FORKING) $(TSAN) $(LIFETIME)

lint: site  ## ruff, mypy, clang-format, generated files, the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(BIN)/python tools/stubs.py --check
	$(BIN)/python tools/pages.py --check
	$(BIN)/python -m benchmarks.tables --check

format: $(VENV)/.develop  ## format all sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

stubs: $(VENV)/.develop  ## rewrite _core/*.pyi, after a change of the bindings
	$(BIN)/python tools/stubs.py

docs: $(VENV)/.develop  ## rewrite generated pages, the class map and tables
	$(BIN)/python tools/pages.py
	$(BIN)/python -m benchmarks.tables

bench: $(VENV)/.develop  ## all benchmarks, 40 minutes; ARGS="--sections host"
	$(INSTALL) $(BIN)/python "$(PACKAGE)[bench]"
	[ ! -x .venv-vllm/bin/python ] || $(INSTALL) .venv-vllm/bin/python fastsafetensors 'runai-model-streamer>=0.17'
	$(BIN)/python -m benchmarks $(ARGS)

WHEELS ?= dist
gpu-check:  ## a machine with one of NVIDIA's GPUs: checks and figures, at most 6 minutes, with the wheels in WHEELS=dist
	PYTHON=$(PYTHON) ./tools/gpu-check $(WHEELS) $(ARGS)

ptx: $(VENV)/bin/uv  ## csrc/devices/cuda_*_kernel.hpp anew, after a change of a kernel
	$(INSTALL) $(BIN)/python nvidia-cuda-nvrtc-cu11==11.8.89
	$(BIN)/python tools/ptx.py

bench-smoke: $(VENV)/.develop  ## half a minute; fails if a ratio is down by 30 %
	$(BIN)/python -m benchmarks.smoke $(ARGS)

# The wheel is built from the sdist, which so has to have all of it.
dist: $(VENV)/.develop  ## sdist and wheel into dist/, and the demo from that wheel
	rm -rf dist build/dist
	$(INSTALL) $(BIN)/python 'build>=1.2' 'twine>=6.0'
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv build/dist
	build/dist/bin/python -m pip install --quiet dist/*.whl
	cd / && $(CURDIR)/build/dist/bin/yr-fastload demo --size-mb 64

site: $(VENV)/.develop  ## all pages as a web site, in build/site/html
	$(BIN)/python tools/site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

screenshot: $(VENV)/.develop .venv-vllm/.develop  ## a new docs/scale-out.png, with two vLLM instances
	$(BIN)/python tools/screenshot.py .venv-vllm/bin/python

clean:  ## remove everything that other targets made
	rm -rf .venv .venv-vllm .venv-vllm-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@./tools/check-python $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/bin/uv: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet uv

make-venv = $(PYTHON) -m venv --without-pip $(patsubst %/bin/python,%,$@)

.venv-vllm/bin/python: | $(VENV)/bin/uv
	$(make-venv)

.PRECIOUS: .venv-vllm-%/bin/python
.venv-vllm-%/bin/python: | $(VENV)/bin/uv
	$(make-venv)

$(VENV)/.builder: requirements/build.txt | $(VENV)/bin/uv
	$(INSTALL) $(BIN)/python -r $<
	@touch $@

# Built once for all environments. Where only Python has changed nothing is compiled, which takes that pip does not build
# in a new environment each time.
$(WHEEL): $(VENV)/.builder $(SOURCES)
	rm -rf $(@D)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(@D) .
	@touch $@

$(VENV)/.installed: $(WHEEL)
	$(INSTALL) $(BIN)/python "$(PACKAGE)"
	$(call install-wheel,$(BIN))
	@touch $@

$(VENV)/.extras: pyproject.toml | $(WHEEL)
	$(INSTALL) $(BIN)/python "$(PACKAGE)[test,lint,serve,ray,yr,docs]"
	@touch $@

$(VENV)/.develop: $(WHEEL) $(VENV)/.extras
	$(call install-wheel,$(BIN))
	@touch $@ $(VENV)/.installed

# Also where one of the same version is there.
install-wheel = $(INSTALL) $(1)/python --no-deps --reinstall "$(PACKAGE)"

define install-vllm
$(INSTALL) $(@D)/bin/python --no-deps -r $<
$(@D)/bin/python tools/fit-vllm
@touch $@
endef

.venv-vllm/.vllm: requirements/vllm-0.32.0.lock.txt .venv-vllm/bin/python tools/fit-vllm
	$(install-vllm)

.PRECIOUS: .venv-vllm-%/.vllm
.venv-vllm-%/.vllm: requirements/vllm-%.lock.txt .venv-vllm-%/bin/python tools/fit-vllm
	$(install-vllm)

.venv-vllm/.develop: .venv-vllm/.vllm $(WHEEL)
	$(call install-wheel,$(@D)/bin)
	@touch $@

.venv-vllm-%/.develop: .venv-vllm-%/.vllm $(WHEEL)
	$(call install-wheel,$(@D)/bin)
	@touch $@

# For tests/sim/test_torch_npu.py alone: beside an NPU's torch_npu `import torch` fails where there is no CANN.
build/torch-npu/.installed: Makefile | $(VENV)/bin/uv
	$(INSTALL) $(BIN)/python --no-deps --upgrade --target $(@D) torch-npu==2.13.0
	@touch $@

# For tests/e2e/test_vllm_hosts.py alone: vLLM imports Ray where it finds it.
build/ray/.installed: Makefile | .venv-vllm/bin/python
	$(INSTALL) .venv-vllm/bin/python --no-deps --upgrade --target $(@D) ray==2.60.0 msgpack==1.2.4
	@touch $@

# The native module once more, built with sanitizers, in a folder that comes first in Python's path; there it looks for
# openYuanrong beside it.
asan := address,undefined -Ccmake.define.YRFL_UNITY=ON
# Each file by itself, which shows if one leaves it to another to include what it needs.
tsan := thread -Ccmake.define.YRFL_UNITY=OFF
build/asan/.develop build/tsan/.develop: build/%/.develop: $(WHEEL)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --upgrade --target $(@D) \
	  -Cbuild-dir=build/cmake-$* -Ccmake.build-type=RelWithDebInfo -Ccmake.define.YRFL_SANITIZE=$($*) .
	ln -sfn "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/yr" $(@D)/yr
	@touch $@
