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

# The published figures of docs/reliability.md; takes hours, alone on the machine. A name picks tests
soak *name:
    cargo build --release -p peerctl
    PEERD_SOAK=1 PEERCTL_BIN="$PWD/target/release/peerctl" cargo nextest run --profile soak --no-capture -p netns-tests \
        {{ if name == "" { "survival bad_line disk sabotage cycles cuts many restart down expel gate" } else { name } }}

# Three nodes on this machine
demo *args:
    cargo run --release -p peerctl -- demo {{ args }}

# What a packet costs, peerd beside other programs, containers of one node; needs root and a quiet machine
bench *args:
    cargo bench -p peerd
    cargo build --release -p peerctl
    sudo tests/bench/compare {{ args }}
    sudo tests/bench/node same
    sudo tests/bench/node growth

# The resolver beside dnsmasq and unbound, and what a container costs; needs root, dnsperf and a quiet machine
bench-names *args:
    cargo build --release -p peerd -p peerctl --bins --example crowd
    sudo tests/bench/dns {{ args }}

# The way in beside nginx alone, ssh and socat; needs root, nginx, wrk, iperf3 and a quiet machine
bench-ingress *args:
    cargo build --release -p peerd -p peerctl --bins --example gateway
    sudo tests/bench/ingress {{ args }}
    sudo unshare -nmpf --mount-proc --kill-child target/release/examples/gateway

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Makes up bytes for a target of tests/fuzz for so many seconds; what is new stays in target/fuzz
fuzz target seconds="60":
    mkdir -p target/fuzz/found/{{ target }} target/fuzz/crashes
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none {{ target }} \
        target/fuzz/found/{{ target }} tests/fuzz/corpus/{{ target }} -- \
        -max_total_time={{ seconds }} -max_len=4096 -rss_limit_mb=1024 -artifact_prefix=target/fuzz/crashes/

# The cluster under faults in virtual time, through so many seeds from one on
sim seeds="10000" first="0":
    tests/sim/seeds {{ seeds }} {{ first }}

# Plants faults and counts which of them the simulator finds
mutants seeds="60":
    tests/sim/mutants {{ seeds }}

# Writes the seeds of the fuzz targets anew, after a change of a format
seeds:
    rm -rf tests/fuzz/corpus
    PEERD_SEEDS=1 cargo test -p peerd --test corpus

# Takes the new snapshots; look at the difference before it is committed
snapshots:
    INSTA_UPDATE=always cargo test -p peerd

# Licences and sources, and the advisory database from the network
audit:
    cargo deny check
