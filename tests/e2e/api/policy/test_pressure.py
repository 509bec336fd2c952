"""reclaim_on_pressure: under memory pressure, the daemon frees memory that a snapshot in the VM's image has. The host's
pressure is a file of the test's own, bound over the kernel's in the daemon's mount namespace; that of a VM's control
group is real."""

import os
import pathlib

import pytest

import guestlib
from clonelib import own_kib
from conftest import Console, until
from fuselib import Op, fuse
from plainlib import qcow2
from test_cgroups import Grouped, group, limits  # noqa: F401 (fixtures)
from test_host import needs_root

pytestmark = [needs_root, pytest.mark.usefixtures("kvm")]

MIB = 1 << 20
AT, FILL = 0x1000000, 16 * MIB
PRESSURE = "/proc/pressure/memory"


def bound(script):
    """Return a command prefix that runs the daemon in a mount namespace of its own, after a script."""
    return ("unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh")


@pytest.fixture
def host(tmp_path):
    """The file of the host's pressure. urge() makes the kernel tell of pressure."""
    if not os.path.exists(PRESSURE):
        pytest.skip("this kernel has no PSI, so there is no file to bind over")
    with fuse(tmp_path / "fuse", memory=b"") as f:
        f.urge("memory", times=0)
        yield f


@pytest.fixture
def daemon(tmp_path, host):
    d = Grouped(tmp_path, wrapper=bound(f"mount --bind {host['memory']} {PRESSURE}"))
    yield d
    d.close()


def start(daemon, name="a", snapshot=True, **keys):
    """Start a VM whose memory is filled, and in a snapshot."""
    daemon.define(name, memory="64M", boot={"kernel": guestlib.bare("interp")}, disks=[qcow2(daemon.tmp / f"{name}.qcow2", "1G")],
                  **keys)
    daemon.cairn("start", name)
    console = Console(daemon, name)
    console.run(f"fill {AT:#x} {FILL:#x} 1")
    if snapshot:
        daemon.cairn("snapshot-create-as", name, "s1")
    return console


def told(daemon):
    q = daemon.qmp()
    events = [e["data"] for e in q.run("query-events")["events"] if e["event"] == "MEMORY_RECLAIMED"]
    q.close()
    return [(e["vm"], e["pressure"], e["freed"]) for e in events]


def test_pressure_of_the_host_frees_memory_of_vms_that_allow_it(daemon, host):
    a, b = start(daemon, reclaim_on_pressure=True), start(daemon, "b")
    before = {n: own_kib(daemon, n) for n in "ab"}
    assert pathlib.Path(host["memory"]).read_bytes() == b"some 200000 2000000\0"
    host.urge("memory")
    until(lambda: told(daemon))
    (name, whose, freed), = told(daemon)
    assert (name, whose) == ("a", "host") and freed >= FILL
    assert before["a"] - own_kib(daemon, "a") >= FILL // 1024 and abs(own_kib(daemon, "b") - before["b"]) < 256
    assert "because of memory pressure of the host" in daemon.log.read_text()
    a.run(f"check {AT:#x} {FILL:#x} 1")
    # The next reclaim is a minute away.
    polls = host.seen().count(Op.POLL)
    host.urge("memory")
    until(lambda: host.seen().count(Op.POLL) >= polls + 2)
    assert own_kib(daemon, "a") >= before["a"] - 256 and len(told(daemon)) == 1
    b.sock.close()


def test_vm_without_snapshot_is_told_of_once(daemon, host):
    start(daemon, snapshot=False, reclaim_on_pressure=True)
    host.urge("memory")
    until(lambda: "there is memory pressure, but its memory is not reclaimed: no snapshot in the VM's image" in daemon.log.read_text())
    assert told(daemon) == [] and daemon.cairn("domstate", "a").stdout.strip() == "running"


def test_next_daemon_goes_on_and_a_vm_that_ends_is_forgotten(daemon, host):
    start(daemon, reclaim_on_pressure=True)
    daemon.stop()
    daemon.start()
    host.urge("memory")
    until(lambda: [t[:2] for t in told(daemon)] == [("a", "host")])
    # Without such a VM, the daemon has closed the file.
    daemon.cairn("destroy", "a")
    until(lambda: host.seen().count(Op.RELEASE) == host.seen().count(Op.OPEN))


def test_host_without_psi_is_told_of(tmp_path):
    d = Grouped(tmp_path, wrapper=bound("mount -t tmpfs none /proc/pressure"))
    try:
        start(d, reclaim_on_pressure=True)
        assert f"cannot watch the host's memory pressure, so reclaim_on_pressure has less or no effect: {PRESSURE}: No such file" in d.log.read_text()
        assert "reclaimed" in d.cairn("reclaim", "a").stdout
    finally:
        d.close()


@pytest.mark.usefixtures("limits")
def test_pressure_of_the_vms_group_frees_its_memory(tmp_path, group):  # noqa: F811
    d = Grouped(tmp_path, "--cgroup", group, wrapper=bound(f"mount --bind /dev/null {PRESSURE}"))
    try:
        a, b = start(d, reclaim_on_pressure=True), start(d, "b", reclaim_on_pressure=True)
        its = group / d.info("a")["uuid"]
        # Far enough below that each page the guest takes is a stall, however slow the guest is.
        (its / "memory.high").write_text(str(int((its / "memory.current").read_text()) // 2))
        a.sock.sendall(f"fill {AT + FILL:#x} {FILL:#x} 2\n".encode())
        until(lambda: told(d))
        (its / "memory.high").write_text("max")
        assert [t[:2] for t in told(d)] == [("a", "vm")]
        until(lambda: a.line() == "ok")
        a.run(f"check {AT:#x} {FILL:#x} 1")
        b.sock.close()
    finally:
        d.close()
