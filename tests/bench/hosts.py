"""Two hosts joined by a cable, the programs that make a tunnel between them, and what is measured through it.

Everything runs in namespaces of its own (`compare` enters them), so names and addresses meet nobody else's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

UNDER = {"a": "10.77.0.1", "b": "10.77.0.2"}
INNER = {"a": "10.99.0.1", "b": "10.99.0.2"}
TICKS = os.sysconf("SC_CLK_TCK")
UP_SECONDS = 20


def run(*command, host=None, check=True, **more):
    if host:
        command = ("ip", "netns", "exec", f"host-{host}", *command)
    return subprocess.run(command, check=check, text=True, capture_output=True, **more)


def wait_for(condition, what, seconds=UP_SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise RuntimeError(f"{what} did not come within {seconds} s")


class Hosts:
    """Namespaces host-a and host-b with a cable, and the processes that were started on them."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="peerd-bench-"))
        self.daemons, self.others = [], []
        for host in UNDER:
            run("ip", "netns", "add", f"host-{host}")
        run("ip", "link", "add", "cable", "netns", "host-a", "type", "veth", "peer", "name", "cable", "netns", "host-b")
        for host, address in UNDER.items():
            run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", host=host, check=False)
            run("ip", "-n", f"host-{host}", "address", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                run("ip", "-n", f"host-{host}", "link", "set", link, "up")

    def start(self, host, *command, daemon=False):
        """Starts a program; the CPU time and memory of daemons are counted."""
        log = open(self.dir / f"{host}-{Path(command[0]).name}.log", "ab")
        process = subprocess.Popen(
            ["ip", "netns", "exec", f"host-{host}", *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "WG_SUDO": "1"},
        )
        (self.daemons if daemon else self.others).append(process)
        return process

    def close(self):
        processes = self.others + self.daemons
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for namespace in run("ip", "netns", "list").stdout.split():
            if namespace.startswith(("host-", "box-")):
                run("ip", "netns", "delete", namespace, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def cpu_seconds(self):
        total = 0
        for process in self.daemons:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_kib(self, key):
        """Of the daemon on one host: VmRSS, or VmHWM for the peak."""
        if not self.daemons:
            return None
        status = Path(f"/proc/{self.daemons[0].pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+)", status)[1])


# The programs. Each brings up a tunnel and returns the inner addresses of both hosts.


def raw(hosts, _):
    return UNDER


def peerd(hosts, binary, attach_hosts=True):
    socket = {host: hosts.dir / f"run-{host}/peerd.sock" for host in UNDER}

    def ctl(host, *words, check=True):
        return run(binary, "--quiet", "--socket", str(socket[host]), *words, check=check)

    for host, address in UNDER.items():
        state = hosts.dir / f"state-{host}"
        hosts.start(host, binary, "daemon", "--name", f"node-{host}", "--listen", f"{address}:51790",
                    "--state-dir", str(state), "--socket", str(socket[host]), daemon=True)
    for path in socket.values():
        wait_for(path.exists, "a control socket")
    ctl("a", "init")
    ctl("a", "network", "create", "bench")
    token = hosts.dir / "token"
    token.write_text(ctl("a", "invite", "--network", "bench").stdout)
    ctl("b", "join", f"@{token}")
    hosts.ctl = ctl
    if not attach_hosts:
        return {}
    attach = ("attach", "--app", "bench", "--netns")

    def attached(host):
        answer = ctl(host, *attach, f"/run/netns/host-{host}", check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    # A node that has just joined hears of its networks a moment later.
    return {host: wait_for(lambda host=host: attached(host), "an address") for host in UNDER}


def wireguard(program):
    def up(hosts, _):
        arguments = {
            "wireguard-go": ("wireguard-go", "-f"),
            "boringtun-cli": ("boringtun-cli", "-f", "--disable-drop-privileges"),
            "gotatun": ("gotatun", "-f", "--disable-drop-privileges", "-v", "error"),
        }[program]
        key, public = {}, {}
        for host in UNDER:
            hosts.start(host, *arguments, f"wg-{host}", daemon=True)
            key[host] = hosts.dir / f"key-{host}"
            key[host].write_text(run("wg", "genkey").stdout)
            public[host] = run("wg", "pubkey", input=key[host].read_text()).stdout.strip()
        for host, other in (("a", "b"), ("b", "a")):
            interface = f"wg-{host}"
            wait_for(Path(f"/var/run/wireguard/{interface}.sock").exists, f"{program}'s socket")
            run("wg", "set", interface, "private-key", str(key[host]), "listen-port", "51820", "peer", public[other],
                "allowed-ips", f"{INNER[other]}/32", "endpoint", f"{UNDER[other]}:51820", host=host)
            run("ip", "-n", f"host-{host}", "address", "add", f"{INNER[host]}/24", "dev", interface)
            run("ip", "-n", f"host-{host}", "link", "set", interface, "mtu", "1408", "up")
        return INNER

    return up


def nebula(hosts, _):
    folder = hosts.dir
    run("nebula-cert", "ca", "-name", "bench", cwd=folder)
    for host, other in (("a", "b"), ("b", "a")):
        run("nebula-cert", "sign", "-name", host, "-ip", f"{INNER[host]}/24", cwd=folder)
        anyone = [{"port": "any", "proto": "any", "host": "any"}]
        config = {
            "pki": {"ca": f"{folder}/ca.crt", "cert": f"{folder}/{host}.crt", "key": f"{folder}/{host}.key"},
            "static_host_map": {INNER[other]: [f"{UNDER[other]}:4242"]},
            "lighthouse": {"am_lighthouse": False, "hosts": []},
            "listen": {"host": "0.0.0.0", "port": 4242, "read_buffer": 4194304, "write_buffer": 4194304},
            "tun": {"dev": "neb", "mtu": 1408},
            "firewall": {"outbound": anyone, "inbound": anyone},
        }
        # JSON is YAML.
        (folder / f"{host}.yml").write_text(json.dumps(config))
        hosts.start(host, "nebula", "-config", str(folder / f"{host}.yml"), daemon=True)
    return INNER


PROGRAMS = {
    "peerd": ("peerctl", peerd),
    "gotatun": ("gotatun", wireguard("gotatun")),
    "boringtun-cli": ("boringtun-cli", wireguard("boringtun-cli")),
    "nebula": ("nebula", nebula),
    "wireguard-go": ("wireguard-go", wireguard("wireguard-go")),
    "raw veth": ("ip", raw),
}


# What is measured. `to` is an address on host b; the names are those of the table.


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else None


def ping(hosts, to, seconds, interval_s=0.01, source="a"):
    answer = run("ping", "-n", "-i", str(interval_s), "-w", str(seconds), to, host=source, check=False).stdout
    times = [float(value) for value in re.findall(r"time=([\d.]+) ms", answer)]
    return {f"p{p}_ms": percentile(times, p) for p in (50, 99)} | {"answers": len(times)}


def iperf(hosts, to, seconds, *options, source="a", sink="b"):
    """One run; returns its report, the daemons' CPU time, and what the sink's socket had to drop."""
    server = hosts.start(sink, "iperf3", "-s", "-1", "-B", to)
    wait_for(lambda: f"{to}:5201" in run("ss", "-Htln", host=sink).stdout, "iperf3's server")
    before = hosts.cpu_seconds()
    client = subprocess.Popen(
        ["ip", "netns", "exec", f"host-{source}", "iperf3", "-c", to, "-t", str(seconds), "-J", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    dropped, port = 0, f":{5201:04X} "
    while client.poll() is None and "-u" in options:
        lines = run("cat", "/proc/net/udp", host=sink).stdout.splitlines()
        dropped = max([dropped] + [int(line.split()[-1]) for line in lines if port in line])
        time.sleep(0.2)
    report = json.loads(client.communicate(timeout=seconds + 20)[0])
    cpu = hosts.cpu_seconds() - before
    server.wait(10)
    hosts.others.remove(server)
    return report["end"], cpu, dropped


def tcp(hosts, to, seconds, streams=1, **ends):
    end, cpu, _ = iperf(hosts, to, seconds, "-P", str(streams), **ends)
    received = end["sum_received"]
    return {
        "gbps": received["bits_per_second"] / 1e9,
        "cpu_s_per_gb": cpu / (received["bytes"] / 1e9),
        "retransmits": end["sum_sent"]["retransmits"],
    }


def udp(hosts, to, seconds):
    """64-byte datagrams as fast as they can be sent; counted where they leave the tunnel, read or not."""
    end, cpu, dropped = iperf(hosts, to, seconds, "-u", "-b", "0", "-l", "64")
    total = end["sum"]
    delivered = total["packets"] - total["lost_packets"] + dropped
    return {"kpps": delivered / total["seconds"] / 1e3, "cpu_us_per_packet": cpu / max(1, delivered) * 1e6}


def loaded_ping(hosts, to, seconds):
    server = hosts.start("b", "iperf3", "-s", "-1", "-B", to)
    wait_for(lambda: f"{to}:5201" in run("ss", "-Htln", host="b").stdout, "iperf3's server")
    load = hosts.start("a", "iperf3", "-c", to, "-t", str(seconds + 1))
    time.sleep(0.8)
    times = ping(hosts, to, seconds)
    for process in (load, server):
        process.wait(seconds + 20)
        hosts.others.remove(process)
    return times


def request_response(hosts, to, seconds):
    if not shutil.which("sockperf"):
        return {}
    server = hosts.start("b", "sockperf", "server", "-i", to, "-p", "5999")
    time.sleep(0.4)
    answer = run("sockperf", "ping-pong", "-i", to, "-p", "5999", "-m", "64", "-t", str(seconds), "--full-rtt",
                 host="a", check=False, timeout=seconds + 20).stdout
    server.terminate()
    server.wait()
    hosts.others.remove(server)
    found = {f"p{p}_us": re.search(rf"percentile {q}0*\s*=\s*([\d.]+)", answer)
             for p, q in (("50", "50.0"), ("99", "99.0"), ("99.9", "99.9"))}
    return {key: float(match[1]) for key, match in found.items() if match}
