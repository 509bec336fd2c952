"""A pin whose last clone is gone waits for a further fork of its source for a while. It is in nobody's way then."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from conftest import Daemon, until
from forkpinlib import MIB, Vms, blocks, copy_by_hand, off, pins_in, pins_known, snapshots
from test_disk_errors import Small
from test_fork_shared_pins import nothing_is_due, rows
from test_hotplug import detach, machine


@pytest.fixture
def waits():
    """How long a pin waits, in seconds."""
    return 1000


@pytest.fixture
def daemon(tmp_path, waits):
    with contextlib.closing(Daemon(tmp_path, env={"CAIRN_PIN_WAIT": str(waits)})) as d:
        yield d


@pytest.fixture
def vms(daemon, kvm, guest, tmp_path):
    v = Vms(daemon, guest, tmp_path)
    yield v
    v.close()


def due(daemon):
    return [r["pin"].replace("-", "") for r in json.loads((daemon.state / "pins.json").read_text())["due"]]


@pytest.fixture
def idle(vms, daemon, tmp_path):
    """A running VM src whose image a.qcow2 has a pin that waits."""
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.end("c")
    assert due(daemon) == pins_in(tmp_path / "a.qcow2") != []
    return tmp_path / "a.qcow2"


def test_forks_share_the_pin_after_the_last_clone(vms, daemon, idle):
    pins = pins_in(idle)
    for _ in range(3):
        vms.fork("c")
        assert pins_in(idle) == pins and due(daemon) == []
        assert rows(daemon)["c-vda.qcow2"].get("or") or rows(daemon)["c-vda.qcow2"]["pin"].replace("-", "") == pins[0]
        vms.holds("c", 0, 1)
        vms.end("c")
        assert pins_in(idle) == due(daemon) == pins
    assert (blocks(daemon, "src")["vda"]["pins"], blocks(daemon, "src")["vda"]["clones"]) == (1, 0)
    off(vms, daemon)
    assert not snapshots(idle)


def test_pin_waits_although_the_definition_of_another_vm_has_the_image(vms, daemon, tmp_path):
    image = vms.image("a.qcow2")
    for name in ("other", "then"):
        daemon.define(name, memory="32M", disks=[image], boot={"kernel": vms.guest("interp.elf")})
    vms.start(image)
    vms.fork("c")
    pins = pins_in(tmp_path / "a.qcow2")
    vms.end("c")
    vms.fork("c")
    assert pins_in(tmp_path / "a.qcow2") == pins
    vms.end("c")
    off(vms, daemon)
    assert not snapshots(tmp_path / "a.qcow2")


def test_newer_pin_ends_the_wait(vms, daemon, idle):
    (old,) = pins_in(idle)
    vms.write("src", 0, 2)
    vms.fork("c")
    until(lambda: nothing_is_due(daemon))
    (new,) = pins_in(idle)
    assert new != old
    vms.end("c")
    assert due(daemon) == pins_in(idle) == [new]


def test_older_pin_of_two_does_not_wait(vms, daemon, tmp_path):
    """Only the newest pin can be shared, in whatever order the clones go."""
    vms.start(vms.image("a.qcow2"))
    for i in (1, 2):
        vms.write("src", 0, i)
        vms.fork(f"c{i}")
    vms.end("c2")
    old, new = pins_in(tmp_path / "a.qcow2")
    assert due(daemon) == [new]
    vms.end("c1")
    until(lambda: due(daemon) == [new])
    until(lambda: pins_in(tmp_path / "a.qcow2") == [new])
    vms.fork("d")
    vms.holds("d", 0, 2)
    assert pins_in(tmp_path / "a.qcow2") == [new]


@pytest.mark.parametrize("waits", [1])
def test_pin_goes_when_no_fork_comes(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.fork("c")
    vms.end("c")
    until(lambda: not pins_in(tmp_path / "a.qcow2"))
    until(lambda: nothing_is_due(daemon))


@pytest.mark.parametrize("end", ["destroy", "guest", "managedsave"])
def test_pin_goes_with_the_vm(vms, daemon, idle, end):
    if end == "guest":
        q = daemon.qmp()
        vms.consoles["src"].sock.sendall(b"poweroff\n")
        q.event("VM_STATE_CHANGE", vm="src", state="shutoff")
        vms.leave("src")
    else:
        vms.leave("src")
        daemon.cairn(end, "src")
    assert not snapshots(idle)
    subprocess.run(["qemu-img", "check", "-q", idle], check=True)
    if end == "managedsave":
        daemon.cairn("start", "src")
    else:
        vms.boot("src")
    until(lambda: nothing_is_due(daemon))
    vms.holds("src", 0, 1)


def test_pin_of_a_killed_process_goes_at_the_next_start(vms, daemon, idle):
    vms.leave("src")
    os.kill(daemon.info("src")["pid"], signal.SIGKILL)
    until(lambda: daemon.info("src")["state"] == "crashed")
    assert len(snapshots(idle)) == 1
    vms.boot("src")
    until(lambda: nothing_is_due(daemon))
    assert not pins_in(idle)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_next_daemon_deletes_the_pin(vms, daemon, idle, how):
    vms.close()
    daemon.stop(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    daemon.start()
    until(lambda: nothing_is_due(daemon))
    assert not pins_in(idle)
    vms.holds("src", 0, 1)


@pytest.mark.parametrize("what", ["revert", "restart-process"])
def test_pin_goes_when_no_fork_can_share_it(vms, daemon, tmp_path, what):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.fork("c")
    vms.end("c")
    assert len(due(daemon)) == 1
    vms.leave("src")
    daemon.cairn(*(["snapshot-revert", "src", "s1"] if what == "revert" else ["restart-process", "src"]))
    until(lambda: nothing_is_due(daemon))
    assert not pins_in(tmp_path / "a.qcow2")
    vms.holds("src", 0, 1)


OPERATIONS = {"external snapshot": [["snapshot-create-as", "src", "e", "--disk-only", "--external"]],
              "copy": [["blockcopy", "src", "vda", "--dest", "copy.qcow2", "--wait", "--pivot"]],
              "pull": [["blockpull", "src", "vda", "--wait"]],
              "commit": [["blockcommit", "src", "vda", "--pivot", "--wait"]],
              "resize": [["blockresize", "src", "vda", "65M"]],
              "undefine": [["destroy", "src"], ["undefine", "src", "--remove-all-storage"]]}


@pytest.mark.parametrize("operation, compat", [*((o, "1.1") for o in OPERATIONS), ("resize", "0.10")])
def test_nothing_is_refused_because_of_the_pin(vms, daemon, tmp_path, operation, compat):
    low = vms.image("low.qcow2")
    top = vms.image("a.qcow2", "64M", "-o", f"compat={compat}", "-F", "qcow2", "-b", low["path"])
    vms.start({**top, "backing": [low]})
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.end("c")
    assert due(daemon) == pins_in(tmp_path / "a.qcow2") != []
    if operation == "undefine":
        vms.leave("src")
    for args in OPERATIONS[operation]:
        daemon.cairn(*args, cwd=tmp_path)
    if operation == "undefine":
        assert nothing_is_due(daemon)
    else:
        vms.holds("src", 0, 1)
        vms.fork("d")
        vms.holds("d", 0, 1)


def test_copy_that_began_before_the_pin_waits_ends(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    daemon.cairn("blockcopy", "src", "vda", "--dest", str(tmp_path / "copy.qcow2"), "--wait")
    vms.end("c")
    assert len(due(daemon)) == 1
    daemon.cairn("blockjob", "src", "vda", "--pivot", "--dest", str(tmp_path / "copy.qcow2"))
    assert not snapshots(tmp_path / "a.qcow2")
    vms.holds("src", 0, 1)


def test_detached_disk_has_no_pin(vms, daemon, guest, tmp_path):
    """Nobody would delete it there."""
    g = machine(daemon, guest, memory="32M", disks=[vms.image("a.qcow2"), vms.image("b.qcow2")])
    vms.fork("c", source="a")
    vms.end("c")
    pins = pins_in(tmp_path / "b.qcow2")
    assert len(due(daemon)) == 2 and pins
    detach(daemon, g.release)
    assert not snapshots(tmp_path / "b.qcow2")
    g.run("open 0")
    g.run("write 0 128 1")
    g.close()


def test_overlay_that_was_copied_by_hand_keeps_the_pin(vms, daemon, tmp_path):
    """Then neither the end of the VM nor an operation deletes the pin."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = copy_by_hand(vms, daemon)
    vms.end("c")
    assert due(daemon) == pins_in(a) != []
    daemon.define("copy", **definition)
    assert pins_known(daemon) == ["copy"] and due(daemon) == []
    assert "live clones read it" in daemon.cairn("snapshot-create-as", "src", "e", "--disk-only", "--external", ok=False).stderr
    vms.write("src", 0, 2)
    off(vms, daemon)
    assert len(snapshots(a)) == 1
    vms.boot("src")
    vms.boot("copy")
    vms.holds("copy", 0, 1)
    vms.end("copy")
    until(lambda: nothing_is_due(daemon))
    assert not pins_in(a)


def test_pin_goes_when_space_is_low(vms, daemon, tmp_path):
    small = Small(tmp_path / "small", "48m")
    try:
        path = small.path / "a.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M"], check=True)
        vms.start({"path": str(path), "format": "qcow2"})
        vms.write("src", 0, 1)
        vms.fork("c")
        vms.end("c")
        assert len(due(daemon)) == 1
        small.fill(keep=2 * MIB)

        def goes():
            vms.write("src", 0, 2)  # the daemon asks a VM that writes
            return nothing_is_due(daemon)
        until(goes)
        vms.leave("src")
        daemon.cairn("destroy", "src")
    finally:
        small.close()


def test_clone_with_a_shared_pin_outlives_its_source(vms, daemon, idle):
    """The source's process knows that the pin waits no more, and leaves it when it ends."""
    vms.fork("c")
    vms.write("src", 0, 2)
    off(vms, daemon)
    assert len(snapshots(idle)) == 1
    off(vms, daemon, "c")
    vms.boot("c")
    vms.holds("c", 0, 1)
