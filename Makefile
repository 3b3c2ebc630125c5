# Cove. `make demo` runs two web servers side by side; `make test` passes the tests.
# Both install what they need first, system packages included.

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup setup-test demo test test-guest check bench clean

help:
	@echo "make demo    two nginx containers, both on port 80, and what each of them sees"
	@echo "make test    all tests (root, a real kernel)"
	@echo "make test-guest  the runtime's and the limits' tests in an emulated Debian with cgroup v2 and systemd"
	@echo "make check   ruff, mypy --strict, import rules"
	@echo "make bench   Cove beside dockerd and podman, as ratios"

setup: $(VENV)/.done
	@tools/install-packages run

setup-test: $(VENV)/.done
	@tools/install-packages run test guest

$(VENV)/.done: pyproject.toml setup.py src/cove/runtime/native/stub.c tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@

demo:
	@[ "$$(id -u)" = 0 ] || command -v sudo >/dev/null || { echo "make demo needs root: namespaces, mounts and control groups of the host are made by it. Run it as root or install sudo."; exit 1; }
	@$(MAKE) --no-print-directory setup
	@$(SUDO) $(BIN)/python tools/demo.py

test: setup-test
	$(SUDO) $(BIN)/python -m pytest $(PYTEST_ARGS)

# Arguments of tools/guest.py: other tests, --cpus 2, --accel kvm, …
GUEST_ARGS ?=

test-guest: $(VENV)/.done
	@tools/install-packages guest
	$(SUDO) $(BIN)/python tools/guest.py $(GUEST_ARGS)

check: $(VENV)/.done
	$(BIN)/ruff check src tests tools bench
	$(BIN)/ruff format --check src tests tools bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup
	@tools/install-packages bench
	@$(BIN)/python -m compileall -q src
	$(SUDO) $(BIN)/python bench/bench.py $(BENCH_ARGS)
	$(SUDO) $(BIN)/python bench/images.py $(BENCH_IMAGES_ARGS)

clean:
	rm -rf $(VENV) build dist src/cove/runtime/native/stub .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
