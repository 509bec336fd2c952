"""A plain user's VMs: with access to /dev/userfaultfd the guest runs while its memory is copied; without it memory is
copied in rounds, and every result says so."""

import json
import os
import pathlib
import re

import pytest

from conftest import Console
from plainlib import DEVICE, PlainDaemon, plain_folder, qcow2
from test_host import needs_root

pytestmark = [pytest.mark.usefixtures("kvm"), needs_root]

SYSCTL = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")
REMEDY = "`cairn doctor` shows how to change that"


@pytest.fixture(autouse=True)
def not_refused(monkeypatch):
    monkeypatch.delenv("CAIRN_USERFAULTFD", raising=False)


@pytest.fixture
def folder():
    if not os.path.exists(DEVICE):
        pytest.skip(f"{DEVICE} does not exist: Linux before 6.1")
    with plain_folder() as path:
        yield path


@pytest.fixture
def start(folder, guest):
    """Return a function that starts a plain user's daemon and VM with one of the devices."""
    running = []

    def begin(device):
        d = PlainDaemon(folder, folder / device)
        running.append(d)
        d.define("vm1", memory="64M", boot={"kernel": guest("interp.elf")}, disks=[qcow2(folder / "vda.qcow2", "64M")])
        d.cairn("start", "vm1")
        d.console = Console(d, "vm1")
        running.append(d.console)
        while d.console.line() != "interp":
            pass
        d.console.run("fill 0x1000000 0x2000000 5")
        return d

    yield begin
    for o in reversed(running):
        o.close()


def as_json(d, *args):
    return json.loads(d.cairn(*args, "--format", "json").stdout)


def log(d):
    return d.log_of("vm1")


def guest_runs_on_during_snapshots(d):
    while (s1 := as_json(d, "snapshot-create-as", "vm1", "s1"))["pause"] >= s1["total"] / 2:
        d.cairn("snapshot-delete", "vm1", "s1")  # the process stood still during the pause
    assert s1["memory-tracking"] == "userfaultfd" and "memory-tracking-reason" not in s1
    s2 = as_json(d, "snapshot-create-as", "vm1", "s2")
    assert s2["ram-bytes-shared"] >= 0x2000000 and s2["ram-bytes-written"] < 0x1000000
    d.console.run("fill 0x1000000 0x2000000 6")
    r = as_json(d, "snapshot-revert", "vm1", "s1")
    assert r["memory-tracking"] == "userfaultfd" and r["pause"] > 0
    d.console.run("check 0x1000000 0x2000000 5")
    assert as_json(d, "clone", "--live", "vm1", "c")["memory-tracking"] == "userfaultfd"
    assert as_json(d, "snapshot-create-as", "c", "s1")["memory-tracking"] == "userfaultfd"
    assert as_json(d, "clone", "--live", "c", "cc")["memory-tracking"] == "userfaultfd"
    for args in (["snapshot-create-as", "vm1", "s3"], ["snapshot-revert", "vm1", "s3"], ["clone", "--live", "vm1", "c2"],
                 ["dump", "vm1", str(d.tmp / "core")]):
        assert "paused" not in d.cairn(*args).stdout


def test_permitted_user_runs_on_during_snapshots(start):
    d = start("permitted")
    assert f"memory is tracked by userfaultfd, opened by {DEVICE}" in log(d)
    guest_runs_on_during_snapshots(d)


@pytest.fixture
def everybody_may():
    """Permit the system call to all users, but only on an emulated host, where no one else has that sysctl."""
    before = SYSCTL.read_text()
    if before.strip() == "0" and "CAIRN_IN_SVMHOST" not in os.environ:
        pytest.skip("vm.unprivileged_userfaultfd is 0 here; test_svmhost.py runs this test on a host where it is 1")
    SYSCTL.write_text("1")
    yield
    SYSCTL.write_text(before)


@pytest.mark.parametrize("device", ["denied", "absent"])
def test_system_call_follows_the_device(everybody_may, start, device):
    d = start(device)
    assert "memory is tracked by userfaultfd, opened by the system call" in log(d)
    guest_runs_on_during_snapshots(d)


def clone_holds_without_tracking(d, told):
    """Jobs of a clone, c, read its shared memory."""
    c = Console(d, "c")
    c.run("fill 0x1001000 0x1000 7")
    s1 = as_json(d, "snapshot-create-as", "c", "s1")
    assert s1 == {**s1, **told} and s1["memory-rounds"] >= 1
    assert as_json(d, "clone", "--live", "c", "cc").items() >= told.items()
    d.cairn("dump", "c", str(d.tmp / "core-c"))
    c.run("fill 0x1000000 0x2000000 8")
    d.cairn("snapshot-revert", "c", "s1")
    cc = Console(d, "cc")
    for console in (c, cc):
        for at, length, seed in ((0x1000000, 0x1000, 5), (0x1001000, 0x1000, 7), (0x1002000, 0x1ffe000, 5)):
            console.run(f"check {at:#x} {length:#x} {seed}")
        console.close()


@pytest.mark.parametrize("device, error", [("denied", "Permission denied"), ("absent", "Inappropriate ioctl for device")])
def test_user_without_userfaultfd_is_told(start, device, error):
    if SYSCTL.read_text().strip() != "0":
        pytest.skip("every user may use the system call here: vm.unprivileged_userfaultfd is not 0")
    d = start(device)
    reason = f"{DEVICE}: {error}; vm.unprivileged_userfaultfd is 0"
    told = {"memory-tracking": "dirty-log", "memory-tracking-reason": reason}
    assert log(d).count(f"memory is tracked by KVM's dirty log, since userfaultfd is not available ({reason})") == 1
    s1 = as_json(d, "snapshot-create-as", "vm1", "s1")
    assert s1 == {**s1, **told} and s1["memory-rounds"] >= 1
    d.console.run("fill 0x1000000 0x2000000 6")
    assert as_json(d, "snapshot-revert", "vm1", "s1").items() >= told.items()
    d.console.run("check 0x1000000 0x2000000 5")
    assert as_json(d, "clone", "--live", "vm1", "c").items() >= told.items()
    clone_holds_without_tracking(d, told)
    for done, args in (("copied", ["snapshot-create-as", "vm1", "s2"]), ("read", ["snapshot-revert", "vm1", "s2"]),
                       ("copied", ["clone", "--live", "vm1", "c2"]), ("copied", ["dump", "vm1", str(d.tmp / "core")])):
        last = d.cairn(*args).stdout.splitlines()[-1]
        in_rounds = r"The VM ran while its memory was copied in \d+ rounds?(, slowed down by \d+ %)?, and was paused for [0-9.]+ ms"
        paused = rf"The VM was paused for [0-9.]+ ms while its memory was {done}"
        how, why = last.split(", since ")
        assert re.fullmatch(paused if args[0] == "snapshot-revert" else in_rounds, how)
        assert why == f"userfaultfd is not available ({reason}); {REMEDY}"


def test_snapshots_of_all_vms_tell_each_pause(start):
    if SYSCTL.read_text().strip() != "0":
        pytest.skip("every user may use the system call here: vm.unprivileged_userfaultfd is not 0")
    d = start("denied")
    reason = f"{DEVICE}: Permission denied; vm.unprivileged_userfaultfd is 0"
    row = d.cairn("snapshot-create", "--all").stdout.splitlines()[2]
    assert row.split()[:2] == ["vm1", "done"]
    assert "while its memory was copied in " in row
    assert f", since userfaultfd is not available ({reason}); {REMEDY}" in row
    one, = as_json(d, "snapshot-create-as", "--all", "s2")
    assert one["memory-tracking"] == "dirty-log" and one["memory-tracking-reason"] == reason and one["pause"] > 0
    assert one["memory-rounds"] >= 1


def test_snapshot_of_paused_vm_or_of_disks_has_no_pause_to_explain(start):
    d = start("denied")
    assert d.cairn("snapshot-create-as", "vm1", "disks", "--disk-only").stdout == "Domain snapshot disks created\n"
    assert "memory-tracking" not in as_json(d, "snapshot-create-as", "vm1", "disks2", "--disk-only")
    d.cairn("suspend", "vm1")
    assert d.cairn("snapshot-create-as", "vm1", "s1").stdout == "Domain snapshot s1 created\n"
