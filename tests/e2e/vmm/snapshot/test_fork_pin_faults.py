"""Pins after kills, failed forks, a lost list of pins, and images that somebody copied, moved or removed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from clonelib import thread_name
from conftest import QmpError, open_files, until
from forkpinlib import copy_by_hand, off, pins_known, snapshots, vms  # noqa: F401 (vms is a fixture)


def test_killed_source_and_clone_lose_nothing(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.write("src", 0, 2)
    vms.write("c-1", 0, 3)
    for name in ("src", "c-1"):
        pid = daemon.info(name)["pid"]
        vms.leave(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: daemon.cairn("domstate", name).stdout not in ("running\n", "paused\n"))
    vms.holds("c-2", 0, 1)
    vms.boot("src")
    vms.boot("c-1")
    vms.holds("src", 0, 2)
    vms.holds("c-1", 0, 3)
    vms.write("src", 8192, 4)
    vms.holds("c-2", 0, 1)
    for name in ("c-1", "c-2"):
        vms.end(name)
    until(lambda: not snapshots(tmp_path / "a.qcow2"))


def test_killed_daemon_knows_the_pins_afterwards(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.close()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    vms.end("c-1")
    vms.holds("c-2", 0, 1)
    assert len(snapshots(a)) == 1
    vms.leave("src")
    daemon.cairn("destroy", "src")
    vms.boot("src")
    vms.holds("src", 0, 1)
    assert len(snapshots(a)) == 1
    vms.close()
    daemon.cairn("destroy", "c-2")
    daemon.cairn("undefine", "c-2", "--remove-all-storage")
    until(lambda: not snapshots(a))


def test_daemon_killed_during_forks_leaves_no_pin(vms, daemon, tmp_path):
    """A kill at any step leaves each fork complete or gone, and no pin without a clone."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.close()
    for i in range(5):
        q = daemon.qmp()
        q.run("vm-fork", vm="src", name=f"c{i}", count=2)
        for _ in range(2 * i):
            e = q.events.pop(0) if q.events else q.read()
            if e["data"].get("status") == "concluded":
                break
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not list(daemon.state.glob("batches/*")))
        clones = [n for n in daemon.cairn("list", "--all", "--name").stdout.split() if n != "src"]
        assert len(clones) in (0, 2)
        for name in clones:
            vms.holds(name, 0, 1)
            vms.end(name)
        until(lambda: not snapshots(a))
    vms.holds("src", 0, 1)


def test_clone_that_waits_for_its_pin_ends_with_the_daemon(vms, daemon, tmp_path):
    """The source's disk is slow, so the clone's process waits for the pin when the daemon is killed."""
    if not shutil.which("strace"):
        pytest.skip("strace, which slows the disk's thread down, is missing")
    vms.start(vms.image("a.qcow2"))
    vms.close()
    pid = daemon.info("src")["pid"]
    thread, = (t.name for t in pathlib.Path(f"/proc/{pid}/task").iterdir() if thread_name(t) == "vda")
    q = daemon.qmp()
    slow = "inject=io_uring_enter,epoll_wait:delay_exit=300000"
    with subprocess.Popen(["strace", "-o", tmp_path / "calls", "-e", slow, "-p", thread]) as strace:
        until(lambda: (tmp_path / "calls").exists() or strace.poll() is not None)
        if strace.poll() is not None:
            pytest.skip("strace may not trace the VM's process")
        q.run("vm-fork", vm="src", name="copy")
        until(lambda: "copy" in daemon.cairn("list", "--all", "--name").stdout.split() and daemon.info("copy").get("pid"))
        clone = daemon.info("copy")["pid"]
        until(lambda: str(tmp_path / "a.qcow2") in open_files(clone))  # its configuration has come
        daemon.stop(signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{clone}"))
        strace.terminate()
    daemon.start()
    until(lambda: not list(daemon.state.glob("batches/*")))
    assert "copy" not in daemon.cairn("list", "--all", "--name").stdout


@pytest.mark.parametrize("loss", ["damaged", "missing", "a row"])
def test_lost_list_of_pins_is_built_again(vms, daemon, tmp_path, loss):
    a, pins = tmp_path / "a.qcow2", daemon.state / "pins.json"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c", "--count", "2")
    vms.fork("g", source="c-1")
    vms.fork("unknown")
    vms.leave("unknown")
    daemon.cairn("destroy", "unknown", "src")
    definition = daemon.cairn("dumpjson", "unknown").stdout
    daemon.cairn("undefine", "unknown")  # its image reads its pin still
    vms.close()
    daemon.stop()
    if loss == "damaged":
        pins.write_text("{")
    elif loss == "a row":
        o = json.loads(pins.read_text())
        o["used"][0]["pin"] = "?"
        pins.write_text(json.dumps(o))
    else:
        pins.unlink()
    daemon.start()
    known = pins_known(daemon)
    assert [n for n in known if n != "unknown"] == ["c-1", "c-2", "g"]
    assert pins.with_name("pins.json.damaged").exists() == (loss in ("damaged", "a row"))
    line, *_ = [l for l in json.loads(daemon.cairn("audit", "--format", "json").stdout) if "pins.json" in l.get("error", "")]
    assert f"{1 if loss == 'a row' else 3} added, 0 cannot be read" in line["error"]
    # The source starts beside its clones, and nothing is lost.
    vms.boot("src")
    vms.write("src", 0, 2)
    for name in ("c-1", "c-2", "g"):
        vms.holds(name, 0, 1)
    # A fork from after the loss lets go of its pin; the pins from before stay, because nobody knows who reads them.
    before = len(snapshots(a))
    vms.fork("late")
    assert len(snapshots(a)) == before + 1
    for name in ("late", "g", "c-1", "c-2"):
        vms.end(name)
    until(lambda: len(snapshots(a)) == before)
    assert "the disk of an unknown clone may read the pin" in daemon.log.read_text()
    vms.close()
    daemon.cairn("destroy", "src")
    (tmp_path / "unknown.json").write_text(definition)
    daemon.cairn("define", str(tmp_path / "unknown.json"))
    vms.boot("unknown")
    vms.holds("unknown", 0, 1)


def test_image_that_cannot_be_read_is_looked_at_again(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.close()
    daemon.cairn("destroy", "src", "c")
    daemon.stop()
    (daemon.state / "pins.json").unlink()
    overlay = vms.path("c")
    away = overlay.with_suffix(".away")
    overlay.rename(away)
    overlay.symlink_to(overlay)  # ELOOP
    daemon.start()
    assert pins_known(daemon) == []
    assert "linked clones" in daemon.cairn("start", "src", ok=False).stderr
    daemon.stop()
    overlay.unlink()
    away.rename(overlay)
    daemon.start()
    assert pins_known(daemon) == ["c"]
    vms.boot("src")
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_cancelled_and_failed_forks_leave_no_pin(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.path("c-2").write_text("mine")
    assert "exists" in daemon.cairn("clone", "--live", "src", "c", "--count", "3", ok=4).stderr
    until(lambda: not snapshots(a))
    vms.path("c-2").unlink()
    q = daemon.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=8)["job"]
    try:
        q.run("job-cancel", id=job)
    except QmpError:  # the job has concluded already
        pass
    until(lambda: q.run("query-jobs", id=job)[0]["status"] == "concluded")
    for name in daemon.cairn("list", "--all", "--name").stdout.split():
        if name != "src":
            vms.end(name)
    until(lambda: not snapshots(a))
    assert not json.loads((daemon.state / "pins.json").read_text())["used"]


@pytest.mark.parametrize("source", ["running", "off"])
def test_overlay_that_was_copied_by_hand_keeps_its_pin(vms, daemon, tmp_path, source):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    vms.write("c", 8192, 2)
    definition = copy_by_hand(vms, daemon)
    if source == "running":
        daemon.define("copy", **definition)
        vms.end("c")
    else:
        # The pin is due for deletion at the source's next start.
        off(vms, daemon)
        vms.end("c")
        daemon.define("copy", **definition)
        vms.boot("src")
    assert pins_known(daemon) == ["copy"]
    vms.write("src", 0, 3)
    vms.boot("copy")
    vms.holds("copy", 0, 1)
    vms.holds("copy", 8192, 2)
    # The source starts beside the copy.
    off(vms, daemon)
    vms.boot("src")
    assert len(snapshots(a)) == 1
    vms.end("copy")
    until(lambda: not snapshots(a))


def test_overlay_whose_pin_is_gone_is_refused_by_name(vms, daemon, tmp_path):
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    definition = copy_by_hand(vms, daemon)
    vms.end("c")
    until(lambda: not snapshots(tmp_path / "a.qcow2"))
    daemon.define("copy", **definition)
    assert "its pin (a hidden snapshot) was deleted, so the disk cannot be read" in \
        daemon.cairn("start", "copy", ok=False).stderr


def test_source_image_that_is_removed_or_moved_is_named(vms, daemon, tmp_path):
    """A clone that runs has it open. Its next start names the image."""
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    off(vms, daemon)
    daemon.cairn("domrename", "src", "renamed")
    vms.boot("renamed")
    vms.write("renamed", 0, 2)
    vms.holds("c", 0, 1)
    off(vms, daemon, "renamed")
    away = a.with_name("away.qcow2")
    a.rename(away)
    vms.holds("c", 0, 1)
    off(vms, daemon, "c")
    assert f"{a}: No such file or directory" in daemon.cairn("start", "c", ok=False).stderr
    # Another image of that name is not read.
    vms.image("a.qcow2")
    assert "its pin (a hidden snapshot) was deleted" in daemon.cairn("start", "c", ok=False).stderr
    away.rename(a)
    vms.boot("c")
    vms.holds("c", 0, 1)


def test_pin_that_qemu_img_deletes_is_refused_by_name(vms, daemon, tmp_path):
    a = tmp_path / "a.qcow2"
    vms.start(vms.image("a.qcow2"))
    vms.write("src", 0, 1)
    vms.fork("c")
    off(vms, daemon, "c")
    off(vms, daemon)
    pin = json.loads((daemon.state / "pins.json").read_text())["used"][0]["pin"].replace("-", "")
    subprocess.run(["qemu-img", "snapshot", "-d", f"cairn-pin-{pin}", a], check=True)
    assert "its pin (a hidden snapshot) was deleted" in daemon.cairn("start", "c", ok=False).stderr
    vms.boot("src")
    vms.holds("src", 0, 1)
