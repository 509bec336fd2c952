"""cairn snapshot-revert of a VM that is off: what a failed one leaves, and what it says about disks that changed."""

import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD


def off(fake, how):
    fake.cairn("start", "vm1")
    if how == "killed":
        os.kill(fake.info("vm1")["pid"], signal.SIGKILL)
        fake.wait("vm1", "crashed")
    else:
        fake.cairn("shutdown", "vm1")
        fake.wait("vm1", "shutoff")


@pytest.mark.parametrize("how", ["killed", "shutdown"])
def test_vm_is_as_before_a_revert_that_failed(fake, how):
    """It was started only for the revert. Nothing restarts the VM, although its policies ask for it after
    a crash or a shutdown."""
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    keys = {"disks": [{"path": "d.raw", "format": "raw"}]}
    fake.define("vm1", **keys)
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "one")
    fake.cairn("destroy", "vm1")
    off(fake, how)
    fake.define("vm1", cmdline="work-fails", on_crash="restart", on_poweroff="restart", **keys)
    before = {k: fake.info("vm1").get(k) for k in ("state", "reason", "detail")}
    fake.cairn("snapshot-revert", "vm1", "one", ok=False)
    assert "restart-in" not in fake.info("vm1")
    assert {k: fake.info("vm1").get(k) for k in before} == before
    fake.stop()
    fake.start()
    assert {k: fake.info("vm1").get(k) for k in before} == before
    fake.define("vm1", **keys)
    fake.cairn("snapshot-revert", "vm1", "one")
    assert fake.info("vm1")["state"] == "running"


def image(path, *args):
    subprocess.run([BUILD + "/cairn-img", "create", "-q", "-f", "qcow2", *args, str(path), "4M"], check=True)
    return {"path": str(path), "format": "qcow2"}


def test_snapshot_is_complete_without_a_disk_that_was_added_since(daemon, tmp_path):
    a, b = (image(tmp_path / n) for n in "ab")
    daemon.define("vm1", disks=[a])
    daemon.cairn("snapshot-create-as", "vm1", "one")
    daemon.define("vm1", disks=[a, b])
    one, = json.loads(daemon.cairn("snapshot-list", "vm1", "--format", "json").stdout)
    assert "disks-missing" not in one and one["disks-added"] == 1
    assert "incomplete" not in daemon.cairn("snapshot-list", "vm1").stdout
    said = daemon.cairn("snapshot-info", "vm1", "one").stdout
    assert "Disks added:    1 (attached since; not in the snapshot)\n" in said and "Disks missing" not in said
    # The part of a disk that it has is gone.
    daemon.cairn("snapshot-create-as", "vm1", "two")
    subprocess.run([BUILD + "/cairn-img", "snapshot", "-d", "two", b["path"]], check=True)
    assert "Disks missing:  1\n" in daemon.cairn("snapshot-info", "vm1", "two").stdout
