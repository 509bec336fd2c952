"""cairn-diff: the files that differ between two snapshots with an ext2, ext3 or ext4 file system. mke2fs makes the file
systems from folders, which are the oracle, and debugfs changes them."""

import errno
import fcntl
import os
import random
import re
import shutil
import signal
import stat
import subprocess

import pytest

import archivelib
from conftest import BUILD, inject_call, library, until

MIB = 1024 * 1024
CLUSTER = 65536
PROGRAM = os.path.join(BUILD, "cairn-diff")


def run(*command, **how):
    return subprocess.run(command, check=True, capture_output=True, text=True, **how).stdout


def begin(image="a.qcow2", before=lambda: None, **spec):
    """Start cairn-diff as the daemon does."""
    fd = archivelib.high(image)
    spec = {"from": "s1", "to": "s2", "files": True, "disks": [{"id": "vda", "layers": [{"fd": fd, "format": "qcow2"}]}], **spec}
    return archivelib.Archive("diff", spec, [fd], program=PROGRAM, before=before)


def diff(image="a.qcow2", **spec):
    return begin(image, **spec).end()


def listed(**spec):
    """Return the result, and its list from all pages of it."""
    found, page = [], {}
    while True:
        last, status = diff(**spec, **page)
        assert status == 0, last
        found += last["result"]["list"]
        if "next" not in last["result"]:
            return last["result"], found
        page = {"page": last["result"]["next"]}


def image_of(before, after):
    """Make a qcow2 image whose snapshots s1 and s2 have the contents of both files; the second writes what differs."""
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", before, "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
    writes = []
    with open(before, "rb") as f, open(after, "rb") as g:
        for off in range(0, os.path.getsize(after), CLUSTER):
            old, new = f.read(CLUSTER), g.read(CLUSTER)
            if old != new:
                with open(f"piece{off}", "wb") as piece:
                    piece.write(new)
                writes += ["-c", f"write -q -s piece{off} {off} {len(new)}"]
    run("qemu-io", *writes, "a.qcow2")
    run("qemu-img", "snapshot", "-c", "s2", "a.qcow2")


def tree_make(top, rng):
    for folder in ("", "etc", "var/log", "deep/er/est", "gone/below"):
        os.makedirs(os.path.join(top, folder), exist_ok=True)
        for n in range(6):
            with open(os.path.join(top, folder, f"f{n}"), "wb") as f:
                f.write(rng.randbytes(rng.choice((0, 10, 59, 5000, 200000))))
    os.symlink("f1", os.path.join(top, "etc/short"))
    os.symlink("x" * 100, os.path.join(top, "etc/long"))
    os.mkfifo(os.path.join(top, "pipe"))
    for name in (b"line\nend \x1b[31m\\", b"\xff raw", "ümläut".encode()):
        with open(os.path.join(top.encode(), name), "wb") as f:
            f.write(b"1")


def tree_change(top):
    def at(name):
        return os.path.join(top, name)
    shutil.rmtree(at("gone"))
    os.makedirs(at("new/below"))
    for name in (b"new/below/x\ty", b"etc/a-new", b"etc/f1.more"):
        with open(os.path.join(top.encode(), name), "wb") as f:
            f.write(b"new" * 1000)
    for name in (b"line\nend \x1b[31m\\", b"\xff raw"):
        os.unlink(os.path.join(top.encode(), name))
    with open(at("var/log/f1"), "ab") as f:
        f.write(b"appended")
    times = os.stat(at("var/log/f2"))
    with open(at("var/log/f2"), "r+b") as f:
        f.write(b"same size?")
    os.utime(at("var/log/f2"), ns=(times.st_mtime_ns, times.st_mtime_ns))
    os.chmod(at("etc/f3"), 0o600)
    os.utime(at("etc/f4"), ns=(0, 10**18 + 5))
    os.unlink(at("etc/short"))
    os.symlink("f2", at("etc/short"))
    os.unlink(at("etc/f5"))
    os.mkdir(at("etc/f5"))
    os.chmod(at("deep"), 0o700)


def escaped(path):
    text = ""
    for c in os.fsencode(path).decode("utf-8", "surrogateescape"):
        if c == "\\":
            text += "\\\\"
        elif ord(c) < 0x20 or 0x7f <= ord(c) < 0xa0:
            text += "".join(f"\\x{b:02x}" for b in c.encode())
        elif 0xdc80 <= ord(c) <= 0xdcff:
            text += f"\\x{ord(c) - 0xdc00:02x}"
        else:
            text += c
    return text


def tree(top):
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[path[len(top):]] = (os.lstat(path), os.readlink(path) if os.path.islink(path) else
                                      open(path, "rb").read() if os.path.isfile(path) else None)
    return found


def expected(a, b):
    """Return the differences of two trees: {path: (change, words)}. mke2fs stores times in seconds."""
    a, b, changes = tree(a), tree(b), {}
    for path in a.keys() | b.keys():
        if path not in a or path not in b:
            changes[path] = ("removed" if path in a else "added", None)
            continue
        (x, old), (y, new) = a[path], b[path]
        folder = stat.S_ISDIR(x.st_mode)
        words = ["type"] if stat.S_IFMT(x.st_mode) != stat.S_IFMT(y.st_mode) else [
            word for word, differs in (("content", old != new), ("mode", x.st_mode != y.st_mode),
                                       ("time", not folder and int(x.st_mtime) != int(y.st_mtime))) if differs]
        if words:
            changes[path] = ("changed", words)
    return changes


@pytest.mark.parametrize("options, table", [
    (["-t", "ext4", "-O", "inline_data,metadata_csum,64bit"], None), (["-t", "ext2", "-b", "1024"], "label: dos\n,2M\n,,5\n,2M\n,,L\n"),
    (["-t", "ext3"], "label: gpt\nsize=1M\nstart=6M\n")], ids=["ext4", "ext2", "ext3"])
def test_files_that_differ_are_those_of_the_folders(tmp_path, monkeypatch, options, table):
    monkeypatch.chdir(tmp_path)
    tree_make("a", random.Random(3))
    shutil.copytree("a", "b", symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo("b/pipe")
    run("touch", "-r", "a/pipe", "b/pipe")
    tree_change("b")
    for name in "ab":
        with open(f"{name}.raw", "wb") as f:
            f.truncate(24 * MIB)
        start = 0
        if table:
            run("sfdisk", "-q", f"{name}.raw", input=table)
            start = max(int(word.split("start=")[1].split(",")[0]) * 512
                        for word in run("sfdisk", "-d", f"{name}.raw").splitlines() if "start=" in word)
        run("mke2fs", "-q", "-F", *options, "-U", "11111111-2222-3333-4444-555555555555", "-E", f"offset={start}", "-d", name, f"{name}.raw",
            str((16 * MIB) // 1024) + "k")
    image_of("a.raw", "b.raw")
    result, found = listed(limit=7)
    number = found[0]["partition"]
    assert result["filesystems"][0] == {"disk": "vda", "partition": number, "start": start, "needs-recovery": False, "damaged": 0}
    assert number == {None: 0, "label: dos": 6, "label: gpt": 2}[table and table.splitlines()[0]]
    wanted = expected("a", "b")
    assert {x["path"]: (x["change"], x.get("what")) for x in found} == {escaped(path): change for path, change in wanted.items()}
    assert len(found) == len(wanted)
    sizes = {x["path"]: (x.get("size-before"), x.get("size")) for x in found}
    assert sizes["/etc/a-new"] == (None, 3000) and sizes["/var/log/f1"][1] == sizes["/var/log/f1"][0] + 8
    assert diff(limit=1000)[0]["result"]["list"] == listed(limit=1000)[1]


def filesystem(*options):
    with open("a.raw", "wb") as f:
        f.truncate(16 * MIB)
    os.mkdir("d")
    for n in range(40):
        with open(f"d/f{n}", "wb") as f:
            f.write(bytes([n]) * 70000)
    run("mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", "d", "a.raw")
    shutil.copy("a.raw", "b.raw")


def test_data_and_attributes_that_change_in_place_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem()
    block = int(run("debugfs", "-R", "blocks /f7", "a.raw").split()[5])
    run("debugfs", "-w", "-R", "ea_set /f9 user.x y", "b.raw")
    run("debugfs", "-w", "-R", "set_inode_field /f11 uid 70000", "b.raw")
    run("debugfs", "-w", "-R", "link /f13 /f14x", "b.raw")
    run("debugfs", "-w", "-R", "set_inode_field /f13 links_count 2", "b.raw")
    run("debugfs", "-w", "-R", "set_inode_field /f15 mtime_extra 4", "b.raw")
    run("debugfs", "-w", "-R", "feature needs_recovery", "b.raw")
    with open("b.raw", "r+b") as f:
        f.seek(block * 1024 * (1 if "1024" in run("dumpe2fs", "-h", "a.raw").split("Block size:")[1][:20] else 4))
        f.write(b"!")
    image_of("a.raw", "b.raw")
    result, found = listed()
    assert result["filesystems"][0]["needs-recovery"] is True
    assert {x["path"]: x.get("what") for x in found} == {
        "/f7": ["content"], "/f9": ["attributes"], "/f11": ["owner"], "/f13": ["links"], "/f15": ["time"], "/f14x": None}
    # Writing the same content again is no change of a file.
    run("qemu-io", "-c", "write -q -s a.raw 0 16M", "a.qcow2")
    assert diff(**{"to": None})[0]["result"]["list"] == []


def test_disks_without_a_file_system_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem()
    with open("none.raw", "wb") as f:
        f.truncate(16 * MIB)
    image_of("none.raw", "a.raw")
    assert listed()[0]["filesystems"][0]["reason"] == "the file system is only in the later content"
    run("qemu-img", "create", "-q", "-f", "qcow2", "b.qcow2", "16M")
    for n in (1, 2):
        run("qemu-img", "snapshot", "-c", f"s{n}", "b.qcow2")
    assert diff("b.qcow2")[0]["result"]["filesystems"][0]["reason"].startswith("no ext2, ext3 or ext4 file system was found")


def test_malformed_file_systems_end_in_a_result(tmp_path, monkeypatch):
    """Random bytes in the first MiB, which has the superblock, the groups, inodes and folders."""
    monkeypatch.chdir(tmp_path)
    filesystem("-b", "1024")
    run("debugfs", "-w", "-R", "rm /f1", "b.raw")
    image_of("a.raw", "b.raw")
    for seed in range(24):
        rng = random.Random(seed)
        writes = []
        for _ in range(rng.choice((1, 30, 300))):
            off = rng.choice((1024 + rng.randrange(1024), rng.randrange(MIB)))
            writes += ["-c", f"write -q -P {rng.randrange(256)} {off // 512 * 512} 512"] if rng.random() < 0.02 else []
            with open("b.raw", "r+b") as f:
                f.seek(off)
                f.write(bytes([rng.randrange(256)]))
        run("qemu-io", "-c", "write -q -s b.raw 0 1M", *writes, "a.qcow2")
        last, status = diff(to=None)
        assert status == 0 and "filesystems" in last["result"], (seed, last, status)
        if seed % 3 == 2:
            shutil.copy("a.raw", "b.raw")


def debugfs(image, *commands):
    run("debugfs", "-w", "-f", "-", image, input="\n".join(commands))


def test_directory_with_many_paths_is_listed_once(tmp_path, monkeypatch):
    """Each directory has two names, so the last one has 2 ** 30 paths. Pages do not go through them all."""
    monkeypatch.chdir(tmp_path)
    filesystem()
    debugfs("b.raw", *["mkdir a", "link a b", "cd a"] * 30)
    image_of("a.raw", "b.raw")
    found = [x["path"] for x in listed(limit=10)[1]]
    assert sorted(found, key=len)[:4] == ["/a", "/b", "/a/a", "/a/b"] and len(set(found)) == len(found) == 60


def test_directory_below_another_one_than_its_parent_is_not_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem()
    debugfs("b.raw", *[f"mkdir m{n}" for n in range(3)], "mkdir z", "mkdir z/in", *[f"link z/in m{n}/x" for n in range(3)])
    image_of("a.raw", "b.raw")
    result, found = listed(limit=1)
    assert {x["path"] for x in found} == {"/m0", "/m0/x", "/m1", "/m1/x", "/m2", "/m2/x", "/z", "/z/in"} and len(found) == 8
    assert listed()[0]["filesystems"][0]["damaged"] == 1


def test_name_that_a_directory_has_often_does_not_hold_the_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem()
    debugfs("b.raw", "mkdir m", *[f"link f1 m/twin{n:03}" for n in range(40)])
    with open("b.raw", "r+b") as f:
        content = re.sub(rb"twin\d{3}", b"twin000", f.read())
        f.seek(0)
        f.write(content)
    image_of("a.raw", "b.raw")
    result, found = listed(limit=3)
    assert [x["path"] for x in found] == ["/m", "/m/twin000"]
    assert result["filesystems"][0]["damaged"] > 30


def test_page_ends_by_time_without_an_entry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filesystem()
    debugfs("b.raw", "cd lost+found", "mkdir in", "cd /", "rm f9")
    image_of("a.raw", "b.raw")
    whole = diff()[0]["result"]["list"]
    monkeypatch.setenv("LD_PRELOAD", library("later_clock"))
    monkeypatch.setenv("CLOCK_STEP", "10")  # so each page ends after one name
    pages, page = [], {}
    while page is not None:
        last, status = diff(**page)
        assert status == 0, last
        pages.append(last["result"]["list"])
        page = {"page": last["result"]["next"]} if "next" in last["result"] else None
    assert sum(pages, []) == whole and [x["path"] for x in whole] == ["/f9", "/lost+found/in"]
    assert len(pages) > 40 and [len(p) for p in pages].count(0) > 35


def full_pipe():
    """Fill the pipe to which the result goes, so that cairn-diff waits when it has read everything."""
    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 4096)
    os.write(1, b'{"x":1}\n' * 512)


CALLS = {  # number on x86-64, arguments, what it has to end with
    "open": (257, [-100, "=/etc/passwd", 0, 0], -errno.EACCES),
    "create": (257, [-100, "=new", 0o102, 0o600], -errno.EACCES),
    "open_the_old_way": (2, ["=/etc/passwd", 0], None),
    "open_by_io_uring": (425, [8, 0], None),
    "unlink": (87, ["=a.qcow2"], None),
    "write_to_the_image": (18, [20, "=x", 1, 0], None),
    "socket": (41, [1, 1, 0], None),
    "execve": (59, ["=/bin/true", 0, 0], None),
    "fork": (57, [], None),
    "kill": (62, [1, 0], None),
    "ptrace": (101, [16, 1, 0, 0], None),
    "type_at_the_terminal": (16, [0, 0x5412, 0], None),
    "have_another_signalled": (72, [0, 8, 1], None),  # F_SETOWN
    "make_memory_executable": (10, [0, 4096, 7], None),
    "limit_another_process": (302, [1, 7, 0, 0], None),
    "user_namespace": (272, [0x10000000], None),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_way_out(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    filesystem()
    image_of("a.raw", "b.raw")
    job = begin(before=full_pipe)
    until(lambda: open(f"/proc/{job.process.pid}/syscall").read().startswith("1 0x1 "))
    number, args, want = CALLS[name]
    assert inject_call(job.process.pid, number, *args) == want
    assert job.end()[1] == (0 if want else -signal.SIGSYS) and os.path.exists("a.qcow2") and not os.path.exists("new")
