"""As many snapshots as the format allows: 65,536. The image is written by hand, as 65,535 calls of a tool would
leave it; QEMU judges the result. A minute of processor time: the part images of make check-long runs it."""
import os
import shutil
import struct

import pytest
from test_img import box, run  # noqa: F401

pytestmark = [pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing"),
              pytest.mark.skipif("CAIRN_IMG_STEPS" not in os.environ, reason="make check-long runs this one")]

CLUSTER, MOST = 512, 65536


def many(path, n):
    """An empty disk of 16 KiB (an L1 table of one entry) with n snapshots, each with its own L1 table."""
    # In order: header, refcount table, its blocks, the active L1, the snapshots' L1 tables, their table.
    table = bytearray()
    per_block = CLUSTER // 2
    entry = struct.calcsize(">QIHHIIQII") + 24
    names = [(b"%d" % (i + 1), b"s%d" % (i + 1)) for i in range(n)]
    table_bytes = sum(-(-(entry + len(i) + len(s)) // 8) * 8 for i, s in names)
    rest = 1 + 1 + n + -(-table_bytes // CLUSTER)
    blocks = 1
    while True:  # the refcount blocks are counted in the refcount blocks
        table_clusters = -(-blocks * 8 // CLUSTER)
        total = rest + blocks + table_clusters
        if -(-total // per_block) <= blocks:
            break
        blocks = -(-total // per_block)
    first_block = 1 + table_clusters
    l1 = first_block + blocks
    snapshot_l1 = l1 + 1
    snapshots = snapshot_l1 + n
    for k, (ident, name) in enumerate(names):
        table += struct.pack(">QIHHIIQII", (snapshot_l1 + k) * CLUSTER, 1, len(ident), len(name), 1700000000, 0, 0, 0, 24)
        table += struct.pack(">QQQ", 0, 16384, 2**64 - 1) + ident + name
        table += bytes(-len(table) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 9, 16384, 0, 1, l1 * CLUSTER, CLUSTER,
                            table_clusters, n, snapshots * CLUSTER, 0, 0, 0, 4, 104))
        f.seek(CLUSTER)
        f.write(struct.pack(f">{blocks}Q", *((first_block + b) * CLUSTER for b in range(blocks))))
        f.seek(first_block * CLUSTER)
        f.write(b"\0\1" * total)
        f.seek(snapshots * CLUSTER)
        f.write(table)
        f.truncate(total * CLUSTER)


@pytest.mark.seconds(300)  # three commands of QEMU and eight of Cairn, each with 65,536 entries
def test_65536_snapshots_work(box):  # noqa: F811
    many(box.path / "a", MOST - 1)
    box.img("check", "-q", "a")
    box.img("snapshot", "-c", "last", "a")
    listed = box.img("snapshot", "-l", "a").stdout.splitlines()
    assert len(listed) == MOST + 2 and "last" in listed[-1]
    before = (box.path / "a").stat()
    assert "65536 snapshots" in box.fails("snapshot", "-c", "one too many", "a")
    after = (box.path / "a").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    box.img("snapshot", "-d", "s1000", "a")
    box.img("snapshot", "-a", "s40000", "a")
    box.img("snapshot", "-c", "again", "a")
    box.qemu("check", "-q", "a")
    names = [line.split()[1] for line in run("qemu-img", "snapshot", "-l", "a", cwd=box.path).stdout.splitlines()[2:]]
    assert len(names) == MOST and "s1000" not in names and names[-2:] == ["last", "again"]
