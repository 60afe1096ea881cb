# Every command of the README is one of these or `python -m jax_irkd.…`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
VERSION = $(shell $(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])')
JAXLIB = $(shell $(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)')
LOCK = $(wildcard requirements/$(VERSION).txt)
SOURCES := jax_irkd configs tfds_builders tests benchmarks examples docs/site
DEMO := runs/demo
DATA := runs/demo_data
PAIRS := ntu_rgbd_ir/ten
TRAIN := $(BIN)/python -m jax_irkd.main --workdir=$(DEMO) --config=configs/demo.py

FILM := $(BIN)/python -m jax_irkd.data.synthetic
BUILD := $(BIN)/python -m jax_irkd.build
# NTU's training subjects, and 7 of the 20 that test.
DEMO_SUBJECTS := 1-20,25,27,28,31,34,35,38
TEST_SUBJECTS := 3,6,7,10,11,12,20-24,26,29,30,32,33,36,37,39,40
DISTILLED ?= fitnet
# Of the tests: one more than two cores, as some of them wait.
WORKERS ?= 3

.PHONY: setup shell demo large-data gesture-data untrimmed-data start-weights test test-fast lint format docs chaos bench gpu-check gpu-check-quick gpu-wheels clean

setup: $(VENV)/.core
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/.core: pyproject.toml $(wildcard requirements/*.txt) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable . $(addprefix --constraint ,$(LOCK))
	touch $@
$(VENV)/.test: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[test,tfds-cli,onnx,openvino]' $(addprefix --constraint ,$(LOCK))
	touch $@
$(VENV)/.docs: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[docs]' $(addprefix --constraint ,$(LOCK))
	touch $@

# A shell in which `python` is the one that everything is installed for.
shell: setup
	@printf '[ -f ~/.bashrc ] && . ~/.bashrc\n. "%s"\n' "$(abspath $(BIN))/activate" > $(VENV)/.shellrc
	@echo "python is $(BIN)/python here; exit leaves"
	@bash --rcfile $(VENV)/.shellrc -i

demo: setup
	$(FILM) --out=$(DATA)/raw --subjects=$(DEMO_SUBJECTS)
	$(BUILD) $(PAIRS) --manual_dir=$(DATA)/raw --data_dir=$(DATA)/tfds
	$(TRAIN):method=baseline
	$(TRAIN):method=$(DISTILLED)

# 600 training and 1,200 test clips of people nothing was tuned on: --config=configs/demo.py:data=large
large-data: setup
	$(FILM) --out=runs/large_data/raw --seed=2 --subjects=1-40
	$(FILM) --out=runs/large_data/raw --seed=2 --subjects=$(TEST_SUBJECTS) --repetitions=2
	$(BUILD) $(PAIRS) --manual_dir=runs/large_data/raw --data_dir=runs/large_data/tfds

# Clips of another kind: --config=configs/demo.py:data=gestures
gesture-data: setup
	$(BIN)/python -m jax_irkd.data.synthetic.gestures --out=runs/gestures_data/raw
	$(BUILD) folder_ir --manual_dir=runs/gestures_data/raw --data_dir=runs/gestures_data/tfds

# Untrimmed films, and one more class, of nothing: --config=configs/demo.py:data=untrimmed
untrimmed-data: setup
	$(FILM).untrimmed --out=runs/untrimmed_data/raw
	$(BUILD) pku_mmd_ir --background --manual_dir=runs/untrimmed_data/raw --data_dir=runs/untrimmed_data/tfds

# The weights that the demo starts from, of other people than the demo's
start-weights: setup
	$(FILM) --out=runs/start_data/raw --subjects=1-40 --seed=1
	$(BUILD) $(PAIRS) --manual_dir=runs/start_data/raw --data_dir=runs/start_data/tfds
	$(BIN)/python -m jax_irkd.main --config=configs/demo.py:data=start,method=teacher --workdir=runs/start
	$(BIN)/python -m jax_irkd.weights save --run=runs/start/teacher \
		--out=jax_irkd/weights/shipped/demo_resnet18.safetensors

# Kept even where images of containers say not to: dozens of processes import the package.
test test-fast chaos: export PYTHONDONTWRITEBYTECODE =

# A file stays with one worker, which compiles its programs once; the order is tests/conftest.py's.
PYTEST := $(BIN)/python -m pytest --dist=loadfile --no-loadscope-reorder
test: $(VENV)/.test
	$(PYTEST) -n $(WORKERS)

# Without what takes long; every room has tests left.
test-fast: $(VENV)/.test
	$(PYTEST) -n 2 -m 'not slow'

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo built build/site/index.html

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

chaos: $(VENV)/.test
	CHAOS=1 $(BIN)/python -m pytest tests/training/test_chaos.py tests/training/test_full_disk.py tests/training/test_methods.py tests/surprises/test_mutations.py --timeout=3600 -v

# Half of docs/performance.md in a quarter of an hour; ARGS=--all: the rest too, ARGS=--quick: two minutes.
bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

# Compiles every program for GPUs and a TPU that are not here: an hour or more on two cores.
gpu-check: gpu-wheels build/tpu/.ready
	PYTHONPATH=build/gpu:build/tpu $(BIN)/python -m benchmarks.gpu_check $(ARGS)
# The student's and the teacher's update for an H100, two minutes: what CI compiles.
gpu-check-quick: gpu-wheels
	PYTHONPATH=build/gpu $(BIN)/python -m benchmarks.gpu_check --quick $(ARGS)
# JAX's compiler for GPUs without what only a GPU needs: 0.3 GB of wheels for 4 GB.
gpu-wheels: build/gpu/.ready
build/gpu/.ready: $(VENV)/.core
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) $(addprefix --constraint ,$(LOCK)) \
		$(addsuffix ==$(JAXLIB),jax-cuda12-plugin jax-cuda12-pjrt) nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12
	touch $@
build/tpu/.ready: $(VENV)/.core
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) libtpu
	touch $@

clean:
	rm -rf runs/demo runs/demo_data
