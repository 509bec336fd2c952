"""A disk is attached, detached or gets another medium, and the answer of the VM's process, the connection to it, or the
daemon gets lost: the definition that the VM runs with is what its process has."""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, library, until
from daemonlib import NOBODY, shared  # noqa: F401
from fuselib import Op, fuse
from test_hotplug import disks, image, machine
from test_hung_files import asked
from test_lost_connection import cut
from test_scsi import CHANGED, READY, Drive


def raw(path):
    return {"path": path, "format": "raw"}


def test_disk_whose_answer_is_lost_is_not_there_if_the_process_does_not_have_it(fake, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    fake.define("a", cmdline="loses-plug", disks=[raw(a)])
    fake.cairn("start", "a")
    r = fake.cairn("attach-disk", "a", b, "vdb", "--live", ok=False)
    assert "the connection to the VM's process was lost before the request was answered" in r.stderr
    until(lambda: disks(fake) == ["vda"])
    # The disk is not in doubt any more, so the next one is tried.
    assert "was lost" in fake.cairn("attach-disk", "a", b, "vdc", "--live", ok=False).stderr


def test_disk_that_another_vm_reads_is_not_attached_for_writing(fake, tmp_path):
    """A linked clone or a template would find other data."""
    base, over, own = tmp_path / "base.raw", tmp_path / "over.qcow2", image(tmp_path / "own.raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", base, "1M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", over], check=True)
    fake.define("clone", disks=[{"path": str(over), "format": "qcow2", "backing": [raw(str(base))]}])
    fake.define("a", disks=[raw(own)])
    fake.cairn("start", "a")
    r = fake.cairn("attach-disk", "a", base, "vdb", "--live", ok=False)
    assert f"disk vdb: VM 'clone' reads {base}, so that must not change" in r.stderr and disks(fake) == ["vda"]
    fake.cairn("undefine", "clone")
    fake.define("template", disks=[raw(str(base))])
    fake.cairn("template", "template")
    assert "VM 'template' reads" in fake.cairn("attach-disk", "a", base, "vdb", "--live", ok=False).stderr
    fake.cairn("attach-disk", "a", base, "vdb", "--live", "--mode", "readonly")
    assert disks(fake) == ["vda", "vdb"]


def asks_for_release(daemon, guest, tmp_path, **keys):
    """Start a VM whose guest is asked to release its disk vdb, and has not."""
    g = machine(daemon, guest, **keys)
    daemon.cairn("attach-disk", "a", image(tmp_path / "b.raw"), "vdb", "--live")
    assert "has not released" in daemon.cairn("detach-disk", "a", "vdb", "--timeout", "1", ok=False).stderr
    return g


def test_disk_that_was_released_without_a_daemon_is_gone(daemon, guest, kvm, tmp_path):
    """The disk was the VM's only one."""
    g = asks_for_release(daemon, guest, tmp_path)
    daemon.stop(signal.SIGKILL)
    g.release()
    daemon.start()
    until(lambda: disks(daemon) == [])
    g.close()


def test_disk_that_was_released_without_a_connection_is_gone(daemon, guest, kvm, tmp_path):
    g = asks_for_release(daemon, guest, tmp_path, disks=[raw(image(tmp_path / "a.raw"))])
    os.kill(daemon.proc.pid, signal.SIGSTOP)
    cut(daemon.proc.pid)
    g.release()
    os.kill(daemon.proc.pid, signal.SIGCONT)
    until(lambda: disks(daemon) == ["vda"])
    g.close()


def test_save_fails_while_the_guest_releases_a_disk(daemon, guest, kvm, tmp_path):
    """The daemon reads of the save before it reads of the disk: the next start would have the disk, the state not."""
    g = asks_for_release(daemon, guest, tmp_path, disks=[raw(image(tmp_path / "a.raw"))])
    daemon.cairn("attach-disk", "a", str(tmp_path / "b.raw"), "vdb", "--config")
    q = daemon.qmp()
    os.kill(daemon.proc.pid, signal.SIGSTOP)
    q.send(b'{"execute": "vm-managed-save", "arguments": {"vm": "a"}}')
    slots = g.release()
    until(lambda: int(g.run(f"cfgrd {(slots.bit_length() - 1) << 3} 0 4")[0], 16) == 0xffffffff)
    os.kill(daemon.proc.pid, signal.SIGCONT)
    answer = q.answer()
    if "return" in answer:
        q.event("JOB_STATUS_CHANGE", id=answer["return"]["job"], status="concluded")
    until(lambda: disks(daemon) == ["vda"])
    assert daemon.info("a")["state"] == "running" and disks(daemon, "--inactive") == ["vda", "vdb"]
    g.run("echo on")
    g.close()


def content(d):
    """The guest's first command after a change fails, and tells of the change."""
    assert d.scsi(READY)["sense"] == CHANGED
    return d.content()


def test_medium_is_the_old_one_if_the_daemon_ended_before_it_sent_the_new_one(daemon, kvm, tmp_path):
    d = Drive(daemon, tmp_path)
    pid, state = daemon.info("vm1")["pid"], daemon.state / "vms/vm1/state.json"
    os.kill(pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        changed = pool.submit(d.change, d.cd)
        until(lambda: '"disk_change"' in state.read_text())
        stored = state.read_text()
        os.kill(pid, signal.SIGCONT)
        changed.result()
    assert json.loads(stored)["disk_change"]["id"] == "sdb" and "disk_change" not in json.loads(state.read_text())
    daemon.stop(signal.SIGKILL)
    daemon.start()
    until(lambda: "cpu-time" in daemon.info("vm1"))
    assert d.source() == d.cd and content(d) == "cd"
    d.change(d.ab)
    daemon.stop(signal.SIGKILL)
    # This is what a daemon has stored when it is about to send the medium.
    state.write_text(stored)
    daemon.start()
    until(lambda: d.source() == d.ab)
    assert content(d) == "ab"
    d.console.close()


def test_medium_and_drive_stay_if_the_image_does_not_answer_the_guest(daemon, kvm, tmp_path):
    """The VM's process continues."""
    d = Drive(daemon, tmp_path)
    with fuse(tmp_path / "fuse", iso=b"\xef" * (1 << 20)) as f:
        d.change(f["iso"])
        assert content(d) == "ef"
        f.hang(Op.READ)
        d.console.sock.sendall(b"scsi 28000000018000000100 2048\n")
        until(lambda: Op.READ in f.hanging())
        assert "does not answer the guest's commands, so the medium stays" in d.change(d.cd, "--force", ok=False).stderr
        daemon.cairn("attach-disk", "vm1", d.cd, "sdc", "--targetbus", "scsi", "--live")
        assert "the image of sdb does not answer the guest's commands, so it stays attached; try again when it does" in \
            daemon.cairn("detach-disk", "vm1", "sdb", "--live", ok=False).stderr
        daemon.cairn("detach-disk", "vm1", "sdc", "--live")
        assert d.source() == f["iso"]
        f.release()
        until(lambda: d.console.line() == "ok")
        d.change(d.cd, "--force")
        assert content(d) == "cd"
    d.console.close()


def test_client_that_loses_its_role_while_its_file_is_opened_changes_nothing(shared):  # noqa: F811
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    shared.cairn("start", "mine")
    with fuse(shared.tmp / "fuse", disk=bytes(65536)) as f:
        f.hang(Op.OPEN)
        with asked(shared, "vm-attach-disk", vm="mine", disk={"id": "vdb", **raw(f["disk"])}) as answer:
            until(lambda: Op.OPEN in f.hanging())
            shared.cairn("revoke", "mine", "--user", "nobody")
            shared.cairn("destroy", "mine")
            shared.cairn("start", "mine")
            f.release()
            e = answer()["error"]
    assert e["class"] == "PermissionDenied" and "you lost it" in e["desc"]
    assert json.loads(shared.cairn("domblklist", "mine", "--format", "json").stdout) == []


def test_client_that_loses_its_role_meanwhile_attaches_nothing(shared):  # noqa: F811
    """The interface is stored before the VM's process gets it, and another write holds the store."""
    shutil.copy(os.path.join(BUILD, "cairn-slirp"), shared.tmp)
    d, go, syncs = shared, shared.tmp / "go", shared.tmp / "syncs"
    d.cairn("grant", "owner", "mine", "--user", "nobody")
    d.stop()
    d.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "/vms/other", "SLOW_SYNC_UNTIL": str(go),
              "SLOW_SYNC_COUNT": str(syncs)}
    d.start()
    d.cairn("start", "mine")
    q, other = d.qmp(), d.qmp()
    other.send(json.dumps({"execute": "vm-autostart", "arguments": {"vm": "other"}}).encode())
    until(syncs.exists)
    with asked(d, "vm-attach-interface", vm="mine", interface={"type": "user"}) as answer:
        until(lambda: "net0" in d.cairn("domiflist", "mine").stdout)
        d.qmp().send(json.dumps({"execute": "permission-revoke", "arguments": {"vm": "mine", "user": NOBODY}}).encode())
        until(lambda: not [p for p in q.run("query-permissions")["permissions"] if p.get("user") == NOBODY])
        go.touch()
        e = answer()["error"]
    assert e["class"] == "PermissionDenied" and "you lost it" in e["desc"], e
    assert "net0" not in d.cairn("domiflist", "mine").stdout


@pytest.mark.parametrize("changes", [1, 2])
def test_disk_is_refused_if_the_vm_changed_while_its_file_was_opened(fake, tmp_path, changes):
    """After two changes, the definition may have the address again that it had."""
    fake.define("a", disks=[raw(image(tmp_path / "a.raw"))])
    fake.cairn("start", "a")
    with fuse(tmp_path / "fuse", disk=bytes(65536)) as f:
        f.hang(Op.OPEN)
        with asked(fake, "vm-attach-disk", uid=os.geteuid(), vm="a", disk={"id": "vdb", **raw(f["disk"])}) as answer:
            until(lambda: Op.OPEN in f.hanging())
            for n in range(changes):
                fake.cairn("blkdeviotune", "a", "vda", "--total-iops-sec", str(100 + n), "--live")
            f.release()
            e = answer()["error"]
    assert e["desc"] == "VM 'a' was changed by another user meanwhile; repeat the change"
    assert disks(fake) == ["vda"]
