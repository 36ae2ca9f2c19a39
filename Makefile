PYTHON ?= python3
VENV ?= .venv
WHEEL_FLAGS ?=
TEST_PROCESSES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CXX_SOURCES := $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.inl')
SOURCES := $(shell find csrc goskill kernels bench -type f -not -path '*/__pycache__/*' -not -path 'bench/results/*') \
           CMakeLists.txt pyproject.toml constraints.txt

.PHONY: demo install test lint sanitize format packaging docs wheels clean

demo: $(VENV)/wheel  ## everything a newcomer needs: install, then watch GO-Skill learn five tasks
	$(BIN)/goskill quickstart

install: $(VENV)/wheel

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first: a CPU build that is already there must not be replaced by the dependencies of another package.
$(VENV)/wheel: $(BIN)/python $(SOURCES)
	$(PIP) install -q -c constraints.txt torch
	rm -rf build/wheel && $(PIP) wheel -q --no-deps $(WHEEL_FLAGS) -c constraints.txt -w build/wheel .
	$(PIP) install -q -c constraints.txt build/wheel/*.whl
	$(PIP) install -q --force-reinstall --no-deps build/wheel/*.whl
	touch $@

$(VENV)/test: $(VENV)/wheel
	$(PIP) install -q -c constraints.txt "$$(ls build/wheel/*.whl)[dev]"
	touch $@

# From outside the source tree, so that what is tested is the installed wheel. The Triton interpreter changes how
# kernels are compiled for a whole process, so its tests run in processes of their own. Each process has one thread.
test: $(VENV)/test
	root=$$PWD; python=$$(cd $(BIN) && pwd)/python; cd "$$(mktemp -d)" && export OMP_NUM_THREADS=1 && \
	  pytest="$$python -m pytest -q -p no:cacheprovider -n $(TEST_PROCESSES) --dist loadfile --durations 25 \
	    -c $$root/pyproject.toml --rootdir $$root" && \
	  $$python $$root/scripts/try_wheel.py && \
	  $$pytest $$root/tests && TRITON_INTERPRET=1 $$pytest -m interpret $$root/tests

lint: $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_SOURCES)

packaging: $(VENV)/test  ## the sdist, a wheel built from it, an editable install
	PYTHON=$(BIN)/python bash tests/packaging.sh

$(VENV)/docs: $(VENV)/test
	$(PIP) install -q -c constraints.txt "$$(ls build/wheel/*.whl)[docs]"
	touch $@

docs: $(VENV)/docs  ## the site in build/site, strictly: no link leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

wheels:  ## an sdist and manylinux_2_28 wheels in dist/, one per interpreter in PYTHONS
	bash scripts/wheels.sh

sanitize:  ## the native reader and samplers under address, undefined-behaviour and thread sanitizers, and fuzzed
	bash tests/csrc/sanitize.sh

clean:
	rm -rf build dist $(VENV) runs
