"""Backing files that an image names by json: or on an NBD server: refused without --trust-backing, then read as
qemu-img reads them."""
import json
import os

import pytest
from nbdlib import READ, STATUS, Fake, nbdkit
from test_img import MIB, box  # noqa: F401


@pytest.fixture
def disk(box):
    """A raw disk of 8 MiB with data in [1M, 2M) and [5M, 5M + 64k), which is also in the qcow2 image q."""
    box.qemu("create", "-q", "-f", "raw", "r", "8M")
    box.io("r", "write -P 5 1M 1M", "write -P 6 5M 64k", fmt="raw")
    box.qemu("convert", "-f", "raw", "-O", "qcow2", "r", "q")
    return box


def as_json(**options):
    return "json:" + json.dumps(options)


LOCAL = [(as_json(driver="raw", file={"driver": "file", "filename": "r"}), "raw"), (as_json(driver="qcow2", file={"filename": "q"}), "qcow2")]


def overlay_is_read(box, name, fmt):
    """Make an overlay whose header has the name; all verbs that read follow it only when told to."""
    box.qemu("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", fmt, "top", "9M")
    box.qemu("create", "-q", "-f", "raw", "expected", "9M")
    box.io("top", "write -P 9 5M 32k")
    box.qemu("convert", "-O", "raw", "top", "expected")
    for verb in (("info", "--backing-chain"), ("map",), ("measure",), ("convert", "-O", "raw"), ("dd", "if=top", "of=x")):
        words = box.fails(*verb, *([] if verb[0] == "dd" else ["top"]), *(["x"] if verb[0] == "convert" else []))
        assert "only local files are followed" in words and "--trust-backing" in words
    assert box.img("compare", "top", "expected", status=2).stderr.count("--trust-backing") == 1
    assert not (box.path / "x").exists()
    for verb in (("map", "--output", "json"), ("measure", "-O", "qcow2")):
        assert box.img(*verb, "--trust-backing", "top").stdout == box.qemu(*verb, "top").stdout
    ours, theirs = (json.loads(box.img("info", "--backing-chain", "--trust-backing", "--output", "json", "top").stdout),
                    json.loads(box.qemu("info", "--backing-chain", "--output", "json", "top").stdout))
    assert len(ours) == len(theirs) == 2
    for key in ("backing-filename", "full-backing-filename", "backing-filename-format", "virtual-size"):
        assert ours[0][key] == theirs[0][key]
    assert ours[1]["format"] == theirs[1]["format"].replace("file", "raw") and ours[1]["virtual-size"] == theirs[1]["virtual-size"]
    box.img("convert", "--trust-backing", "-O", "qcow2", "top", "x")
    assert "identical" in box.img("compare", "--trust-backing", "top", "expected").stdout
    box.qemu("compare", "-f", "qcow2", "-F", "raw", "x", "expected")
    assert "actual path" not in box.img("info", os.path.join("..", box.path.name, "top")).stdout


@pytest.mark.parametrize("name,fmt", LOCAL)
def test_json(disk, name, fmt):
    overlay_is_read(disk, name, fmt)


@pytest.mark.parametrize("name", ["nbd:unix:{}", "nbd+unix:///?socket={}",
                                  'json:{{"driver": "raw", "file": {{"driver": "nbd", "path": "{}"}}}}'])
def test_nbd(disk, name):
    with nbdkit(disk.path, "file", "r") as sock:
        overlay_is_read(disk, name.format(sock), "raw")


def test_no_connection_without_trust(disk):
    with Fake(disk.path, MIB, lambda *_: None) as server:
        disk.qemu("create", "-q", "-u", "-f", "qcow2", "-b", server.url, "-F", "raw", "top", "8M")
        disk.fails("convert", "-O", "raw", "top", "x")
        disk.fails("create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "higher")
        disk.img("info", "top")
        assert not server.clients


def test_local_names_in_any_folder(disk):
    (disk.path / "sub").mkdir()
    disk.qemu("create", "-q", "-f", "qcow2", "-b", "../r", "-F", "raw", "sub/top")
    assert "--allow" in disk.fails("map", "sub/top")
    disk.img("map", "--trust-backing", "sub/top")


def test_overlays_are_made_over_servers(disk):
    """The user names the server, so the command needs no further option."""
    with nbdkit(disk.path, "file", "r") as sock:
        name = "nbd:unix:" + sock
        for tool, top in ((disk.img, "ours"), (disk.qemu, "theirs")):
            tool("create", "-f", "qcow2", "-b", name, "-F", "raw", top)
            disk.qemu("compare", "-F", "raw", top, "r")
        ours, theirs = ([x for x in disk.qemu("info", n).stdout.splitlines() if "disk size" not in x and "image:" not in x]
                        for n in ("ours", "theirs"))
        assert ours == theirs
        disk.img("create", "-q", "-f", "qcow2", "--trust-backing", "-b", "ours", "-F", "qcow2", "higher")
        disk.qemu("compare", "-F", "raw", "higher", "r")
        disk.img("convert", "-O", "qcow2", "-B", name, "-F", "raw", "ours", "x", "--trust-backing")
        disk.qemu("compare", "-F", "raw", "x", "r")
        assert disk.path.joinpath("x").stat().st_blocks * 512 < MIB / 2
        assert "qcow2" in disk.fails("create", "-f", "qcow2", "-b", name, "-F", "qcow2", "y")


def test_rebase(disk):
    with nbdkit(disk.path, "file", "r") as sock:
        name = "nbd:unix:" + sock
        disk.qemu("create", "-q", "-f", "qcow2", "-b", "r", "-F", "raw", "top")
        disk.img("rebase", "-b", name, "-F", "raw", "top")
        assert "backing file: " + name in disk.img("info", "top").stdout
        disk.qemu("compare", "-F", "raw", "top", "r")
        assert "--trust-backing" in disk.fails("rebase", "-b", "", "top")
        disk.img("rebase", "--trust-backing", "-b", "", "top")
    assert "backing" not in disk.img("info", "top").stdout
    disk.qemu("compare", "-F", "raw", "top", "r")


def test_commit_to_a_server(disk):
    disk.qemu("create", "-q", "-f", "raw", "base", "8M")
    with nbdkit(disk.path, "file", "base") as sock:
        disk.img("create", "-q", "-f", "qcow2", "-b", "nbd:unix:" + sock, "-F", "raw", "top")
        disk.io("top", "write -P 5 1M 1M", "write -P 6 5M 64k")
        assert "--trust-backing" in disk.fails("commit", "-f", "qcow2", "top")
        disk.img("commit", "-f", "qcow2", "--trust-backing", "top")
        assert "identical" in disk.img("compare", "-s", "-F", "raw", "--trust-backing", "top", "nbd:unix:" + sock).stdout
    disk.qemu("compare", "base", "r")


@pytest.mark.parametrize("name,what", [
    (as_json(driver="qcow2", file={"driver": "nbd", "path": "/nowhere"}), "qcow2 image over NBD"), (as_json(driver="raw"), "file.filename"),
    (as_json(driver="raw", file={"driver": "http", "filename": "x"}), "not supported"), ("rbd:pool/x", "not supported"), ("json:{", "not JSON"),
    (as_json(driver="file", filename="missing"), "No such file"), ("nbd:unix:/nowhere", "cannot connect"),
    (as_json(driver="qcow2", file={"filename": "top"}), "loop")])
def test_bad_names_that_are_trusted(disk, name, what):
    disk.qemu("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2" if "qcow2" in name else "raw", "top", "8M")
    assert what in disk.fails("map", "--trust-backing", "top")


def test_server_of_a_backing_file_fails(disk):
    def answer(kind, off, n, data):
        if kind == READ:
            raise Fake.Close
        return [(n, 0)] if kind == STATUS else None

    with Fake(disk.path, 8 * MIB, answer) as server:
        disk.qemu("create", "-q", "-u", "-f", "qcow2", "-b", server.url, "-F", "raw", "top", "8M")
        assert "the connection to the server ended" in disk.fails("convert", "--trust-backing", "-O", "raw", "top", "x")
        disk.fails("bench", "--trust-backing", "-c", "1", "top")
    assert not (disk.path / "x").exists()


def test_convert_to_an_overlay_on_options_needs_trust(disk):
    words = disk.fails("convert", "-O", "qcow2", "-B", LOCAL[0][0], "-F", "raw", "q", "x")
    assert LOCAL[0][0] in words and "add it" in words and sorted(p.name for p in disk.path.iterdir()) == ["q", "r"]
    disk.img("convert", "--trust-backing", "-O", "qcow2", "-B", LOCAL[0][0], "-F", "raw", "q", "x")
    assert "identical" in disk.img("compare", "--trust-backing", "x", "q").stdout


# ---- formats that are detected ----

def test_probed_image_does_not_write_to_its_backing_file(box):
    """The guest of a raw disk writes a qcow2 header that names the disk of another VM."""
    (box.path / "victim").write_bytes(b"v" * MIB)
    box.qemu("create", "-q", "-f", "qcow2", "-b", "victim", "-F", "raw", "disk")
    box.io("disk", "write -P 65 0 64k")
    before = (box.path / "disk").read_bytes()
    for args in (("disk",), ("-d", "disk"), ("-b", "victim", "disk"), ('json:{"file": {"driver": "file", "filename": "disk"}}',)):
        assert "add -f qcow2" in box.fails("commit", *args)
    assert "has no backing file" in box.fails("commit", "-f", "raw", "disk")
    assert (box.path / "victim").read_bytes() == b"v" * MIB and (box.path / "disk").read_bytes() == before
    box.img("convert", "-O", "raw", "disk", "copy")  # reads follow the header
    assert (box.path / "copy").read_bytes() == b"A" * 65536 + b"v" * (MIB - 65536)
    box.img("commit", 'json:{"driver": "qcow2", "file": {"driver": "file", "filename": "disk"}}')
    assert (box.path / "victim").read_bytes() == (box.path / "copy").read_bytes()


@pytest.mark.parametrize("raw", ["on", "off"])
def test_probed_image_does_not_write_to_its_data_file(box, raw):
    box.qemu("create", "-q", "-f", "qcow2", "-o", f"data_file=victim,data_file_raw={raw}", "disk", "2M")
    (box.path / "victim").write_bytes(b"v" * MIB)
    box.qemu("create", "-q", "-f", "raw", "base", "1M")
    before = (box.path / "disk").read_bytes()
    changes = [("resize", "disk", "3M"), ("resize", "--shrink", "disk", "64k"), ("bench", "-w", "-c", "4", "--pattern=65", "disk"),
               ("amend", "-o", "size=3M", "disk"), ("amend", "-o", "lazy_refcounts=on,size=3M", "disk"),
               ("trim", "--zeros", "disk"), ("rebase", "-b", "base", "-F", "raw", "disk")]
    for args in changes:
        assert "add -f qcow2" in box.fails(*args), args
        assert (box.path / "victim").read_bytes() == b"v" * MIB and (box.path / "disk").read_bytes() == before, args
    assert "external data file" in box.fails("snapshot", "-c", "s", "disk")
    box.img("bitmap", "--add", "disk", "b")  # verbs that change only the image itself
    box.img("amend", "-o", "lazy_refcounts=on", "disk")
    box.img("check", "-r", "all", "disk")
    assert (box.path / "victim").read_bytes() == b"v" * MIB
    box.img("resize", "-f", "qcow2", "disk", "3M")
    assert (box.path / "victim").stat().st_size == 3 * MIB
