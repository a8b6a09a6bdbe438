"""Namespaces for a benchmark: names, sockets' paths and interfaces that are its own."""

import os
import sys
from pathlib import Path


def enter_namespaces(script):
    """Runs the script again inside; returns there."""
    if os.environ.get("PEERD_BENCH_INSIDE"):
        return
    name = Path(script).name
    if os.geteuid() != 0:
        why = "it makes network namespaces and TUN devices"
        sys.exit(f"{name}: needs root\n  why: {why}\n  try: sudo tests/bench/{name}")
    inside = 'mount -t tmpfs none /run && mkdir -p /run/netns /run/wireguard && ip link set lo up && exec "$@"'
    os.environ["PEERD_BENCH_INSIDE"] = "1"
    command = ["sh", "-c", inside, "sh", sys.executable, str(Path(script).resolve()), *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "-nm", "--propagation", "private", *command])
