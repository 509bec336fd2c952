"""snapshot-diff: what differs between two snapshots of a VM, or between a snapshot and its disks. qemu-img is the
oracle."""

import json
import os
import random
import subprocess

import pytest

from conftest import QmpError
from daemonlib import NOBODY, allowed, as_nobody, shared  # noqa: F401

MIB = 1024 * 1024
CLUSTER = 65536


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def diff(daemon, *args, vm="vm1"):
    return json.loads(daemon.cairn("snapshot-diff", vm, *args, "--format", "json").stdout)


def raw(image, snapshot, to):
    run("qemu-img", "convert", *(["-l", snapshot] if snapshot else []), "-O", "raw", image, to)


def compare(image, a, b, found, disk="vda"):
    """Outside of the ranges found, both contents are equal; where they are zeros, the later one is."""
    raw(image, a, "a.raw")
    raw(image, b, "b.raw")
    with open("a.raw", "rb") as f, open("b.raw", "rb") as g:
        old, new = f.read(), g.read()
    info = next(d for d in found["disks"] if d["id"] == disk)
    new = new[:info["size"]]  # qemu-img converts with the present size of the disk
    old += bytes(max(0, len(new) - len(old)))
    differ = set()
    for x in (x for x in found["list"] if x["disk"] == disk):
        clusters = range(x["start"] // CLUSTER, -(-(x["start"] + x["bytes"]) // CLUSTER))
        differ.update(clusters)
        if x["zero"]:
            assert not any(new[x["start"]:x["start"] + x["bytes"]])
    for n in range(-(-len(new) // CLUSTER)):
        part = slice(n * CLUSTER, (n + 1) * CLUSTER)
        assert n in differ or old[part] == new[part], n
    own = [x for x in found["list"] if x["disk"] == disk]
    assert (info["extents"], info["bytes"]) == (len(own), sum(x["bytes"] for x in own))


@pytest.fixture
def vm1(daemon, tmp_path, monkeypatch):
    """A VM that is off, with an overlay on a base, snapshots s1 to s3 with random writes, and a disk without them."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(5)
    size = 16 * MIB
    with open("base.raw", "wb") as f:
        f.write(os.urandom(4 * MIB))
        f.truncate(size)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "late.qcow2", "1M")
    run("qemu-img", "create", "-q", "-f", "raw", "raw.img", "1M")
    for n in range(1, 5):
        writes = []
        for _ in range(8):
            off = rng.randrange(0, size - 512, 512)
            length = min(rng.choice((512, 65536, 700 * 512)), size - off)
            writes += ["-c", f"{rng.choice((f'write -P {n}', 'write -z', 'discard'))} {off} {length}"]
        run("qemu-io", *writes, "a.qcow2")
        if n == 2:
            size += MIB + 512
            run("qemu-img", "resize", "-q", "a.qcow2", str(size))
        if n < 4:
            run("qemu-img", "snapshot", "-c", f"s{n}", "a.qcow2")
    daemon.define("vm1", disks=[
        {"path": "a.qcow2", "format": "qcow2", "backing": [{"path": "base.raw", "format": "raw"}]},
        {"path": "late.qcow2", "format": "qcow2"}, {"path": "raw.img", "format": "raw"},
        {"path": "base.raw", "format": "raw", "readonly": True}])
    return daemon


def test_ranges_cover_what_differs(vm1):
    for a, b in (("s1", "s2"), ("s1", "s3"), ("s3", "s1"), ("s2", None)):
        found = diff(vm1, a, *([b] if b else []), "--extents")
        assert [d["id"] for d in found["disks"]] == ["vda", "vdb", "vdc"]
        assert found["disks"][1]["reason"] == f"the disk has no snapshot '{a}'"
        assert found["disks"][2]["reason"] == "the disk is raw and has no snapshots"
        compare("a.qcow2", a, b, found)


def test_table_and_notes(vm1):
    r = vm1.cairn("snapshot-diff", "vm1", "s1", "s2")
    assert r.stdout.splitlines()[0] == " Disk   Differs     Bytes     Extents" or r.stdout.startswith(" Disk "), r.stdout
    assert "vdb was not compared: the disk has no snapshot 's1'" in r.stderr
    assert vm1.cairn("snapshot-diff", "vm1", "s1", "--disk", "vda").stderr == ""
    assert " zeros" in vm1.cairn("snapshot-diff", "vm1", "s1", "s3", "--extents").stdout


def job_result(q, **args):
    q.run("snapshot-diff", vm="vm1", **args)
    q.event("JOB_STATUS_CHANGE", status="concluded")
    job = q.jobs()[-1]
    return job.get("result", job.get("error"))


def test_pages_join(vm1):
    args = {"from": "s1", "to": "s3", "extents": True}
    q, joined, page = vm1.qmp(), [], {}
    while page is not None:
        result = job_result(q, **args, **page, limit=2)
        joined += result["list"]
        page = {"page": result["next"]} if "next" in result else None
        assert len(result["list"]) == 2 or not page
    q.close()
    assert joined == diff(vm1, "s1", "s3", "--extents", "--limit", "0")["list"] and len(joined) > 4
    r = vm1.cairn("snapshot-diff", "vm1", "s1", "s3", "--extents", "--limit", "3")
    assert "more follows" in r.stderr and len([line for line in r.stdout.splitlines() if line.endswith(("data", "zeros"))]) == 3


def test_refusals(vm1):
    for args, words in (
            (["nope"], "no disk that the VM writes to has a snapshot 'nope'; see cairn snapshot-list"),
            (["s1", "nope"], "no disk that the VM writes to has a snapshot 'nope'"),
            (["s1", "s1"], "both are the snapshot 's1'; name two snapshots"),
            (["s1", "s2", "--disk", "vdx"], "VM 'vm1' has no disk 'vdx'"),
            (["s1", "s2", "--disk", "vdd"], "vdd is read-only, so it has no snapshots"),
            (["s1", "s2", "--limit", "x"], "--limit must be a number")):
        r = vm1.cairn("snapshot-diff", "vm1", *args, ok=False)
        assert r.returncode and words in r.stderr, r
    q = vm1.qmp()
    assert "page: must be" in job_result(q, **{"from": "s1", "page": "x", "extents": True})
    for bad in {"limit": 0}, {"from": ""}:
        with pytest.raises(QmpError, match="must"):
            job_result(q, **{"from": "s1", **bad})
    q.close()


def test_files(daemon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("raw", "wb") as f:
        f.truncate(2 * MIB)
    run("mke2fs", "-q", "-F", "raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
    for line in "write raw /new", "rmdir /lost+found", "symlink /link there":
        run("debugfs", "-w", "-R", line, "raw")
    run("qemu-io", "-c", "write -q -s raw 0 2M", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s2", "a.qcow2")
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    r = daemon.cairn("snapshot-diff", "vm1", "s1", "s2", "--files")
    assert r.stdout.splitlines()[-3:] == ["+ vda:/link  5", "- vda:/lost+found/", "+ vda:/new  2097152"] and r.stderr == ""
    assert daemon.cairn("snapshot-diff", "vm1", "s2", "--files").stdout.splitlines()[-1] == ""
    r = daemon.cairn("snapshot-diff", "vm1", "s1", "s2", "--files", "--limit", "2", "--format", "json")
    assert len(json.loads(r.stdout)["list"]) == 2 and json.loads(r.stdout)["next"] == "vda:0:/new"
    assert daemon.cairn("snapshot-diff", "vm1", "s1", "--files", "--extents", ok=False).returncode == 2


def test_running_vm_compares_snapshots_only(daemon, kvm, guest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(guest("interp.elf"), "kernel")
    run("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "16M")
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    for n in 1, 2:
        daemon.cairn("snapshot-create-as", "vm1", f"s{n}")
    assert diff(daemon, "s1", "s2")["disks"] == [{"id": "vda", "size": 16 * MIB, "bytes": 0, "extents": 0}]
    r = daemon.cairn("snapshot-diff", "vm1", "s1", ok=False)
    assert r.returncode == 4 and ("VM 'vm1' is running, and its disks change; compare with a snapshot: cairn snapshot-create-as vm1 NEW "
                                  "--disk-only, cairn snapshot-diff vm1 s1 NEW") in r.stderr, r
    daemon.cairn("snapshot-create-as", "vm1", "NEW", "--disk-only")
    daemon.cairn("snapshot-diff", "vm1", "s1", "NEW")


def test_vm_cannot_start_while_its_disks_are_compared(vm1):
    """Both commands come in one packet; the job may nevertheless end first, so try again then."""
    run("qemu-img", "snapshot", "-c", "s4", "a.qcow2")
    q, said = vm1.qmp(), ""
    for _ in range(50):
        q.send(b"".join(json.dumps({"execute": command, "arguments": {"vm": "vm1", **args}}).encode() for command, args in (
            ("snapshot-diff", {"from": "s1"}), ("vm-start", {}))))
        assert "job" in q.answer()["return"]
        said = q.answer()["error"]["desc"]
        q.event("JOB_STATUS_CHANGE", status="concluded")
        assert "error" not in q.jobs()[-1]
        if "is under way" in said:
            break
    assert "(snapshot-diff) is under way" in said
    q.close()


def test_owner_reads_files_and_operator_only_clusters(shared):  # noqa: F811
    """The images are opened with the rights of their author, who is not the daemon's user."""
    folder = os.path.join(os.path.dirname(shared.socket), "theirs")
    os.mkdir(folder)
    run("qemu-img", "create", "-q", "-f", "qcow2", f"{folder}/a.qcow2", "1M")
    for n in (1, 2):
        run("qemu-img", "snapshot", "-c", f"s{n}", f"{folder}/a.qcow2")
    for path in (folder, f"{folder}/a.qcow2"):
        os.chown(path, NOBODY, NOBODY)
    os.chmod(folder, 0o700)
    shared.cairn("grant", "--user", "nobody", "admin")
    disk = {"path": f"{folder}/a.qcow2", "format": "qcow2"}
    define = as_nobody(shared, ["vm-define", {"definition": {"name": "theirs", "memory": "16M", "boot": {"kernel": "/etc/passwd"},
                                                              "disks": [disk]}}])[0]
    assert "return" in define, define
    shared.cairn("revoke", "--user", "nobody")
    asked = {"vm": "theirs", "from": "s1", "to": "s2"}
    for command in "snapshot-diff", "snapshot-diff-files":
        q = shared.qmp()
        q.run(command, **asked)
        q.event("JOB_STATUS_CHANGE", status="concluded")
        assert q.jobs()[-1]["result"]["disks"][0]["bytes"] == 0
        q.close()
    shared.cairn("grant", "--user", "nobody", "operator", "theirs")
    ask = [[command, asked] for command in ("snapshot-diff-files", "snapshot-diff")]
    assert [allowed(answer) for answer in as_nobody(shared, *ask)] == [False, True]
