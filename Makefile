# Every target prints what it does; `make help` lists them. A fresh machine needs Python >= 3.11, git and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
ARGS ?=

.PHONY: help install components cluster-tools lock demo test test-unit test-operator test-observability dashboard-pictures test-slurm test-soak soak e2e e2e-faults lint format types imports docstrings spelling package \
	bench-fullsize bench-plan bench-loop bench-gpu bench-loss bench-upload bench-restore bench-stream bench-operator chart chart-files deploy images clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv from the locked requirements (hashes checked); nothing happens when it is up to date

$(INSTALLED): requirements/dev.lock pyproject.toml tools/install.sh
	@tools/install.sh "$(PYTHON)" "$(VENV)" requirements/dev.lock
	@touch $@

components: install ## build the servers that the tests talk to, once (~/.cache/sam3ft), and install what they need
	@$(BIN)/python tools/components/components.py build
	@tools/components/system.sh || echo "components: tests that need them will fail, and say so" >&2

cluster-tools: install ## of those, only what makes a Kubernetes control plane (tools/cluster/cluster up|down|status)
	@$(BIN)/python tools/components/components.py build etcd kubernetes kwok

lock: ## write requirements/*.lock from pyproject.toml (ARGS=--upgrade for the newest versions)
	@tools/lock.sh $(ARGS)

demo: install ## fine-tune a tiny model on real images, score it, export it, write report.html (about 7 minutes)
	@$(BIN)/sam3ft run examples/blood-cells.yaml $(ARGS)

test: install components ## every test but the soak, on all cores; then by itself what measures time; then real nodes
	@tools/test.sh "$(BIN)/python" $(ARGS)

test-unit: install ## the quick tests, at most 5 minutes
	@$(PYTEST) tests/unit -m "not slow and not soak" $(ARGS)

test-operator: install components ## all tests of the operator: its parts, what it decides, and on real control planes
	@$(PYTEST) tests/unit/engine tests/unit/decide tests/unit/kubernetes tests/property/test_decide_model.py \
		tests/integration/cluster tests/integration/operator_real -m "not soak" $(ARGS)

test-observability: install components ## metrics, alerts and dashboards, with a real Prometheus that scrapes real runs
	@$(PYTEST) tests/observability tests/unit/engine/test_engine_metrics.py tests/unit/coordinator/test_metrics_page.py \
		tests/unit/coordinator/test_coordinator_metrics.py tests/integration/cli/test_metrics_example.py $(ARGS)

dashboard-pictures: install components ## draw the dashboards from live data, for the docs (needs chromium)
	@tools/dashboard_pictures.sh $(BIN)/python docs/images

test-slurm: install components ## the SLURM backend, on real two-node sites: slurmctld, slurmd and munged as this user
	@$(PYTEST) tests/unit/slurm tests/integration/slurm tests/contract -m "not soak" -k "slurm" $(ARGS)

e2e: install components ## from helm install to a model that loads, on real nodes, told as a story (root; gigabytes)
	@$(PYTEST) tests/e2e/test_from_install_to_model.py -m nodes -s -p no:randomly $(ARGS)

e2e-faults: install components ## the same nodes: how a run begins, what clusters do to it, what people get wrong, an upgrade on the way
	@$(PYTEST) tests/e2e/test_beginnings.py tests/e2e/test_faults.py tests/e2e/test_mistakes.py tests/e2e/test_upgrade.py -m soak -s -p no:randomly $(ARGS)

soak: install components ## tests whose counts are too large for every change
	@$(PYTEST) -m soak --timeout=7200 $(ARGS)

test-soak: soak ## the same as soak

lint: install ## ruff: rules and format; shell syntax
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@for script in .ci/run tools/*.sh tools/components/*.sh tools/chart/*.sh tools/images/*.sh tools/cluster/cluster; do bash -n "$$script"; done

format: install ## let ruff mend what it can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: install ## mypy, strict
	@$(BIN)/mypy

imports: install ## import-linter: who may import whom
	@$(BIN)/lint-imports

docstrings: install ## interrogate: every public name is documented
	@$(BIN)/interrogate --quiet crds trainer operator && echo "every public name has a docstring"

spelling: install ## codespell
	@$(BIN)/codespell crds trainer operator tests/unit tests/contract tests/integration docs examples tools .ci \
		Makefile pyproject.toml *.md

package: install ## build the wheel and the source archive, and look into them
	@$(BIN)/python tools/check_package.py

images: ## build both images with docker, podman or buildah; sizes, layers, bills of materials (ARGS="operator --tag 1.0")
	@$(PYTHON) tools/images/images.py build $(ARGS)

chart-files: install ## write what the chart takes from the code: definition, rules, schema, tables
	@$(BIN)/python tools/chart/generate.py

chart: ## pack charts/sam3ft into dist/
	@tools/chart/helm.sh "$(PYTHON)" package charts/sam3ft --destination dist

deploy: ## install or upgrade charts/sam3ft in your kubeconfig's cluster (NAMESPACE=sam3ft-system, ARGS="-f values.yaml")
	@tools/chart/helm.sh "$(PYTHON)" upgrade --install sam3ft charts/sam3ft \
		--namespace "$(or $(NAMESPACE),sam3ft-system)" --create-namespace --wait $(ARGS)

bench-fullsize: install ## one training step of the 840 M model at 1008 px on the CPU: memory and FLOPs against the plan
	@$(BIN)/python -m benchmarks.fullsize $(ARGS)

bench-plan: install ## CPU seconds of planning a step's memory, beside the same without a memory of shapes
	@$(BIN)/python -m benchmarks.planning $(ARGS)

bench-loop: install ## share of a step that is neither forward, backward nor optimizer; loader images/s/core
	@$(BIN)/python -m benchmarks.loop $(ARGS)

bench-gpu: install ## images/s, share of the bf16 peak and memory on a GPU, by mode, phrases and micro-batch
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-stream: install ## loader images/s/core from a real S3 server at 30 ms a request, beside boto3 (ARGS=--latency-ms=100)
	@$(BIN)/python -m benchmarks.stream $(ARGS)

bench-upload: install components ## a save's upload beside bare obstore and boto3: speed, memory, busy trainer, stall
	@$(BIN)/python -m benchmarks.upload $(ARGS)

bench-restore: install components ## seconds of a verified restore: from a bucket, from the node's copy, shared by two processes
	@$(BIN)/python -m benchmarks.restore $(ARGS)

bench-operator: install cluster-tools ## many runs on a real control plane: latencies, requests, memory of the operator (about half an hour)
	@$(BIN)/python -m benchmarks.operator_scale $(ARGS)

bench-metrics: install ## what metrics cost: a step of the trainer, a scrape of a coordinator and of an operator
	@$(BIN)/python -m benchmarks.metrics $(ARGS)

bench-loss: install ## time and memory of losses and matchers by number of objects
	@$(BIN)/python -m benchmarks.loss $(ARGS)

clean: ## remove caches and build results; .venv and runs/ stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
