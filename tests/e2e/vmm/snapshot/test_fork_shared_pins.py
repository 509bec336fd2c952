"""Forks that follow each other read the same pin of a disk, as long as the disk has the pin's content. The source's
process makes no pin for them, and the pin goes with the last of their clones."""

import itertools
import json
import os
import signal

import pytest

from conftest import until
from forkpinlib import blocks, off, pins_in, snapshots, vms  # noqa: F401 (vms is a fixture)


def rows(daemon):
    """Return the rows of the list of pins, by the overlays' file names."""
    used = json.loads((daemon.state / "pins.json").read_text())["used"]
    return {os.path.basename(r["overlay"]): r for r in used}


def nothing_is_due(daemon):
    return not json.loads((daemon.state / "pins.json").read_text())["due"]


def test_forks_share_the_pins_of_disks_that_have_not_changed(vms, daemon, tmp_path):
    images = [tmp_path / f"{n}.qcow2" for n in "ab"]
    vms.start(vms.image("a.qcow2"), vms.image("b.qcow2"))
    for disk in (0, 1):
        vms.write("src", 0, 1 + disk, disk)
    for i in range(3):
        assert vms.made(vms.fork(f"c{i}")) == {"vda": "overlay", "vdb": "overlay"}
        vms.holds("src", 0, 1)  # reads change nothing
    assert [len(pins_in(i)) for i in images] == [1, 1]
    shown = blocks(daemon, "src")
    assert all((shown[d]["pins"], shown[d]["clones"]) == (1, 3) for d in ("vda", "vdb"))
    vms.write("src", 0, 3)
    vms.fork("d", "--count", "2")
    vms.fork("e")
    assert [len(pins_in(i)) for i in images] == [2, 1]
    shown = blocks(daemon, "src")
    assert [(shown[d]["pins"], shown[d]["clones"]) for d in ("vda", "vdb")] == [(2, 6), (1, 6)]
    assert shown["vda"]["pins-own-size"] >= 65536  # what the source has overwritten
    vms.write("c1", 0, 9)
    for name, seed in (("src", 3), ("c0", 1), ("c1", 9), ("c2", 1), ("d-1", 3), ("d-2", 3), ("e", 3)):
        vms.holds(name, 0, seed)
        vms.holds(name, 0, 2, 1)
    # They start again from their images, without the memory of their source.
    for name in ("c0", "e"):
        off(vms, daemon, name)
        vms.boot(name)
    vms.holds("c0", 0, 1)
    vms.holds("e", 0, 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=lambda o: "".join(map(str, o)))
def test_shared_pin_goes_with_the_last_clone_in_any_order(vms, daemon, tmp_path, order):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    for i in range(3):
        vms.fork(f"c{i}")
    vms.write("src", 0, 2)
    for i, name in enumerate(order):
        assert nothing_is_due(daemon) and len(pins_in(a)) == 1
        last = f"c{order[2]}"
        vms.holds(last, 0, 1)
        vms.end(f"c{name}")
    until(lambda: not pins_in(a))
    until(lambda: nothing_is_due(daemon))
    vms.holds("src", 0, 2)
    off(vms, daemon)
    assert not snapshots(a)


def test_fork_after_the_last_clone_makes_a_pin_again(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    for i in range(3):
        vms.fork("c")
        (pin,) = pins_in(a)
        assert rows(daemon)["c-vda.qcow2"]["pin"].replace("-", "") == pin
        vms.holds("c", 0, 1)
        vms.end("c")
        until(lambda: not pins_in(a))


def test_clone_is_forked_like_its_source(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.write("c", 8192, 2)
    vms.fork("d", source="c")
    vms.fork("e", source="c")
    assert (len(pins_in(tmp_path / "a.qcow2")), len(pins_in(vms.path("c")))) == (1, 1)
    vms.end("d")
    vms.write("c", 8192, 3)
    vms.fork("f", source="c")
    for name, seed in (("c", 3), ("e", 2), ("f", 3)):
        vms.holds(name, 0, 1)
        vms.holds(name, 8192, seed)
    for name in ("e", "f"):
        vms.end(name)
    until(lambda: not pins_in(vms.path("c")))
    vms.end("c")
    until(lambda: not pins_in(tmp_path / "a.qcow2"))


@pytest.mark.parametrize("between", ["snapshot", "revert", "resize", "restart-process", "stop", "pause"])
def test_other_work_between_two_forks(vms, daemon, tmp_path, between):
    """An operation that does not change the disk leaves the pin to the next fork, unless the process that
    knows the pin ends."""
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 2)
    vms.fork("c")
    content = 2
    if between == "snapshot":
        daemon.cairn("snapshot-create-as", "src", "s2")
        daemon.cairn("snapshot-delete", "src", "s1")
    elif between == "revert":
        daemon.cairn("snapshot-revert", "src", "s1")
        content = 1
    elif between == "resize":
        daemon.cairn("blockresize", "src", "vda", "65M")
    elif between == "restart-process":
        vms.leave("src")
        daemon.cairn("restart-process", "src")
    elif between == "stop":
        off(vms, daemon)
        vms.boot("src")
    else:
        daemon.cairn("suspend", "src")
    vms.fork("d", "--paused")
    assert len(pins_in(tmp_path / "a.qcow2")) == (1 if between in ("snapshot", "pause") else 2)
    daemon.cairn("resume", "d")
    if between == "pause":
        daemon.cairn("resume", "src")
    vms.write("src", 0, 3)
    vms.holds("c", 0, 2)
    vms.holds("d", 0, content)
    vms.end("c")
    vms.holds("d", 0, content)
    vms.end("d")
    until(lambda: not pins_in(tmp_path / "a.qcow2"))
    vms.holds("src", 0, 3)


@pytest.mark.parametrize("state", ["running", "shut off"])
def test_forks_of_one_snapshot_share_the_pin(vms, daemon, tmp_path, state):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    daemon.cairn("snapshot-create-as", "src", "s1")
    vms.write("src", 0, 2)
    daemon.cairn("snapshot-create-as", "src", "s2")
    if state == "shut off":
        off(vms, daemon)
    for i in range(3):
        assert vms.made(vms.fork(f"c{i}", "--snapshotname", "s1")) == {"vda": "overlay"}
    assert len(pins_in(a)) == 1
    vms.fork("d", "--snapshotname", "s2")
    assert len(pins_in(a)) == 2
    if state == "shut off":
        vms.boot("src")
    daemon.cairn("snapshot-delete", "src", "s1")
    vms.write("src", 0, 3)
    for name in ("c1", "c0", "c2"):
        vms.holds(name, 0, 1)
        vms.end(name)
    until(lambda: len(pins_in(a)) == 1)
    vms.holds("d", 0, 2)
    vms.end("d")
    until(lambda: not pins_in(a))
    vms.holds("src", 0, 3)


def stop_before_answer(vms, daemon, name):
    """Begin a fork that the source's process does not answer. Return the process's pid."""
    pid = daemon.info("src")["pid"]
    vms.close()
    os.kill(pid, signal.SIGSTOP)
    daemon.qmp().run("vm-fork", vm="src", name=name)
    until(lambda: "or" in rows(daemon).get(f"{name}-vda.qcow2", {}))
    return pid


@pytest.mark.parametrize("changed", [False, True], ids=["shared", "new pin"])
def test_daemon_killed_before_the_answer_leaves_only_the_pin_of_the_other_clone(vms, daemon, tmp_path, changed):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    pin = pins_in(a)
    if changed:
        vms.write("src", 0, 2)
    pid = stop_before_answer(vms, daemon, "d")
    daemon.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    daemon.start()
    until(lambda: not list(daemon.state.glob("batches/*")))
    until(lambda: nothing_is_due(daemon))
    assert list(rows(daemon)) == ["c-vda.qcow2"] and not vms.path("d").exists()
    assert pins_in(a) == pin
    vms.holds("c", 0, 1)
    vms.end("c")
    until(lambda: not pins_in(a))
    vms.holds("src", 0, 2 if changed else 1)


def test_source_killed_before_the_answer_leaves_the_pin(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    pid = stop_before_answer(vms, daemon, "d")
    os.kill(pid, signal.SIGKILL)
    until(lambda: "d" not in daemon.cairn("list", "--all", "--name").stdout.split())
    until(lambda: list(rows(daemon)) == ["c-vda.qcow2"])
    vms.boot("src")
    until(lambda: nothing_is_due(daemon))
    assert len(pins_in(a)) == 1
    vms.holds("c", 0, 1)
    vms.end("c")
    until(lambda: not pins_in(a))


@pytest.mark.parametrize("changed", [False, True], ids=["shared", "new pin"])
def test_next_daemon_keeps_the_pin_that_a_clone_reads(vms, daemon, tmp_path, changed):
    """The list of the killed daemon may say that the second clone reads either pin."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    if changed:
        vms.write("src", 0, 2)
    vms.fork("d")
    vms.close()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    vms.end("c")
    vms.fork("e")
    vms.write("src", 0, 3)
    for name in ("d", "e"):
        vms.holds(name, 0, 2 if changed else 1)
    vms.end("e")
    vms.holds("d", 0, 2 if changed else 1)
    vms.end("d")
    until(lambda: nothing_is_due(daemon))
    until(lambda: not pins_in(a))
    vms.holds("src", 0, 3)
