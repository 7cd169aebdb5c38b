PYTHON ?= python
export OMP_WAIT_POLICY := passive

.PHONY: help install test sanitize lint bench gpu docs
help:  ## Show the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 15

install:  ## Install for development, with every tool
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"

test:  ## Run the tests
	$(PYTHON) -m pytest

sanitize:  ## Test the kernels under GCC's address, undefined-behaviour and thread sanitizers
	PYTHON=$(PYTHON) .ci/sanitize

lint:  ## Check style, types and spelling
	.ci/lint

bench:  ## Measure this machine: ratios to benchmarks/results/cpu.json, then into docs/
	$(PYTHON) -m pytest benchmarks/ --ignore=benchmarks/gpu --benchmark-only --benchmark-columns=min,median,rounds --results benchmarks/results/cpu.json
	$(PYTHON) -m docs.measured

gpu:  ## Build for the GPU at hand, test on it and measure it, into docs/; PEERS=folder compiles others' sources first
	PYTHON=$(PYTHON) benchmarks/gpu/run; status=$$?; $(PYTHON) -m docs.measured; exit $$status

docs:  ## Write the measured tables of docs/ from benchmarks/results/
	$(PYTHON) -m docs.measured
