"""cairn-archive: exports import unchanged, and a malformed archive leaves nothing behind."""

import errno
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tarfile
import zlib

import pytest

import archivelib
import guestlib
import pinlib
from conftest import inject_call, library, until
from daemonlib import NOBODY
from test_img import IMG

MIB = 1024 * 1024
NO_REPLACE = library("no_replace")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """A qcow2 image with a snapshot on a raw backing file, and a raw file that is mostly a hole."""
    monkeypatch.chdir(tmp_path)
    with open("base.raw", "wb") as f:
        f.truncate(64 * MIB)
        f.seek(MIB)
        f.write(os.urandom(100000))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a.qcow2")
    run("qemu-io", "-c", "write -P 7 0 3M", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
    run("qemu-io", "-c", "write -P 9 2M 9M", "a.qcow2")
    with open("hole.raw", "wb") as f:
        f.truncate(40 * 1024 * MIB)
        f.seek(30 * 1024 * MIB + 5)
        f.write(b"here")
    return tmp_path


FILES = [("vda.qcow2", "a.qcow2", {"format": "qcow2", "backing": "vda-1.raw", "backing_format": "raw"}),
         ("vda-1.raw", "base.raw", {}), ("vdb.raw", "hole.raw", {})]


@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
def test_archive_restores_images_unchanged(disks, compress):
    last, status = archivelib.export("x.tar", {"name": "x"}, FILES, compress).end()
    assert status == 0 and last["result"]["written"] == os.path.getsize("x.tar")
    job = archivelib.take("x.tar", ".", "new")
    ready = job.until("ready", "error")["ready"]
    assert ready["definition"] == {"name": "x"} and not os.path.exists("new")
    assert job.end(b"keep\n") == ({"result": {}}, 0)
    assert sorted(os.listdir("new")) == ["vda-1.raw", "vda.qcow2", "vdb.raw"]
    assert not [n for n in os.listdir(".") if n.startswith(".")]
    # Complete, with its snapshot and its backing file, and as sparse as before.
    run("cmp", "base.raw", "new/vda-1.raw")
    assert os.stat("new/vdb.raw").st_size == 40 * 1024 * MIB
    assert os.stat("new/vdb.raw").st_blocks < 100
    with open("new/vdb.raw", "rb") as f:
        f.seek(30 * 1024 * MIB + 5)
        assert f.read(6) == b"here\0\0"
    assert "Images are identical" in run("qemu-img", "compare", "a.qcow2", "new/vda.qcow2")
    info = json.loads(run("qemu-img", "info", "--output=json", "new/vda.qcow2"))
    assert info["backing-filename"] == "vda-1.raw" and info["snapshots"][0]["name"] == "s1"
    run("qemu-img", "check", "new/vda.qcow2")


def test_archive_keeps_the_content_of_a_live_clone(tmp_path, monkeypatch):
    """The clone's disk stands on a pin of the source's image, which holds other data by now."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "src", "16M")
    run("qemu-io", "-c", "write -P 7 0 3M", "src")
    run("qemu-img", "snapshot", "-c", "pin", "src")
    ext = pinlib.mark("src", bytes(range(16)))
    run("qemu-io", "-c", "write -P 9 2M 9M", "src")
    run("qemu-img", "create", "-q", "-f", "qcow2", "fork", "16M")
    pinlib.stand_on("fork", "src", ext)
    archivelib.export("x.tar", {"name": "x"}, [
        ("vda.qcow2", "fork", {"format": "qcow2", "backing": "vda-1.qcow2", "backing_format": "qcow2"}),
        ("vda-1.qcow2", "src", {"format": "qcow2"})]).end()
    assert archivelib.take("x.tar", ".", "new").end(b"keep\n") == ({"result": {}}, 0)
    info = json.loads(run(IMG, "info", "--output=json", "new/vda.qcow2"))
    assert info["backing-filename"] == f"cairn-fork:vda-1.qcow2?snapshot={bytes(range(16)).hex()}"
    run(IMG, "convert", "-O", "raw", "new/vda.qcow2", "raw")
    with open("raw", "rb") as f:
        assert f.read() == bytes([7]) * 3 * MIB + bytes(13 * MIB)


def members(path):
    """Return the content of each member of a gzip file."""
    with open(path, "rb") as f:
        rest = f.read()
    while rest:
        d = zlib.decompressobj(wbits=31)
        yield d.decompress(rest)
        assert d.eof
        rest = d.unused_data


@pytest.mark.parametrize("level", [1, 9])
def test_gzip_archive_is_read_by_other_tools(tmp_path, monkeypatch, level):
    """Members that were compressed in parallel form one archive, in order."""
    monkeypatch.chdir(tmp_path)
    data = random.Random(4).randbytes(9 * MIB) + b"".join(b"%d\n" % i for i in range(300000))
    with open("a.raw", "wb") as f:
        f.write(data)
    last, status = archivelib.export("x.tar.gz", {"name": "x"}, [("vda.raw", "a.raw", {})], "gzip", level=level).end()
    assert status == 0 and last["result"]["written"] == os.path.getsize("x.tar.gz") < 10 * MIB
    lengths = [len(m) for m in members("x.tar.gz")]
    assert lengths[:-1] == [MIB] * (len(lengths) - 1) and len(lengths) > len(data) // MIB
    for reader in ("tar -xOzf", "busybox tar -xOzf"):
        assert subprocess.check_output([*reader.split(), "x.tar.gz", "vda.raw"]) == data
    with tarfile.open("x.tar.gz") as t:
        assert t.extractfile("vda.raw").read() == data
    with gzip.open("x.tar.gz") as text, tarfile.open(fileobj=text, mode="r|") as t:
        assert [m.name for m in t] == ["manifest.json", "vda.raw", "sums.json"]
    assert archivelib.take("x.tar.gz", ".", "new").end(b"keep\n")[1] == 0
    run("cmp", "a.raw", "new/vda.raw")


@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
def test_cancelled_export_ends_without_padding(tmp_path, monkeypatch, compress):
    """A cancelled export ends where it is and does not pad the file. The unread pipe holds the process back."""
    monkeypatch.chdir(tmp_path)
    with open("a.raw", "wb") as f:
        f.write(os.urandom(48 * MIB))
    os.mkfifo("x.tar")
    reader = os.open("x.tar", os.O_RDONLY | os.O_NONBLOCK)
    out, fd = archivelib.high("x.tar", os.O_WRONLY), archivelib.high("a.raw")
    job = archivelib.Archive("export", {"output": out, "compress": compress, "definition": {"name": "x"},
                                        "files": [{"name": "vda.raw", "fd": fd}]}, [out, fd])
    os.set_blocking(reader, True)
    assert os.read(reader, 1)
    job.process.send_signal(signal.SIGTERM)
    got = 1
    while part := os.read(reader, MIB):
        got += len(part)
    last, status = job.end()
    assert status == 1 and last["error"]["class"] == "Cancelled"
    assert got < 40 * MIB


def test_export_of_snapshot_beside_a_writer(disks):
    """A separate image with the snapshot's content, while another process writes to the disk."""
    run("qemu-img", "rebase", "-q", "-b", "", "a.qcow2")
    run("qemu-img", "snapshot", "-d", "s1", "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s2", "a.qcow2")
    run("qemu-img", "convert", "-l", "s2", "-O", "raw", "a.qcow2", "s2.raw")
    run("qemu-io", "-c", "write -P 1 0 20M", "a.qcow2")
    last, status = archivelib.export("x.tar", {"name": "x"}, [("vda.qcow2", "a.qcow2", {"format": "qcow2"})],
                                     snapshot="s2").end()
    assert status == 0, last
    assert archivelib.take("x.tar", ".", "new").end(b"keep\n")[1] == 0
    assert "identical" in run("qemu-img", "compare", "new/vda.qcow2", "s2.raw")
    assert "No errors" in run("qemu-img", "check", "new/vda.qcow2")
    assert "Snapshot list" not in run("qemu-img", "info", "new/vda.qcow2")


@pytest.mark.parametrize("there", (None, "file"))
def test_import_into_file_system_without_noreplace(tmp_path, monkeypatch, there):
    """On NFS, renameat2() refuses the flag. A folder that somebody has filled meanwhile is not replaced."""
    monkeypatch.chdir(tmp_path)
    with open("a.raw", "wb") as f:
        f.write(os.urandom(MIB))
    archivelib.export("x.tar", {"name": "vm"}, [("a.raw", "a.raw", {})], compress="none").end()
    job = archivelib.take("x.tar", ".", "new", how={"env": {**os.environ, "LD_PRELOAD": NO_REPLACE}})
    assert "ready" in job.until("ready", "error")
    if there:
        os.mkdir("new")
        open("new/file", "w").close()
    last, status = job.end(b"keep\n")
    assert (status, "result" in last) == ((1, False) if there else (0, True))
    assert os.listdir("new") == ([there] if there else ["a.raw"])
    assert not os.path.exists(".new.importing")


def test_import_without_keep_leaves_nothing(disks):
    archivelib.export("x.tar", {"name": "x"}, FILES).end()
    for word in (b"", b"no\n", b"keep"):
        job = archivelib.take("x.tar", ".", "new")
        assert job.until("ready", "error")["ready"]
        last, status = job.end(word)
        assert status == 1 and last["error"]["class"] == "Cancelled"
        assert not [n for n in os.listdir(".") if "new" in n]


KILLED = None
OPENED = "a file"
CALLS = {  # number on x86-64, arguments, what it has to end with
    "open_outside": (257, [-100, "=/etc/passwd", 0, 0], -errno.EACCES),
    "open_inside": (257, [-100, "=.new.importing/vda-1.raw", 0, 0], OPENED),
    "socket": (41, [1, 1, 0], KILLED),
    "io_uring_setup": (425, [8, 0], KILLED),
    "type_at_the_terminal": (16, [0, 0x5412, 0], KILLED),
    "limit_another_process": (302, [1, 7, 0, 0], KILLED),
    "have_another_signalled": (72, [0, 8, 1], KILLED),  # F_SETOWN
}


@pytest.mark.parametrize("name", CALLS)
def test_sandbox_forbids_other_calls_and_files(sandbox, disks, name):
    """As a user who has other files as well."""
    number, args, want = CALLS[name]
    archivelib.export("x.tar", {"name": "x"}, FILES).end()
    os.chmod(".", 0o777)
    shutil.copy(archivelib.PROGRAM, "program")  # the build folder may be closed to that user
    who = {"executable": "./program", **({"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {})}
    job = archivelib.take("x.tar", ".", "new", how=who)
    assert job.until("ready", "error")["ready"]
    got = inject_call(job.process.pid, number, *args)
    status = job.end()[1]
    if want is KILLED:
        assert got is KILLED and status == -signal.SIGSYS
    else:
        assert got >= 0 if want is OPENED else got == want


def test_import_succeeds_after_a_killed_one(disks):
    archivelib.export("x.tar", {"name": "x"}, FILES).end()
    job = archivelib.take("x.tar", ".", "new")
    assert job.until("ready")
    other, status = archivelib.take("x.tar", ".", "new").end()
    assert other["error"]["class"] == "Busy" and status == 1
    job.process.kill()
    job.process.wait()
    assert os.path.exists(".new.importing")
    assert archivelib.take("x.tar", ".", "new").end(b"keep\n")[1] == 0
    assert not os.path.exists(".new.importing")
    assert archivelib.take("x.tar", ".", "new").end()[0]["error"]["class"] == "AlreadyExists"


def test_clear_removes_leftovers_of_killed_import(disks):
    archivelib.export("x.tar", {"name": "x"}, FILES).end()
    assert archivelib.clear(".", "new").end() == ({"result": {}}, 0)  # nothing
    job = archivelib.take("x.tar", ".", "new")
    assert job.until("ready")
    job.process.kill()
    job.process.wait()
    assert archivelib.clear(".", "new").end()[1] == 0
    assert not [n for n in os.listdir(".") if "new" in n]
    # A process that still fills the folder is waited for.
    job = archivelib.take("x.tar", ".", "new")
    assert job.until("ready")
    other = archivelib.clear(".", "new")
    assert job.end(b"keep\n")[1] == 0 and other.end()[1] == 0
    assert [n for n in os.listdir(".") if "new" in n] == ["new"] and len(os.listdir("new")) == len(FILES)
    # cairn-archive does not remove a folder that it did not create.
    os.symlink("new", ".y.importing")
    os.mkdir(".z.importing", 0o777)
    os.chmod(".z.importing", 0o777)
    for name in "yz":
        assert archivelib.clear(".", name).end()[1] == 1
        assert os.path.lexists(f".{name}.importing")
    assert len(os.listdir("new")) == len(FILES)


def test_terminated_import_leaves_nothing(disks):
    with open("big", "wb") as f:
        f.write(os.urandom(64 * MIB))
    archivelib.export("x.tar", {"name": "x"}, [("vda.raw", "big", {})], "none").end()
    job = archivelib.take("x.tar", ".", "new")
    until(lambda: os.path.exists(".new.importing"))
    job.process.send_signal(signal.SIGTERM)
    last, status = job.end()
    assert status == 1 and last["error"]["class"] == "Cancelled"
    assert not [n for n in os.listdir(".") if "new" in n]


def test_truncated_archive_is_refused(disks):
    archivelib.export("x.tar", {"name": "x"}, FILES[1:2]).end()
    whole = open("x.tar", "rb").read()
    cuts = sorted({0, 1, 10, *range(0, len(whole), len(whole) // 12), len(whole) - 1})
    for n in cuts:
        with open("cut.tar", "wb") as f:
            f.write(whole[:n])
        last, status = archivelib.take("cut.tar", ".", "new").end(b"keep\n")
        assert status == 1 and last["error"]["class"] in ("Corrupt", "InvalidArgument"), n
        assert not [x for x in os.listdir(".") if "new" in x]


def test_flipped_bit_is_detected(disks):
    archivelib.export("x.tar", {"name": "x"}, FILES[1:2], "none").end()
    whole = bytearray(open("x.tar", "rb").read())
    at = whole.index(open("base.raw", "rb").read(MIB + 4096)[-64:])
    whole[at + 7] ^= 4
    open("bad.tar", "wb").write(whole)
    last, status = archivelib.take("bad.tar").end()
    assert status == 1 and "SHA-256" in last["error"]["message"] and "vda-1.raw" in last["error"]["message"]


# ---- archives that Cairn did not write ----

def entry(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def manifest(files=(), **more):
    o = {"format": 1, "definition": {"name": "x"},
         "files": [{"name": n, "size": s, "data": d} for n, s, d in files], **more}
    return entry("manifest.json", json.dumps(o).encode())


def linked(*files):
    """A manifest of small files."""
    return [entry("manifest.json", json.dumps({"format": 1, "definition": {}, "files": [
        {"size": 1, "data": 1, **f} for f in files]}).encode())]


def summed(content, *files):
    """An archive with right checksums. content: of each file, less than 4 KiB."""
    first = linked(*files)
    sums = {n: hashlib.sha256(bytes(8) + data).hexdigest() for n, data in [("manifest.json", first[0][1]), *content.items()]}
    return [*first, *(entry(n, data) for n, data in content.items()), entry("sums.json", json.dumps({"sha256": sums}).encode())]


def hostile(entries, path="h.tar"):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
        for info, data in entries:
            t.addfile(info, io.BytesIO(data))
    return path


BAD = {
    "nothing of ours": ([entry("a", b"b")], "the first file is not manifest.json"),
    "empty": ([], "not an archive of cairn export"),
    "newer": ([manifest(format=3)], "has format 3; this cairn reads format 2"),
    "no format": ([manifest(format="x")], "its format"),
    "no definition": ([manifest(definition=[])], "its definition"),
    "traversal": ([manifest([("a", 1, 1)]), entry("../a", b"b")], "names a folder"),
    "absolute": ([manifest([("a", 1, 1)]), entry("/etc/cairn-was-here", b"b")], "names a folder"),
    "traversal in the manifest": ([manifest([("../a", 1, 1)])], "invalid file name '../a'"),
    "dot": ([manifest([(".a", 1, 1)])], "invalid file name"),
    "symlink": ([manifest([("a", 1, 1)]), entry("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "is a link"),
    "hard link": ([manifest([("a", 1, 1)]), entry("a", type=tarfile.LNKTYPE, linkname="manifest.json")], "is a link"),
    "device": ([manifest([("a", 1, 1)]), entry("a", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
               "is not a regular file"),
    "pipe": ([manifest([("a", 1, 1)]), entry("a", type=tarfile.FIFOTYPE)], "is not a regular file"),
    "folder": ([manifest([("a", 1, 1)]), entry("a", type=tarfile.DIRTYPE)], "folder"),
    "not named": ([manifest([("a", 1, 1)]), entry("b", b"b")], "is not in its manifest"),
    "twice": ([manifest([("a", 1, 1)]), entry("a", b"b"), entry("a", b"b")], "is there twice"),
    "other size": ([manifest([("a", 2, 1)]), entry("a", b"b")], "another size"),
    "more data": ([manifest([("a", 4096, 1)]), entry("a", b"b" * 4096)], "more data than its manifest says"),
    "more data than size": ([manifest([("a", 1, 2)])], "more data than its size"),
    "negative": ([manifest([("a", -1, 0)])], "the size of a file"),
    "no end": ([manifest([("a", 1, 1)]), entry("a", b"b")], "sums.json"),
    "no sum": ([manifest([("a", 1, 1)]), entry("a", b"b"), entry("sums.json", b'{"sha256":{}}')], "no SHA-256"),
    "long sum": ([manifest([("a", 1, 1)]), entry("a", b"b"), entry("sums.json", json.dumps(
        {"sha256": {"manifest.json": "0" * 9000, "a": "0" * 9000}}).encode())], "no SHA-256"),
    "huge": ([manifest([("a", (1 << 60) + 1, 1)])], "the size of a file"),
    "raw on another": ([entry("manifest.json", json.dumps({"format": 1, "definition": {}, "files": [
        {"name": "b", "size": 1, "data": 1}, {"name": "a", "size": 1, "data": 1, "backing": "b", "backing_format": "raw"}]}).encode())],
        "a backing file of an image that is not qcow2"),
    "two of a name": ([manifest([("a", 1, 1), ("a", 1, 1)])], "two files of one name"),
    "sums as a file": ([manifest([("sums.json", 1, 1)])], "two files of one name"),
    "backing is not there": ([entry("manifest.json", json.dumps({"format": 1, "definition": {}, "files": [
        {"name": "a", "size": 1, "data": 1, "format": "qcow2", "backing": "b", "backing_format": "raw"}]}).encode())],
        "backing file that is not in the archive"),
    "unknown format": (linked({"name": "a", "format": "vmdk"}), "the format of a file"),
    "raw backing file that is read as qcow2": (
        linked({"name": "a", "format": "qcow2", "backing": "b", "backing_format": "qcow2"}, {"name": "b"}),
        "a backing file has another format"),
    "qcow2 backing file that is read as raw": (
        linked({"name": "a", "format": "qcow2", "backing": "b", "backing_format": "raw"}, {"name": "b", "format": "qcow2"}),
        "a backing file has another format"),
    "qcow2 data file": (
        linked({"name": "a", "format": "qcow2", "data_file": "b"}, {"name": "b", "format": "qcow2"}), "a data file that is not raw"),
    "raw image that the manifest calls qcow2": (summed({"a": b"raw"}, {"name": "a", "format": "qcow2", "size": 3, "data": 3}),
                                               "not a qcow2 image"),
    "deep": ([entry("manifest.json", b"[" * 5000)], "not JSON"),
    "large manifest": ([entry("manifest.json", b" " * (2 * MIB))], "too large"),
    "bomb": ([manifest([(f"a{i}", 1 << 59, 1 << 59) for i in range(100)])], "MiB free"),
    "bomb of 2^64 bytes": ([manifest([(f"a{i}", 1 << 60, 1 << 60) for i in range(16)])], "MiB free"),
    "many files": ([manifest([(f"a{i}", 0, 0) for i in range(1025)])], "list of files"),
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_archives_are_refused(tmp_path, what, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries, why = BAD[what]
    last, status = archivelib.take(hostile(entries), ".", "new").end(b"keep\n")
    assert status == 1 and why in last["error"]["message"], last
    assert os.listdir(".") == ["h.tar"] and not os.path.exists("/etc/cairn-was-here")


@pytest.mark.skipif(guestlib.SANITIZED, reason="a sanitizer's shadow memory exceeds the limit")
def test_memory_of_an_import_is_limited(disks):
    """An archive of 18 KB can have a sparse map that takes 2.3 GB in libarchive."""
    archivelib.export("x.tar", {"name": "x"}, FILES[1:2]).end()
    job = archivelib.take("x.tar", ".", "new")
    assert job.until("ready", "error")["ready"]
    assert resource.prlimit(job.process.pid, resource.RLIMIT_DATA) == (2 << 30, 2 << 30)
    job.end()


@pytest.mark.skipif(guestlib.SANITIZED, reason="a sanitizer's shadow memory exceeds the limit")
def test_export_of_a_hole_needs_few_addresses(tmp_path, monkeypatch):
    """libarchive gets zeros for holes, here more of them than the process may map (ulimit -v)."""
    monkeypatch.chdir(tmp_path)
    with open("a.raw", "wb") as f:
        f.truncate(3 << 30)
    last, status = archivelib.export("x.tar", {"name": "x"}, [("a.raw", "a.raw", {"format": "raw"})],
                                     before=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))).end()
    assert status == 0, last


def test_scattered_data_count_with_their_blocks(tmp_path, monkeypatch):
    """One byte in each block of 4 KiB takes 4096 times the data that the manifest gives."""
    monkeypatch.chdir(tmp_path)
    archivelib.scattered("x.tar.gz", {"name": "x"}, "a", 8192)
    last, status = archivelib.take("x.tar.gz", ".", "new", max_bytes=8192, max_space=8 * MIB).end(b"keep\n")
    assert status == 1 and "take more than the limit of 8388608 bytes" in last["error"]["message"], last
    assert os.listdir(".") == ["x.tar.gz"]
    job = archivelib.take("x.tar.gz", ".", "new", max_bytes=8192, max_space=40 * MIB)
    ready = job.until("ready", "error")["ready"]
    assert job.end(b"keep\n")[1] == 0
    took = os.stat("new/a").st_blocks * 512
    assert took >= 32 * MIB and ready["files"] == [{"name": "a", "format": "raw", "size": 32 * MIB, "data": took}]


def test_file_that_is_no_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open("x", "wb").write(os.urandom(100000))
    last, status = archivelib.take("x", ".", "new").end(b"keep\n")
    assert status == 1 and "not an archive of cairn export" in last["error"]["message"]
    assert os.listdir(".") == ["x"]


def test_image_with_foreign_backing_file_is_refused(tmp_path, monkeypatch):
    """Its header names a file of the host, which qemu-img would follow."""
    monkeypatch.chdir(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", "a.qcow2", "1M")
    archivelib.export("x.tar", {"name": "x"}, [("vda.qcow2", "a.qcow2", {"format": "qcow2"})]).end()
    last, status = archivelib.take("x.tar", ".", "new").end(b"keep\n")
    assert status == 1 and "which the manifest does not name" in last["error"]["message"]
    assert not os.path.exists("new")


@pytest.mark.parametrize("compress", ["zstd", "gzip", "none"])
def test_export_to_full_disk_fails(disks, compress):
    """The archive's file system is full: the message says so."""
    with open("big", "wb") as f:
        f.write(os.urandom(MIB))
    out = archivelib.high("/dev/full", os.O_WRONLY)
    fd = archivelib.high("big")
    last, status = archivelib.Archive("export", {"output": out, "compress": compress, "definition": {},
                                                 "files": [{"name": "a", "fd": fd}]}, [out, fd]).end()
    assert status == 1 and last["error"]["class"] == "NoSpace"


def test_export_of_image_in_use_is_refused(disks):
    """A writer has it open, so an export would not be of one moment."""
    writer = subprocess.Popen(["qemu-io", "a.qcow2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer.stdin.write(b"write 0 512\n")
    writer.stdin.flush()
    writer.stdout.readline()
    last, status = archivelib.export("x.tar", {"name": "x"}, FILES[:1]).end()
    writer.communicate(b"quit\n")
    assert status == 1 and last["error"]["class"] == "Busy"
