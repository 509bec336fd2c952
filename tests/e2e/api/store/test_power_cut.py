"""A power cut after the daemon has promised something: a copy of the disk from that moment, which the kernel repairs
when it mounts the copy, has all of it. The disk is a loop device with an ext4."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from conftest import FAKE_VM, Daemon, until

ROUNDS = 6
# The kernel commits and writes by itself only after this time, so nothing changes the disk while it is copied.
SECONDS = 300


def run(*argv):
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def mounted(image, at, options):
    at.mkdir(exist_ok=True)
    run("mount", "-o", f"loop,{options}", image, at)
    try:
        yield at
    finally:
        run("umount", "--lazy", at)


def make(image):
    """Make a file system, and skip the test where it cannot be mounted."""
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    run("truncate", "-s", "64M", image)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", image)
    try:
        with mounted(image, image.with_suffix(".probe"), "rw"):
            pass
    except subprocess.CalledProcessError as e:
        pytest.skip(f"cannot mount: {e.stderr}")


def has_stopped(pid):
    """Return whether all threads stand still, thus none is in a sync."""
    states = [open(f"/proc/{pid}/task/{t}/stat").read().rsplit(")", 1)[1].split()[0] for t in os.listdir(f"/proc/{pid}/task")]
    return set(states) == {"T"}


@contextlib.contextmanager
def cut(daemon, image, tmp_path):
    """Yield a folder with what a power cut at this moment leaves of the state folder. Each copy has a name of its own:
    another process's mount namespace may keep an earlier one mounted, and the kernel would show that one."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        copy = pathlib.Path(folder, "copy")
        os.kill(daemon.proc.pid, signal.SIGSTOP)
        try:
            until(lambda: has_stopped(daemon.proc.pid))
            run("cp", "--sparse=always", image, copy)
        finally:
            os.kill(daemon.proc.pid, signal.SIGCONT)
        with mounted(copy, pathlib.Path(folder, "left"), "rw") as left:
            yield left / "state"


def vms_of(state):
    """Return the VMs that a daemon would load, without those of unfinished batches."""
    names = {p.parent.name: json.loads(p.read_text())["uuid"] for p in state.glob("vms/*/definition.json")}
    for batch in state.glob("batches/*.json"):
        for vm in json.loads(batch.read_text()).get("vms", []):
            names.pop(vm["name"], None)
    return names


def test_power_cut_loses_no_vm_that_was_told(tmp_path):
    image = tmp_path / "image"
    make(image)
    with mounted(image, tmp_path / "m", f"commit={SECONDS}") as place:
        daemon = Daemon(place, vm_program=FAKE_VM)
        try:
            daemon.define("a")
            daemon.cairn("start", "a")
            q = daemon.qmp()
            for i in range(ROUNDS):
                how = ("vm-fork", "vm-define", "vm-undefine")[i % 3]
                if how == "vm-fork":
                    job = q.run("vm-fork", vm="a", name=f"c{i}")["job"]
                    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
                elif how == "vm-define":
                    definition = {"name": f"d{i}", "memory": "32M", "boot": {"kernel": str(place / "kernel")}}
                    q.run("vm-define", definition=definition)
                else:
                    q.run("vm-undefine", vm=f"d{i - 1}")
                with cut(daemon, image, tmp_path) as state:
                    assert vms_of(state) == {v["name"]: v["uuid"] for v in q.run("vm-list")["vms"]}, how
        finally:
            daemon.close()
