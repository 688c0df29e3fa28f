# make demo    the whole road on this machine: installs what is missing, builds, runs, shows, waits for Ctrl-C
# make test    every test, with the servers they need: installs those too
# make simulate  the cache-sync simulation: SEEDS=10000 seeds from SEED=0 on; SEEDS=1 SEED=n runs one again
# make scale   a sitemap of PAGES=20000000 made-up pages in PARTS=4 parts on the local cloud; tells what each part took
# make check   format, lints, fuzz targets, documentation, licences, Terraform
# make bench   benchmarks, one JSON object a line (ONLY=replay runs a part)
# make fuzz    the decoders on made-up input, FUZZ_SECONDS=60 for each target; needs cargo-fuzz
#
# Settings of the demo: ONCE=1 ends after the summary, PAGES=4000000 adds made-up pages to the page table,
# TIDEMARK_LOCAL_PORT, TIDEMARK_REDIS_US_EAST_1_PORT and TIDEMARK_REDIS_AP_NORTHEAST_2_PORT choose ports.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BENCHES := decode replay sitemap
SHELL := bash
export ONCE PAGES ONLY

.PHONY: all prerequisites test-prerequisites build demo test simulate scale check bench fuzz
all: check test

prerequisites:
	@infra/local/prerequisites

# Other servers too, which the demo does not need.
test-prerequisites:
	@infra/local/prerequisites tests

build: prerequisites
	$(CARGO) build --release --locked --workspace --bins

# exec: a TERM that make passes on reaches the demo itself.
demo: build
	@exec $(TARGET)/release/demo

# Binaries and tests in one go: what tests alone depend on changes features of other crates, and all would be compiled
# twice. What only the tests need is brought meanwhile, since compiling needs none of it; where that failed it is tried
# once more, so that why stands at the end.
test: prerequisites
	@infra/local/prerequisites tests & brought=$$!; \
	  $(CARGO) build --release --locked --workspace --bins --tests && \
	  { wait $$brought || infra/local/prerequisites tests; }
	$(CARGO) test --release --locked --workspace

# What the code under test prints is not wanted here; failures and the summary go to standard error.
simulate: prerequisites
	$(CARGO) build --release --locked --workspace --bin simulate
	@$(TARGET)/release/simulate $(or $(SEEDS),10000) $(or $(SEED),0) >/dev/null

scale: build
	@exec $(TARGET)/release/scale $(or $(PAGES),20000000) $(or $(PARTS),4)

# The fuzz targets compile the decoders without their crate, and nobody else does.
check: prerequisites
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	cd fuzz && $(CARGO) check --locked --quiet
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --quiet
	@for part in licences terraform; do \
	  if [ -x .ci/$$part ]; then .ci/$$part || exit 1; \
	  else echo "check: NOT RUN: .ci/$$part is not there" >&2; fi; \
	done

# Only the benchmarks' JSON lines go to standard output, without the metrics that the measured code prints; everything
# else goes to standard error.
bench: test-prerequisites
	@set -o pipefail; for bench in $(BENCHES); do \
	  $(CARGO) bench --quiet --locked --workspace --bench $$bench -- $(ONLY) | grep --line-buffered -v '"_aws"' \
	    || [ $${PIPESTATUS[0]} -eq 0 ] || exit 1; \
	done

# The pinned toolchain, not a nightly one: the sanitizer's switches are all that is unstable.
FUZZ_SECONDS ?= 60
fuzz:
	@command -v cargo-fuzz >/dev/null || { echo "fuzz: cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@for target in record frame kpl; do \
	  ( cd fuzz && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 ) || exit 1; \
	done
