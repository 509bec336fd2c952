"""Parts of an image that cairn-img does not know or support: kept, cleared or refused as the format demands."""
import json
import shutil

import pytest

from test_img import box, run  # noqa: F401 (box is a fixture)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

UNKNOWN_BIT = 1 << 40
COMPATIBLE, AUTOCLEAR = 80, 88
EXTENSION = 0x12345678


def field(box, name, at, size=8):
    return int.from_bytes((box.path / name).read_bytes()[at:at + size], "big")


def extensions(box, name):
    data = (box.path / name).read_bytes()[:65536]
    at, found = int.from_bytes(data[100:104], "big"), {}
    while True:
        kind, size = int.from_bytes(data[at:at + 4], "big"), int.from_bytes(data[at + 4:at + 8], "big")
        if not kind:
            return found, at
        found[kind] = data[at + 8:at + 8 + size]
        at += 8 + (size + 7) // 8 * 8


def stranger(box, name, *args):
    """An image with an unknown extension, compatible bit and autoclear bit."""
    box.qemu("create", "-q", "-f", "qcow2", *args, name, "4M")
    box.io(name, "write -P 1 0 1M")
    _, end = extensions(box, name)
    with open(box.path / name, "r+b") as f:
        backing = int.from_bytes((box.path / name).read_bytes()[8:16], "big")
        assert not backing
        f.seek(end)
        f.write(EXTENSION.to_bytes(4, "big") + (5).to_bytes(4, "big") + b"hello\0\0\0" + bytes(8))
        for at in (COMPATIBLE, AUTOCLEAR):
            f.seek(at)
            f.write(UNKNOWN_BIT.to_bytes(8, "big"))


LOOKS = [("info", "x"), ("map", "x"), ("check", "x"), ("convert", "-O", "raw", "x", "out"), ("compare", "x", "x2"),
         ("snapshot", "-l", "x"), ("measure", "-O", "qcow2", "x")]
CHANGES = [
    [("rebase", "-u", "-b", "base", "-F", "qcow2", "x")],
    [("rebase", "-f", "qcow2", "-b", "base", "-F", "qcow2", "x"), ("rebase", "-f", "qcow2", "-b", "", "x")],
    [("amend", "-o", "lazy_refcounts=on", "x")],
    [("amend", "-o", "refcount_bits=64", "x")],
    [("resize", "-f", "qcow2", "x", "200G")],
    [("snapshot", "-c", "s", "x"), ("snapshot", "-a", "s", "x"), ("snapshot", "-d", "s", "x")],
    [("convert", "-n", "-O", "qcow2", "base", "x")],
    [("check", "-r", "all", "x")],
    [("trim", "-f", "qcow2", "--zeros", "x"), ("resize", "-f", "qcow2", "x", "5M")],
]


def test_reading_verbs_change_nothing(box):
    stranger(box, "x")
    shutil.copy(box.path / "x", box.path / "x2")
    for verb in LOOKS:
        box.img(*verb)
        assert (box.path / "x").read_bytes() == (box.path / "x2").read_bytes(), verb


@pytest.mark.parametrize("changes,data_file", [(c, d) for c in CHANGES for d in (False, True)
                                               if not (d and c[0][0] == "snapshot")])
def test_unknown_extensions_are_kept(box, changes, data_file):
    box.qemu("create", "-q", "-f", "qcow2", "base", "4M")
    stranger(box, "x", *(["-o", "data_file=data"] if data_file else []))
    before, _ = extensions(box, "x")
    for verb in changes:
        box.img(*verb)
        after, _ = extensions(box, "x")
        assert after[EXTENSION] == b"hello"
        assert {k for k in before} <= set(after)
        assert field(box, "x", COMPATIBLE) & UNKNOWN_BIT
        # a writer that does not know the bit must clear it
        assert not field(box, "x", AUTOCLEAR) & UNKNOWN_BIT, verb
    box.qemu("check", "x")
    if data_file:
        assert json.loads(box.qemu("info", "--output", "json", "x").stdout)["format-specific"]["data"]["data-file"] == "data"


def bitmaps(box, name):
    return json.loads(box.qemu("info", "--output", "json", name).stdout)["format-specific"]["data"].get("bitmaps")


def test_bitmaps_are_kept(box):
    box.qemu("create", "-q", "-f", "qcow2", "x", "4M")
    box.qemu("bitmap", "--add", "x", "one")
    box.io("x", "write 1M 64k")
    was = (box.path / "x").read_bytes()
    theirs = bitmaps(box, "x")
    assert theirs[0]["name"] == "one"
    for verb in LOOKS:
        if "x2" not in verb:
            box.img(*verb)
            assert (box.path / "x").read_bytes() == was, verb
    for verb in (["amend", "-o", "lazy_refcounts=on", "x"], ["trim", "--zeros", "x"], ["amend", "-o", "refcount_bits=64", "x"],
                 ["bench", "-w", "-c", "1", "x"], ["check", "-r", "all", "x"]):
        box.img(*verb)
        assert bitmaps(box, "x") == theirs, verb
        box.qemu("check", "x")


@pytest.mark.parametrize("method,word", [("luks", "LUKS"), ("aes", "AES")])
def test_encrypted_images_are_refused(box, method, word):
    run("qemu-img", "create", "-q", "--object", "secret,id=s,data=12345678", "-f", "qcow2",
        "-o", "encrypt.format=aes,encrypt.key-secret=s", "x", "1M", cwd=box.path)
    if method == "luks":  # qemu-img needs a second to create one, and cannot everywhere
        with open(box.path / "x", "r+b") as f:
            f.seek(32)
            f.write((2).to_bytes(4, "big"))
    was = (box.path / "x").read_bytes()
    for verb in (("convert", "-O", "raw", "x", "out"), ("resize", "x", "2M"), ("check", "x"), ("check", "-r", "all", "x"),
                 ("map", "x"), ("snapshot", "-c", "s", "x"), ("amend", "-o", "lazy_refcounts=on", "x"),
                 ("rebase", "-u", "-b", "", "x"), ("trim", "x"), ("bench", "-c", "1", "x"), ("measure", "-O", "raw", "x"),
                 ("create", "-f", "qcow2", "-b", "x", "-F", "qcow2", "top")):
        says = box.fails(*verb)
        assert word in says and "qemu-img convert" in says and says.count("\n") == 1, (verb, says)
    assert (box.path / "x").read_bytes() == was
    assert sorted(p.name for p in box.path.iterdir()) == ["x"]
    assert "encrypted: yes" in box.img("info", "x").stdout
