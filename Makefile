# make demo   sets up, then compiles, runs and checks Swin-T
# make test   sets up, then runs the tests
# PYTHON=python3.12 and CXX=clang++ choose other tools; PIP_* variables and pip.conf choose an index.

PYTHON ?= python3
CXX ?= g++
VENV := .venv
BIN := $(VENV)/bin
comma := ,
export CXX

# What the installed package is made of: when one of these changes, `make setup` installs again.
CXX_FILES := $(wildcard smartmem_tvm/runtime/src/*.cc smartmem_tvm/runtime/src/*.h) \
  $(wildcard smartmem_tvm/simulation/src/*.cc smartmem_tvm/simulation/src/*.h)
BUILD_INPUTS := pyproject.toml setup.py Makefile $(CXX_FILES) \
  $(wildcard passes/__init__.py schedules/__init__.py zoo/__init__.py)
PY_DIRS := smartmem_tvm passes schedules zoo tests docs examples benchmarks setup.py

.PHONY: setup demo test test-slow check-zoo check-kernels fuzz fuzz-kernels onnx-nodes lint format sanitize docs clean
.DELETE_ON_ERROR:

setup: $(VENV)/.installed

demo: setup
	$(BIN)/smartmem check zoo:swin

# make test ARGS='tests/passes -x'   a part of them
test: setup
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Every model of the zoo, micro and small, on the OpenCL drivers here; goes on from where it was.
# make check-zoo ARGS='--drivers pocl'   benchmarks/check_zoo.py --help has the options
check-zoo: setup
	$(BIN)/python benchmarks/check_zoo.py $(ARGS)

# 2,000 random graphs against NumPy; what fails is saved in build/fuzz, minimised.
# make fuzz ARGS='--seed 7 --count 500 --mode device'   tests/fuzz/run_fuzz.py has the options
fuzz: setup
	$(BIN)/python tests/fuzz/run_fuzz.py $(ARGS)

# 1,000 random kernels as the schedule rules make them, against NumPy; what fails is in build/kernels.
# make fuzz-kernels ARGS='--driver pocl --seed 7'   tests/fuzz/run_kernels.py has the options
fuzz-kernels: setup
	$(BIN)/python tests/fuzz/run_kernels.py $(ARGS)

# Limits, bindings and generated source of every kernel of the zoo, for every device profile.
# make check-kernels ARGS='--sizes full --profiles cpu'   benchmarks/check_kernels.py has the options
check-kernels: setup
	$(BIN)/python benchmarks/check_kernels.py $(ARGS)

# ONNX's node tests through this pipeline and TVM's default one; goes on from where it was.
# make onnx-nodes ARGS='--every 4'   tests/onnx_backend/run_onnx_nodes.py has the options
onnx-nodes: setup
	$(BIN)/python tests/onnx_backend/run_onnx_nodes.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(wildcard $(PY_DIRS))
	$(BIN)/ruff format --check $(wildcard $(PY_DIRS))
	$(BIN)/mypy
	$(if $(CXX_FILES),$(BIN)/clang-format --dry-run --Werror $(CXX_FILES))
	$(BIN)/shellcheck .ci/run tests/runtime/*.sh

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(wildcard $(PY_DIRS))
	$(BIN)/ruff format $(wildcard $(PY_DIRS))
	$(if $(CXX_FILES),$(BIN)/clang-format -i $(CXX_FILES))

# The runtime's tests against a build with address and undefined-behaviour checks.
sanitize: setup
	bash tests/runtime/run_sanitized.sh

docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f smartmem_tvm/runtime/libsmartmem_opencl.so smartmem_tvm/simulation/libsmartmem_caches.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call require,COMMAND,MESSAGE): one clear line when a prerequisite is missing.
define require
	@$(1) >/dev/null 2>&1 || { echo "make setup: $(2)" >&2; exit 1; }
endef

# Packages. The mark .building stays behind when this is interrupted, and the next run then
# starts from an empty environment; an environment without the mark is kept and completed.
$(VENV)/.packages: requirements.txt
	$(call require,command -v $(PYTHON),no '$(PYTHON)': install Python 3.10 or later (Debian$(comma) Ubuntu: apt install python3 python3-venv))
	$(call require,$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3$(comma) 10))','$(PYTHON)' is older than Python 3.10: name a newer one$(comma) as in 'make setup PYTHON=python3.12')
	$(call require,$(PYTHON) -c 'import ensurepip$(comma) venv',Python's venv module is incomplete (Debian$(comma) Ubuntu: apt install python3-venv))
	$(call require,command -v $(firstword $(CXX)),no C++ compiler '$(CXX)': install one (Debian$(comma) Ubuntu: apt install g++) or name it in CXX)
	@if [ -e $(VENV)/.building ]; then \
	  echo "make setup: the last one was interrupted; starting anew"; rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.building
	@echo "make setup: installing packages into $(VENV) (1.5 GB, about a minute)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@rm -f $(VENV)/.building
	@touch $@

# The package itself, editable; this compiles the C++ libraries.
$(VENV)/.installed: $(VENV)/.packages $(BUILD_INPUTS)
	$(call require,command -v $(firstword $(CXX)),no C++ compiler '$(CXX)': install one (Debian$(comma) Ubuntu: apt install g++) or name it in CXX)
	@echo "make setup: compiling the OpenCL runtime and the cache model"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --editable .
	@test -x $(BIN)/smartmem
	@if [ "$$(uname -m)" != x86_64 ] && ! ls /etc/OpenCL/vendors/*.icd >/dev/null 2>&1; then \
	  echo "make setup: no OpenCL driver from PyPI for $$(uname -m): apt install pocl-opencl-icd"; fi
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

