# Everything a checkout needs goes into .venv*; nothing needs root. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt LICENSE README.md $(shell find csrc python -type f ! -name '*.pyc')
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp')
ARGS ?=
SEED ?= 1
ROUNDS ?= 150
# Not $(MAKE), which `make -n` runs together with what stands beside it.
AGAIN = $(MAKE) --no-print-directory

# Under a sanitizer, and by `make test` only there: what ends at a bad moment.
LIFETIME := tests/sim/test_lifetime.py
THREADED := tests/unit/test_pipeline.py tests/unit/test_pinned_pool.py tests/unit/test_lease.py
ASAN = PYTHONPATH=$(CURDIR)/build/asan ./tools/with-asan $(BIN)/python -m pytest
TSAN = PYTHONPATH=$(CURDIR)/build/tsan ./tools/with-tsan $(BIN)/python -m pytest

VLLM_HERE = $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")')
VLLM_OLDER := 0.27.1 0.14.1 0.10.0

.PHONY: help demo test test-environments chaos test-vllm test-vllm-matrix test-sanitized test-asan test-tsan lint format stubs docs bench bench-smoke dist site screenshot clean

help:  ## show this list
	@echo 'usage: make TARGET [ARGS="..."]'
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

demo: $(VENV)/.installed  ## pull a model in a second process; ARGS="--size-mb 512"
	$(BIN)/yr-fastload demo $(ARGS)

ifneq ($(ARGS),)
test: $(VENV)/.develop
	$(BIN)/python -m pytest $(ARGS)
else
test: $(VENV)/.develop  ## all tests; with ARGS="-k plan" only those without vLLM
	@mkdir -p build  # tests wait much of the time: what later ones need is made meanwhile
	@nice -n 19 $(AGAIN) test-environments >build/environments.log 2>&1 & made=$$!; \
	trap 'kill $$made' INT TERM; \
	$(BIN)/python -m pytest --ignore=$(LIFETIME); status=$$?; \
	wait $$made || { cat build/environments.log >&2; exit 1; }; exit $$status
	@$(AGAIN) test-sanitized test-vllm
endif

test-environments: build/asan/.develop build/tsan/.develop
	@$(if $(VLLM_HERE),$(AGAIN) .venv-vllm/.develop)

chaos: $(VENV)/.develop  ## ten minutes of faults; SEED=2 ROUNDS=150 ARGS="--only 17"
	$(BIN)/python -m chaos --seed $(SEED) --rounds $(ROUNDS) $(ARGS)

test-vllm:  ## tests/e2e with real vLLM on the CPU; ARGS="-k tensor"
	@$(if $(VLLM_HERE), \
	  $(AGAIN) .venv-vllm/.develop && .venv-vllm/bin/python -m pytest tests/e2e $(ARGS), \
	  echo "vLLM 0.32.0 needs Python 3.11: tests/e2e left out; name one by PYTHON=...")

test-vllm-matrix:  ## tests/e2e with older versions of vLLM: 13 GB, an hour
	@for version in $(VLLM_OLDER); do \
	  $(AGAIN) .venv-vllm-$$version/.develop && \
	  .venv-vllm-$$version/bin/python -m pytest tests/e2e $(ARGS) || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "tests/e2e failed with vLLM$$failed" >&2; exit 1; }

test-sanitized: build/asan/.develop build/tsan/.develop  ## the most important part of the next two, in minutes
	$(ASAN) $(LIFETIME) $(THREADED)
	$(TSAN) $(THREADED)

test-asan: build/asan/.develop  ## tests under AddressSanitizer and UBSan
	$(ASAN) $(ARGS)

test-tsan: build/tsan/.develop  ## threaded parts under ThreadSanitizer
	$(TSAN) $(THREADED)
	$(TSAN) tests/sim/test_runtime_*.py
	$(TSAN) tests/sim/test_d2d.py -k "bytes_arrive or numpy_arrays or faults_of or damaged or another_source"
	TSAN_OPTIONS=detect_deadlocks=0 $(TSAN) $(LIFETIME)

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

bench: $(VENV)/.develop  ## all benchmarks, 25 minutes; ARGS="--sections host"
	$(BIN)/python -m pip install --quiet '.[bench]'
	[ ! -x .venv-vllm/bin/python ] || .venv-vllm/bin/python -m pip install --quiet fastsafetensors 'runai-model-streamer>=0.17'
	$(BIN)/python -m benchmarks $(ARGS)

bench-smoke: $(VENV)/.develop  ## two minutes; fails if a ratio is down by 30 %
	$(BIN)/python -m benchmarks.smoke $(ARGS)

# The wheel is built from the sdist, which so has to have all of it.
dist: $(VENV)/.develop  ## sdist and wheel into dist/, and the demo from that wheel
	rm -rf dist build/dist
	$(BIN)/python -m pip install --quiet 'build>=1.2' 'twine>=6.0'
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

define make-venv
@./tools/check-python $(PYTHON)
$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)
endef

$(VENV)/bin/python .venv-vllm/bin/python:
	$(make-venv)

.PRECIOUS: .venv-vllm-%/bin/python
.venv-vllm-%/bin/python:
	$(make-venv)

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	@touch $@

$(VENV)/.develop: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[test,lint,serve,ray,yr,docs]'
	@touch $@ $(VENV)/.installed

define install-vllm
$(1)/bin/python -m pip install --quiet --no-deps -r $(2)
$(1)/bin/python tools/fit-vllm
$(1)/bin/python -m pip install --quiet --no-deps .
@touch $(1)/.develop
endef

.venv-vllm/.develop: requirements/vllm-0.32.0.lock.txt .venv-vllm/bin/python tools/fit-vllm $(SOURCES)
	$(call install-vllm,.venv-vllm,$<)

.venv-vllm-%/.develop: requirements/vllm-%.lock.txt .venv-vllm-%/bin/python tools/fit-vllm $(SOURCES)
	$(call install-vllm,.venv-vllm-$*,$<)

# The native module once more, built with sanitizers, in a folder that comes first in Python's path; there it looks for
# openYuanrong beside it.
asan := address,undefined
tsan := thread
build/asan/.develop build/tsan/.develop: build/%/.develop: $(VENV)/.develop
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) -Cbuild-dir=build/cmake-$* \
	  -Ccmake.build-type=RelWithDebInfo -Ccmake.define.YRFL_SANITIZE=$($*) .
	ln -sfn "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/yr" $(@D)/yr
	@touch $@
