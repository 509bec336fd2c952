"""balance: the daemon shifts memory and processor time between VMs by their need. The host's pressure and its available
memory are files of the test's own, bound over the kernel's in the daemon's mount namespace; control groups are real."""

import json
import os

import pytest

import guestlib
from conftest import FAKE_VM, Console, until
from test_cgroups import Grouped, group, limits  # noqa: F401 (fixtures)
from test_host import needs_root

MIB = 1 << 20
PRESSURE, MEMINFO = "/proc/pressure/memory", "/proc/meminfo"


def file_set(path, text):
    """Replace the content at once, so that the daemon reads no half of it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, text.encode().ljust(256, b"\n"), 0)
    os.close(fd)


class Host:
    """The host's figures that the daemon reads."""

    def __init__(self, tmp):
        self.pressure, self.meminfo = tmp / "pressure", tmp / "meminfo"
        self.set(0, 50)
        bound = f"mount --bind {self.meminfo} {MEMINFO}"
        psi = f"mount --bind {self.pressure} {PRESSURE}" if os.path.exists(PRESSURE) else "true"
        self.with_psi = ("unshare", "-m", "sh", "-ec", f'{bound}; {psi}\nexec "$@"', "sh")
        none = "mount -t tmpfs none /proc/pressure" if os.path.exists("/proc/pressure") else "true"
        self.without_psi = ("unshare", "-m", "sh", "-ec", f'{bound}; {none}\nexec "$@"', "sh")

    def set(self, pressure, available):
        """pressure: percent of the last ten seconds; available: percent of the memory."""
        file_set(self.pressure, f"some avg10={pressure:.2f} avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
        file_set(self.meminfo, f"MemTotal:       {100 << 20:8} kB\nMemFree:        {1 << 20:8} kB\nMemAvailable:   {available << 20:8} kB\n")


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def changes(d, resource):
    q = d.qmp()
    events = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "BALANCE_CHANGE"]
    q.close()
    return [(e["vm"], e["from"], e["to"], e["reason"]) for e in events if e["resource"] == resource]


def start(d, name, guest="interp", **keys):
    d.define(name, memory="64M", boot={"kernel": guestlib.bare(guest)}, **keys)
    d.cairn("start", name)
    console = Console(d, name)
    until(lambda: console.line() == guest)
    return console


def guest_with_balloon(d, name, available=None, **keys):
    """Start a guest of which so many MiB are available, by its statistics; without that, it sends none and sleeps."""
    console = start(d, name, balloon=True, balance={"memory": {"min": "16M"}}, **keys)
    console.run("balloon open")
    if available:
        console.sock.sendall(f"balloon stats {64 * MIB} {available * MIB} 1000\n".encode())
    return console


def target(d, name):
    return d.info(name)["balloon"]["target"] // MIB


@needs_root
@pytest.mark.usefixtures("kvm")
@pytest.mark.seconds(120)
def test_memory_is_taken_while_the_host_is_short_and_given_back(tmp_path, host):
    d = Grouped(tmp_path, wrapper=host.with_psi if os.path.exists(PRESSURE) else host.without_psi)
    try:
        a, plain, idle = guest_with_balloon(d, "a", 40), start(d, "plain", balloon=True), guest_with_balloon(d, "idle")
        until(lambda: "usable" in d.info("a")["balloon"])
        assert target(d, "a") == 64 and changes(d, "memory") == []
        host.set(20, 3)
        # The guest uses 24 MiB and keeps 32: it gives a quarter of the rest, and no more until it has given that.
        until(lambda: target(d, "a") < 64)
        assert target(d, "a") == 56
        until(lambda: changes(d, "memory"))
        (name, was, now, reason), = changes(d, "memory")
        assert (name, was, now) == ("a", 64 * MIB, 56 * MIB) and reason.startswith("the host is short of memory")
        assert "VM 'a': memory changed from 64 to 56 MiB: the host is short" in d.log.read_text()
        assert d.info("a")["balance"]["memory"] == {"now": 56 * MIB, "min": 16 * MIB, "max": 64 * MIB, "reason": reason}
        assert "Balloon:        57344 KiB, balanced from 16384 to 65536 KiB; last change: the host is short" in d.cairn("dominfo", "a").stdout
        stats = d.cairn("domstats", "a", "--balloon").stdout
        assert "balloon.target=57344\n" in stats and "balloon.target.min=16384\n" in stats
        # The next daemon continues from there.
        d.stop()
        host.set(0, 50)
        d.start()
        until(lambda: target(d, "a") == 64)
        # A user's setting takes precedence.
        d.cairn("setmem", "a", "60M", "--live")
        host.set(20, 3)
        until(lambda: d.info("idle")["balloon"]["period"] == 0)
        assert target(d, "a") == 60
        d.stop()
        d.start()
        assert "without effect: a user has set it; it stays until the VM's next start" in d.cairn("dominfo", "a").stdout
        # The daemon asked neither the idle guest nor the guest without bounds for memory.
        assert target(d, "idle") == target(d, "plain") == 64
        assert "balance" not in d.info("plain") and d.info("plain")["balloon"]["period"] == 0
        for c in (a, plain, idle):
            c.close()
        d.cairn("destroy", "a")
        d.cairn("start", "a")
        until(lambda: "lack" not in d.info("a").get("balance", {"lack": 1})["memory"])
    finally:
        d.close()


@needs_root
@pytest.mark.usefixtures("kvm")
def test_host_without_psi_takes_memory_when_little_is_available(tmp_path, host):
    d = Grouped(tmp_path, wrapper=host.without_psi)
    try:
        host.set(0, 4)
        a = guest_with_balloon(d, "a", available=30)
        until(lambda: target(d, "a") < 64)
        assert target(d, "a") >= 45
        a.close()
    finally:
        d.close()


def test_shares_without_a_control_group_are_told_of(tmp_path):
    d = Grouped(tmp_path, "--cgroup", "none", vm=FAKE_VM)
    try:
        d.define("a", cpu_shares=512, balance={"cpu_shares": {"min": 256, "max": 2048}})
        assert json.loads(d.cairn("dumpjson", "a").stdout)["balance"] == {"cpu_shares": {"min": 256, "max": 2048}}
        d.cairn("start", "a")
        said = "without effect: cairnd runs with --cgroup none"
        until(lambda: f"CPU shares:     512, balanced from 256 to 2048; {said}" in d.cairn("dominfo", "a").stdout)
        assert "VM 'a': balance.cpu_shares has no effect: cairnd runs with --cgroup none" in d.log.read_text()
        stats = d.cairn("domstats", "a", "--cpu-total").stdout
        assert "cpu.shares=512\n" in stats and "cpu.shares.max=2048\n" in stats
        d.cairn("destroy", "a")
        assert "balance" not in d.info("a")
    finally:
        d.close()


@pytest.mark.usefixtures("kvm", "limits")
def test_shares_move_to_the_vm_that_waits(tmp_path, group):  # noqa: F811
    """Two VMs want all of one processor. One of them begins with a small share."""
    d = Grouped(tmp_path, "--cgroup", group, wrapper=("taskset", "-c", "0"))
    try:
        consoles = [start(d, "small", cpu_shares=256, balance={"cpu_shares": {"max": 4096}}),
                    start(d, "large", cpu_shares=4096, balance={"cpu_shares": {"min": 512}}), start(d, "fixed")]
        weights = {name: group / d.info(name)["uuid"] / "cpu.weight" for name in ("small", "large", "fixed")}
        assert {n: int(w.read_text()) for n, w in weights.items()} == {"small": 25, "large": 400, "fixed": 100}
        for c in consoles[:2]:
            c.sock.sendall(b"crash spin\n")
        until(lambda: int(weights["small"].read_text()) > 25 and int(weights["large"].read_text()) < 400)
        until(lambda: {c[0] for c in changes(d, "cpu_shares")} == {"small", "large"})
        for name, was, now, reason in changes(d, "cpu_shares"):
            assert (now > was) == (name == "small") and "for a processor" in reason
        # The daemon may shift shares between the two looks.
        until(lambda: abs(sum(d.info(n)["balance"]["cpu-shares"]["now"] for n in ("small", "large")) - 4352) <= 4352 // 10)
        assert d.info("small")["balance"]["cpu-shares"]["now"] > 256
        # A weight that somebody else sets stays, also with the next daemon.
        weights["large"].write_text("77")
        until(lambda: "another program has set cpu.weight" in d.log.read_text())
        d.stop()
        d.start()
        until(lambda: "another program has set cpu.weight" in d.cairn("dominfo", "large").stdout)
        assert weights["large"].read_text() == "77\n"
        assert weights["fixed"].read_text() == "100\n" and "balance" not in d.info("fixed")
        for c in consoles:
            c.close()
    finally:
        d.close()
