# `make help` lists what there is.

SHELL := bash
.DEFAULT_GOAL := help

# Passed to the server by `make run`: make run ARGS='--listen 127.0.0.1:9000'
ARGS ?=
# Accelerators of this machine: make run FEATURES=cuda
FEATURES ?=
RELEASE := cargo build --release --bin hedge $(if $(FEATURES),--features $(FEATURES))

.PHONY: help setup run test check bench docker image-steps

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the system packages a build needs (Debian, Ubuntu)
	@scripts/setup.sh build

run: setup ## Build for this machine and serve on 127.0.0.1:8787
	$(RELEASE)
	target/release/hedge serve $(ARGS)

test: ## Run the whole suite, real inference and both SDKs included
	@scripts/test.sh

check: ## Type-check everything in seconds, without a C++ compiler
	cargo check --workspace --no-default-features --all-targets

bench: setup ## Measure what hedge adds to a request, against direct and nginx
	$(RELEASE)
	cargo build --release -p loadtest
	target/release/loadtest bench --hedge target/release/hedge --out loadtest/out/bench.json $(ARGS)

docker: ## Build the container image
	docker build -t hedge .

image-steps: setup ## Run the image's build steps in a clean folder, where no engine is
	@scripts/image-steps.sh
