"""Volumes of pools by the daemon's commands. The files are touched with the rights of the client."""

import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, Daemon, QmpError, until
from daemonlib import NOBODY, as_nobody, kept_events, shared  # noqa: F401
from fuselib import Op, fuse

MIB = 1 << 20


@pytest.fixture
def pool(fake):
    folder = fake.tmp / "images"
    folder.mkdir()
    fake.cairn("pool-define-as", "images", "dir", "--target", str(folder))
    return folder


@pytest.fixture
def q(fake, pool):
    q = fake.qmp()
    yield q
    q.close()


def volumes(q, pool="images"):
    """Return all volumes by name, read page by page."""
    found, after = {}, {}
    while True:
        page = q.run("query-volumes", pool=pool, **after)
        for v in page["volumes"]:
            assert v["name"] not in found
            found[v["name"]] = v
        if "next" not in page:
            return found
        after = {"after": page["next"]}


def ended(q, job):
    """Wait for the end of a job and forget it; raise its error."""
    entry = q.run("job-wait", id=job)
    q.run("job-dismiss", id=job)
    if "error" in entry:
        raise QmpError({"class": entry["error-class"], "desc": entry["error"]})
    return entry


def make(q, command, **args):
    """Let a job make a volume; return the job as it was at its end."""
    return ended(q, q.run(command, pool=args.pop("pool", "images"), **args)["job"])


def refused(q, words, command, **args):
    run = make if command in ("volume-create", "volume-clone") else q.run
    with pytest.raises(QmpError) as e:
        run(*([q] if run is make else []), command, pool=args.pop("pool", "images"), **args)
    assert words in e.value.desc, e.value.desc
    return e.value.cls


class Held:
    """A cairn-img that waits before it begins. begun(): how many have come so far; go(): let one go on."""

    def __init__(self, daemon):
        folder = daemon.tmp / "libexec"
        folder.mkdir()
        self.log, self.gate = daemon.tmp / "begun", daemon.tmp / "go"
        os.mkfifo(self.gate)
        (folder / "cairn-img").write_text(f"#!/bin/sh\nprintf '    (42.00/100%%)\\r'\necho $$ >>{self.log}\nread x <{self.gate}\n"
                                          f"exec {os.path.abspath(BUILD)}/cairn-img \"$@\"\n")
        (folder / "cairn-img").chmod(0o755)
        self.log.touch()
        for path in (self.log, self.gate):
            path.chmod(0o666)
        daemon.stop()
        daemon.env["CAIRN_LIBEXEC"] = str(folder)
        daemon.start()

    def begun(self, n=1):
        until(lambda: len(self.log.read_text().splitlines()) == n)

    def go(self):
        self.gate.write_text("x\n")


@pytest.fixture
def held(fake, pool):
    return Held(fake)


def image(path):
    return json.loads(subprocess.check_output([os.path.join(BUILD, "cairn-img"), "info", "--output", "json", str(path)]))


def test_volumes_are_created_listed_cloned_resized_and_deleted(q, pool):
    make(q, "volume-create", name="a.qcow2", capacity=10 * MIB)
    make(q, "volume-create", name="b.raw", capacity=MIB, format="raw")
    assert stat.S_IMODE((pool / "b.raw").stat().st_mode) == 0o600
    (pool / "b.raw").write_bytes(b"data" * (MIB // 4))
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "c.qcow2"], cwd=pool, check=True)
    (pool / ".hidden").touch()
    (pool / "folder").mkdir()
    os.mkfifo(pool / "fifo")
    os.symlink("a.qcow2", pool / "link")
    (pool / "bad\udcff").touch()
    (pool / "tab\t").touch()
    v = volumes(q)
    assert list(v) == ["a.qcow2", "b.raw", "c.qcow2"]
    assert v["a.qcow2"] == {"name": "a.qcow2", "format": "qcow2", "capacity": 10 * MIB, "allocation": v["a.qcow2"]["allocation"], "vms": []}
    assert v["b.raw"]["format"] == "raw" and v["b.raw"]["capacity"] == MIB == v["b.raw"]["allocation"]
    assert v["c.qcow2"]["backing"] == "a.qcow2"
    make(q, "volume-clone", name="b.raw", new_name="d.raw")
    assert (pool / "d.raw").read_bytes() == (pool / "b.raw").read_bytes()
    q.run("volume-resize", pool="images", name="a.qcow2", capacity=20 * MIB)
    assert image(pool / "a.qcow2")["virtual-size"] == 20 * MIB
    refused(q, "so the data at the end would be lost", "volume-resize", name="d.raw", capacity=MIB // 2)
    q.run("volume-resize", pool="images", name="d.raw", capacity=MIB // 2, shrink=True)
    assert (pool / "d.raw").stat().st_size == MIB // 2
    refused(q, "a.qcow2 is the backing file of c.qcow2; delete that first", "volume-delete", name="a.qcow2")
    for name in ("c.qcow2", "a.qcow2"):
        q.run("volume-delete", pool="images", name=name)
    assert list(volumes(q)) == ["b.raw", "d.raw"]


@pytest.mark.parametrize("name, says", [
    ("file:a.qcow2", "is the backing file of c.qcow2"), ("cairn-fork:a.qcow2?snapshot=" + 32 * "a", "is the backing file of c.qcow2"),
    ('json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}', "c.qcow2 names its backing file in JSON, which may be a.qcow2"),
    ("nbd:localhost:10809", None)])
def test_backing_file_with_a_protocol_is_kept(q, pool, name, says):
    make(q, "volume-create", name="a.qcow2", capacity=MIB)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", "c.qcow2", "1M"], cwd=pool, check=True)
    if says:
        refused(q, says, "volume-delete", name="a.qcow2")
        q.run("volume-delete", pool="images", name="c.qcow2")
    q.run("volume-delete", pool="images", name="a.qcow2")


@pytest.mark.parametrize("name, says", [
    ("a.raw", "is the data file of c.qcow2; delete that first"), ("file:a.raw", "is the data file of c.qcow2"),
    ('json:{"driver":"file","filename":"a.raw"}', "c.qcow2 names its data file in JSON, which may be a.raw"), ("b.raw", None)])
def test_external_data_file_is_kept(q, pool, name, says):
    make(q, "volume-create", name="a.raw", capacity=MIB, format="raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=b.raw,data_file_raw=on", "c.qcow2", "1M"], cwd=pool, check=True)
    # Rename the data file in the header: its extension has the name, padded with zeros.
    header = (pool / "c.qcow2").read_bytes()[:4096]
    at = header.index(b"DATA\0\0\0\x05b.raw")
    new = struct.pack(">II", 0x44415441, len(name)) + name.encode().ljust(-(-len(name) // 8) * 8, b"\0") + header[at + 16:]
    with open(pool / "c.qcow2", "r+b") as f:
        f.write((header[:at] + new)[:4096])
    if says:
        refused(q, says, "volume-delete", name="a.raw")
        if name == "a.raw":
            refused(q, says, "volume-resize", name="a.raw", capacity=MIB // 2, shrink=True)
        q.run("volume-delete", pool="images", name="c.qcow2")
    q.run("volume-delete", pool="images", name="a.raw")


def test_vms_of_a_volume_are_shown_and_keep_it(fake, q, pool):
    for name in ("a.raw", "b.raw"):
        (pool / name).write_bytes(bytes(MIB))
    for i in range(10):
        fake.define(f"vm{i}", disks=[{"path": str(pool / "a.raw"), "format": "raw", "readonly": True}])
    os.symlink(pool, fake.tmp / "other")
    fake.define("web1", disks=[{"path": str(fake.tmp / "other/b.raw"), "format": "raw"}])
    assert volumes(q)["a.raw"]["vms"] == [f"vm{i}" for i in range(8)]
    refused(q, "is an image of VM 'vm0'; detach the disk or undefine the VM first", "volume-delete", name="a.raw")
    refused(q, "is an image of VM 'web1'", "volume-delete", name="b.raw")
    # The volumes of a running VM count until it ends, also if the definition of its next start lacks them.
    fake.cairn("start", "web1")
    fake.define("web1", was=None)
    refused(q, "is an image of VM 'web1'", "volume-delete", name="b.raw")
    fake.cairn("destroy", "web1")
    q.run("volume-delete", pool="images", name="b.raw")


def test_volume_that_another_process_has_open_stays(q, pool):
    make(q, "volume-create", name="a.qcow2", capacity=MIB)
    with subprocess.Popen(["qemu-io", "-f", "qcow2", pool / "a.qcow2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        until(lambda: f":{(pool / 'a.qcow2').stat().st_ino} " in open("/proc/locks").read())
        assert refused(q, "a.qcow2 is in use by another process", "volume-delete", name="a.qcow2") == "Busy"
        assert refused(q, "a.qcow2 is in use by another process", "volume-resize", name="a.qcow2", capacity=2 * MIB) == "Busy"
        assert refused(q, "a.qcow2 is open for writing in another process; stop the VM or tool that has it open", "volume-clone", name="a.qcow2",
                       new_name="b") == "Busy"
        p.stdin.close()
    q.run("volume-delete", pool="images", name="a.qcow2")


def test_volume_that_others_read_keeps_its_size(fake, q, pool):
    """A smaller backing file would lose data of its overlays: those of VMs that are off, and those of no VM."""
    make(q, "volume-create", name="a.qcow2", capacity=2 * MIB)
    fake.define("vm1", disks=[{"path": str(pool / "a.qcow2"), "format": "qcow2"}])
    fake.cairn("clone", "vm1", "vm2", "--linked", "--file", str(fake.tmp / "b.qcow2"))
    for how in ({"capacity": MIB, "shrink": True}, {"capacity": 4 * MIB}):
        refused(q, "a.qcow2 is a backing file of VM 'vm2', so it must not change", "volume-resize", name="a.qcow2", **how)
    fake.cairn("undefine", "vm2", "--remove-all-storage")
    fake.cairn("template", "vm1")
    refused(q, "a.qcow2 is an image of the template 'vm1'", "volume-resize", name="a.qcow2", capacity=4 * MIB)
    fake.cairn("template", "vm1", "--disable")
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    refused(q, "a.qcow2 is an image of VM 'vm1', whose saved state needs it as it is; start the VM", "volume-resize", name="a.qcow2", capacity=4 * MIB)
    assert "whose saved state" in q.run("volume-open", pool="images", name="a.qcow2")["warnings"][0]
    fake.cairn("managedsave-remove", "vm1")
    make(q, "volume-create", name="c.qcow2", capacity=2 * MIB, backing="a.qcow2")
    refused(q, "a.qcow2 is the backing file of c.qcow2", "volume-resize", name="a.qcow2", capacity=MIB, shrink=True)
    assert image(pool / "a.qcow2")["virtual-size"] == 2 * MIB
    q.run("volume-resize", pool="images", name="a.qcow2", capacity=4 * MIB)
    q.run("volume-delete", pool="images", name="c.qcow2")
    q.run("volume-resize", pool="images", name="a.qcow2", capacity=MIB, shrink=True)
    assert image(pool / "a.qcow2")["virtual-size"] == MIB


def test_base_of_an_image_with_any_name_stays(q, pool):
    """Lists leave out hidden files and names that JSON cannot have."""
    make(q, "volume-create", name="a.qcow2", capacity=MIB)
    for name in (b".hidden", b"latin-\xe9"):
        top = os.fsencode(pool) + b"/" + name
        subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", top], check=True)
        shown = name.replace(b"\xe9", b"?").decode()
        assert refused(q, f"a.qcow2 is the backing file of {shown}; delete that first", "volume-delete", name="a.qcow2") == "Busy"
        assert f"backing file of {shown}" in q.run("volume-open", pool="images", name="a.qcow2")["warnings"][0]
        os.unlink(top)
    assert list(volumes(q)) == ["a.qcow2"]
    q.run("volume-delete", pool="images", name="a.qcow2")


def test_file_system_whose_close_hangs_does_not_hold_the_daemon(fake):
    """The daemon passes the file on without ever having it open."""
    with fuse(fake.tmp / "fuse", a=bytes(MIB)) as f:
        q, other = fake.qmp(), fake.qmp()
        fake.cairn("pool-define-as", "far", "dir", "--target", str(f.folder))
        f.hang(Op.FLUSH, after=2)  # those of the helper
        q.run("volume-open", pool="far", name="a")
        with socket.socket(fileno=q.fds.pop()) as carrier:
            _, (file,), _, _ = socket.recv_fds(carrier, 1, 1)
        assert other.run("query-pools") and os.pread(file, 4, 0) == bytes(4)
        # A client that does not take the file, and one that is gone.
        f.hang(Op.FLUSH, after=2)
        q.run("volume-open", pool="far", name="a")
        os.close(q.fds.pop())
        f.hang(Op.FLUSH, after=2)
        opened = f.seen().count(Op.OPEN)
        other.send(b'{"execute": "volume-open", "arguments": {"pool": "far", "name": "a"}}')
        other.sock.close()
        until(lambda: f.seen().count(Op.OPEN) > opened)
        assert q.run("query-pools") and Op.FLUSH not in f.hanging()
        f.release()
        os.close(file)


def test_header_of_an_image_in_use_does_not_count(fake, q, pool):
    """A guest may write a qcow2 header into its raw disk, with any file of the host as its backing file."""
    secret = fake.tmp / "secret"
    secret.write_bytes(b"secret" * 1000)
    backing = str(secret).encode()
    header = struct.pack(">IIQIIQ", 0x514649FB, 2, 72, len(backing), 16, MIB).ljust(72, b"\0") + backing
    (pool / "disk").write_bytes(header.ljust(MIB, b"\0"))
    assert volumes(q)["disk"]["format"] == "qcow2" and volumes(q)["disk"]["backing"] == str(secret)
    fake.define("vm1", disks=[{"path": str(pool / "disk"), "format": "raw"}])
    shown = volumes(q)["disk"]
    assert shown["format"] == "raw" and "backing" not in shown and shown["capacity"] == MIB
    make(q, "volume-clone", name="disk", new_name="copy")
    assert (pool / "copy").read_bytes() == (pool / "disk").read_bytes()


def test_volumes_of_a_large_pool_are_listed_page_by_page(q, pool):
    names = sorted(f"{i:03}".ljust(100, "é") for i in range(300))
    for name in names:
        (pool / name).touch()
    assert list(volumes(q)) == names
    (pool / "zz").touch()
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", "zz-top", "1M"], cwd=pool, check=True)
    assert list(volumes(q))[-2:] == ["zz", "zz-top"]


def test_bad_requests_get_a_sentence_and_lose_nothing(fake, q, pool):
    (pool / "a").write_bytes(b"a" * 4096)
    for command, args in (("query-volumes", {}), ("volume-create", {"name": "b", "capacity": 1}), ("volume-delete", {"name": "a"})):
        assert refused(q, "there is no pool 'nope'. Next: cairn pool-list", command, pool="nope", **args) == "NotFound"
    for name in ("../a", "a/b", "", ".a", "-a", "a\n", "a" * 256):
        refused(q, "is no name of a volume; give a file's name without a folder", "volume-delete", name=name)
        refused(q, "is no name of a volume", "volume-clone", name="a", new_name=name)
    refused(q, "File exists", "volume-create", name="a", capacity=MIB)
    refused(q, "File exists", "volume-clone", name="a", new_name="a")
    refused(q, "No such file", "volume-clone", name="nope", new_name="b")
    refused(q, "No such file", "volume-delete", name="nope")
    refused(q, "format: must be qcow2 or raw", "volume-create", name="b", capacity=MIB, format="vmdk")
    refused(q, "backing-format: must be qcow2 or raw", "volume-create", name="b", capacity=MIB, backing="a", backing_format="vmdk")
    refused(q, "backing-format: there is no backing", "volume-create", name="b", capacity=MIB, backing_format="raw")
    refused(q, "preallocation: must be off, metadata, falloc or full", "volume-create", name="b", capacity=MIB, preallocation="some")
    refused(q, "a raw image has no backing file", "volume-create", name="b", capacity=MIB, format="raw", backing="a")
    refused(q, "volume /nope: No such file", "volume-create", name="b", capacity=MIB, backing="/nope")
    refused(q, "File name too long", "volume-create", name="b", capacity=MIB, backing="/" + "a" * 5000)
    for capacity in (-1, 2 ** 61):
        refused(q, "capacity: must be 0 to", "volume-create", name="b", capacity=capacity)
    (pool / "folder").mkdir()
    os.symlink("a", pool / "link")
    for name in ("folder", "link"):
        refused(q, "is no regular file", "volume-delete", name=name)
        refused(q, "is no regular file", "volume-clone", name=name, new_name="b")
    # A copy that fails leaves nothing.
    (pool / "broken").write_bytes(struct.pack(">II", 0x514649FB, 2).ljust(MIB, b"\xff"))
    refused(q, "broken", "volume-clone", name="broken", new_name="b")
    assert sorted(p.name for p in pool.iterdir()) == ["a", "broken", "folder", "link"] and (pool / "a").read_bytes() == b"a" * 4096
    os.rename(pool, fake.tmp / "moved")
    refused(q, f"folder {pool}: No such file or directory", "query-volumes")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_volumes_are_touched_with_the_rights_of_the_client(shared):  # noqa: F811
    folder = shared.tmp / "images"
    folder.mkdir(mode=0o755)
    (folder / "roots").write_bytes(bytes(MIB))
    (folder / "roots").chmod(0o600)
    shared.cairn("pool-define-as", "images", "dir", "--target", str(folder))

    def ask(command, **args):
        answer, = as_nobody(shared, [command, {"pool": "images", **args}])
        if "job" not in answer.get("return", {}):
            return answer.get("return", answer.get("error", {}).get("desc"))
        end, _ = as_nobody(shared, ["job-wait", {"id": answer["return"]["job"]}], ["job-dismiss", {"id": answer["return"]["job"]}])
        return end["return"].get("error", {})
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    assert "requires the role viewer" in ask("query-volumes")
    shared.cairn("grant", "viewer", "--user", "nobody")
    assert ask("query-volumes")["volumes"] == [{"name": "roots", "vms": []}]
    assert "requires the role operator" in ask("volume-create", name="a", capacity=MIB)
    shared.cairn("grant", "operator", "--user", "nobody")
    for command, args in (("volume-create", {"name": "a", "capacity": MIB}), ("volume-delete", {"name": "roots"}),
                          ("volume-clone", {"name": "roots", "new-name": "b"}), ("volume-resize", {"name": "roots", "capacity": 2 * MIB})):
        assert "Permission denied (for user 65534, who sent the command)" in ask(command, **args), command
    assert os.listdir(folder) == ["roots"]
    os.chown(folder, NOBODY, NOBODY)
    assert ask("volume-create", name="a", capacity=MIB) == {}
    made = (folder / "a").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY)
    assert ask("volume-clone", name="a", **{"new-name": "b"}) == {} and (folder / "b").stat().st_uid == NOBODY
    # A volume of another user, which cannot be looked at, may need one that others may read.
    (folder / "a").chmod(0o644)
    for command, args in ("volume-delete", {}), ("volume-resize", {"capacity": 65536, "shrink": True}):
        assert "may be the backing file of roots, which you may not read" in ask(command, name="a", **args), command
    (folder / "a").chmod(0o600)
    assert ask("volume-delete", name="a") == {} and not (folder / "a").exists()
    folder.chmod(0o700)
    os.chown(folder, 0, 0)
    assert "Permission denied" in ask("query-volumes")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_job_of_a_user_needs_the_role_and_is_bounded(shared):  # noqa: F811
    folder = shared.tmp / "images"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    os.chmod(shared.tmp, 0o755)
    held = Held(shared)
    shared.cairn("pool-define-as", "images", "dir", "--target", str(folder))
    shared.cairn("grant", "operator", "--user", "nobody")
    answers = as_nobody(shared, *(["volume-create", {"pool": "images", "name": f"v{i}", "capacity": MIB}] for i in range(9)))
    jobs = [a["return"]["job"] for a in answers[:8]]
    assert answers[8]["error"]["class"] == "Busy" and "user 65534 makes 8 volumes already" in answers[8]["error"]["desc"]
    held.begun(8)
    shared.cairn("grant", "viewer", "mine", "--user", "65533")
    seen, cancelled = as_nobody(shared, ["query-jobs", {}], ["job-cancel", {"id": jobs[0]}], user=65533, group=65533)
    assert seen["return"] == [] and cancelled["error"]["class"] == "PermissionDenied"  # a role for one VM does not suffice
    shared.cairn("revoke", "--user", "nobody")
    q = shared.qmp()
    for job in jobs:
        with pytest.raises(QmpError, match="user 65534, who began the job, has lost the role operator for all VMs") as e:
            ended(q, job)
        assert e.value.cls == "PermissionDenied"
    q.close()
    assert os.listdir(folder) == []


def has_nameless_files(folder):
    """Return whether the file system makes files without a name. There, a new volume appears when it is complete."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


def job_of(d, id):
    q = d.qmp()
    job, = q.run("query-jobs", id=id)
    q.close()
    return job


def test_job_shows_progress_and_is_cancelled(fake, pool, held):
    (pool / "a").write_bytes(b"a" * MIB)
    q = fake.qmp()
    job = q.run("volume-clone", pool="images", name="a", new_name="b", job_id="copy")["job"]
    held.begun()
    until(lambda: job_of(fake, job)["current-progress"] == MIB * 42 // 100)
    entry = job_of(fake, job)
    assert job == "copy" and (entry["type"], entry["status"], entry["total-progress"], entry["unit"]) == ("volume-clone", "running", MIB, "bytes")
    assert "vm" not in entry and "vm-uuid" not in entry
    told = q.event("JOB_PROGRESS", id=job, done=MIB * 42 // 100)["data"]
    assert told["total"] == MIB and "vm" not in told
    row, = [line.split() for line in fake.cairn("jobs").stdout.splitlines() if "copy" in line]
    assert row == ["copy", "-", "volume-clone", "running", "42", "%", "-"]
    assert list(volumes(q))[:1] == ["a"] and fake.cairn("pool-list", "--name").stdout == "images\n"  # others do not wait
    q.run("job-cancel", id=job)
    with pytest.raises(QmpError, match="the job was cancelled, and made no volume") as e:
        ended(q, job)
    assert e.value.cls == "Cancelled" and os.listdir(pool) == ["a"]
    # A program that ignores SIGTERM is killed.
    (fake.tmp / "libexec/cairn-img").write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >>{held.log}\nread x <{held.gate}\n")
    job = q.run("volume-clone", pool="images", name="a", new_name="b")["job"]
    held.begun(2)
    q.run("job-cancel", id=job)
    with pytest.raises(QmpError, match="the job was cancelled"):
        ended(q, job)
    assert os.listdir(pool) == ["a"] or not has_nameless_files(pool)


def test_cancelled_job_does_not_wait_for_a_file_system_that_hangs(fake):
    """Its process survives SIGKILL, and the job does not: it would count against the user's limit for ever."""
    with fuse(fake.tmp / "fuse") as f:
        fake.cairn("pool-define-as", "images", "dir", "--target", str(fake.tmp / "fuse"))
        f.hang(Op.LOOKUP)
        q = fake.qmp()
        job = q.run("volume-create", pool="images", name="a", capacity=MIB)["job"]
        until(lambda: Op.LOOKUP in f.hanging())
        q.run("job-cancel", id=job)
        with pytest.raises(QmpError, match="its process has not ended: a file system does not answer; repair or unmount it") as e:
            ended(q, job)
        assert e.value.cls == "Cancelled"
        f.release()


def test_killed_job_leaves_no_file_where_files_need_names(fake, held):
    """On a file system without O_TMPFILE, as this one of FUSE."""
    with fuse(fake.tmp / "fuse"):
        fake.cairn("pool-define-as", "fused", "dir", "--target", str(fake.tmp / "fuse"))
        (fake.tmp / "libexec/cairn-img").write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >>{held.log}\nread x <{held.gate}\n")
        q = fake.qmp()
        job = q.run("volume-create", pool="fused", name="a", capacity=MIB)["job"]
        held.begun()
        assert (fake.tmp / "fuse/a").exists()
        q.run("job-cancel", id=job)
        with pytest.raises(QmpError, match="the job was cancelled, and made no volume"):
            ended(q, job)
        assert not (fake.tmp / "fuse/a").exists()


def test_work_goes_on_when_the_client_or_the_daemon_ends(fake, pool, held):
    q = fake.qmp()
    job = q.run("volume-create", pool="images", name="a", capacity=MIB)["job"]
    held.begun()
    q.close()
    fake.stop(signal.SIGTERM)
    held.go()
    until(lambda: (pool / "a").exists() and (pool / "a").stat().st_size > 0)
    fake.start()
    until(lambda: image(pool / "a")["virtual-size"] == MIB)
    entry = job_of(fake, job)
    assert entry["status"] == "concluded" and "volume 'a' may be complete now or later. Next: cairn vol-list images" in entry["error"]
    # It is stored as one of no VM.
    fake.stop()
    fake.start()
    assert job_of(fake, job) | {"duration": 0} == entry | {"duration": 0}


def test_job_whose_daemon_is_killed_makes_its_volume(fake, pool, held):
    (pool / "a").write_bytes(b"a" * MIB)
    q = fake.qmp()
    job = q.run("volume-clone", pool="images", name="a", new_name="b")["job"]
    held.begun()
    jobs = fake.state / "jobs.json"
    until(lambda: jobs.exists() and '"b"' in jobs.read_text())
    fake.stop(signal.SIGKILL)
    q.close()
    fake.start()
    error = job_of(fake, job)["error"]
    assert "the daemon ended while the job was under way" in error and "volume 'b' may be complete now or later. Next: cairn vol-list images" in error
    held.go()
    until(lambda: (pool / "b").exists() and (pool / "b").read_bytes() == (pool / "a").read_bytes())
    assert sorted(os.listdir(pool)) == ["a", "b"]


def success_forget(fake, q, job):
    """Wait for the job's success, and restart the daemon as if it had been killed before it stored the job's end."""
    assert "error" not in q.event("JOB_STATUS_CHANGE", id=job, status="concluded")["data"]
    fake.stop()
    jobs, log = fake.state / "jobs.json", fake.state / "events.jsonl"
    kept = json.loads(jobs.read_text())
    kept["jobs"] = []
    jobs.write_text(json.dumps(kept))
    events = log.read_text().splitlines(keepends=True)
    assert json.loads(events[-1])["data"]["status"] == "concluded"
    log.write_text("".join(events[:-1]))
    fake.start()


def test_success_that_the_daemon_did_not_store_is_known(fake, pool):
    """The earlier daemon reported that the volume is complete."""
    q = fake.qmp()
    job = q.run("volume-create", pool="images", name="a", capacity=MIB)["job"]
    success_forget(fake, q, job)
    entry = job_of(fake, job)
    assert entry["status"] == "concluded" and "error" not in entry
    assert kept_events(fake)[-1]["data"]["status"] == "concluded"


def test_job_whose_result_the_daemon_did_not_store_has_failed(fake):
    (fake.tmp / "disk").write_bytes(bytes(MIB))
    fake.define("vm1", disks=[{"path": "disk", "format": "qcow2"}])
    q = fake.qmp()
    job = q.run("snapshot-create", vm="vm1", name="s")["job"]
    success_forget(fake, q, job)
    assert "its result is unknown. Next: cairn snapshot-list vm1" in job_of(fake, job)["error"]


@pytest.mark.parametrize("command, args", [("volume-create", {"name": "b", "capacity": 2 * MIB, "format": "raw"}),
                                           ("volume-clone", {"name": "a", "new_name": "b"}), ("volume-resize", {"name": "a", "capacity": 2 * MIB})])
def test_link_in_place_of_a_volume_is_not_followed(fake, pool, held, command, args):
    """Other users may write in the folder. They replace the files behind the names while cairn-img starts."""
    secret = fake.tmp / "secret"
    secret.write_bytes(b"s" * 4096)
    (pool / "a").write_bytes(b"a" * MIB)
    q, other = fake.qmp(), fake.qmp()
    q.send(json.dumps({"execute": command, "arguments": {"pool": "images", **{k.replace("_", "-"): v for k, v in args.items()}}}).encode())
    held.begun()
    appears = os.path.exists(pool / "b")  # without nameless files
    os.rename(pool / "a", pool / "was-a")
    if appears:
        os.rename(pool / "b", pool / "was-b")
    for name in ("a", "b"):
        os.symlink(secret, pool / name)
    held.go()
    if command == "volume-resize":
        assert q.answer() == {"return": {}}
        assert (pool / "was-a").read_bytes() == b"a" * MIB + bytes(MIB)
    elif appears:
        ended(other, q.answer()["return"]["job"])
        assert (pool / "was-b").stat().st_size == (MIB if command == "volume-clone" else 2 * MIB)
    else:
        with pytest.raises(QmpError, match=f"{pool}/b: File exists"):
            ended(other, q.answer()["return"]["job"])
        assert (pool / "was-a").read_bytes() == b"a" * MIB
    assert secret.read_bytes() == b"s" * 4096 and {os.readlink(pool / name) for name in ("a", "b")} == {str(secret)}


def test_file_system_without_nameless_files(fake, tmp_path):
    """There, a new volume has its name from the beginning, and none is left by a failure or a cancel."""
    with fuse(tmp_path / "far", a=b"a" * 65536) as f:
        fake.cairn("pool-define-as", "images", "dir", "--target", str(f.folder))
        q = fake.qmp()
        make(q, "volume-clone", name="a", new_name="b")
        with open(f["b"], "rb") as b:
            assert b.read() == b"a" * 65536
        refused(q, "File exists", "volume-clone", name="a", new_name="b")
        held = Held(fake)
        q = fake.qmp()
        job = q.run("volume-clone", pool="images", name="a", new_name="c")["job"]
        held.begun()
        assert os.path.exists(f["c"])
        q.run("job-cancel", id=job)
        with pytest.raises(QmpError, match="the job was cancelled"):
            ended(q, job)
        assert not os.path.exists(f["c"])


def test_vm_whose_file_does_not_answer_is_named(fake, q, pool, tmp_path):
    for name in "ab":
        (pool / name).write_bytes(b"a" * MIB)
    with fuse(tmp_path / "far", disk=bytes(4096)) as f:
        fake.define("near", disks=[{"path": str(pool / "a"), "format": "raw"}])
        fake.define("far", disks=[{"path": f["disk"], "format": "raw"}])
        fake.define("zoo", disks=[{"path": str(pool / "a"), "format": "raw", "readonly": True}])
        (tmp_path / "link").write_bytes(b"a")
        fake.define("zulu", disks=[{"path": str(tmp_path / "link"), "format": "raw", "readonly": True}])
        (tmp_path / "link").unlink()
        os.link(pool / "a", tmp_path / "link")  # a definition of it would be refused
        assert volumes(q)["a"]["vms"] == ["near", "zoo", "zulu"]
        f.hang(Op.LOOKUP, Op.GETATTR)
        words = f"{f['disk']} of VM 'far' does not answer, so whether the VM uses the volume is not known; repair or unmount that file system, then try again"
        assert refused(q, words, "volume-delete", name="b") == "Timeout" and (pool / "b").exists()
        q.run("volume-resize", pool="images", name="a", capacity=2 * MIB)  # that "near" uses it is known
        # A list does without, and then compares paths.
        assert volumes(q)["a"]["vms"] == ["near", "zoo"]
        hung = len(f.hanging())
        assert volumes(q)["a"]["vms"] == ["near", "zoo"] and len(f.hanging()) == hung
        f.release()


class Installed(Daemon):
    """The daemon in sbin, cairn-img in bin and the other programs in libexec/cairn, as `make install` puts them."""

    def __init__(self, tmp):
        for folder in ("sbin", "bin", "libexec/cairn"):
            (tmp / folder).mkdir(parents=True)
        shutil.copy(os.path.join(BUILD, "cairnd"), tmp / "sbin")
        shutil.copy(os.path.join(BUILD, "cairn-img"), tmp / "bin")
        for name in ("cairn-log", "cairn-groups"):
            shutil.copy(os.path.join(BUILD, name), tmp / "libexec/cairn")
        super().__init__(tmp, vm_program=FAKE_VM)

    def command(self):
        return [str(self.tmp / "sbin/cairnd"), *super().command()[1:]]


def test_installed_daemon_finds_cairn_img(tmp_path):
    daemon = Installed(tmp_path)
    try:
        (tmp_path / "images").mkdir()
        daemon.cairn("pool-define-as", "images", "dir", "--target", str(tmp_path / "images"))
        q = daemon.qmp()
        make(q, "volume-create", name="a.qcow2", capacity=MIB)
        assert image(tmp_path / "images/a.qcow2")["virtual-size"] == MIB
        (tmp_path / "bin/cairn-img").unlink()
        refused(q, "cairn-img is not installed", "volume-create", name="b.qcow2", capacity=MIB)
        assert list(volumes(q)) == ["a.qcow2"]
    finally:
        daemon.close()
