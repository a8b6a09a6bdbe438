# Shortcuts. `tests/run` is what counts: it needs no just.

# Everything that is checked
test:
    tests/run

# The core without the shell, then its tests
core:
    cargo check -p peerd --lib --no-default-features
    cargo nextest run -p peerd --lib --no-default-features

# Hosts, containers and cables in namespaces; a name picks tests
netns *name:
    cargo build -p peerctl
    cargo nextest run -p netns-tests {{ name }}

# Three nodes on this machine
demo *args:
    cargo run --release -p peerctl -- demo {{ args }}

# What a packet costs, then peerd beside other programs; needs root and a quiet machine
bench *args:
    cargo bench -p peerd
    cargo build --release -p peerctl
    sudo tests/bench/compare {{ args }}
    sudo tests/bench/node same
    sudo tests/bench/node growth

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Takes the new snapshots; look at the difference before it is committed
snapshots:
    INSTA_UPDATE=always cargo test -p peerd

# Licences and sources, and the advisory database from the network
audit:
    cargo deny check
