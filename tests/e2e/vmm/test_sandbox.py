"""A VM process keeps only the privileges that it needs. Read from /proc for every thread."""

import contextlib
import os

import pytest

import guestlib
from conftest import inject_call, is_vm, open_files

pytestmark = pytest.mark.usefixtures("kvm")


def statuses(pid):
    """Return the status of every thread. The kernel's own helper threads come and go."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{tid}/status") as f:
            found.append(dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line))
    return found


def test_every_thread_is_confined(sandbox, tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with guestlib.interp(disks=[{"path": str(disk), "format": "raw"}], vcpus=2, rng=True,
                         console={"virtio": True}) as g:
        pid = g.vm_pid()
        ours = {"cairn-vm", "vcpu0", "vcpu1", "vda", "worker"}
        while not ours <= {s["Name"] for s in statuses(pid)}:
            pass  # a thread sets its name when it first runs
        for s in statuses(pid):
            if s["Name"].startswith("iou-"):
                continue  # the kernel's own helpers of io_uring
            assert s["Seccomp"] == "2", s["Name"]
            assert s["NoNewPrivs"] == "1", s["Name"]
            for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(s[caps], 16) == 0, (s["Name"], caps)
        assert g.command("echo alive") == ["alive"]


def test_vm_process_has_no_foreign_fds(tmp_path):
    """No open folder, and no file of the host except those it was given."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with guestlib.interp(disks=[{"path": str(disk), "format": "raw"}]) as g:
        pid = g.vm_pid()
        targets = open_files(pid)
        assert str(disk) in targets
        for target in targets:
            assert not os.path.isdir(target), target
            if target.startswith("/") and not target.startswith(("/dev/", "/memfd:")):
                assert target in (str(disk), guestlib.bare("interp"), g.log_path), target


FORBIDDEN = {"fork": [57], "a signal to somebody else": [234, 1, 1, 0],
             "a file's signals to somebody else": [72, 0, 8, 1],  # F_SETOWN
             "typing at the terminal": [16, 0, 0x5412, 0]}  # TIOCSTI


@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
def test_forbidden_system_call_kills_only_that_vm(sandbox, daemon, guest, call):
    for name in ("a", "b"):
        daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")})
        daemon.cairn("start", name)
    victim = next(p for p in map(int, filter(str.isdigit, os.listdir("/proc")))
                  if _is_vm_of(p, daemon, "a"))
    assert inject_call(victim, *call) is None
    daemon.wait("a", "crashed")
    assert daemon.cairn("domstate", "b").stdout.strip() in ("running", "idle")


def _is_vm_of(pid, daemon, name):
    """Return the process whose log is in the VM's folder."""
    return is_vm(pid) and any(f.startswith(str(daemon.state / "vms" / name) + "/") for f in open_files(pid))
