"""What the next daemon has to know of a running VM is stored before it happens."""

import errno
import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, Daemon, library, until

SIZE = 1 << 20


@pytest.fixture
def slow(tmp_path):
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    d = Daemon(tmp_path, vm_program=FAKE_VM)
    yield d
    d.close()


def begin(d, **env):
    """Define vm1, whose disk has three layers, and restart the daemon with these variables."""
    for name, below in (("base", None), ("middle", "base"), ("top", "middle"), ("other", None)):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *(["-b", below, "-F", "qcow2"] if below else []), name, str(SIZE)],
                       cwd=d.tmp, check=True)
    top, middle, base = ({"path": str(d.tmp / name), "format": "qcow2"} for name in ("top", "middle", "base"))
    d.define("vm1", disks=[{**top, "backing": [middle, base]}])
    d.stop()
    d.env |= {"LD_PRELOAD": library("slow_sync"), **env}
    d.start()


def disks(d, *how):
    found = json.loads(d.cairn("dumpjson", "vm1", *how).stdout)
    return [[os.path.basename(layer["path"]) for layer in (x, *x.get("backing", []))] for x in found["disks"]], len(found.get("interfaces", []))


def test_running_definition_is_stored_before_one_that_was_begun_while_the_vm_was_off(slow):
    """The VM starts while the draft is written; then the daemon is killed."""
    begin(slow, SLOW_SYNC_OF="/vms/", SLOW_SYNC_MS="400")
    folder = slow.state / "vms"
    q = slow.qmp()
    with open(slow.write("vm1", disks=[{"path": str(slow.tmp / "other"), "format": "qcow2"}])) as f:
        q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": json.load(f), "folder": str(slow.tmp)}}).encode())
    until(lambda: any(p.name.startswith(".draft-") for p in folder.iterdir()))
    slow.cairn("start", "vm1")
    until(lambda: "other" in (folder / "vm1/definition.json").read_text())
    slow.stop(signal.SIGKILL)
    slow.start()
    assert disks(slow) == ([["top", "middle", "base"]], 0) and disks(slow, "--inactive") == ([["other"]], 0)


def test_redefinition_of_a_running_vm_needs_its_running_definition_stored(slow):
    full = slow.tmp / "full"
    begin(slow, SLOW_SYNC_OF="state.json", SLOW_SYNC_FAIL=str(errno.ENOSPC), SLOW_SYNC_FAIL_IF=str(full))
    slow.cairn("start", "vm1")
    full.touch()
    new = slow.write("vm1", disks=[{"path": str(slow.tmp / "other"), "format": "qcow2"}])
    assert "No space left on device" in slow.cairn("define", new, ok=False).stderr
    slow.stop(signal.SIGKILL)
    slow.start()
    assert disks(slow) == disks(slow, "--inactive") == ([["top", "middle", "base"]], 0)


def test_change_that_cannot_be_stored_afterwards_says_so(slow):
    full = slow.tmp / "full"
    begin(slow, SLOW_SYNC_OF="state.json", SLOW_SYNC_FAIL=str(errno.ENOSPC), SLOW_SYNC_FAIL_IF=str(full))
    slow.cairn("start", "vm1")
    full.touch()
    r = slow.cairn("blkdeviotune", "vm1", "vda", "--live", "--total-iops-sec", "100", ok=False)
    assert "vm-set-disk was carried out, but could not be stored, so the next daemon will not know of it: " in r.stderr
    assert "No space left on device" in r.stderr and json.loads(slow.cairn("dumpjson", "vm1").stdout)["disks"][0]["iops"] == 100
    full.unlink()
    slow.cairn("blkdeviotune", "vm1", "vda", "--live", "--total-iops-sec", "100")


@pytest.mark.parametrize("request_", ["blockpull vm1 vda", "blockcommit vm1 vda --top middle --base base", "attach-interface vm1 user --live",
                                      "attach-disk vm1 other vdb --subdriver qcow2 --live"], ids=lambda r: r.split()[0])
def test_change_that_cannot_be_stored_is_not_made(slow, request_):
    full = slow.tmp / "full"
    begin(slow, SLOW_SYNC_OF="state.json", SLOW_SYNC_FAIL=str(errno.ENOSPC), SLOW_SYNC_FAIL_IF=str(full))
    slow.cairn("start", "vm1")
    full.touch()
    words = [str(slow.tmp / w) if w in ("middle", "base", "other") else w for w in request_.split()]
    assert "No space left on device" in slow.cairn(*words, ok=False).stderr
    assert disks(slow) == disks(slow, "--inactive") == ([["top", "middle", "base"]], 0)
    full.unlink()
    slow.cairn(*words)
    assert disks(slow) != ([["top", "middle", "base"]], 0)
