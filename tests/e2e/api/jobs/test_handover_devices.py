"""A handover (cairn restart-process) of VMs with networks, huge pages, many disks, a watchdog, and a Linux."""

import json
import os
import stat
import subprocess
import sys

import pytest

from conftest import BUILD, Console, Daemon, until
from guestlib import fields
from plainlib import PlainDaemon, plain_folder, qcow2
from test_handover import SECTORS, begin, checked, console, goes_on, image, start_and_fill, vm  # noqa: F401
from test_host import huge_pages, needs_root  # noqa: F401
from test_linux import begin as linux_begin
from test_linux import image as linux_image  # noqa: F401
from test_linux import one_start
from test_net import figures, gone_through, goes_through, host, lan, opened, start  # noqa: F401
from test_usernet import answers, connect, free_port, libexec, slirp, slirps, user  # noqa: F401
from test_usernet import host as user_host  # noqa: F401
from test_usernet import start as user_start
from test_watchdog import bitten

pytestmark = pytest.mark.usefixtures("kvm")


def restart_of(d, name):
    r = json.loads(d.cairn("restart-process", name, "--format", "json").stdout)[0]
    assert r["way"] == "handover"
    return r


# ---- networks ----

def test_bridge_goes_on(host, lan):  # noqa: F811
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    goes_through(c, s, 300, 1)
    for seed in (3, 5):
        was = figures(host, "a")
        restart_of(host, "a")
        assert lan.taps() == ["vnet0"]
        assert goes_through(c, s, 300, seed) == 1
        now = figures(host, "a")
        assert (now["link"], now["target"]) == ("up", "vnet0")
        assert now["tx-packets"] == was["tx-packets"] + 1 and now["rx-packets"] > was["rx-packets"]
    c.close()
    host.cairn("destroy", "a")
    until(lambda: not lan.taps())


def test_frames_that_wait_reach_guest(host, lan):  # noqa: F811
    """Frames that the guest has not taken yet survive the handover in the tap or in the rings."""
    c = start(host, "a")
    opened(c)
    s = lan.socket()
    gone_through(c, s)
    host.cairn("suspend", "a")
    for seed in range(10, 14):
        s.send(b"\xff" * 6 + b"\x02\0\0\0\0\x99\x88\xb5" + bytes((i * 7 + (i >> 8) + seed) & 255 for i in range(200)))
    restart_of(host, "a")
    host.cairn("resume", "a")
    for seed in range(10, 14):
        assert fields(c.run(f"net recv {seed}")[-1])["bytes"] == 200
    c.close()


def test_user_network_goes_on(user_host):  # noqa: F811
    """cairn-slirp stays, with the connections that it has."""
    port = free_port()
    c = user_start(user_host, "a", user(port))
    pid = slirp(user_host)
    with connect(port) as s:
        answers(c, s, 1)
        restart_of(user_host, "a")
        answers(c, s, 3)
    with connect(port) as s:
        answers(c, s, 5)
    assert slirps(user_host) == [pid]
    i = figures(user_host, "a")
    assert (i["link"], i["rx-packets"], i["tx-packets"]) == ("up", 3, 3)
    c.close()
    user_host.cairn("destroy", "a")
    until(lambda: not slirps(user_host))


# ---- memory and disks ----

@needs_root
def test_huge_pages(huge_pages, daemon, guest):  # noqa: F811
    begin(daemon, guest, memory="32M", hugepages=True)
    for _ in range(2):
        restart_of(daemon, "vm1")
        goes_on(daemon)
    daemon.cairn("destroy", "vm1")


def test_disks_of_several_kinds(daemon, guest):
    """qcow2, an overlay, raw, read-only, an empty and a full CD drive."""
    for name in ("raw.img", "cd.iso"):
        (daemon.tmp / name).write_bytes(b"\xa5" * (1 << 20))
    base = image(daemon, "base.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"],
                   cwd=daemon.tmp, check=True)
    begin(daemon, guest, vcpus=1, disks=[
        image(daemon),
        {"path": "top.qcow2", "format": "qcow2", "backing": [base]},
        {"path": "raw.img", "format": "raw"},
        {"path": "cd.iso", "format": "raw", "readonly": True},
        {"device": "cdrom", "path": "cd.iso", "format": "raw"},
        {"device": "cdrom"}])
    c = console(daemon)
    for disk in (1, 2):
        c.run(f"open {disk}")
        c.run(f"write 64 8 {disk}")
        c.run("flush")
    c.run("open 0")
    c.close()
    for n in range(2):
        restart_of(daemon, "vm1")
        c = console(daemon)
        for disk in (1, 2):
            c.run(f"open {disk}")
            c.run(f"verify 64 8 {disk}")
            c.run(f"write {128 + n * 8} 8 {disk + n}")
            c.run("flush")
            c.run(f"verify {128 + n * 8} 8 {disk + n}")
        c.run("open 0")
        c.close()
        goes_on(daemon)
    daemon.cairn("destroy", "vm1")
    checked(daemon)
    checked(daemon, "top.qcow2")


def test_overlay_on_pin_of_source(vm):  # noqa: F811
    """A clone reads the source's image at a pin. Both are handed over, and both write afterwards."""
    vm.cairn("clone", "--live", "vm1", "vm2")
    vm.cairn("reset", "vm2")  # its memory is its own now
    c = Console(vm, "vm2")
    while c.line() != "interp":
        pass
    restart_of(vm, "vm1")
    restart_of(vm, "vm2")
    c.run("open 0")
    for s in SECTORS:
        c.run(f"verify {s} 8 {s}")
        c.run(f"write {s} 8 {s + 1}")
    c.run("flush")
    c.close()
    goes_on(vm)
    vm.cairn("destroy", "vm1")
    checked(vm)


# ---- other devices ----

def test_watchdog_bites_after_handover(daemon, guest):
    """The successor's watchdog bites, and one that runs keeps its times."""
    begin(daemon, guest, watchdog={"model": "i6300esb", "action": "reset"}, rng=True, console={"virtio": True})
    q = daemon.qmp()
    restart_of(daemon, "vm1")
    c = console(daemon)
    bitten(c)
    assert q.event("WATCHDOG", vm="vm1")["data"]["action"] == "reset"
    while not c.line().endswith("interp"):
        pass
    c.run("watchdog start 8000")
    shows = c.run("watchdog show")
    restart_of(daemon, "vm1")
    assert c.run("watchdog show") == shows
    c.close()


# ---- Linux ----

@pytest.mark.seconds(1500)  # the first test that needs a kernel builds it
@one_start
def test_linux_goes_on_during_disk_io(daemon, linux_image):  # noqa: F811
    path = daemon.tmp / "vda.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", linux_image, path], check=True)
    c = linux_begin(daemon, disks=[{"path": str(path), "format": "qcow2"}, qcow2(daemon.tmp / "vdb.qcow2", "64M")],
                    guest_agent=True)
    c.run("mount /dev/vda /mnt ext2")
    c.run("fill-ram 2 7")
    c.run("agent work")
    daemon.cairn("wait", "linux", "--for", "agent", "--timeout", "50")
    q = daemon.qmp()
    for n in range(2):
        c.sock.sendall(f"fill /dev/vdb 0 8M {n + 5} direct\n".encode())
        restart_of(daemon, "linux")
        while c.line() != "ok":
            pass
        c.run(f"verify /dev/vdb 0 8M {n + 5} direct")
        c.run(f"write /mnt/round{n} kept")
        c.run("verify-ram")
    assert daemon.info("linux")["agent"] == "connected"
    log = c.run("dmesg 60")
    assert not [line for line in log if any(w in line for w in ("BUG", "Oops", "stall", "I/O error", "lockup"))], log
    # The clock was set after the handover, so a lost answer would have been reported by now.
    assert not [e for e in q.run("query-events")["events"] if e["event"] == "AGENT" and not e["data"]["connected"]]
    daemon.cairn("shutdown", "--mode", "agent", "linux", "--wait")
    c.close()
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


# ---- another user ----

@needs_root
def test_vm_of_plain_user(guest):
    with plain_folder() as folder:
        d = PlainDaemon(folder, folder / "denied")
        try:
            d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[qcow2(folder / "disk.qcow2", "64M")])
            start_and_fill(d)
            d.cairn("snapshot-create-as", "vm1", "s1")
            for _ in range(2):
                restart_of(d, "vm1")
                goes_on(d)
            d.cairn("snapshot-revert", "vm1", "s1")
            restart_of(d, "vm1")
            goes_on(d)
        finally:
            d.close()


# ---- new processes that fail ----

OTHER_VERSION = f"""#!{sys.executable}
import os, socket, struct, sys
if sys.argv[1] != "--take-over":
    os.execv({os.path.join(BUILD, "cairn-vm")!r}, ["cairn-vm", *sys.argv[1:]])
s = socket.socket(fileno=int(sys.argv[2]))
_, fds, _, _ = socket.recv_fds(s, 100000, 128)
s.send(struct.pack("<HHIQiI480s", 99, 16, 488, 1, 0, 0, b""))
os.read(0, 1) if s.recv(1) else sys.exit(0)
"""


def program(d, text):
    path = d.tmp / "new-vm"
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


WRAPPER = f"#!/bin/sh\nexec {os.path.join(BUILD, 'cairn-vm')} \"$@\"\n"


@pytest.mark.parametrize("text,why", [
    (None, "new-vm"),
    ("#!/bin/sh\nexit 3\n", "the new process ended before it took the VM over"),
    (f"#!/bin/sh\nulimit -v 25000\nexec {os.path.join(BUILD, 'cairn-vm')} \"$@\"\n", ""),
    (OTHER_VERSION, "the new process ended before it took the VM over"),
], ids=["missing", "ends", "no-memory", "other-version"])
def test_vm_goes_on_when_new_process_fails(tmp_path, guest, text, why):
    path = tmp_path / "new-vm"
    path.write_text(WRAPPER)
    path.chmod(0o755)
    d = Daemon(tmp_path, vm_program=str(path))
    try:
        begin(d, guest)
        pid = d.info("vm1")["pid"]
        path.unlink()
        if text:
            program(d, text)
        r = d.cairn("restart-process", "vm1", ok=False)
        assert why in r.stderr, r.stderr
        assert d.info("vm1")["pid"] == pid
        assert d.cairn("domstate", "--reason", "vm1").stdout == "running (booted)\n"
        goes_on(d)
        program(d, WRAPPER)
        restart_of(d, "vm1")
        goes_on(d)
        d.cairn("destroy", "vm1")
        checked(d)
    finally:
        d.close()
