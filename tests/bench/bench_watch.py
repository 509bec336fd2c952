"""watch: milliseconds of `cairn domstats` of 200 running VMs, and of a scrape of 1,000 over cairn-metrics' Unix socket;
the daemon's part of it; and the wake-ups of a VM's process meanwhile. The VMs are clones of one that halts."""

import http.client
import os
import shutil
import socket
import subprocess
import time

import freshfs
import guestlib
from bench_fork import clones
from bench_idle import use
from benchlib import ROUNDS, Unfit, need_kvm
from conftest import BUILD, Console, until
from snapbench import daemon_of

FEW, MANY, BATCH = 200, 1000, 100
DOMSTATS_MS, SCRAPE_MS = 50.0, 50.0
NOBODY = 65534


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def fork_to(qmp, name, count):
    for i in range(0, count, BATCH):
        clones(None, qmp, f"{name}{i}", min(BATCH, count - i))


def milliseconds(work):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def scrape(path, vms):
    c = UnixHttp(path)
    c.request("GET", "/metrics")
    text = c.getresponse().read()
    c.close()
    assert text.count(b"cairn_domain_cpu_time_seconds_total{") == vms, "each VM has figures"


def domstats(daemon, vms):
    assert daemon.cairn("domstats").stdout.count("cpu.time=") == vms


def cpu_ms(pid, work):
    before = use(pid)[0]
    work()
    return (use(pid)[0] - before) * 1e3


def metrics_start(daemon):
    """Start cairn-metrics, which refuses to run as root; return its process and its socket."""
    folder = daemon.tmp / "metrics"
    folder.mkdir()
    shutil.copy(os.path.join(BUILD, "cairn-metrics"), folder)
    os.chmod(daemon.tmp, 0o755)
    os.chown(folder, NOBODY, NOBODY)
    daemon.cairn("grant", "viewer", "--user", "nobody")
    path = folder / "socket"
    server = subprocess.Popen([folder / "cairn-metrics", "--unix", str(path)], user=NOBODY, group=NOBODY, extra_groups=[], env=daemon.env)
    until(path.exists)
    return server, path


def measure(bench, daemon):
    qmp = daemon.qmp(timeout=300)
    fork_to(qmp, "a", FEW - 1)
    server, path = metrics_start(daemon)
    try:
        daemon.cairn("domstats")  # gives each process its page
        bench.compare(f"domstats of {FEW}", "ms", lambda: milliseconds(lambda: domstats(daemon, FEW)), DOMSTATS_MS, "target", 1.0)
        fork_to(qmp, "b", MANY - FEW)
        daemon.cairn("domstats")
        sleeps = use(daemon.info("src")["pid"])[1]
        bench.compare(f"scrape of {MANY}", "ms", lambda: milliseconds(lambda: scrape(path, MANY)), SCRAPE_MS, "target", 1.0)
        bench.compare(f"scrape of {MANY}, the daemon's processor time", "ms", lambda: cpu_ms(daemon.proc.pid, lambda: scrape(path, MANY)),
                      SCRAPE_MS, "target", 1.0)
        sleeps = use(daemon.info("src")["pid"])[1] - sleeps
        bench.pairs(f"wake-ups of a VM in {2 * ROUNDS} scrapes", "", [(sleeps, 1)], "target", 1.0)
    finally:
        server.kill()
        server.wait()
        qmp.close()


def run(bench):
    need_kvm()
    if os.geteuid():
        raise Unfit("only root may start cairn-metrics as another user")
    with freshfs.folder(bench, 4096) as place, daemon_of(bench.uid, place) as daemon:
        daemon.define("src", memory="16M", boot={"kernel": guestlib.bare("idle")})
        daemon.cairn("start", "src")
        console = Console(daemon, "src")
        while console.line() != "idle":
            pass
        console.close()
        measure(bench, daemon)
