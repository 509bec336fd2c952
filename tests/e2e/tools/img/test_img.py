"""cairn-img compared with qemu-img: each reads what the other writes, and both report the same faults in the same
words. CAIRN_BUILD: the build folder (default: build)."""
import contextlib
import functools
import json
import os
import pathlib
import pty
import random
import re
import shutil
import signal
import subprocess

import pytest
from conftest import until

ROOT = pathlib.Path(__file__).resolve().parents[4]
IMG = (ROOT / os.environ.get("CAIRN_BUILD", "build") / "cairn-img").resolve()
TIMEOUT = 60
MIB = 1 << 20

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")


def run(*args, cwd, status=0):
    p = subprocess.run([str(a) for a in args], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    assert status in (None, p.returncode), f"{args}: {p.returncode}\n{p.stdout}{p.stderr}"
    return p


@functools.cache
def map_of_qemu_shows_compressed():
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2]) >= (8, 2)


def without_additions_of_qemu_10(text):
    """QEMU 10's `info` also describes the image's file, and its tables of snapshots have other columns than those of
    QEMU 7.2."""
    text = re.sub(r"^Child node '/file':\n(?: .*\n)*", "", text, flags=re.M)
    text = re.sub(r'^( +)"children": \[\n(?:\1 .*\n)*\1\],\n', "", text, flags=re.M)
    text = re.sub(r"^ID      TAG(.*)VM_SIZE(.*)   VM_CLOCK", r"ID        TAG\1VM SIZE\2VM CLOCK", text, flags=re.M)
    text = re.sub(r"^(\d.{7})(.* \d{4}-.*)  00(\d\d:\d\d:\d\d\.\d+ +)(\d+|--)$", r"\1  \2 \3\4", text, flags=re.M)
    return text.replace("         --\n", "           \n")


@pytest.fixture
def box(tmp_path):
    """cairn-img and qemu-img in a temporary folder."""

    class Box:
        path = tmp_path

        def img(self, *args, status=0):
            p = run(IMG, *args, cwd=tmp_path, status=status)
            if args[:1] == ("map",) and not map_of_qemu_shows_compressed():
                p.stdout = re.sub(r', "compressed": (true|false)', "", p.stdout)
            return p

        def qemu(self, *args, status=0):
            p = run("qemu-img", *args, cwd=tmp_path, status=status)
            if args[0] in ("info", "snapshot"):
                p.stdout = without_additions_of_qemu_10(p.stdout)
            return p

        def io(self, image, *commands, fmt="qcow2"):
            args = [a for c in commands for a in ("-c", c)]
            return run("qemu-io", "-f", fmt, *args, image, cwd=tmp_path)

        def fails(self, *args, status=1):
            """Check for one sentence and the right exit status."""
            p = self.img(*args, status=status)
            assert p.stderr.startswith("cairn-img: ")
            return p.stderr

    return Box()


OPTION_SETS = [
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=2M",
    "cluster_size=4k,refcount_bits=1",
    "refcount_bits=64",
    "compat=0.10",
    "lazy_refcounts=on",
    "extended_l2=on",
    "compression_type=zstd",
]


@pytest.mark.parametrize("options", OPTION_SETS)
def test_create_is_what_qemu_creates(box, options):
    box.img("create", "-q", "-f", "qcow2", "-o", options, "ours", "100M")
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "theirs", "100M")
    ours = json.loads(box.qemu("info", "--output", "json", "ours").stdout)
    theirs = json.loads(box.qemu("info", "--output", "json", "theirs").stdout)
    for info in (ours, theirs):
        for key in ("filename", "actual-size"):
            del info[key]
    assert ours == theirs
    box.qemu("check", "ours")
    box.io("ours", "write -P 1 0 1M", "write -P 2 99M 1M")
    box.qemu("check", "ours")


def test_created_image_names_its_features(box):
    """An older reader reports the feature that it lacks by the name in the image."""
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    assert b"extended L2 entries" in (box.path / "a").read_bytes()[:4096]


def test_create_with_backing(box):
    box.qemu("create", "-q", "-f", "raw", "base", "20M")
    box.io("base", "write -P 7 1M 2M", fmt="raw")
    box.img("create", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    assert json.loads(box.img("info", "--output", "json", "top").stdout)["virtual-size"] == 20 * MIB
    box.qemu("compare", "-F", "raw", "top", "base")
    assert "no format of the backing file given" in box.fails("create", "-f", "qcow2", "-b", "base", "x")
    assert "No such file" in box.fails("create", "-f", "qcow2", "-b", "nobase", "-F", "raw", "x")
    for args in (["-F", "raw"], ["-o", "backing_fmt=raw"]):
        box.qemu("create", "-f", "qcow2", *args, "x", "1M", status=1)
        assert "no backing file; add -b FILE" in box.fails("create", "-f", "qcow2", *args, "x", "1M")
    assert not (box.path / "x").exists()


@pytest.mark.parametrize("args", [
    ["-b", "base", "base"], ["-b", "./base", "base"], ["-b", "base", "link"], ["-b", "top", "base"], ["-b", "top", "top"],
    ["-u", "-b", "base", "base"], ["-b", "base", "-o", "data_file=base", "new"], ["-b", "top", "-o", "data_file=link", "new"],
    ["-b", "split", "-o", "data_file=data", "new"], ["-b", "split", "data"]])
def test_create_over_a_file_of_its_backing_chain_is_refused(box, args):
    box.qemu("create", "-q", "-f", "qcow2", "base", "1M")
    box.io("base", "write -P 7 0 1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=data", "split", "1M")
    (box.path / "link").symlink_to("base")
    before = {p.name: p.read_bytes() for p in box.path.iterdir()}
    assert "whose content would be lost" in box.fails("create", "-f", "qcow2", "-F", "qcow2", *args, "1M")
    assert {p.name: p.read_bytes() for p in box.path.iterdir()} == before


@pytest.mark.parametrize(
    "size,what", [("-1", "invalid size"), ("1Z", "invalid size"), ("abc", "invalid size"), ("", "invalid size"),
                  ("1.5.5G", "invalid size"), ("99999999999G", "too large"), ("16E", "too large")])
def test_create_refuses_bad_sizes(box, size, what):
    assert what in box.fails("create", "-f", "qcow2", "--", "x", size)
    assert not (box.path / "x").exists()


@pytest.mark.parametrize("size", ["1", "1000", "64k", "1.5M", "2G", "3T"])
def test_sizes_as_qemu(box, size):
    for fmt in ("raw", "qcow2"):
        box.img("create", "-q", "-f", fmt, "ours", size)
        box.qemu("create", "-q", "-f", fmt, "theirs", size)
        sizes = [json.loads(box.qemu("info", "-f", fmt, "--output", "json", n).stdout)["virtual-size"]
                 for n in ("ours", "theirs")]
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "options,what", [("cluster_size=3k", "power of two"), ("cluster_size=4M", "power of two"),
                     ("refcount_bits=128", "power of two"), ("compat=0.10,lazy_refcounts=on", "compat=1.1"),
                     ("extended_l2=on,cluster_size=4k", "16k"), ("colour=red", "unknown option 'colour'; see"),
                     ("clustersize=64k", "unknown option 'clustersize'; did you mean cluster_size?"),
                     ("lazy_refcounts=perhaps", "on or off"), ("nonsense", "key=value"),
                     ("cluster_size=512,size=1T", "larger than 512")])
def test_create_refuses_bad_options(box, options, what):
    assert what in box.fails("create", "-f", "qcow2", "-o", options, "x", *(["1M"] if "size=1T" not in options else []))
    assert not (box.path / "x").exists()


def test_info_as_qemu(box):
    box.qemu("create", "-q", "-f", "qcow2", "base", "1G")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", "compression_type=zstd", "a")
    box.io("a", "write 0 3M")
    box.qemu("snapshot", "-c", "one", "a")
    box.qemu("snapshot", "-c", "two", "a")
    assert box.img("info", "a").stdout == box.qemu("info", "a").stdout
    for args in (["info"], ["check"]):
        assert box.img(*args, "--output", "json", "a").stdout == box.qemu(*args, "--output", "json", "a").stdout
    chain = json.loads(box.img("info", "--output", "json", "--backing-chain", "a").stdout)
    assert [os.path.basename(c["filename"]) for c in chain] == ["a", "base"]
    box.qemu("create", "-q", "-f", "raw", "r", "1000k")
    assert box.img("info", "r").stdout == box.qemu("info", "r").stdout


def test_info_of_other_files_fails(box):
    assert "No such file" in box.fails("info", "nofile")
    assert "folder" in box.fails("info", ".")
    assert "not a qcow2 image" in box.fails("info", "-f", "qcow2", "/etc/hostname")
    assert "unknown format" in box.fails("info", "-f", "vmdk", "/etc/hostname")
    os.mkfifo(box.path / "fifo")
    assert "neither a file" in box.fails("info", "fifo")


def pattern(box, name, seed, size=16 * MIB, fmt="qcow2"):
    """Write random patterns to both; the raw one is the reference."""
    rnd = random.Random(seed)
    commands = []
    for _ in range(60):
        length = rnd.randrange(1, 600) * 512
        offset = rnd.randrange(0, (size - length) // 512) * 512
        commands.append(rnd.choice([f"write -P {rnd.randrange(256)}"] * 3 + ["write -z", "discard"])
                        + f" {offset} {length}")
    box.io(name, *commands, fmt=fmt)


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_qemu_writes_we_read(box, options):
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "a", "16M")
    pattern(box, "a", 1)
    box.img("convert", "-O", "raw", "a", "ours")
    box.qemu("convert", "-O", "raw", "a", "theirs")
    run("cmp", "ours", "theirs", cwd=box.path)
    box.img("check", "a")


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", OPTION_SETS)
def test_we_write_qemu_reads(box, options):
    box.qemu("create", "-q", "-f", "raw", "src", "16M")
    pattern(box, "src", 2, fmt="raw")
    box.img("convert", "-f", "raw", "-O", "qcow2", "-o", options, "src", "a")
    box.qemu("check", "a")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "a")
    # then QEMU writes to Cairn's image, and Cairn reads it
    pattern(box, "a", 3)
    box.qemu("check", "a")
    box.img("convert", "-O", "raw", "a", "back")
    box.qemu("compare", "-f", "qcow2", "-F", "raw", "a", "back")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_read_compressed(box, compression):
    (box.path / "src").write_bytes(os.urandom(MIB) + b"cairn " * 700000)
    box.qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={compression}", "src", "a")
    box.img("convert", "a", "back")
    box.qemu("compare", "-f", "raw", "-F", "raw", "src", "back")
    box.img("check", "a")


def test_convert_chain(box):
    box.qemu("create", "-q", "-f", "raw", "base", "5M")
    box.io("base", "write -P 1 0 5M", fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "mid", "9M")
    box.io("mid", "write -P 2 1M 1M", "write -z 3M 1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "-o", "extended_l2=on", "top", "12M")
    box.io("top", "write -P 3 1536k 10k", "write -P 4 11M 512k")
    box.img("convert", "-O", "qcow2", "top", "flat")
    box.qemu("compare", "top", "flat")
    assert "backing-filename" not in json.loads(box.img("info", "--output", "json", "flat").stdout)


def test_convert_is_sparse(box):
    # Reading or writing the whole image takes too long.
    box.qemu("create", "-q", "-f", "raw", "src", "2T")
    box.io("src", "write -P 5 1T 64k", fmt="raw")
    box.img("convert", "-f", "raw", "-O", "qcow2", "src", "a")
    box.img("convert", "a", "back")
    assert (box.path / "a").stat().st_size < 4 * MIB
    assert (box.path / "back").stat().st_blocks * 512 < MIB
    box.qemu("compare", "-f", "raw", "-F", "raw", "src", "back")


def test_convert_changes_nothing_on_failure(box):
    box.qemu("create", "-q", "-f", "qcow2", "src", "1M")
    (box.path / "target").write_text("precious")
    assert "same file" in box.fails("convert", "src", "src")
    assert "No such file" in box.fails("convert", "nofile", "target")
    assert "larger than 512" in box.fails("convert", "-O", "qcow2", "-o", "cluster_size=512", *make_big(box), "target")
    assert (box.path / "target").read_text() == "precious"
    assert sorted(p.name for p in box.path.iterdir()) == ["big", "src", "target"]


def make_big(box):
    box.qemu("create", "-q", "-f", "qcow2", "big", "1T")
    return ["big"]


@pytest.mark.parametrize("args", [("info", "a"), ("map", "--output=json", "a"), ("help",), ("--version",)])
def test_unwritable_output_is_an_error(box, args):
    box.img("create", "-q", "-f", "qcow2", "a", "1M")
    with open("/dev/full", "w") as full:
        r = subprocess.run([IMG, *args], cwd=box.path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert (r.returncode, r.stderr) == (1, "cairn-img: cannot write the output: No space left on device\n")


def check_interrupted(box, *args):
    """Interrupt a conversion that its rate limit makes last for a minute: it leaves nothing."""
    (box.path / "src").write_bytes(os.urandom(64 * MIB))
    p = subprocess.Popen([IMG, "convert", "-r", "1M", "-f", "raw", "-O", "qcow2", *args, "src", "a"], cwd=box.path,
                         stderr=subprocess.PIPE, text=True)
    until(lambda: p.poll() is not None or list(box.path.glob("a.part-*")))
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=TIMEOUT)
    assert p.returncode == -signal.SIGINT and "interrupted" in err
    assert [f.name for f in box.path.iterdir()] == ["src"]


def test_interrupted_convert_leaves_nothing(box):
    """Ctrl-C leaves no partial image."""
    check_interrupted(box)


def said_on_terminal(box, args):
    """Run cairn-img on a terminal and return all its output. The kernel passes it to the reader in pieces, later."""
    master, slave = pty.openpty()
    subprocess.run([IMG, *args], cwd=box.path, stdout=slave, timeout=TIMEOUT, check=True)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as terminal:  # EIO: all has been read
        while piece := terminal.read(65536):
            said += piece
    return said


def test_convert_progress_on_a_terminal(box):
    box.qemu("create", "-q", "-f", "raw", "src", "8M")
    assert b"(100.00/100%)" in said_on_terminal(box, ["convert", "-p", "-f", "raw", "-O", "qcow2", "src", "a"])
    assert "(100.00/100%)" in box.img("convert", "-p", "-f", "raw", "-O", "qcow2", "src", "b").stdout
    assert box.img("convert", "-p", "-q", "-f", "raw", "-O", "qcow2", "src", "b").stdout == ""


def test_images_in_use_are_left_alone(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    before = (box.path / "a").read_bytes()
    p = subprocess.Popen(["qemu-io", "a"], cwd=box.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        p.stdin.write("read 0 512\n")
        p.stdin.flush()
        while "read 512" not in p.stdout.readline():
            pass
        for args in (["create", "-f", "qcow2", "a", "2M"], ["info", "a"], ["check", "a"],
                     ["convert", "a", "b"], ["convert", "/dev/null", "a"]):
            if args[1] != "/dev/null":
                box.fails(*args)
        assert "in use" in box.fails("create", "-f", "raw", "a", "2M")
        assert "\nTry -U to open the image without a lock" in box.fails("check", "a")
        box.img("info", "-U", "a")
        box.img("check", "-U", "a")
    finally:
        p.stdin.close()
        status = p.wait(timeout=TIMEOUT)
    assert status == 0
    assert (box.path / "a").read_bytes() == before
    box.img("info", "a")


def test_check_counts_as_qemu(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "a", "64M")
    pattern(box, "a", 4)
    box.qemu("snapshot", "-c", "one", "a")
    pattern(box, "a", 5)
    run("qemu-img", "bitmap", "--add", "a", "b0", cwd=box.path)
    ours = json.loads(box.img("check", "--output", "json", "a").stdout)
    assert ours == json.loads(box.qemu("check", "--output", "json", "a").stdout)
    assert box.img("check", "a").stdout == box.qemu("check", "a").stdout


def poke(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def be64(path, offset):
    with open(path, "rb") as f:
        f.seek(offset)
        return int.from_bytes(f.read(8), "big")


def test_check_finds_faults(box):
    a = box.path / "a"
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    box.io("a", "write 0 1M")
    block = be64(a, be64(a, 48))
    poke(a, block + 2 * 100, b"\x00\x01")  # cluster 100 is unused
    os.truncate(a, 101 * 65536)
    assert "1 leaked clusters" in box.img("check", "a", status=3).stdout
    box.qemu("check", "a", status=3)
    poke(a, block + 2 * 100, b"\x00\x00")
    poke(a, block + 2 * 4, b"\x00\x00")  # an L2 table or data cluster in use
    assert "may be corrupted" in box.img("check", "a", status=2).stdout
    box.qemu("check", "a", status=2)
    assert box.img("check", "-q", "a", status=2).stdout == ""
    assert box.img("check", "-f", "raw", "a", status=63).stdout == ""


@contextlib.contextmanager
def loop_device(box, sector, size):
    """A device of random content."""
    (box.path / "disk").write_bytes(os.urandom(size))
    p = subprocess.run(["losetup", "-b", str(sector), "-f", "--show", "disk"], cwd=box.path, capture_output=True,
                       text=True)
    if p.returncode:
        pytest.skip("no loop device: " + p.stderr.strip())
    dev = p.stdout.strip()
    try:
        yield dev
    finally:
        run("losetup", "-d", dev, cwd=box.path)


@pytest.mark.parametrize("sector", [512, 4096])
def test_create_raw_on_block_device(box, sector):
    """The old format is not detected any more; a size above the device's is refused before the device is written."""
    with loop_device(box, sector, MIB) as dev:
        box.img("create", "-q", "-f", "qcow2", dev, "1M")
        before = pathlib.Path(dev).read_bytes()
        box.qemu("create", "-q", "-f", "raw", dev, str(MIB + 512), status=1)
        assert f"{dev}: the device has 1048576 bytes, fewer" in box.fails("create", "-q", "-f", "raw", dev, str(MIB + 512))
        assert pathlib.Path(dev).read_bytes() == before
        box.img("create", "-q", "-f", "raw", dev, "512k")
        ours = pathlib.Path(dev).read_bytes()
        assert ours == bytes(512) + before[512:]
        box.img("create", "-q", "-f", "qcow2", dev, "1M")
        box.qemu("create", "-q", "-f", "raw", dev, "512k")
        for fmt in ("raw", "qcow2"):
            args = ["create", "-q", "-f", fmt, "-o", "preallocation=full", dev, "512k"]
            box.qemu(*args, status=1)
            pathlib.Path(dev).write_bytes(ours)
            assert f"{dev} is a device, which has all of its space already" in box.fails(*args)
            assert pathlib.Path(dev).read_bytes() == ours


@pytest.mark.parametrize("sector", [512, 4096])
def test_convert_to_block_device(box, sector):
    """A device keeps its size, and its old content is not visible."""
    with loop_device(box, sector, 32 * MIB) as dev:
        box.qemu("create", "-q", "-f", "raw", "src", "20M")
        pattern(box, "src", 6, fmt="raw")
        box.img("convert", "-f", "raw", "src", dev)
        run("cmp", "-n", 20 * MIB, "src", dev, cwd=box.path)
        assert json.loads(box.img("info", "-f", "raw", "--output", "json", dev).stdout)["virtual-size"] == 32 * MIB
        box.img("convert", "-f", "raw", "-O", "qcow2", "src", dev)
        box.qemu("check", "-f", "qcow2", dev)
        box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", dev)
        box.qemu("create", "-q", "-f", "raw", "big", "33M")
        assert "33554432 bytes" in box.fails("convert", "-f", "raw", "big", dev)


def test_backing_file_outside_folder_is_refused(box):
    """A backing file named by an image is opened only if it is a plain file below the image's folder."""
    above = "../" * 40 + "etc/hostname"  # deep enough for any test folder
    for name, what in [("/etc/shadow", "lies outside"), (above, "lies outside"),
                       ("json:{}", "only local files"), ("nbd://127.0.0.1/x", "only local files"),
                       ("gone", "No such file")]:
        box.qemu("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", "a", "1M")
        assert what in box.fails("convert", "a", "b"), name
        box.img("info", "a")  # looking at the image itself is safe
    os.symlink("/etc/hostname", box.path / "link")
    box.qemu("create", "-q", "-f", "qcow2", "-u", "-b", "link", "-F", "raw", "a", "1M")
    assert "lies outside" in box.fails("convert", "a", "b")
    box.img("convert", "--allow", "/etc", "a", "b")
    box.qemu("create", "-q", "-f", "qcow2", "-u", "-b", "b2", "-F", "qcow2", "b1", "1M")
    box.qemu("create", "-q", "-f", "qcow2", "-u", "-b", "b1", "-F", "qcow2", "b2", "1M")
    assert "loop" in box.fails("convert", "b1", "c")
    box.qemu("create", "-q", "-f", "qcow2", "-u", "-b", "b", "-F", "vmdk", "a", "1M")
    assert "raw and qcow2" in box.fails("convert", "a", "c")
    box.qemu("create", "-q", "-f", "qcow2", "a", "1M")
    assert not (box.path / "c").exists()


SNAPSHOT_OPTION_SETS = [o for o in OPTION_SETS if "refcount_bits=1" not in o]


def raw_of(box, name, snapshot=None):
    """Return what QEMU reads from it."""
    box.qemu("convert", "-O", "raw", *(["-l", f"snapshot.name={snapshot}"] if snapshot else []), name, "raw")
    return (box.path / "raw").read_bytes()


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", SNAPSHOT_OPTION_SETS)
def test_snapshots_work_with_either_tool(box, options):
    """Created, applied and deleted by either tool, each on the other's image."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "a", "16M")
    pattern(box, "a", 1)
    first = raw_of(box, "a")
    box.img("snapshot", "-c", "first", "a")
    pattern(box, "a", 2)
    second = raw_of(box, "a")
    box.qemu("snapshot", "-c", "second", "a")
    pattern(box, "a", 3)
    box.img("snapshot", "-c", "third", "a")
    box.qemu("check", "a")
    assert raw_of(box, "a", "first") == first and raw_of(box, "a", "second") == second
    box.img("snapshot", "-a", "second", "a")
    assert raw_of(box, "a") == second
    box.qemu("snapshot", "-a", "first", "a")
    assert raw_of(box, "a") == first
    box.qemu("check", "a")
    box.img("snapshot", "-d", "first", "a")
    box.qemu("snapshot", "-d", "third", "a")
    assert raw_of(box, "a") == first and raw_of(box, "a", "second") == second
    box.img("snapshot", "-d", "2", "a")  # by id
    box.qemu("check", "a")
    assert raw_of(box, "a") == first
    assert box.qemu("snapshot", "-l", "a").stdout == ""


def test_snapshot_list_shows_own_size(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "16M")
    assert box.img("snapshot", "--own-size", "a").stdout == ""
    pattern(box, "a", 1)
    box.img("snapshot", "-c", "first", "a")
    before = (box.path / "a").read_bytes()
    assert box.img("snapshot", "-l", "--own-size", "a").stdout == (
        "ID        TAG              OWN SIZE\n1         first                 0 B\n")
    assert (box.path / "a").read_bytes() == before
    pattern(box, "a", 2)
    box.qemu("snapshot", "-c", "second", "a")
    rows = json.loads(box.img("snapshot", "--own-size", "--output", "json", "a").stdout)
    assert [(r["id"], r["name"]) for r in rows] == [("1", "first"), ("2", "second")]
    assert rows[0]["own-size"] > 0 and rows[1]["own-size"] == 0
    for args in (["-d", "first"], ["-U"]):
        assert "requires -l" in box.fails("snapshot", "--own-size", *args, "a")


def test_snapshot_list_as_qemu(box):
    box.img("create", "-f", "qcow2", "a", "16M")
    box.img("snapshot", "-c", "one", "a")
    box.img("snapshot", "-c", "another with spaces", "a")
    assert box.img("snapshot", "-l", "a").stdout == box.qemu("snapshot", "-l", "a").stdout
    ours = json.loads(box.img("snapshot", "-l", "--output", "json", "a").stdout)
    assert ours == json.loads(box.qemu("info", "--output", "json", "a").stdout)["snapshots"]


def test_snapshot_delete_frees_space(box):
    box.img("create", "-f", "qcow2", "a", "64M")
    box.io("a", "write -P 1 0 8M")
    box.img("snapshot", "-c", "s", "a")
    box.io("a", "write -P 2 0 8M")
    assert os.stat(box.path / "a").st_size > 16 * MIB
    box.img("snapshot", "-a", "s", "a")
    box.img("snapshot", "-d", "s", "a")
    assert os.stat(box.path / "a").st_blocks * 512 < 9 * MIB
    box.qemu("check", "a")


def test_impossible_snapshots_are_refused(box):
    box.img("create", "-f", "qcow2", "a", "16M")
    box.img("create", "-f", "raw", "r", "16M")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", "one", "16M")
    box.img("snapshot", "-c", "s", "a")
    before = (box.path / "a").read_bytes()
    assert "already has a snapshot 's'" in box.fails("snapshot", "-c", "s", "a")
    assert "1 to 255 bytes" in box.fails("snapshot", "-c", "", "a")
    assert "1 to 255 bytes" in box.fails("snapshot", "-c", "x" * 256, "a")
    assert "no snapshot 'none'" in box.fails("snapshot", "-a", "none", "a")
    assert "no snapshot 'none'" in box.fails("snapshot", "-d", "none", "a")
    assert "r is raw; internal snapshots need qcow2" in box.fails("snapshot", "-c", "s", "r")
    assert "1 bit" in box.fails("snapshot", "-c", "s", "one")
    assert "exclude each other" in box.fails("snapshot", "-c", "s", "-d", "s", "a")
    box.qemu("check", "a")
    assert box.qemu("snapshot", "-l", "a").stdout.count("\n") == 3
    assert len(before) <= os.stat(box.path / "a").st_size
    assert "no snapshot with a VM state" in box.fails("vmstate-info", "a")
    assert "has no VM state" in box.fails("vmstate-info", "a", "s")


def test_snapshot_that_a_refcount_cannot_count_is_refused(box):
    box.img("create", "-f", "qcow2", "-o", "refcount_bits=2", "a", "1M")
    box.io("a", "write -P 1 0 1M")
    for name in ("one", "two"):
        box.img("snapshot", "-c", name, "a")
    for how, name in (("-c", "three"), ("-a", "one")):
        assert "at the maximum of 2 bits; delete a snapshot first" in box.fails("snapshot", how, name, "a")
        box.qemu("check", "a")
    box.img("snapshot", "-d", "two", "a")
    box.img("snapshot", "-a", "one", "a")
    box.qemu("check", "a")


def test_help_and_version(box):
    assert box.img("--version").stdout.startswith("cairn-img ")
    overview = box.img("help").stdout
    for verb in ("create", "info", "check", "convert"):
        assert verb in overview
        assert f"cairn-img {verb}" in box.img("help", verb).stdout
        assert box.img(verb, "--help").stdout == box.img("help", verb).stdout
    assert "unknown verb 'frobnicate'" in box.fails("frobnicate") and "unknown verb 'ifno'; did you mean info?" in box.fails("ifno")
    assert "no verb given" in box.fails()
    box.fails("info")
    box.fails("convert", "a")
    box.fails("create", "-z", "a", "1M")
