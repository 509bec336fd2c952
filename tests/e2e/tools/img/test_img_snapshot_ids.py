"""Ids of new snapshots beside ids that another program wrote. QEMU gives the id 0 several times beside 2^64-1."""

import shutil
import struct

import pytest

from test_img import box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")
ENTRY = struct.Struct(">QIHHIIQII")  # of the snapshot table


def image(box, *ids):
    """Make an image with a snapshot for each of these ids, which are named s0, s1 and so on."""
    path = box.path / "img"
    box.qemu("create", "-q", "-f", "qcow2", path, "1M")
    for i in range(len(ids)):
        box.qemu("snapshot", "-c", f"s{i}", path)
    with open(path, "r+b") as f:
        f.seek(64)
        offset, = struct.unpack(">Q", f.read(8))
        f.seek(offset)
        table, at, new = f.read(65536), 0, b""
        for ident in ids:
            l1, l1_size, id_bytes, name_bytes, *times, state, extra_bytes = ENTRY.unpack_from(table, at)
            extra = table[at + ENTRY.size:][:extra_bytes]
            name = table[at + ENTRY.size + extra_bytes + id_bytes:][:name_bytes]
            new += ENTRY.pack(l1, l1_size, len(ident), name_bytes, *times, state, extra_bytes) + extra + ident.encode() + name
            new += bytes(-len(new) % 8)
            at += -(-(ENTRY.size + extra_bytes + id_bytes + name_bytes) // 8) * 8
        f.seek(offset)
        f.write(new)
    return path


def ids(box, path):
    return [line.split()[0] for line in box.qemu("snapshot", "-l", path).stdout.splitlines()[2:]]


def test_no_id_is_given_twice_below_2_to_64(box):  # noqa: F811
    path = image(box, str(2**64 - 3))
    box.img("snapshot", "-c", "a", path)
    r = box.img("snapshot", "-c", "b", path, status=1)
    assert f"has a snapshot with the id {2**64 - 2}, so there is no higher one for another snapshot; delete that snapshot first" in r.stderr
    assert ids(box, path) == [str(2**64 - 3), str(2**64 - 2)]
    box.qemu("check", "-q", path)
    box.img("snapshot", "-d", "a", path)
    box.img("snapshot", "-c", "b", path)
    assert ids(box, path) == [str(2**64 - 3), str(2**64 - 2)]


@pytest.mark.parametrize("strange", [[str(2**64 - 1)], ["9" * 20, "9" * 20], ["abc"], ["-1"]])
def test_ids_that_are_no_numbers_below_2_to_64_do_not_count(box, strange):  # noqa: F811
    path = image(box, *strange)
    box.img("snapshot", "-c", "a", path)
    box.img("snapshot", "-c", "b", path)
    assert ids(box, path) == [*strange, "1", "2"]
    box.qemu("check", "-q", path)


def test_revert_to_a_word_that_means_two_snapshots_is_refused(box):
    """For qemu-img and `convert -l` an id comes first, and the present content would be gone."""
    box.qemu("create", "-q", "-f", "qcow2", "img", "1M")
    for name in ("first", "1"):  # which gets the id 2
        box.qemu("snapshot", "-c", name, "img")
    assert "'1' is the name of one snapshot and the id of another one, 'first'; apply the first one by its id, 2" in box.fails("snapshot", "-a", "1", "img")
    for word in ("2", "first"):
        box.img("snapshot", "-a", word, "img")
