"""cairn blockcommit and external snapshots: layers of a disk come and go while the VM runs. qemu-img is the oracle."""
import contextlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time

import pytest

import guestlib
from conftest import BUILD, Console, Qmp, QmpError, library, open_files, until
from fuselib import Op, fuse
from test_blockcopy import start
from test_slow_disk import hold, slow

SIZE = 24 << 20
FUTEX = 202  # the system call
each_bus = pytest.mark.parametrize("bus", ["virtio", "scsi"])


def img(d, *args, check=True):
    return subprocess.run(["qemu-img", *args], cwd=d.tmp, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def chain(d, image):
    """Return the names of an image's layers, read from the headers."""
    done = subprocess.run(["qemu-img", "info", "-U", "--backing-chain", "--output", "json", image], cwd=d.tmp, check=True, stdout=subprocess.PIPE)
    return [os.path.basename(i["filename"]) for i in json.loads(done.stdout)]


def disks(d, *args):
    """Return the layers of each disk in the definition."""
    return [[os.path.basename(p["path"]) for p in [disk, *disk.get("backing", [])]]
            for disk in json.loads(d.cairn("dumpjson", "vm1", *args).stdout)["disks"]]


def both(d):
    now = disks(d)
    assert now == disks(d, "--inactive")
    return now


class Guest:
    """A VM, with a record of the guest's writes to each disk."""

    def __init__(self, daemon, kernel, formats, bus):
        self.d, self.bus = daemon, bus
        self.written = {i: {} for i in range(len(formats))}
        for i, fmt in enumerate(formats):
            img(daemon, "create", "-q", "-f", fmt, f"disk{i}.{fmt}", str(SIZE))
        daemon.define("vm1", boot={"kernel": kernel}, debug_exit=True, disks=[
            {"id": self.id(i), "bus": bus, "path": f"disk{i}.{fmt}", "format": fmt} for i, fmt in enumerate(formats)])
        self.start()

    def id(self, disk):
        return f"{'s' if self.bus == 'scsi' else 'v'}d{'ab'[disk]}"

    def start(self):
        self.d.cairn("start", "vm1")
        self.console = Console(self.d, "vm1")
        assert self.console.line() == "interp"
        self.now = None

    def on(self, disk):
        if self.now != disk:
            self.console.run(f"sopen {disk} 512" if self.bus == "scsi" else f"open {disk}")
        self.now = disk

    def write(self, seed, disk=0, step=1200, n=20):
        self.on(disk)
        for i in range(n):
            sector = (i * step + seed * 37) % (SIZE // 512 - 64)
            self.console.run(f"write {sector} 64 {seed}")
            self.written[disk] = {k: v for k, v in self.written[disk].items() if abs(k - sector) >= 64}
            self.written[disk][sector] = seed
        self.console.run("flush")

    def verify(self):
        for disk, all in self.written.items():
            self.on(disk)
            for sector, seed in all.items():
                self.console.run(f"verify {sector} 64 {seed}")

    def snapshot(self, name, *args):
        return self.d.cairn("snapshot-create-as", "vm1", name, "--disk-only", "--external", *args)

    def again(self):
        """Stop the VM by force, and start it."""
        self.console.close()
        self.d.cairn("destroy", "vm1")
        self.start()
        self.verify()


@pytest.fixture
def vm(daemon, kvm, guest, monkeypatch):
    monkeypatch.chdir(daemon.tmp)
    made = []

    def make(*formats, bus="virtio"):
        made.append(Guest(daemon, guest("interp.elf"), formats or ["qcow2"], bus))
        return made[-1]
    yield make
    for g in made:
        g.console.close()


def check(d, *images):
    for image in images:
        done = img(d, "check", image, check=False)
        assert done.returncode in (0, 3), done.stdout


# ---- external snapshots ----

@each_bus
def test_external_snapshot_gives_each_disk_an_overlay(vm, bus):
    g = vm("qcow2", "raw", bus=bus)
    g.write(1)
    g.write(2, disk=1)
    r = g.snapshot("s1")
    assert r.stdout.splitlines()[0] == "Domain snapshot s1 created"
    assert both(g.d) == [["disk0.s1", "disk0.qcow2"], ["disk1.s1", "disk1.raw"]]
    img(g.d, "convert", "-U", "-f", "qcow2", "-O", "raw", "disk0.qcow2", "was0.raw")
    img(g.d, "convert", "-U", "-f", "raw", "-O", "raw", "disk1.raw", "was1.raw")
    g.write(3)
    g.write(4, disk=1)
    g.verify()
    # The old image keeps the content of the moment.
    img(g.d, "compare", "-U", "-f", "qcow2", "-F", "raw", "disk0.qcow2", "was0.raw")
    img(g.d, "compare", "-U", "-f", "raw", "-F", "raw", "disk1.raw", "was1.raw")
    assert chain(g.d, "disk0.s1") == ["disk0.s1", "disk0.qcow2"]
    g.again()
    g.snapshot("s2", "--diskspec", f"{g.id(1)},snapshot=no", "--diskspec", f"{g.id(0)},file=other.qcow2")
    assert both(g.d) == [["other.qcow2", "disk0.s1", "disk0.qcow2"], ["disk1.s1", "disk1.raw"]]
    g.write(5)
    g.again()
    g.d.cairn("destroy", "vm1")
    check(g.d, "disk0.qcow2", "disk0.s1", "disk1.s1", "other.qcow2")


def test_snapshots_of_another_kind_work_above_an_external_one(vm):
    g = vm()
    g.write(1)
    g.snapshot("s1")
    g.write(2)
    g.d.cairn("snapshot-create-as", "vm1", "internal")
    g.write(3)
    g.d.cairn("snapshot-revert", "vm1", "internal")
    g.written[0] = {}
    g.write(2)
    g.verify()
    g.d.cairn("managedsave", "vm1")
    g.console.close()
    g.d.cairn("start", "vm1")
    g.console = Console(g.d, "vm1")
    g.verify()
    r = g.snapshot("s2") if False else g.d.cairn("snapshot-create-as", "vm1", "s2", "--disk-only", "--external", ok=False)
    assert "has internal snapshots (1)" in r.stderr
    assert not os.path.exists(g.d.tmp / "disk0.s2") and both(g.d) == [["disk0.s1", "disk0.qcow2"]]


def test_external_snapshot_of_a_vm_that_is_off(vm):
    g = vm()
    g.write(1)
    g.console.close()
    g.d.cairn("destroy", "vm1")
    g.snapshot("s1")
    assert disks(g.d) == [["disk0.s1", "disk0.qcow2"]]
    g.start()
    g.verify()


@pytest.mark.parametrize("args,says", [
    (["s1", "--external"], "give --disk-only"), (["--disk-only", "--external"], "needs a NAME"),
    (["s1", "--disk-only", "--diskspec", "vdx"], "does not have"), (["s1", "--disk-only", "--diskspec", "vda,snapshot=internal"], "snapshot=internal"),
    (["s1", "--disk-only", "--external", "--halt"], "exclude"), (["s1", "--disk-only", "--no-metadata", "--halt"], "exclude"), (["s1", "--reuse-external"], "needs --external"),
    (["s1", "--disk-only", "--diskspec", "vda,snapshot=no"], "no disk is left"),
    (["qcow2", "--disk-only", "--external"], "disk0.qcow2 exists already; choose another name, or give --diskspec vda,file=PATH")])
def test_impossible_external_snapshot_is_refused(vm, args, says):
    g = vm()
    assert says in g.d.cairn("snapshot-create-as", "vm1", *args, ok=False).stderr
    assert both(g.d) == [["disk0.qcow2"]] and not os.path.exists(g.d.tmp / "disk0.s1")


def test_images_whose_names_differ_in_the_suffix_get_two_overlays(fake):
    for fmt in ("raw", "qcow2"):
        img(fake, "create", "-q", "-f", fmt, f"data.{fmt}", "1M")
    fake.define("vm1", disks=[{"path": f"data.{fmt}", "format": fmt} for fmt in ("raw", "qcow2")])
    fake.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--external")
    assert both(fake) == [["data.s1", "data.raw"], ["data-vdb.s1", "data.qcow2"]]
    for overlay, base in both(fake):
        assert chain(fake, overlay) == [overlay, base]


@pytest.mark.parametrize("verb,known,unknown", [
    ("delete", "Next: cairn blockcommit vm1 vda --pivot --delete", "cairn blockcommit ends it"),
    ("revert", "to which cairn does not revert", "give the disk a new overlay")])
def test_verbs_for_snapshots_explain_external_ones(fake, verb, known, unknown):
    """The file names of overlays are all that is known of external snapshots."""
    for fmt in ("raw", "qcow2"):
        img(fake, "create", "-q", "-f", fmt, f"data.{fmt}", "1M")
    fake.define("vm1", disks=[{"path": f"data.{fmt}", "format": fmt} for fmt in ("raw", "qcow2")])

    def says(name, ok):
        return fake.cairn(f"snapshot-{verb}", "vm1", name, ok=ok).stderr

    assert "has no snapshot 's1'" in says("s1", 3) and "external" not in says("s1", 3)
    fake.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--diskspec", "vdb,snapshot=no")
    fake.cairn("snapshot-create-as", "vm1", "s2", "--disk-only", "--diskspec", f"vda,file={fake.tmp}/other.img", "--diskspec", "vdb,snapshot=no")
    assert "'s1' is an external snapshot" in says("s1", 1) and f"{fake.tmp}/data.raw keeps" in says("s1", 1) and known in says("s1", 1)
    for name in ("s2", "img"):  # the suffix of an overlay with file= is no name of a snapshot
        assert f"has no snapshot '{name}'. Next: cairn snapshot-list vm1. If it is external, a backing file of disk vda keeps" in says(name, 3)
        assert unknown in says(name, 3)


def test_overlay_with_a_disks_id_in_its_name_is_found(fake):
    for fmt in ("raw", "qcow2"):
        img(fake, "create", "-q", "-f", fmt, f"data.{fmt}", "1M")
    fake.define("vm1", disks=[{"path": f"data.{fmt}", "format": fmt} for fmt in ("raw", "qcow2")])
    fake.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--external")
    fake.cairn("blockcommit", "vm1", "vda", "--pivot", "--delete")
    assert "cairn blockcommit vm1 vdb --pivot" in fake.cairn("snapshot-delete", "vm1", "s1", ok=1).stderr


def test_image_that_changes_before_the_overlay_is_defined(fake):
    """Another client gives the disk an overlay in between. One of the two overlays must not replace the other."""
    img(fake, "create", "-q", "-f", "raw", "a.raw", "1M")
    fake.define("vm1", disks=[{"path": "a.raw", "format": "raw"}])
    program, once = fake.tmp / "cairn-img", fake.tmp / "once"
    program.write_text(f"""#!/bin/sh
if [ "$1" = create ] && mkdir {once} 2>/dev/null; then
	{BUILD}/cairn snapshot-create-as vm1 first --disk-only --external
fi
exec {BUILD}/cairn-img "$@"
""")
    program.chmod(0o755)
    fake.env["CAIRN_LIBEXEC"] = str(fake.tmp)
    r = fake.cairn("snapshot-create-as", "vm1", "second", "--disk-only", "--external", ok=False)
    assert r.stderr.endswith("disk vda of VM 'vm1' has got another image meanwhile; try again\n") and "warning" not in r.stderr
    assert disks(fake) == [["a.first", "a.raw"]] and not (fake.tmp / "a.second").exists()
    fake.cairn("snapshot-create-as", "vm1", "second", "--disk-only", "--external")
    assert disks(fake) == [["a.second", "a.first", "a.raw"]]


def test_commit_of_a_smaller_disk_says_how_to_grow_it(daemon):
    img(daemon, "create", "-q", "-f", "raw", "a.raw", "2M")
    img(daemon, "create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "a.qcow2", "1M")
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2", "backing": [{"path": "a.raw", "format": "raw"}]}])
    says = "larger than the disk (2097152 and 1048576 bytes); make the disk as large with cairn-img resize first"
    assert says in daemon.cairn("blockcommit", "vm1", "vda", ok=2).stderr
    subprocess.run([os.path.join(BUILD, "cairn-img"), "resize", "-q", "-f", "qcow2", "a.qcow2", "2M"], cwd=daemon.tmp, check=True)
    daemon.cairn("blockcommit", "vm1", "vda")
    assert disks(daemon) == [["a.raw"]]


def test_reused_overlay_has_to_fit(vm):
    g = vm()
    g.write(1)
    img(g.d, "create", "-q", "-f", "qcow2", "small.qcow2", "1M")
    img(g.d, "rebase", "-q", "-u", "-b", "disk0.qcow2", "-F", "qcow2", "small.qcow2")
    r = g.d.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--diskspec", "vda,file=small.qcow2", "--reuse-external", ok=False)
    assert "but the new image has" in r.stderr and both(g.d) == [["disk0.qcow2"]] and os.path.exists(g.d.tmp / "small.qcow2")
    img(g.d, "create", "-q", "-f", "qcow2", "alone.qcow2", str(SIZE))
    r = g.d.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--diskspec", "vda,file=alone.qcow2", "--reuse-external", ok=False)
    assert "the image has no backing file" in r.stderr and both(g.d) == [["disk0.qcow2"]]
    g.write(2)
    g.verify()
    subprocess.run([*"qemu-img create -q -u -f qcow2 -b disk0.qcow2 -F qcow2 fits.qcow2".split(), str(SIZE)], cwd=g.d.tmp, check=True)
    g.d.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--diskspec", "vda,file=fits.qcow2", "--reuse-external")
    assert both(g.d) == [["fits.qcow2", "disk0.qcow2"]]
    g.write(3)
    g.again()


def test_revert_and_delete_of_an_external_snapshot_say_what_to_do(vm):
    g = vm()
    g.snapshot("s1")
    assert "to which cairn does not revert" in g.d.cairn("snapshot-revert", "vm1", "s1", ok=False).stderr
    assert "blockcommit vm1 vda --pivot --delete" in g.d.cairn("snapshot-delete", "vm1", "s1", ok=False).stderr


def test_disks_that_share_a_loop_change_together(vm):
    """A disk that is attached later is on the loop of the first one. Both get their overlays while the guest writes."""
    g = vm(bus="scsi")
    img(g.d, "create", "-q", "-f", "qcow2", "disk1.qcow2", str(SIZE))
    g.d.cairn("attach-disk", "vm1", str(g.d.tmp / "disk1.qcow2"), g.id(1), "--subdriver", "qcow2", "--targetbus", "scsi", "--live", "--config")
    g.written[1] = {}
    g.write(1)
    g.write(2, disk=1, n=3)
    g.console.sock.sendall(b"bench randwrite 8 8000 4096 40000\n")
    for n in range(3):
        g.snapshot(f"s{n}")
    assert both(g.d) == [[f"disk{i}.s2", f"disk{i}.s1", f"disk{i}.s0", f"disk{i}.qcow2"] for i in (0, 1)]
    until(lambda: "errors=0" in g.console.line())
    assert g.console.line() == "ok"
    del g.written[1]
    g.verify()


@contextlib.contextmanager
def loop_device(path):
    r = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True)
    if r.returncode:
        pytest.skip(f"needs a loop device: {r.stderr.strip()}")
    try:
        yield r.stdout.strip()
    finally:
        subprocess.run(["losetup", "-d", r.stdout.strip()], check=True)


def test_pause_beside_a_disk_that_gets_an_overlay(daemon, kvm, guest):
    """The disk waits for a request in flight, and holds back those that come meanwhile. The pause waits for all."""
    with fuse(daemon.tmp / "fuse", base=bytes(4 << 20)) as f, loop_device(f["base"]) as base:
        img(daemon, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "disk0.qcow2")
        daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{
            "path": str(daemon.tmp / "disk0.qcow2"), "format": "qcow2", "backing": [{"path": base, "format": "raw"}], "iops": 100}])
        daemon.cairn("start", "vm1")
        c = Console(daemon, "vm1")
        assert c.line() == "interp"
        c.run("open 0")
        for sector in range(128, 8192, 256):  # all clusters but the first, to which a write reads the base
            c.run(f"write {sector} {min(256, 8192 - sector)} 1")
        f.hang(Op.READ)
        c.sock.sendall(b"bench randwrite 8 600 4096 8192\n")
        until(f.hanging)
        with start(daemon, "snapshot-create-as", "vm1", "s1", "--disk-only", "--external") as job:
            until(lambda: daemon.figures("vm1")["disks"][0].get("in-flight") == 8)
            with start(daemon, "suspend", "vm1") as suspend:
                waits = pathlib.Path(f"/proc/{daemon.info('vm1')['pid']}/syscall")
                until(lambda: waits.read_text().split()[0] == str(FUTEX))
                f.release()
                assert suspend.wait() == 0
            assert job.wait() == 0
        assert daemon.info("vm1")["state"] == "paused" and both(daemon) == [["disk0.s1", "disk0.qcow2", os.path.basename(base)]]
        daemon.cairn("resume", "vm1")
        daemon.cairn("blkdeviotune", "vm1", "vda", "--total-iops-sec", "0", "--live")
        assert c.line().startswith("requests=600 errors=0 ") and c.line() == "ok"
        c.close()
        daemon.cairn("destroy", "vm1")


# ---- blockcommit ----

def three(g):
    """Layers: disk0.s2, disk0.s1, disk0.qcow2, each with clusters of its own."""
    g.write(1)
    g.snapshot("s1")
    g.write(2, step=900)
    g.console.run("zero 0 2048")
    g.written[0] = {k: v for k, v in g.written[0].items() if k >= 2048}
    g.snapshot("s2")
    g.write(3, step=700)


def test_commits_after_a_handover(vm):
    g = vm()
    three(g)
    assert "handed over" in g.d.cairn("restart-process", "vm1").stdout
    g.d.cairn("blockcommit", "vm1", g.id(0), "--top", f"{g.id(0)}[1]", "--shallow")
    g.d.cairn("blockcommit", "vm1", g.id(0), "--pivot")
    assert both(g.d) == [["disk0.qcow2"]]
    g.verify()
    g.again()


@pytest.mark.parametrize("format,bus", [("qcow2", "virtio"), ("raw", "virtio"), ("qcow2", "scsi")])
def test_commit_of_the_active_layer(vm, format, bus):
    g = vm(format, bus=bus)
    three(g)
    r = g.d.cairn("blockcommit", "vm1", g.id(0), ok=False)
    assert f"the active layer of disk {g.id(0)}" in r.stderr
    assert g.d.cairn("blockcommit", "vm1", g.id(0), "--pivot", "--wait", "--delete").stdout == "Successfully pivoted\n"
    assert both(g.d) == [[f"disk0.{format}"]]
    assert not [f for f in os.listdir(g.d.tmp) if f in ("disk0.s1", "disk0.s2")]
    assert [os.path.basename(f) for f in open_files(g.d.info("vm1")["pid"]) if "disk0" in f] == [f"disk0.{format}"]
    g.verify()
    g.write(4)
    if format == "qcow2":
        g.d.cairn("snapshot-create-as", "vm1", "internal")
    g.again()
    if format == "qcow2":
        g.d.cairn("destroy", "vm1")
        check(g.d, "disk0.qcow2")


def test_commit_of_the_active_layer_to_the_next_one(vm):
    g = vm()
    three(g)
    g.d.cairn("blockcommit", "vm1", "vda", "--shallow", "--pivot")
    assert both(g.d) == [["disk0.s1", "disk0.qcow2"]] and chain(g.d, "disk0.s1") == ["disk0.s1", "disk0.qcow2"]
    g.write(4)
    g.again()
    g.snapshot("s3")
    g.write(5)
    g.d.cairn("blockcommit", "vm1", "vda", "--base", "disk0.qcow2", "--active", "--keep-overlay")
    assert both(g.d) == [["disk0.s3", "disk0.s1", "disk0.qcow2"]]
    img(g.d, "compare", "-U", "-f", "qcow2", "-F", "qcow2", "disk0.s3", "disk0.qcow2")
    g.write(6)
    g.verify()
    # Others may read the base.
    subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", "disk0.qcow2"], cwd=g.d.tmp, check=True, stdout=subprocess.DEVNULL)
    g.d.cairn("blockcommit", "vm1", "vda", "--pivot")
    assert both(g.d) == [["disk0.qcow2"]]
    g.again()


@pytest.mark.parametrize("bus,args,left,headers", [
    ("virtio", ["--top", "disk0.s1"], ["disk0.s2", "disk0.qcow2"], ["disk0.s2", "disk0.qcow2"]),
    ("scsi", ["--top", "{id}[1]", "--base", "{id}[2]", "--delete"], ["disk0.s2", "disk0.qcow2"], ["disk0.s2", "disk0.qcow2"])])
def test_commit_of_a_layer_in_the_middle(vm, bus, args, left, headers):
    g = vm(bus=bus)
    three(g)
    assert g.d.cairn("blockcommit", "vm1", g.id(0), *(a.format(id=g.id(0)) for a in args)).stdout == "Commit complete\n"
    assert both(g.d) == [left] and chain(g.d, "disk0.s2") == headers
    assert os.path.exists(g.d.tmp / "disk0.s1") == ("--delete" not in args)
    g.verify()
    g.write(4)
    g.again()
    g.d.cairn("destroy", "vm1")
    check(g.d, "disk0.qcow2", "disk0.s2")


def test_commit_below_another_overlay(vm):
    """The commit changes the header of a layer that is not the image of a disk."""
    g = vm()
    three(g)
    g.snapshot("s3")
    g.write(4, step=500)
    g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1")
    assert both(g.d) == [["disk0.s3", "disk0.s2", "disk0.qcow2"]] and chain(g.d, "disk0.s3") == ["disk0.s3", "disk0.s2", "disk0.qcow2"]
    g.write(5)
    g.again()


@pytest.mark.parametrize("args", [[], ["--shallow"], ["--top", "disk0.s1"]])
def test_commit_of_a_vm_that_is_off(vm, args):
    g = vm()
    three(g)
    g.console.close()
    g.d.cairn("destroy", "vm1")
    assert g.d.cairn("blockcommit", "vm1", "vda", *args).stdout == "Commit complete\n"
    left = {0: ["disk0.qcow2"], 1: ["disk0.s1", "disk0.qcow2"], 2: ["disk0.s2", "disk0.qcow2"]}[len(args)]
    assert disks(g.d) == [left] and chain(g.d, left[0]) == left
    g.start()
    g.verify()


@pytest.mark.parametrize("bus,limit", [("virtio", []), ("virtio", ["--bandwidth", "10"]), ("scsi", ["--bandwidth", "10"])])
def test_commit_beside_a_guest_that_writes(vm, limit, bus):
    """If the bandwidth is below the guest's write rate, the guest writes to both images."""
    g = vm(bus=bus)
    three(g)
    g.console.sock.sendall(b"bench randwrite 8 1000000000 4096 20000\n")
    if limit:
        q = g.d.qmp()
        id = g.d.cairn("blockcommit", "vm1", g.id(0), "--active", *limit, "--no-wait").stdout.strip()
        q.event("JOB_OUTPACED", id=id, type="blockcommit", status="running")
        q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
        job = next(j for j in q.run("query-jobs") if j["id"] == id)
        assert job["outpaced"] and "error" not in job
    else:
        assert "synchronized phase" in g.d.cairn("blockcommit", "vm1", g.id(0), "--active").stdout
    g.d.cairn("suspend", "vm1")
    g.d.cairn("blockjob", "vm1", g.id(0), "--pivot")
    assert both(g.d) == [["disk0.qcow2"]]
    g.d.cairn("destroy", "vm1")  # writes the tables that are in memory
    img(g.d, "compare", "-f", "qcow2", "-F", "qcow2", "disk0.s2", "disk0.qcow2")


def commit_slowly(g, top):
    """Begin a commit of layer number `top` and those below it, which takes longer than any test. Return its job."""
    disk, = g.d.qmp().run("vm-dump-definition", vm="vm1")["definition"]["disks"]
    layers = [layer["path"] for layer in [disk, *disk["backing"]]]
    return g.d.qmp().run("vm-blockcommit", vm="vm1", disk="vda", top=layers[top], base=layers[-1], active=True, bandwidth=4096)["job"]


@pytest.mark.parametrize("who", ["process", "daemon"])
@pytest.mark.parametrize("top", [0, 1])
def test_kill_during_a_commit_loses_nothing(vm, who, top):
    g = vm()
    three(g)
    id = commit_slowly(g, top)
    until(lambda: os.stat(g.d.tmp / "disk0.qcow2").st_mtime_ns > os.stat(g.d.tmp / "disk0.s1").st_mtime_ns)
    g.write(7)
    if who == "process":
        g.console.close()
        os.kill(g.d.info("vm1")["pid"], signal.SIGKILL)
        until(lambda: g.d.info("vm1")["state"] in ("crashed", "shutoff"))
    else:
        g.d.stop(signal.SIGKILL)
    if who == "process":
        g.start()
    else:
        g.d.start()
        job = next(j for j in g.d.qmp().run("query-jobs") if j["id"] == id)
        assert job["status"] == ("running" if top else "concluded")  # a commit of other layers than the active one begins again
        if top:
            g.d.cairn("job-cancel", id)
    assert both(g.d) == [["disk0.s2", "disk0.s1", "disk0.qcow2"]]
    g.verify()
    until(lambda: g.d.cairn("blockcommit", "vm1", "vda", "--pivot", ok=None).returncode == 0)
    assert both(g.d) == [["disk0.qcow2"]]
    g.again()


def test_commit_that_began_again_is_cancelled_while_the_earlier_one_ends(daemon, kvm, guest):
    """The process cannot end the earlier commit while its write hangs, and refuses the new one until then. The user
    need not repeat the commit: the cancelled job waits until the process tells that the layers are there."""
    d = daemon
    with fuse(d.tmp / "fuse", base=bytes(4 << 20)) as f, loop_device(f["base"]) as base:
        img(d, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "disk0.s1")
        put(d, "disk0.s1", 1)
        img(d, "create", "-q", "-f", "qcow2", "-b", "disk0.s1", "-F", "qcow2", "disk0.s2")
        d.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": str(d.tmp / "disk0.s2"), "format": "qcow2", "backing": [
            {"path": str(d.tmp / "disk0.s1"), "format": "qcow2"}, {"path": base, "format": "raw"}]}])
        d.cairn("start", "vm1")
        f.hang(Op.WRITE)
        layers = {"top": str(d.tmp / "disk0.s1"), "base": base}
        id = d.qmp().run("vm-blockcommit", vm="vm1", disk="vda", **layers)["job"]
        until(f.hanging)
        d.stop(signal.SIGKILL)
        d.start()
        q = d.qmp()
        q.run("job-cancel", id=id)
        time.sleep(0.5)  # in which the process refuses the new one several times
        assert q.jobs()[0]["status"] != "concluded"
        f.release()
        until(lambda: q.jobs()[0]["status"] == "concluded")
        assert q.jobs()[0]["error-class"] == "Cancelled" and both(d) == [["disk0.s2", "disk0.s1", os.path.basename(base)]]
        d.cairn("blockcommit", "vm1", "vda", "--pivot")
        assert both(d) == [[os.path.basename(base)]]
        d.cairn("destroy", "vm1")
        f.release()
        assert pathlib.Path(base).read_bytes()[65536:131072] == bytes([1]) * 65536


def kill_before_the_end(d, **args):
    """Begin a commit, and kill the daemon when the layers are gone but no definition is changed. Return its job."""
    d.stop()
    d.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "/.draft-", "SLOW_SYNC_UNTIL": str(d.tmp / "go")}
    d.start()
    id = d.qmp().run("vm-blockcommit", vm="vm1", disk="vda", **{k: str(d.tmp / v) for k, v in args.items()})["job"]
    until(lambda: any(p.name.startswith(".draft-") for p in (d.state / "vms").iterdir()))
    d.stop(signal.SIGKILL)
    (d.tmp / "go").touch()
    return id


@pytest.mark.skipif("asan" in BUILD, reason="slow_sync.so has to come behind a sanitizer")
@pytest.mark.parametrize("known", [True, False])
def test_commit_whose_end_a_killed_daemon_missed(vm, known):
    """The layers that the process has dropped are not those of the next commit."""
    g = vm()
    three(g)
    g.snapshot("s3")
    g.write(4, step=500)
    id = kill_before_the_end(g.d, top="disk0.s2", base="disk0.s1")
    if not known:  # as after a daemon that stored nothing of the commit
        state = g.d.state / "vms" / "vm1" / "state.json"
        state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "committing"}))
    g.d.start()
    if known:
        until(lambda: next(j for j in g.d.qmp().run("query-jobs") if j["id"] == id)["status"] == "concluded")
    else:
        r = g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1", ok=False)
        assert "the layers of disk vda are others than the daemon's" in r.stderr and both(g.d) == [["disk0.s3", *THREE]]
        g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s2", "--base", "disk0.s1")
    assert both(g.d) == [["disk0.s3", "disk0.s1", "disk0.qcow2"]]
    g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1", "--delete")
    assert both(g.d) == [["disk0.s3", "disk0.qcow2"]]
    g.write(5)
    g.again()


def test_cancelled_commit_leaves_the_layers(vm):
    g = vm()
    three(g)
    g.d.cairn("job-cancel", commit_slowly(g, 0))
    until(lambda: g.d.qmp().run("query-jobs")[-1]["status"] == "concluded")
    id = commit_slowly(g, 1)
    g.d.cairn("job-cancel", id)
    until(lambda: g.d.qmp().run("query-jobs")[-1]["status"] == "concluded")
    g.d.stop(signal.SIGKILL)
    g.d.start()
    assert g.d.qmp().run("query-jobs")[-1]["id"] == id and both(g.d) == [THREE]  # it does not begin again
    g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1")
    g.write(4)
    g.again()


def test_base_that_another_program_reads_is_refused(vm):
    g = vm()
    three(g)
    with subprocess.Popen(["qemu-io", "-r", "-f", "qcow2", "disk0.qcow2"], cwd=g.d.tmp, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        p.stdin.write("read 0 512\n")
        p.stdin.flush()
        p.stdout.readline()
        r = g.d.cairn("blockcommit", "vm1", "vda", "--active", ok=False)
        assert "in use by another process" in r.stderr
        p.stdin.close()
    g.write(4)
    g.d.cairn("blockcommit", "vm1", "vda", "--pivot")
    g.again()


@pytest.fixture
def readers(daemon, monkeypatch):
    """Three VMs that are off: source, and its linked clones one and two. Each has written to its disk."""
    d = daemon
    monkeypatch.chdir(d.tmp)
    img(d, "create", "-q", "-f", "qcow2", "source.qcow2", "1M")
    put(d, "source.qcow2", 1)
    d.define("source", disks=[{"path": "source.qcow2", "format": "qcow2"}])
    for name, seed in (("one", 2), ("two", 3)):
        d.cairn("clone", "--linked", "source", name)
        put(d, f"{name}.qcow2", seed)
    return d


def put(d, image, seed):
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {seed} {seed * 65536} 65536", image], cwd=d.tmp, check=True, stdout=subprocess.DEVNULL)


def content(d, *images):
    for image in images:
        img(d, "convert", "-O", "raw", image, f"{image}.raw")
    return [(d.tmp / f"{image}.raw").read_bytes() for image in images]


@pytest.mark.parametrize("args", [[], ["--shallow"]])
@pytest.mark.parametrize("template", [False, True])
def test_commit_to_an_image_of_another_vm_is_refused(readers, args, template):
    d, images = readers, ["source.qcow2", "one.qcow2", "two.qcow2"]
    if template:
        d.cairn("template", "source")
    before = content(d, *images)
    r = d.cairn("blockcommit", "one", "vda", *args, ok=4)
    assert f"disk vda of VM 'source' also has {d.tmp}/source.qcow2 as an image" in r.stderr and "blockpull one vda" in r.stderr
    d.cairn("snapshot-create-as", "one", "s1", "--disk-only", "--external")
    put(d, "one.s1", 4)
    d.cairn("blockcommit", "one", "vda", ok=4)
    assert content(d, *images) == before
    d.cairn("blockcommit", "one", "vda", "--shallow")  # one.qcow2 is the clone's own
    assert content(d, *images) != before and content(d, "source.qcow2", "two.qcow2") == before[::2]


def test_commit_to_a_backing_file_of_another_disk_is_refused(readers):
    """The VM of the image is gone. Its two clones read it, and then two disks of one of them, and then one disk."""
    d, below = readers, [{"path": "source.qcow2", "format": "qcow2"}]
    disks = [{"path": f"{name}.qcow2", "format": "qcow2", "backing": below} for name in ("one", "two")]
    d.cairn("undefine", "source")
    before = content(d, "one.qcow2", "two.qcow2")
    assert "VM 'two'" in d.cairn("blockcommit", "one", "vda", ok=4).stderr
    d.cairn("undefine", "two")
    d.cairn("undefine", "one")
    d.define("one", disks=disks)
    assert "disk vdb of VM 'one'" in d.cairn("blockcommit", "one", "vda", ok=4).stderr
    assert content(d, "one.qcow2", "two.qcow2") == before
    d.define("one", uuid=d.info("one")["uuid"], disks=disks[:1])
    d.cairn("blockcommit", "one", "vda")
    assert content(d, "source.qcow2") == before[:1]


@pytest.mark.parametrize("args,says", [
    (["vdx"], "vdx"), (["vda", "--top", "disk0.qcow2"], "no layer below"), (["vda", "--base", "none"], "has no layer none"),
    (["vda", "--shallow", "--base", "disk0.s1"], "exclude"), (["vda", "--pivot", "--keep-overlay"], "exclude"),
    (["vda", "--pivot", "--no-wait"], "exclude"), (["vda", "--bandwidth", "0"], "MiB/s")])
def test_impossible_commit_is_refused(vm, args, says):
    g = vm()
    g.snapshot("s1")
    assert says in g.d.cairn("blockcommit", "vm1", *args, ok=False).stderr
    assert both(g.d) == [["disk0.s1", "disk0.qcow2"]]


def test_overlay_that_would_hide_a_snapshot_of_a_vm_that_is_off_is_refused(fake):
    img(fake, "create", "-q", "-f", "qcow2", "disk0.qcow2", "1M")
    fake.define("vm1", disks=[{"path": "disk0.qcow2", "format": "qcow2"}])
    img(fake, "snapshot", "-c", "s1", "disk0.qcow2")
    external = ["snapshot-create-as", "vm1", "e1", "--disk-only", "--external"]
    assert "disk vda has internal snapshots (1), or live clones read it: the overlay would hide them" in fake.cairn(*external, ok=False).stderr
    assert both(fake) == [["disk0.qcow2"]] and not (fake.tmp / "disk0.e1").exists()
    img(fake, "snapshot", "-d", "s1", "disk0.qcow2")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", "disk0.qcow2"], cwd=fake.tmp, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        p.stdin.write("write 0 512\n")
        p.stdin.flush()
        p.stdout.readline()
        # -U of cairn-img is no option of cairn.
        assert fake.cairn(*external, ok=False).stderr.endswith("stop the VM or tool that has it open\n")
        p.stdin.close()
    fake.cairn(*external)
    assert both(fake) == [["disk0.e1", "disk0.qcow2"]]


def test_base_above_the_top_is_refused(fake):
    img(fake, "create", "-q", "-f", "qcow2", "disk0.qcow2", "1M")
    fake.define("vm1", disks=[{"path": "disk0.qcow2", "format": "qcow2"}])
    for name in ("s1", "s2"):
        fake.cairn("snapshot-create-as", "vm1", name, "--disk-only", "--external")
    top = str(fake.tmp / "disk0.s1")
    for base in (str(fake.tmp / "disk0.s2"), top):
        says = f"{base} is not below {top} in disk vda; see cairn domblklist --format json"
        assert says in fake.cairn("blockcommit", "vm1", "vda", "--base", base, "--top", top, ok=False).stderr
        with pytest.raises(QmpError, match=says):
            fake.qmp().run("vm-blockcommit", vm="vm1", disk="vda", base=base, top=top)
    assert both(fake) == [["disk0.s2", "disk0.s1", "disk0.qcow2"]]


def test_snapshots_of_a_layer_that_would_end_are_kept(vm):
    g = vm()
    g.snapshot("s1")
    g.d.cairn("snapshot-create-as", "vm1", "internal")
    r = g.d.cairn("blockcommit", "vm1", "vda", "--active", ok=False)
    assert "has internal snapshots (1)" in r.stderr
    g.write(1)
    g.again()


@pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")
def test_commit_waits_for_memory_that_the_image_has(vm):
    """A commit opens the files of all layers anew, also that of the image from which memory is read on access."""
    g = vm()
    three(g)
    g.console.run("fill 0x1000000 0x1000000 5")
    g.d.cairn("snapshot-create-as", "vm1", "internal")
    g.d.cairn("reclaim", "vm1")
    r = g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1", ok=False)
    assert "memory is still being read from the image of vda" in r.stderr
    until(lambda: g.d.cairn("blockcommit", "vm1", "vda", "--top", "disk0.s1", ok=None).returncode == 0)
    g.console.run("check 0x1000000 0x1000000 5")
    g.verify()
    assert g.d.info("vm1")["state"] == "running"


def overlay_create(g, name):
    img(g.d, "create", "-q", "-u", "-f", "qcow2", "-b", "disk0.qcow2", "-F", "qcow2", name, str(SIZE))


def overlay_define(g, name):
    """Let the next start have an overlay on the disk."""
    if not (g.d.tmp / name).exists():
        overlay_create(g, name)
    definition = json.loads(g.d.cairn("dumpjson", "vm1").stdout)
    disk, = definition["disks"]
    definition["disks"] = [{**disk, "path": str(g.d.tmp / name), "backing": [{"path": disk["path"], "format": "qcow2"}]}]
    g.d.qmp().run("vm-define", definition=definition)


def test_revert_to_a_snapshot_of_the_base(vm):
    """The overlay had a snapshot with the same id, but other memory."""
    g = vm()
    g.console.run("fill 0x1000000 0x100000 1")
    g.d.cairn("snapshot-create-as", "vm1", "old")
    g.console.close()
    g.d.cairn("destroy", "vm1")
    overlay_define(g, "disk0.s1")  # no verb would hide the snapshot
    g.start()
    g.console.run("fill 0x1000000 0x100000 2")
    g.d.cairn("snapshot-create-as", "vm1", "gone")
    g.d.cairn("snapshot-delete", "vm1", "gone")
    g.d.cairn("blockcommit", "vm1", "vda", "--pivot")
    g.d.cairn("snapshot-revert", "vm1", "old")
    g.console.run("check 0x1000000 0x100000 1")


def test_qmp_gives_an_overlay_and_commits(vm):
    g = vm()
    g.write(1)
    q = Qmp(g.d.qmp().run("vm-qmp-path", vm="vm1")["path"])
    with pytest.raises(QmpError, match="only existing"):
        q.run("blockdev-snapshot-sync", device="vda", snapshot_file=str(g.d.tmp / "a.qcow2"))
    overlay_create(g, "a.qcow2")
    with pytest.raises(QmpError, match="define it with the overlay first"):
        q.run("blockdev-snapshot-sync", device="vda", snapshot_file=str(g.d.tmp / "a.qcow2"), mode="existing")
    overlay_define(g, "a.qcow2")
    q.run("blockdev-snapshot-sync", device="vda", snapshot_file=str(g.d.tmp / "a.qcow2"), mode="existing")
    assert both(g.d) == [["a.qcow2", "disk0.qcow2"]]
    g.write(2)
    g.snapshot("s2")
    g.write(3)
    q.run("block-commit", device="vda", top=str(g.d.tmp / "a.qcow2"), job_id="c")
    q.event("JOB_STATUS_CHANGE", id="c", status="concluded")
    job, = q.run("query-jobs")
    assert (job["id"], job["type"]) == ("c", "commit") and "error" not in job
    assert q.event("BLOCK_JOB_COMPLETED", device="c", type="commit", speed=0)["data"].keys() == {"type", "device", "len", "offset", "speed"}
    q.close()
    assert both(g.d) == [["a.s2", "disk0.qcow2"]]
    g.again()


# ---- the active layer by QMP ----

@pytest.fixture
def ready(vm):
    """Make a VM with three layers, whose commit to the lowest one is ready."""
    made = []

    def make(format="qcow2"):
        g = vm(format)
        three(g)
        q = Qmp(g.d.qmp().run("vm-qmp-path", vm="vm1")["path"])
        made.append(q)
        q.run("block-commit", device="vda", job_id="c", speed=1 << 40)
        ev = q.event("BLOCK_JOB_READY", device="c")["data"]
        assert (ev["type"], ev["speed"]) == ("commit", 1 << 40) and ev["len"] == ev["offset"]
        job, = q.run("query-jobs")
        assert (job["id"], job["type"], job["status"]) == ("c", "commit", "ready")
        g.write(4)
        return g, q
    yield make
    for q in made:
        q.close()


def ended(q, event, **data):
    """Wait for the events of the end; return the error of the job."""
    q.event(event, device="c", **data)
    job, = q.run("query-jobs")
    assert job["status"] == "concluded"
    q.run("job-dismiss", id="c")
    assert q.run("query-jobs") == []
    return job.get("error")


THREE = ["disk0.s2", "disk0.s1", "disk0.qcow2"]


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("command", [("job-complete", "id"), ("block-job-complete", "device")], ids=lambda c: c[0])
def test_qmp_completes_a_commit_of_the_active_layer(ready, command, format):
    g, q = ready(format)
    assert disks(g.d) == [[*THREE[:2], f"disk0.{format}"]]
    q.run(command[0], **{command[1]: "c"})
    assert ended(q, "BLOCK_JOB_COMPLETED") is None
    assert both(g.d) == [[f"disk0.{format}"]]
    with pytest.raises(QmpError, match="not found"):
        q.run(command[0], **{command[1]: "c"})
    g.write(5)
    g.snapshot("s3")
    g.again()


@pytest.mark.parametrize("command,event,error", [
    (["block-job-cancel", {"device": "c"}], "BLOCK_JOB_COMPLETED", None),
    (["block-job-cancel", {"device": "c", "force": True}], "BLOCK_JOB_CANCELLED", "keeps its layers"),
    (["job-cancel", {"id": "c"}], "BLOCK_JOB_CANCELLED", "keeps its layers")])
def test_qmp_leaves_the_layers_of_a_ready_commit(ready, command, event, error):
    g, q = ready()
    q.run(command[0], **command[1])
    said = ended(q, event)
    assert said is None if error is None else error in said
    assert both(g.d) == [THREE]
    g.write(5)
    g.again()
    g.d.cairn("blockcommit", "vm1", "vda", "--pivot")  # the mirror is gone, so another one may begin
    assert both(g.d) == [["disk0.qcow2"]]
    g.verify()


@pytest.mark.parametrize("how", ["pivot", "abort", "destroy", "daemon"])
def test_ready_commit_ends_by_other_means(ready, how):
    g, q = ready()
    if how in ("pivot", "abort"):
        g.d.cairn("blockjob", "vm1", "vda", f"--{how}", *(["--dest", "disk0.qcow2"] if how == "pivot" else []))
        assert ended(q, "BLOCK_JOB_COMPLETED") is None
        assert both(g.d) == [["disk0.qcow2"] if how == "pivot" else THREE]
    elif how == "destroy":
        id = next(j["id"] for j in g.d.qmp().run("query-jobs") if j.get("qmp-id") == "c")
        g.console.close()
        g.d.cairn("destroy", "vm1")
        job = next(j for j in g.d.qmp().run("query-jobs") if j["id"] == id)
        assert "the VM has ended; disk vda keeps its layers" in job["error"] and disks(g.d) == [THREE]
        g.start()
    else:
        g.d.stop(signal.SIGKILL)
        g.d.start()
        g.write(5)
        r = g.d.cairn("blockcommit", "vm1", "vda", "--active", ok=False)
        assert "end that first, with cairn blockjob" in r.stderr and both(g.d) == [THREE]
        g.d.cairn("blockjob", "vm1", "vda", "--pivot", "--dest", "disk0.qcow2")
        assert both(g.d) == [["disk0.qcow2"]]
    g.verify()
    g.again()


def test_qmp_refuses_to_complete_what_is_not_ready(vm):
    g = vm()
    three(g)
    q = Qmp(g.d.qmp().run("vm-qmp-path", vm="vm1")["path"])
    q.run("block-commit", device="vda", speed=1 << 20)
    with pytest.raises(QmpError, match="in state 'running' cannot accept command verb 'complete'"):
        q.run("job-complete", id="vda")
    q.run("block-job-cancel", device="vda")
    q.event("BLOCK_JOB_CANCELLED", device="vda", type="commit", speed=1 << 20)
    for args in ({"device": "vda"}, {"device": "none"}):
        with pytest.raises(QmpError, match="Block job .* not found"):
            q.run("block-job-cancel", **args)
    q.close()
    assert both(g.d) == [THREE]
    g.write(4)
    g.again()


def test_completion_that_the_definition_excludes_leaves_the_job_ready(ready):
    """A next start with another overlay on the base would read what the guest writes after the pivot."""
    g, q = ready()
    definition = json.loads(g.d.cairn("dumpjson", "vm1").stdout)
    disk, = definition["disks"]
    overlay_create(g, "other.qcow2")
    other = {**definition, "disks": [{**disk, "path": str(g.d.tmp / "other.qcow2"), "backing": disk["backing"][-1:]}]}
    g.d.qmp().run("vm-define", definition=other)
    with pytest.raises(QmpError, match="the definition of the next start has the image"):
        q.run("job-complete", id="c")
    assert q.run("query-jobs")[0]["status"] == "ready"
    g.d.qmp().run("vm-define", definition=definition)
    q.run("job-complete", id="c")
    assert both(g.d) == [["disk0.qcow2"]]
    g.again()


def test_base_that_another_image_of_the_next_start_reads_is_refused(vm):
    """That image would read what the overlay has."""
    g = vm()
    g.snapshot("s1")
    definition = json.loads(g.d.cairn("dumpjson", "vm1").stdout)
    disk, = definition["disks"]
    overlay_create(g, "other.qcow2")
    g.d.qmp().run("vm-define", definition={**definition, "disks": [{**disk, "path": str(g.d.tmp / "other.qcow2")}]})
    r = g.d.cairn("blockcommit", "vm1", "vda", "--pivot", ok=4)
    assert f"the next start has the image {g.d.tmp}/other.qcow2, which reads {g.d.tmp}/disk0.qcow2, so that must not change" in r.stderr
    g.d.qmp().run("vm-define", definition=definition)
    g.d.cairn("blockcommit", "vm1", "vda", "--pivot")
    assert both(g.d) == [["disk0.qcow2"]]


@pytest.mark.parametrize("by", ["job-complete", "blockjob"])
def test_next_start_with_an_image_of_its_own_keeps_it(ready, by):
    g, q = ready()
    definition = json.loads(g.d.cairn("dumpjson", "vm1").stdout)
    img(g.d, "create", "-q", "-f", "qcow2", "other.qcow2", str(SIZE))
    other = {**definition, "disks": [{**definition["disks"][0], "path": str(g.d.tmp / "other.qcow2"), "backing": []}]}
    g.d.qmp().run("vm-define", definition=other)
    if by == "job-complete":
        q.run("job-complete", id="c")
    else:
        assert f"keeps its own image for disk vda: {g.d.tmp}/other.qcow2" in g.d.cairn("blockjob", "vm1", "vda", "--pivot").stderr
    assert disks(g.d) == [["disk0.qcow2"]] and disks(g.d, "--inactive") == [["other.qcow2"]]
    g.verify()


def is_asleep(pid):
    """Return whether no thread of the process runs."""
    return all(open(f"/proc/{pid}/task/{t}/stat").read().rsplit(")", 1)[1].split()[0] == "S" for t in os.listdir(f"/proc/{pid}/task"))


def made(slow):
    """Define a VM with three layers. Return its disks."""
    layers = [{"path": str(slow.tmp / name), "format": "qcow2"} for name in ("top", "middle", "base")]
    for layer, below in zip(reversed(layers), [None, *reversed(layers)]):
        img(slow, "create", "-q", "-f", "qcow2", *(["-b", below["path"], "-F", "qcow2"] if below else []), layer["path"], str(SIZE))
    disks = [{**layers[0], "backing": layers[1:]}]
    slow.define("vm1", disks=disks)
    return disks


def test_layers_leave_a_next_start_that_has_an_overlay_above(slow):
    """Such as after a snapshot that was interrupted before the VM had the overlay."""
    disks_of, over = made(slow), {"path": str(slow.tmp / "over"), "format": "qcow2"}
    slow.cairn("start", "vm1")
    img(slow, "create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "over")
    image = {k: disks_of[0][k] for k in ("path", "format")}
    slow.cairn("define", slow.write("vm1", disks=[{**over, "backing": [image, *disks_of[0]["backing"]]}]))
    slow.cairn("blockcommit", "vm1", "vda", "--top", disks_of[0]["backing"][0]["path"])
    assert disks(slow) == [["top", "base"]] and disks(slow, "--inactive") == [["over", "top", "base"]]
    r = slow.cairn("blockpull", "vm1", "vda", ok=False)
    assert "complete that with cairn snapshot-create-as --reuse-external" in r.stderr


def test_next_daemon_completes_a_commit(slow):
    made(slow)
    slow.cairn("start", "vm1")
    id = kill_before_the_end(slow, top="middle", base="base")
    assert "committing" in json.loads((slow.state / "vms/vm1/state.json").read_text())
    slow.start()
    q = slow.qmp()
    until(lambda: next(j for j in q.run("query-jobs") if j["id"] == id)["status"] == "concluded")
    assert "error" not in next(j for j in q.run("query-jobs") if j["id"] == id) and both(slow) == [["top", "base"]]
    assert "committing" not in json.loads((slow.state / "vms/vm1/state.json").read_text())


def test_commit_whose_end_is_not_known_comes_before_others(slow):
    made(slow)
    slow.cairn("start", "vm1")
    kill_before_the_end(slow, top="middle", base="base")
    (slow.tmp / "base").rename(slow.tmp / "away")
    slow.start()
    until(lambda: slow.qmp().run("query-jobs")[-1]["status"] == "concluded")
    (slow.tmp / "away").rename(slow.tmp / "base")
    r = slow.cairn("blockcommit", "vm1", "vda", "--top", slow.tmp / "top", "--base", slow.tmp / "middle", "--active", ok=6)
    words = shlex.split(r.stderr.partition("repeat it first: cairn ")[2])
    slow.cairn(*words)
    assert both(slow) == [["top", "base"]]


def test_kill_amid_a_redefinition_leaves_the_layers_of_the_running_vm(slow):
    """Otherwise the next daemon would take the next start's layers for those of the process."""
    disks_of = made(slow)
    slow.stop()
    go, count = slow.tmp / "go", slow.tmp / "count"
    go.touch()
    slow.env |= {"SLOW_SYNC_OF": "state.json", "SLOW_SYNC_UNTIL": str(go), "SLOW_SYNC_COUNT": str(count)}
    slow.start()
    slow.cairn("start", "vm1")
    until(lambda: json.loads((slow.state / "vms/vm1/state.json").read_text())["state"] == "running")
    go.unlink()
    n = len(count.read_text().splitlines())
    img(slow, "create", "-q", "-f", "qcow2", "other", str(SIZE))
    with open(slow.write("vm1", disks=[{**disks_of[0], "path": str(slow.tmp / "other"), "backing": []}])) as f:
        slow.qmp().send(json.dumps({"execute": "vm-define", "arguments": {"definition": json.load(f), "folder": str(slow.tmp)}}).encode())
    until(lambda: len(count.read_text().splitlines()) > n)
    slow.stop(signal.SIGKILL)
    go.touch()
    slow.start()
    assert disks(slow) == [["top", "middle", "base"]]


def test_definition_that_comes_at_the_end_is_the_next_starts(slow):
    """Another client defines the VM while the daemon stores the job's definition."""
    disks = made(slow)
    layers = [disks[0], *disks[0]["backing"]]
    go = hold(slow, "/.draft-")
    slow.cairn("start", "vm1")
    a, b = slow.qmp(), slow.qmp()
    a.run("vm-blockcommit", vm="vm1", disk="vda", top=layers[1]["path"], base=layers[2]["path"])
    until(lambda: any(p.name.startswith(".draft-") for p in (slow.state / "vms").iterdir()))
    with open(slow.write("vm1", memory="64M", disks=disks)) as f:
        b.send(json.dumps({"execute": "vm-define", "arguments": {"definition": json.load(f), "folder": str(slow.tmp)}}).encode())
    until(lambda: all(is_asleep(slow.proc.pid) for _ in range(100)))  # the second draft waits behind the first one
    go.touch()
    assert b.answer()["return"]["pending"]
    a.event("JOB_STATUS_CHANGE", status="concluded")
    shown = a.run("vm-dump-definition", vm="vm1")
    disk, = shown["definition"]["disks"]
    assert slow.info("vm1")["memory"] == 32 << 20 and shown["pending"]
    assert [os.path.basename(x["path"]) for x in [disk, *disk["backing"]]] == ["top", "base"]
