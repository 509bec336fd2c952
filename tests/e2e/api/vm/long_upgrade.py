"""An upgrade with running VMs: VMs that a daemon of commit 823e769 (message version 1) has started are managed by this
tree's daemon. make check-long runs this file; its name keeps it out of make check, since it builds that commit."""

import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, Console, Daemon, has_ended, until
from oldlib import old_build

FILLS = "0x800000 0x300000 1", "0x1000000 0x300000 2"


class UpgradedDaemon(Daemon):
    """A daemon that begins as one of an older commit. upgrade() kills it and starts this tree's."""

    def __init__(self, tmp, build):
        self.build = build
        super().__init__(tmp)

    def command(self):
        return [os.path.join(self.build, "cairnd"), "--state-dir", str(self.state)]

    def upgrade(self, sig=signal.SIGTERM):
        self.stop(sig)
        self.build = BUILD
        self.start()


@pytest.fixture
def upgraded(tmp_path, kvm, guest):
    """A VM vm1 with filled memory and a qcow2 disk, started by the older daemon and adopted by this tree's."""
    d = UpgradedDaemon(tmp_path, old_build("823e769"))
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", str(tmp_path / "a.qcow2"), "64M"], check=True,
                   stdout=subprocess.DEVNULL)
    d.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True, disks=[{"path": "a.qcow2", "format": "qcow2"}])
    d.cairn("start", "vm1")
    until(lambda: d.kept("vm1").get("state") == "running")
    c = Console(d, "vm1")
    while "interp" not in c.line():
        pass
    for f in FILLS:
        c.run("fill " + f)
    c.close()
    d.upgrade()
    yield d
    d.close()


def check(d):
    c = Console(d, "vm1")
    for f in FILLS:
        c.run("check " + f)
    c.close()


@pytest.mark.seconds(600)
def test_vm_of_older_commit_is_managed(upgraded):
    d = upgraded
    pid = d.info("vm1")["pid"]
    assert d.info("vm1")["outdated"] and "running (outdated)" in d.cairn("list").stdout
    d.cairn("suspend", "vm1")
    d.cairn("resume", "vm1")
    d.cairn("snapshot-create-as", "vm1", "s1")
    d.cairn("snapshot-create-as", "vm1", "s2")
    d.cairn("snapshot-revert", "vm1", "s1")
    d.cairn("snapshot-delete", "vm1", "s2")
    check(d)
    assert d.cairn("snapshot-list", "vm1", "--name").stdout.split() == ["s1"]
    d.cairn("dump", "vm1", str(d.tmp / "core"))
    d.cairn("clone", "--live", "vm1", "copy")
    assert d.info("copy")["state"] == "running" and "outdated" not in d.info("copy")
    assert d.info("vm1")["pid"] == pid
    d.stop(signal.SIGKILL)
    d.start()
    assert d.info("vm1")["pid"] == pid and d.info("vm1")["outdated"]


@pytest.mark.seconds(600)
def test_vm_of_older_commit_gets_new_process(upgraded):
    d = upgraded
    pid = d.info("vm1")["pid"]
    r = json.loads(d.cairn("restart-process", "vm1", "--format", "json").stdout)[0]
    assert r["pause"] > 0 and has_ended(pid) and "outdated" not in d.info("vm1")
    check(d)
    d.cairn("snapshot-create-as", "vm1", "s1")


@pytest.mark.seconds(600)
@pytest.mark.parametrize("how", ["save", "managedsave"])
def test_vm_of_older_commit_is_saved(upgraded, how):
    d = upgraded
    d.cairn(how, "vm1", *([str(d.tmp / "vm1.saved")] if how == "save" else []))
    d.cairn(*(["restore", str(d.tmp / "vm1.saved")] if how == "save" else ["start", "vm1"]))
    assert "outdated" not in d.info("vm1")
    check(d)


@pytest.mark.seconds(600)
def test_end_of_vm_of_older_commit_is_known(upgraded):
    d = upgraded
    q = d.qmp()
    d.cairn("destroy", "vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff", reason="destroyed")
    d.cairn("start", "vm1")
    assert "outdated" not in d.info("vm1")
    assert d.info("vm1")["machine"] == 1  # it boots with the hardware that it had
