"""VM processes of an older message version: the daemon manages them and refuses what they lack. The processes here are
fake; long_upgrade.py has those of an older commit."""

import contextlib
import os
import shutil
import signal
import struct

import pytest

from conftest import FAKE_VM, Console, Daemon, until

END_VERSION = 4104  # VM_END_VERSION


def grow_old(fake, name):
    """Replace the daemon and write version 1 into the VM's end file, so that the new daemon speaks it."""
    until(lambda: fake.kept(name).get("state") == "running")
    fake.stop(signal.SIGKILL)
    with open(fake.state / "vms" / name / "end", "r+b") as f:
        assert struct.unpack("<Q", os.pread(f.fileno(), 8, END_VERSION)) == (2,)
        os.pwrite(f.fileno(), struct.pack("<Q", 1), END_VERSION)
    fake.start()


@pytest.fixture
def old(fake):
    """A daemon with a VM vm1 whose process speaks version 1."""
    image = fake.tmp / "disk.qcow2"
    image.write_bytes(b"")
    fake.define("vm1", cmdline="version-1", disks=[{"path": str(image), "format": "qcow2"}])
    fake.define("new")
    fake.cairn("start", "vm1", "new")
    grow_old(fake, "vm1")
    return fake


def test_old_process_is_marked(old):
    assert "vm1    running (outdated)" in old.cairn("list").stdout
    assert "(outdated)" not in [line for line in old.cairn("list").stdout.splitlines() if " new " in line][0]
    assert "Process:        outdated (another build; update: cairn restart-process vm1)" in old.cairn("dominfo", "vm1").stdout
    q = old.qmp()
    assert q.run("vm-info", vm="vm1")["outdated"] is True and "outdated" not in q.run("vm-info", vm="new")
    for brief in True, False:
        assert [vm.get("outdated") for vm in q.run("vm-list", brief=brief)["vms"]] == [None, True]


def test_old_process_is_managed(old):
    pid = old.info("vm1")["pid"]
    q = old.qmp()
    old.cairn("suspend", "vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="paused")
    old.cairn("resume", "vm1")
    old.cairn("reset", "vm1")
    q.event("RESET", vm="vm1")
    console = Console(old, "vm1")
    assert console.line() == "fake guest"
    console.close()
    old.cairn("snapshot-create-as", "vm1", "s1")
    old.cairn("snapshot-create-as", "vm1", "s2")
    old.cairn("snapshot-revert", "vm1", "s1")
    old.cairn("snapshot-delete", "vm1", "s2")
    assert old.cairn("snapshot-list", "vm1", "--name").stdout.split() == ["s1"]
    old.cairn("dump", "vm1", str(old.tmp / "core"))
    assert old.info("vm1")["pid"] == pid and old.info("vm1")["state"] == "running"
    old.cairn("save", "vm1", str(old.tmp / "vm1.state"))
    assert old.info("vm1")["state"] == "shutoff"
    old.cairn("restore", str(old.tmp / "vm1.state"))
    assert "outdated" not in old.info("vm1")


def test_old_process_is_replaced(old):
    old.cairn("restart-process", "vm1")
    assert "outdated" not in old.info("vm1") and old.info("vm1")["state"] == "running"


def test_old_process_is_stopped(old):
    old.cairn("destroy", "vm1")
    old.cairn("start", "vm1")
    assert "outdated" not in old.info("vm1")


def test_end_of_old_process_is_known(old):
    """The reason comes from the end file, which the process wrote while no daemon ran."""
    q = old.qmp()
    old.cairn("shutdown", "vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff", reason="shutdown")


def test_process_of_another_build_is_marked(tmp_path):
    """The message version is the same: what differs is the id that the linker has given the program."""
    program = tmp_path / "cairn-vm"
    shutil.copy(FAKE_VM, program)
    with contextlib.closing(Daemon(tmp_path, vm_program=str(program))) as d:
        d.define("vm1")
        d.define("vm2")
        d.cairn("start", "vm1")
        until(lambda: d.kept("vm1").get("state") == "running")
        d.stop()
        d.start()
        assert "(outdated)" not in d.cairn("list").stdout
        d.stop()
        built = program.read_bytes()
        note = built.index(b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0") + 16  # an id of 20 bytes
        program.unlink()
        program.write_bytes(built[:note] + bytes(20) + built[note + 20:])
        program.chmod(0o755)
        d.start()
        assert "(outdated)" not in d.cairn("list").stdout  # no id: not known
        program.unlink()
        program.write_bytes(built[:note] + b"another" + built[note + 7:])
        program.chmod(0o755)
        d.cairn("start", "vm2")
        until(lambda: "vm1    running (outdated)" in d.cairn("list").stdout)
        assert d.cairn("list").stdout.count("outdated") == 1
        d.cairn("restart-process", "--all")
        assert "outdated" not in d.cairn("list").stdout


def test_process_of_earlier_build_gets_shorter_dump_request(fake):
    """Its message version is today's, but struct vm_dump had no `then`."""
    fake.define("vm1", cmdline="old-dumps")
    fake.cairn("start", "vm1")
    until(lambda: fake.kept("vm1").get("state") == "running")
    fake.stop(signal.SIGKILL)
    fake.start()
    fake.cairn("dump", "vm1", str(fake.tmp / "core"))
    assert (fake.tmp / "core").read_bytes() == b"core"
