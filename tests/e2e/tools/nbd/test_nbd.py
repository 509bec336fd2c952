"""nbdkit-cairn-plugin: an image or one of its snapshots, read-only over NBD, for qemu-img, nbdinfo and a client
here that requests odd byte ranges."""
import itertools
import json
import os
import random
import shutil
import socket
import struct
import subprocess

import pytest
from conftest import BUILD
from test_img import MIB, TIMEOUT, box, run  # noqa: F401

PLUGIN = os.path.join(BUILD, "nbdkit-cairn-plugin.so")
pytestmark = [pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is missing"),
              pytest.mark.skipif(not os.path.exists(PLUGIN), reason="sanitizers cannot be in a plugin")]


SOCKETS = (f"nbd-{n}" for n in itertools.count())


def nbdkit(box, *args, command):
    """Run a server while the command runs, which has $uri and $nbd. nbdkit leaves its folder in /tmp behind when it
    chooses the socket itself ("-U -") and the plugin refuses its arguments."""
    return subprocess.run(["nbdkit", "-U", box.path / next(SOCKETS), PLUGIN, *args, "--run", command], cwd=box.path, text=True,
                          capture_output=True, timeout=TIMEOUT)


@pytest.fixture
def image(box):  # noqa: F811
    """A snapshot `s` with 1 in [1M, 4M); since then the disk has 2 in [0, 8M)."""
    box.qemu("create", "-q", "-f", "qcow2", "a", "64M")
    run("qemu-io", "-c", "write -P 1 1M 3M", "a", cwd=box.path)
    box.qemu("snapshot", "-c", "s", "a")
    run("qemu-io", "-c", "write -P 2 0 8M", "a", cwd=box.path)
    return box


def test_disk_and_snapshot_are_served(image):
    image.qemu("convert", "-l", "s", "a", "-O", "raw", "s.raw")
    for args, raw in ((["snapshot=s"], "s.raw"), ([], "a.raw")):
        if raw == "a.raw":
            image.qemu("convert", "a", "-O", "raw", "a.raw")
        done = nbdkit(image, "a", *args, command=f"qemu-img compare -f raw -F raw $nbd {raw}")
        assert done.returncode == 0 and "identical" in done.stdout, done.stdout + done.stderr


def test_map_matches_qemu(image):
    done = nbdkit(image, "file=a", "snapshot=s", command="nbdinfo --map --json $uri")
    found = [(x["offset"], x["length"], x["type"]) for x in json.loads(done.stdout)]
    assert found == [(0, MIB, 3), (MIB, 3 * MIB, 0), (4 * MIB, 60 * MIB, 3)]
    info = json.loads(nbdkit(image, "a", command="nbdinfo --json $uri").stdout)["exports"][0]
    assert info["export-size"] == 64 * MIB and info["is_read_only"] and info["can_multi_conn"]


def test_snapshot_is_served_beside_a_writer(image):
    """A snapshot can be read while a writer has the disk open; the disk itself cannot."""
    with subprocess.Popen(["qemu-io", "a"], cwd=image.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdin.write(b"write -P 9 2M 1M\n")
        writer.stdin.flush()
        assert b"wrote" in writer.stdout.readline()
        done = nbdkit(image, "a", "snapshot=s", command="qemu-io -f raw -r -c 'read -P 1 2M 1M' $nbd")
        assert done.returncode == 0 and "Pattern verification failed" not in done.stdout
        refused = nbdkit(image, "a", command="nbdinfo $uri")
        assert refused.returncode != 0 and "open for writing in another" in refused.stderr and "-U" not in refused.stderr
        assert nbdkit(image, "a", "share=yes", command="nbdinfo $uri").returncode == 0
        writer.stdin.close()
        assert writer.wait(TIMEOUT) == 0


def test_backing_files_are_read(box):  # noqa: F811
    (box.path / "far").mkdir()
    box.qemu("create", "-q", "-f", "qcow2", "far/base", "8M")
    run("qemu-io", "-c", "write -P 5 1M 1M", "far/base", cwd=box.path)
    os.mkdir(box.path / "near")
    box.qemu("create", "-q", "-f", "qcow2", "-b", str(box.path / "far/base"), "-F", "qcow2", "near/top")
    refused = nbdkit(box, "near/top", command="nbdinfo $uri")
    assert refused.returncode != 0 and "outside of its folder" in refused.stderr
    done = nbdkit(box, "near/top", "allow=far", command="qemu-io -f raw -r -c 'read -P 5 1M 1M' $nbd")
    assert done.returncode == 0 and "failed" not in done.stdout


@pytest.mark.parametrize("args,says", [
    ([], "add file=IMAGE"),
    (["a", "snapshot=none"], "no snapshot 'none'"),
    (["none"], "No such file"),
    (["a", "format=vmdk"], "unknown format"),
    (["a", "colour=red"], "unknown parameter"),
    (["a", "share=perhaps"], "perhaps"),
    (["a", "since=none"], "since must be an earlier snapshot of the same image: "),
    (["a.raw", "format=raw", "since=s"], "snapshots"),
])
def test_impossible_exports_are_refused(image, args, says):
    image.qemu("create", "-q", "-f", "raw", "a.raw", "1M")
    done = nbdkit(image, *args, command="nbdinfo $uri")
    assert done.returncode != 0 and says in done.stderr


def increment(box, snapshot, since):  # noqa: F811
    """Return the extents of an increment, and copy it to the overlay `inc` on a full copy of `since`, which is compared
    with the content of the snapshot (None: the disk)."""
    def convert(name, to):
        box.qemu("convert", *(["-l", name] if name else []), "-O", "qcow2", "i", to)

    convert(since, "full")
    convert(snapshot, "expected")
    which = [f"snapshot={snapshot}"] if snapshot else []
    found = nbdkit(box, "i", *which, f"since={since}", command="nbdinfo --map --json $uri")
    assert found.returncode == 0, found.stderr
    done = nbdkit(box, "i", *which, f"since={since}", command="qemu-img convert -f raw $nbd -B full -F qcow2 -O qcow2 inc")
    assert done.returncode == 0, done.stderr
    box.qemu("compare", "inc", "expected")
    return [(x["offset"], x["length"], x["type"]) for x in json.loads(found.stdout)]


def io(box, *commands):  # noqa: F811
    run("qemu-io", *itertools.chain.from_iterable(("-c", c) for c in commands), "i", cwd=box.path)


SAME, DATA, ZEROS = 1, 0, 3


def test_increment_offers_only_what_differs(box):  # noqa: F811
    """Data, zeros and a discard since a snapshot; a later change of the disk; the way back."""
    box.qemu("create", "-q", "-f", "qcow2", "i", "4G")
    io(box, "write -P 1 0 8M", "write -P 1 1G 1M")
    box.qemu("snapshot", "-c", "s1", "i")
    io(box, "write -P 2 1M 64k", "write -z 2M 64k", "discard 3M 64k", "write -P 3 3G 128k")
    box.qemu("snapshot", "-c", "s2", "i")
    io(box, "write -P 4 4M 64k")
    k = 1024
    end = 4096 * MIB
    s1_to_s2 = [(0, MIB, SAME), (MIB, 64 * k, DATA), (MIB + 64 * k, MIB - 64 * k, SAME), (2 * MIB, 64 * k, ZEROS),
                (2 * MIB + 64 * k, MIB - 64 * k, SAME), (3 * MIB, 64 * k, ZEROS)]
    tail = [(3072 * MIB, 128 * k, DATA), (3072 * MIB + 128 * k, 1024 * MIB - 128 * k, SAME)]
    at = 3 * MIB + 64 * k
    assert increment(box, "s2", "s1") == [*s1_to_s2, (at, 3072 * MIB - at, SAME), *tail]
    assert increment(box, None, "s2") == [(0, 4 * MIB, SAME), (4 * MIB, 64 * k, DATA), (4 * MIB + 64 * k, end - 4 * MIB - 64 * k, SAME)]
    assert increment(box, "s1", "s1") == [(0, end, SAME)]
    assert [x for x in increment(box, "s1", "s2") if x[2] != SAME] == [
        (MIB, 64 * k, DATA), (2 * MIB, 64 * k, DATA), (3 * MIB, 64 * k, DATA), (3072 * MIB, 128 * k, ZEROS)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("options", ["cluster_size=512", "extended_l2=on", "compat=0.10", "backing_file=base,backing_fmt=raw",
                                     "compression_type=zstd", "cluster_size=2M"])
def test_random_increments_restore_each_snapshot(box, options):  # noqa: F811
    """A chain of snapshots with random writes in between, also of sizes that are no clusters, and a disk that grows."""
    rng = random.Random(options)
    size = 8 * MIB + 512
    box.qemu("create", "-q", "-f", "raw", "base", "6M")
    run("qemu-io", "-f", "raw", "-c", "write -P 9 1M 4M", "base", cwd=box.path)
    box.qemu("create", "-q", "-f", "qcow2", "-o", options, "i", str(size))
    v3 = "compat" not in options
    for n in range(1, 5):
        for _ in range(6):
            off, length = rng.randrange(0, size - 512, 512), rng.choice((512, 4096, 65536, 300 * 1024))
            length = min(length, size - off)
            kind = rng.choice(("write -P %d" % rng.randrange(1, 256), "write -P %d" % n, "write -z", "write -z -u", "discard"))
            io(box, f"{kind} {off} {length}")
        if n == 3 and v3:
            size += MIB
            box.qemu("resize", "-q", "i", str(size))
        box.qemu("snapshot", "-c", f"s{n}", "i")
        if n > 1:
            increment(box, f"s{n}", f"s{n - 1}")
    if v3:
        increment(box, "s4", "s1")
    box.qemu("check", "-q", "i")


class Client:
    """A minimal NBD client: qemu and libnbd request whole sectors only."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(path)
        assert self.take(16) == b"NBDMAGICIHAVEOPT"
        self.take(2)
        self.sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
        self.size, _ = struct.unpack(">QH", self.take(10))

    def take(self, n):
        got = b""
        while len(got) < n:
            more = self.sock.recv(n - len(got))
            assert more, "the server hung up"
            got += more
        return got

    def read(self, off, n):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, off, off, n))
        magic, error, handle = struct.unpack(">IIQ", self.take(16))
        assert (magic, handle) == (0x67446698, off)
        return error or self.take(n)


def test_odd_byte_ranges_are_served(image):
    path = str(image.path / "nbd")
    with subprocess.Popen(["nbdkit", "-f", "-U", path, "-P", "pid", PLUGIN, "a", "snapshot=s"], cwd=image.path) as server:
        try:
            while not (image.path / "pid").exists():  # written when it listens
                assert server.poll() is None
            clients = [Client(path), Client(path)]
            assert clients[0].size == 64 * MIB
            for off, n in ((MIB - 3, 7), (MIB + 511, 2), (4 * MIB - 513, 1025), (64 * MIB - 1, 1), (0, 4096)):
                for c in clients:
                    want = bytes(1 if MIB <= at < 4 * MIB else 0 for at in range(off, off + n))
                    assert c.read(off, n) == want
            assert clients[0].read(64 * MIB - 512, 1024) == 22  # EINVAL
            for c in clients:
                c.sock.close()
        finally:
            server.kill()
