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


def test_disk_with_another_image_is_named(daemon, tmp_path):
    a, b, other = (image(tmp_path / n) for n in ("a", "b", "other"))
    daemon.define("vm1", disks=[a, b])
    daemon.cairn("snapshot-create-as", "vm1", "one")
    # The second disk.
    daemon.define("vm1", disks=[a, other])
    for more in ([], ["--dry-run"], ["--disks-only", "--disk", "vdb"]):
        error = daemon.cairn("snapshot-revert", "vm1", "one", *more, ok=4).stderr
        assert f"disk vdb was part of snapshot 'one' in the image {b['path']}, and disk vdb has the image {other['path']} now" in error
        assert "give the disk that image again while the VM is off (cairn edit vm1)" in error
    daemon.cairn("snapshot-revert", "vm1", "one", "--disks-only", "--disk", "vda")
    # The first one, which has the list of snapshots.
    daemon.define("vm1", disks=[other, b])
    error = daemon.cairn("snapshot-revert", "vm1", "one", ok=3).stderr
    assert f"there is no snapshot 'one': earlier snapshots are in the image {a['path']}, and disk vda has the image {other['path']} now" in error
    # An overlay.
    overlay = image(tmp_path / "overlay", "-b", b["path"], "-F", "qcow2")
    daemon.define("vm1", disks=[a, {**overlay, "backing": [b]}])
    error = daemon.cairn("snapshot-revert", "vm1", "one", ok=4).stderr
    assert f"now writes to its overlay {overlay['path']}" in error
    commit, = [words for words in error.strip().split("cairn ") if words.startswith("blockcommit")]
    assert commit == f"blockcommit vm1 vdb --base {b['path']} --active --pivot"
    daemon.cairn(*commit.split())
    daemon.cairn("snapshot-revert", "vm1", "one")
    # A name that never was.
    assert "has no snapshot 'two'" in daemon.cairn("snapshot-revert", "vm1", "two", ok=3).stderr


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
