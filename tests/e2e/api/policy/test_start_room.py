"""Before a start: what would make it fail or be short is named, with what holds it."""

import contextlib
import json
import os
import pathlib
import re
import socket
import tempfile
import time

import pytest

import guestlib
from conftest import Console, Daemon, free_port, library, until
from daemonlib import NOBODY, as_nobody, shared  # noqa: F401
from mountlib import tmpfs
from plainlib import qcow2
from test_hung_files import asked


@pytest.fixture
def port():
    """A port that no program has, neither with TCP nor with UDP."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("", port))
            return port


def forward(port, **more):
    return [{"type": "user", "forwards": [{"port": port, "to": 22, **more}]}]


def short(d, name):
    """Return the rules of `advise` about the start, in order, and their texts."""
    found = json.loads(d.cairn("advise", name, "--format", "json").stdout)
    return {a["rule"]: a["text"] for a in found if a["rule"].startswith("start")}


def refused(d, name, sentence):
    r = d.cairn("start", name, "--dry-run", ok=False)
    assert sentence in r.stderr and not r.stdout
    assert sentence in short(d, name)["start"]
    assert d.info(name)["word"] == "shutoff"


def total_mib():
    with open("/proc/meminfo") as f:
        return int(f.readline().split()[1]) // 1024


def test_vm_that_has_all_it_needs(fake):
    fake.define("a", vcpus=1)
    r = fake.cairn("start", "a", "--dry-run")
    assert (r.stdout, r.stderr) == ("Would start domain 'a' (shut off)\n", "")
    assert not short(fake, "a") and fake.info("a")["word"] == "shutoff"
    q = fake.qmp()
    assert q.run("vm-start", vm="a", dry_run=True) == {}
    q.close()


def test_image_and_port_that_a_running_vm_has(fake, port):
    disk = qcow2(fake.tmp / "a.qcow2", "64M")
    for name in "ab":
        fake.define(name, disks=[disk], interfaces=forward(port))
    fake.cairn("start", "a")
    refused(fake, "b", "is forwarded to VM 'a'; shut that VM down first, or choose another port")
    fake.define("b", disks=[disk])
    refused(fake, "b", "a.qcow2 is in use by VM 'a'; shut that VM down first")
    fake.cairn("destroy", "a")
    fake.cairn("start", "b", "--dry-run")
    assert not {"start"} & set(short(fake, "b"))


def test_ports_that_another_program_has(fake, port):
    fake.define("a", interfaces=forward(port))
    fake.define("b", interfaces=forward(port, protocol="udp"))
    fake.define("screen", screen=True, vnc={"port": port, "password_file": "/etc/hostname"})
    for kind, taken in ((socket.SOCK_STREAM, {"a": "forwards[0]: tcp", "screen": "vnc.port: tcp"}), (socket.SOCK_DGRAM, {"b": "forwards[0]: udp"})):
        with socket.socket(socket.AF_INET, kind) as s:
            s.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                s.listen()
            for name in ("a", "b", "screen"):
                if name in taken:
                    refused(fake, name, f"{taken[name]} 127.0.0.1:{port} is used by another program; end that program (ss -ln")
                else:
                    fake.cairn("start", name, "--dry-run")
        for name in taken:
            fake.cairn("start", name, "--dry-run")


def test_network_that_is_missing(fake):
    fake.define("a", interfaces=[{"type": "network", "source": "lan"}])
    refused(fake, "a", "there is no network 'lan'")
    fake.define("b", interfaces=[{"type": "network", "source": "lan", "link": "down"}])
    assert "Would start" in fake.cairn("start", "b", "--dry-run").stdout
    fake.cairn("start", "b")


def test_bridge_that_is_missing(fake):
    fake.define("a", interfaces=[{"type": "bridge", "source": "cairn-none"}])
    refused(fake, "a", "interfaces[0].source: there is no bridge 'cairn-none'; create it with: ip link add cairn-none type bridge")
    fake.define("b", interfaces=[{"type": "bridge", "source": "lo"}])
    refused(fake, "b", "interfaces[0].source: 'lo' is not a bridge")


def test_more_memory_and_vcpus_than_the_host_has(fake):
    vcpus = os.cpu_count() + 1
    fake.define("a", memory=f"{total_mib() + 1024}M", vcpus=vcpus)
    r = fake.cairn("start", "a", "--dry-run")
    assert "Would start" in r.stdout
    memory, processors = r.stderr.splitlines()
    assert memory.startswith("warning: the VM has ") and " available" in memory
    assert processors.startswith(f"warning: the VM has {vcpus} vCPUs, and the host has ")
    assert list(short(fake, "a")) == ["start-memory", "start-vcpus"]
    r = fake.cairn("start", "a")
    assert r.stdout == "Domain 'a' started\n" and r.stderr.splitlines()[0].startswith("warning: the VM has ")
    assert "vCPUs" not in r.stderr and fake.info("a")["word"] == "running"


@pytest.fixture
def busy_host():
    """A daemon that other users can reach, and for which each process keeps one processor busy."""
    if guestlib.SLOW > 1:
        pytest.skip("busy_clock.so has to come behind a sanitizer")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        env = {"LD_PRELOAD": library("busy_clock")}
        with contextlib.closing(Daemon(pathlib.Path(folder), env=env)) as d:
            yield d


@pytest.mark.usefixtures("kvm")
def test_running_vms_that_keep_the_processors_busy(busy_host):
    """A user who may not see the busiest VM does not get its name."""
    d, cpus = busy_host, os.sysconf("SC_NPROCESSORS_ONLN")
    d.define("a", boot={"kernel": guestlib.bare("idle")})
    for i in range(cpus):
        assert "start-cpu" not in short(d, "a")
        d.define(f"busy{i}", boot={"kernel": guestlib.bare("idle")})
        d.cairn("start", f"busy{i}")
    until(lambda: "start-cpu" in short(d, "a"))
    said = rf"running VMs keep [0-9.]+ of {cpus} processors? busy; VM 'busy[0-9]+' most, 1\.0"
    assert re.fullmatch(said, short(d, "a")["start-cpu"])
    if os.geteuid() == 0:
        d.cairn("grant", "operator", "a", "--user", "nobody")
        told, = as_nobody(d, ["advise", {"vm": "a"}])
        assert not [x for x in told["return"]["advice"] if x["rule"] == "start-cpu"]
    r = d.cairn("start", "a", "--dry-run")
    assert r.stdout.startswith("Would start domain 'a'") and re.fullmatch(f"warning: {said}\n", r.stderr)
    d.cairn("destroy", "busy0")
    until(lambda: "start-cpu" not in short(d, "a"))


@pytest.mark.usefixtures("kvm")
def test_holder_of_most_memory_is_named(daemon):
    daemon.define("big", memory="64M", boot={"kernel": guestlib.bare("interp")})
    daemon.cairn("start", "big")
    console = Console(daemon, "big")
    console.run("fill 0x1000000 0x1000000 1")
    console.close()
    daemon.define("a", memory=f"{total_mib() + 1024}M")
    until(lambda: "VM 'big' holds most" in daemon.cairn("start", "a", "--dry-run").stderr)


def test_disk_in_a_pool_with_little_space(fake):
    pool = fake.tmp / "pool"
    pool.mkdir()
    fake.cairn("pool-define-as", "images", "dir", "--target", str(pool))
    until(lambda: "Capacity" in fake.cairn("pool-info", "images").stdout)
    fake.define("a", disks=[qcow2(pool / "a.qcow2", "64M")])
    assert "start-disk" not in short(fake, "a")
    now, s = int(time.time()), os.statvfs(pool)
    total, used = s.f_blocks * s.f_frsize, (s.f_blocks - s.f_bavail) * s.f_frsize
    if used < (total - used) // 2:
        pytest.skip("the file system is too empty for a history of growth")
    fake.stop()
    a_day = (total - used) // 4
    points = [[now - 3600 * h, used - a_day * h // 24, total] for h in range(48, 0, -1) if used > a_day * h // 24]
    (fake.state / "pool-space.json").write_text(json.dumps({"version": 1, "pools": [
        {"name": "images", "target": str(pool), "low": True, "points": points}]}))
    fake.start()
    until(lambda: "start-disk" in short(fake, "a"))
    fake.cairn("clone", "a", "b")
    text = short(fake, "a")["start-disk"]
    assert text.startswith("disk vda is in pool 'images', whose file system has ") and "; images of VM 'b' hold most, " in text
    # The VM itself is not named.
    assert "hold most" not in short(fake, "b")["start-disk"]
    assert "warning: disk vda is in pool 'images', whose file system has " in fake.cairn("start", "a").stderr


def fill(folder, percent):
    """Take this part of a file system's space."""
    s = os.statvfs(folder)
    with open(folder / "filler", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, s.f_blocks * s.f_frsize * percent // 100)


def test_disk_outside_of_pools_on_a_full_file_system(fake):
    with tmpfs(fake.tmp / "full", "64M") as full:
        fake.define("a", disks=[qcow2(fake.tmp / "a.qcow2", "64M"), qcow2(full / "b.qcow2", "64M")])
        assert not short(fake, "a")
        fill(full, 80)
        assert not short(fake, "a")
        fill(full, 95)
        text = short(fake, "a")["start-disk"]
        assert text.startswith(f"disk vdb is in folder '{full}', whose file system has ") and text.endswith(" MiB left")
        r = fake.cairn("start", "a", "--dry-run")
        assert r.stdout.startswith("Would start") and r.stderr == f"warning: {text}\n"
        # Images that Cairn made for another VM there are named.
        fake.cairn("clone", "a", "b", "--file", str(fake.tmp / "b.qcow2"), "--file", f"{full}/copy.qcow2")
        held = fake.cairn("start", "a")
        assert held.stdout == "Domain 'a' started\n" and held.stderr.startswith(f"warning: {text}; images of VM 'b' hold most, ")
        # A disk that the guest only reads takes no space.
        fake.define("reads", disks=[{"path": str(full / "filler"), "format": "raw", "readonly": True}])
        assert not short(fake, "reads") and not fake.cairn("start", "reads").stderr
        fake.cairn("destroy", "a")
        fake.cairn("pool-define-as", "images", "dir", "--target", str(full))
        until(lambda: "pool 'images'" in short(fake, "a").get("start-disk", ""))


def test_disk_of_a_user_is_looked_at_with_that_users_rights(shared):  # noqa: F811
    with tmpfs(shared.tmp / "full", "64M") as full:
        disk = qcow2(full / "a.qcow2", "64M")
        os.chown(disk["path"], NOBODY, NOBODY)
        shared.cairn("grant", "owner", "mine", "--user", "nobody")
        with asked(shared, "vm-define", definition={"name": "mine", "memory": "32M", "boot": {"kernel": "/etc/hostname"}, "disks": [disk]}) as answer:
            assert "return" in answer()
        fill(full, 95)
        assert f"disk vda is in folder '{full}'" in shared.cairn("start", "mine", "--dry-run").stderr
        with asked(shared, "vm-start", vm="mine") as answer:
            assert f"disk vda is in folder '{full}'" in str(answer()["return"]["warnings"])
        shared.cairn("destroy", "mine")
        full.chmod(0o700)  # of root
        assert not shared.cairn("start", "mine", "--dry-run").stderr
