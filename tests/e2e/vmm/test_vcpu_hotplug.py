"""vCPUs that come and go while the VM runs. The guest `interp` does what a system does by the SSDT: it reads the event
and the ports of devices/cpu_hotplug.h. Its command `smp start` sends an INIT and a SIPI to all other vCPUs."""

import json
import os
import subprocess
import threading

import pytest

import guestlib
from carrylib import carry
from conftest import Console, Qmp, QmpError, until

pytestmark = pytest.mark.usefixtures("kvm")

GPE_STATUS, GPE_CPUS = 0x620, 1 << 2
SELECT, FLAGS, STATUS = 0xae10, 0xae11, 0xae12
PRESENT, CAME, ASKED, RELEASE = 1, 2, 4, 8
REFUSED = 0x81


class Guest(Console):
    def __init__(self, d, name="a"):
        q = d.qmp()
        q.run("vm-console", vm=name, history=False)
        super().__init__(d, name, q.fds.pop())
        q.close()
        self.sock.sendall(b"\necho here\n")
        until(lambda: self.line() == "here")
        until(lambda: self.line() == "ok")

    def event(self):
        """Return whether the event has come, and clear it."""
        came = int(self.run(f"inw {GPE_STATUS}")[0], 16) & GPE_CPUS
        self.run(f"outw {GPE_STATUS} {GPE_CPUS}")
        return bool(came)

    def flags(self, vcpu):
        self.run(f"outb {SELECT} {vcpu}")
        return int(self.run(f"inb {FLAGS}")[0], 16)

    def write(self, vcpu, flags, port=FLAGS):
        self.run(f"outb {SELECT} {vcpu}")
        self.run(f"outb {port} {flags}")

    def start(self, expected):
        """Start all other vCPUs, and return those that have answered when `expected` have; more must not come."""
        return guestlib.fields(self.run(f"smp start {expected}")[-1])["online"]

    def answer(self, vcpus, flags=RELEASE, port=FLAGS):
        """Wait until the host asks for each of these vCPUs, and write the answer."""
        for vcpu in vcpus:
            until(lambda: self.flags(vcpu) & ASKED)
            self.write(vcpu, flags, port)


def machine(d, guest, name="a", vcpus=2, max_vcpus=4, **keys):
    d.define(name, debug_exit=True, vcpus=vcpus, max_vcpus=max_vcpus, **{"boot": {"kernel": guest("interp.elf")}, **keys})
    d.cairn("start", name)
    return Guest(d, name)


def shrink(d, n, work, ok=True):
    t = threading.Thread(target=work)
    t.start()
    r = d.cairn("setvcpus", "a", str(n), "--live", "--timeout", "45", ok=ok)
    t.join()
    return r


def counts(d, name="a"):
    return json.loads(d.cairn("vcpucount", name, "--format", "json").stdout)


def test_vcpus_come_and_go(daemon, guest):
    g = machine(daemon, guest)
    assert [g.flags(i) for i in range(5)] == [PRESENT, PRESENT, 0, 0, 0]
    assert g.start(1) == 0b10
    assert daemon.cairn("setvcpus", "a", "4", "--live").stdout == ""
    assert g.event()
    assert [g.flags(i) for i in range(5)] == [PRESENT, PRESENT, PRESENT | CAME, PRESENT | CAME, 0]
    g.write(2, CAME)
    g.write(3, CAME)
    assert g.start(3) == 0b1110
    assert counts(daemon) == {"config": 2, "config-maximum": 4, "live": 4, "live-maximum": 4}
    assert daemon.cairn("vcpuinfo", "a").stdout.count("VCPU:") == 4
    # The guest is asked, and does nothing; then refuses; then releases.
    r = daemon.cairn("setvcpus", "a", "3", "--live", "--timeout", "1", ok=False)
    assert "the guest has not released all vCPUs within 1 s, so it still has 4" in r.stderr
    assert g.event() and g.flags(3) == PRESENT | ASKED and g.flags(2) == PRESENT
    g.answer([3], REFUSED, STATUS)  # nobody waits for that any more; the next request asks anew
    q = daemon.qmp()
    r = shrink(daemon, 3, lambda: g.answer([3], REFUSED, STATUS), ok=False)
    assert "the guest refuses to release vcpu3, so it still has 4 vCPUs" in r.stderr
    q.event("DEVICE_UNPLUG_GUEST_ERROR", device="vcpu3")
    shrink(daemon, 1, lambda: g.answer([3, 2, 1]))
    for i in (3, 2, 1):
        q.event("DEVICE_DELETED", device=f"vcpu{i}")
    assert [g.flags(i) for i in range(4)] == [PRESENT, 0, 0, 0]
    assert daemon.info("a")["vcpus"] == 1 and daemon.info("a")["vcpus-absent"] == [1, 2, 3]
    stats = json.loads(daemon.cairn("domstats", "a", "--vcpu", "--format", "json").stdout)
    assert "vcpu.0.time" in json.dumps(stats) and "vcpu.1.time" not in json.dumps(stats)
    # vCPUs that are plugged in again start anew.
    daemon.cairn("setvcpus", "a", "3", "--live")
    assert g.start(2) == 0b110
    q.close()
    g.close()


def test_guest_cannot_take_what_it_was_not_given(daemon, guest):
    g = machine(daemon, guest, vcpus=1, max_vcpus=3)
    for vcpu in (0, 1, 2, 3, 64, 255):
        for flags in (RELEASE, 0xff):
            g.write(vcpu, flags)
        g.write(vcpu, REFUSED, STATUS)
    # INIT and SIPI reach all; none of them runs.
    g.run("smp start 0")
    assert daemon.info("a")["vcpus"] == 1 and [g.flags(i) for i in range(3)] == [PRESENT, 0, 0]
    assert g.start(0) == 0
    daemon.cairn("setvcpus", "a", "2", "--live")
    # A vCPU waits for its own SIPI, not for one that was sent before it came.
    assert g.start(1) == 0b10
    # A guest may release a vCPU that still runs: it stops.
    g.run("smp count 1")
    shrink(daemon, 1, lambda: g.answer([1]))
    shown = [g.run("smp show") for _ in range(2)]
    assert shown[0] == shown[1]
    g.close()


def test_vcpus_survive_reset_handover_daemon_and_save(daemon, guest, tmp_path):
    g = machine(daemon, guest, vcpus=1, max_vcpus=3)
    daemon.cairn("setvcpus", "a", "3", "--live")
    shrink(daemon, 2, lambda: g.answer([2]))
    g.close()
    for move in carry(daemon, tmp_path, moves=("reset", "restart-process", "kill", "save", "managedsave")):
        g = Guest(daemon)
        assert [g.flags(i) & PRESENT for i in range(3)] == [1, 1, 0], move
        assert daemon.info("a")["vcpus"] == 2, move
        assert g.start(1) == 0b10, move
        g.close()
    daemon.cairn("destroy", "a")
    assert daemon.info("a")["vcpus"] == 1
    daemon.cairn("start", "a")
    assert daemon.info("a")["vcpus"] == 1


def test_snapshots_and_clones_have_their_vcpus(daemon, guest, tmp_path):
    image = str(tmp_path / "a.qcow2")
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", image, "4M"], check=True)
    g = machine(daemon, guest, vcpus=2, max_vcpus=4, disks=[{"path": image, "format": "qcow2"}])
    daemon.cairn("snapshot-create-as", "a", "two")
    daemon.cairn("setvcpus", "a", "4", "--live")
    daemon.cairn("snapshot-create-as", "a", "four")
    daemon.cairn("clone", "--live", "a", "b")
    assert daemon.info("b")["vcpus"] == 4 and daemon.info("b")["max-vcpus"] == 4
    b = Guest(daemon, "b")
    assert b.start(3) == 0b1110
    b.close()
    daemon.cairn("snapshot-revert", "a", "two")
    assert daemon.info("a")["vcpus"] == 2 and g.start(1) == 0b10
    daemon.cairn("snapshot-revert", "a", "four")
    assert daemon.info("a")["vcpus"] == 4 and g.start(3) == 0b1110
    g.close()


def test_bad_requests_change_nothing(daemon, guest):
    g = machine(daemon, guest)
    daemon.define("plain", debug_exit=True, vcpus=2, boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "plain")

    def refused(words, *args):
        assert words in daemon.cairn(*args, ok=False).stderr

    refused("VM 'a' has room for 4 vCPUs (max_vcpus), not for 5", "setvcpus", "a", "5", "--live")
    refused("requested vcpus is greater than max allowable vcpus for the persistent domain: 5 > 4", "setvcpus", "a", "5", "--config")
    refused("the maximum of a running VM cannot change", "setvcpus", "a", "8", "--maximum", "--live")
    refused("VM 'plain' runs without max_vcpus, so the number of its vCPUs cannot change", "setvcpus", "plain", "1", "--live")
    assert [g.flags(i) for i in range(4)] == [PRESENT, PRESENT, 0, 0]
    # --maximum is for the next start, and lowers the number with it.
    daemon.cairn("setvcpus", "a", "1", "--maximum", "--config")
    assert counts(daemon) == {"config": 1, "config-maximum": 1, "live": 2, "live-maximum": 4}
    assert daemon.cairn("vcpucount", "a", "--maximum").stdout == "4\n"
    assert "<vcpu placement='static' current='2'>4</vcpu>" in daemon.cairn("dumpxml", "a").stdout.replace('"', "'")
    g.close()


def test_qmp_adds_and_removes_vcpus(daemon, guest):
    g = machine(daemon, guest, topology={"sockets": 2, "cores": 2, "threads": 1})
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    cpus = q.run("query-hotpluggable-cpus")
    assert [c["props"] for c in cpus[-3:]] == [{"socket-id": s, "core-id": c, "thread-id": 0} for s, c in ((1, 0), (0, 1), (0, 0))]
    assert ["qom-path" in c for c in cpus] == [False, False, True, True]
    driver = cpus[0]["type"]
    q.run("device_add", driver=driver, id="vcpu3", **cpus[0]["props"])
    assert g.event() and g.flags(3) == PRESENT | CAME and g.flags(2) == 0
    assert [c["cpu-index"] for c in q.run("query-cpus-fast")] == [0, 1, 3]
    with pytest.raises(QmpError, match="the guest has vCPU 3 already"):
        q.run("device_add", driver=driver, id="vcpu3", **cpus[0]["props"])
    with pytest.raises(QmpError, match="CPU thread-id is not set"):
        q.run("device_add", driver=driver, socket_id=1, core_id=0)
    with pytest.raises(QmpError, match="Invalid CPU type, expected cpu type"):
        q.run("device_add", driver="z80-x86_64-cpu", socket_id=1, core_id=0, thread_id=0)
    with pytest.raises(QmpError, match="Device 'vcpu2' not found"):
        q.run("device_del", id="vcpu2")
    with pytest.raises(QmpError, match="vCPU 0, with which the guest boots, cannot be removed"):
        q.run("device_del", id="vcpu0")
    q.run("device_del", id="vcpu3")
    g.answer([3])
    q.event("DEVICE_DELETED", device="vcpu3")
    assert [c["cpu-index"] for c in q.run("query-cpus-fast")] == [0, 1]
    q.close()
    g.close()
