"""Names of images as options (--image-opts, json:) and with file:, compared with qemu-img; hostile options."""
import json
import os
import shutil

import pytest
from test_img import MIB, box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

DISK = "driver=qcow2,file.filename=a"
NESTED = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": "a"}})
DOTTED = json.dumps({"driver": "qcow2", "file.driver": "file", "file.filename": "a"})
SPEED = DISK + ",cache.direct=off,file.aio=threads,l2-cache-size=1048576,node-name=n0,overlap-check=all,file.locking=auto"


@pytest.fixture
def disk(box):
    box.qemu("create", "-q", "-f", "qcow2", "a", "8M")
    box.io("a", "write -P 5 1M 1M")
    box.qemu("create", "-q", "-f", "raw", "r", "8M")
    box.io("r", "write -P 5 1M 1M", fmt="raw")
    return box


@pytest.mark.parametrize("name", [
    ("--image-opts", DISK), ("--image-opts", "driver=raw,file.driver=file,file.filename=r"), ("json:" + NESTED,),
    ("--image-opts", "driver=file,filename=r"), ("json:" + DOTTED,), ("file:a",), ("json:" + NESTED.replace('"', "'"),), ("--image-opts", SPEED),
    ("--image-opts", DISK + ",force-share=on"), ("--image-opts", DISK + ",read-only=on"),
    ('json:{"driver": "qcow2", "read-only": true, "l2-cache-size": 65536, "file": {"driver": "file", "filename": "a"}}',)])
def test_names_are_taken_as_qemu_takes_them(disk, name):
    for verb in (("info", "--output", "json"), ("map", "--output", "json"), ("measure", "-O", "qcow2", "--output", "json")):
        ours, theirs = (json.loads(tool(*verb, *name).stdout) for tool in (disk.img, disk.qemu))
        if verb[0] == "info":
            assert ours["format"] == theirs["format"].replace("file", "raw") and ours["virtual-size"] == theirs["virtual-size"]
            assert ours["filename"] in ("a", "r")
        else:
            assert ours == theirs
    disk.img("convert", "-O", "qcow2", *name, "ours")
    disk.qemu("convert", "-O", "qcow2", *name, "theirs")
    disk.qemu("compare", "ours", "theirs")


def test_every_verb_takes_options(disk):
    for tool in (disk.img, disk.qemu):
        tool("check", "-q", "--image-opts", DISK)
        tool("compare", "--image-opts", DISK, "driver=raw,file.filename=r")
        tool("resize", "-q", "--image-opts", DISK, "+1M")
        tool("resize", "-q", "--shrink", "--image-opts", DISK, "8M")
        tool("amend", "--image-opts", "-o", "lazy_refcounts=on", DISK)
        tool("amend", "--image-opts", "-o", "lazy_refcounts=off", DISK)
        tool("snapshot", "--image-opts", "-c", "one", DISK)
        assert "one" in tool("snapshot", "-l", "--image-opts", DISK).stdout
        tool("snapshot", "--image-opts", "-d", "one", DISK)
        tool("bench", "-c", "10", "--image-opts", DISK)
        tool("dd", "--image-opts", "bs=64k", "if=" + DISK, "of=out")
        tool("create", "-q", "-f", "qcow2", "-b", "file:a", "-F", "qcow2", "file:top")
        tool("rebase", "--image-opts", "-b", "", "driver=qcow2,file.filename=top")
        tool("rebase", "-u", "--image-opts", "-b", "a", "-F", "qcow2", "driver=qcow2,file.filename=top")
        tool("commit", "-q", "--image-opts", "driver=qcow2,file.filename=top")
        disk.qemu("check", "a")
        disk.qemu("compare", "-f", "qcow2", "-F", "raw", "a", "r")


def test_target_options(disk):
    for tool, target in ((disk.img, "ours"), (disk.qemu, "theirs")):
        disk.qemu("create", "-q", "-f", "qcow2", target, "8M")
        tool("convert", "-n", "--target-image-opts", "r", f"driver=qcow2,file.filename={target}")
        disk.qemu("compare", target, "r")
    disk.img("convert", "-c", "-n", "--target-image-opts", "r", "driver=qcow2,file.filename=ours")
    disk.qemu("compare", "ours", "r")


def test_relative_file_name_is_of_the_present_folder(disk):
    """As for qemu-img; a plain name is of the image's folder."""
    (disk.path / "s").mkdir()
    disk.qemu("create", "-q", "-f", "qcow2", "s/a", "8M")
    disk.qemu("create", "-q", "-f", "qcow2", "-b", "file:a", "-F", "qcow2", "s/top")
    disk.qemu("compare", "s/top", "r")
    assert "lies outside of its folder" in disk.fails("convert", "-O", "raw", "s/top", "out")
    disk.img("convert", "--allow", ".", "-O", "raw", "s/top", "out")
    disk.qemu("compare", "-f", "raw", "-F", "raw", "out", "r")
    disk.qemu("rebase", "-u", "-b", "a", "-F", "qcow2", "s/top")
    disk.img("compare", "-f", "qcow2", "-F", "qcow2", "s/top", "s/a")


def test_names_with_commas_and_colons(disk):
    os.rename(disk.path / "a", disk.path / "x:y,z")
    for tool in (disk.img, disk.qemu):
        assert tool("info", "file:x:y,z").stdout.startswith("image: ./x:y,z\nfile format: qcow2\n")
        assert "qcow2" in tool("info", "--image-opts", "driver=qcow2,file.filename=x:y,,z").stdout
    disk.img("create", "-q", "-f", "qcow2", "-b", "file:x:y,z", "-F", "qcow2", "top")
    disk.qemu("compare", "top", "r")
    disk.img("compare", "top", "r")


@pytest.mark.sample(12)
@pytest.mark.parametrize("name,what", [
    (("--image-opts", "a"), "not key=value"), (("--image-opts", DISK + ",foo=1"), "unknown option 'foo'"),
    (("--image-opts", "driver=qcow2"), "file.filename"), (("--image-opts", "driver=qcow2,file=node0"), "cannot name a node"),
    (("--image-opts", DISK + ",encrypt.key-secret=s"), "encrypted"), (("--image-opts", "driver=vmdk,file.filename=a"), "qemu-img"),
    (("--image-opts", "driver=qcow2,file.driver=http,file.filename=a"), "not supported"),
    (("--image-opts", DISK + ",read-only=maybe"), "on or off"), (("--image-opts", DISK + ",file.locking=perhaps"), "locking"),
    (("--image-opts", "-f", "qcow2", DISK), "exclude each other"), (("json:",), "json:"), (("json:{",), "json:"), (("json:" + NESTED + "x",), "json:"), (("json:{'driver'",), "json:"),
    (("json:[]",), "an object"), (("json:1",), "an object"), (('json:{"driver": null}',), "must be a string"),
    (('json:{"driver": ["qcow2"]}',), "must be a string"), (('json:{"file": {"filename": 1.5}}',), "must be a string"),
    (('json:{"driver": "qcow2", "file": {"filename": "a\\u0000b"}}',), "must be a string"),
    (('json:{"driver": "qcow2", "file": {"filename": ""}}',), "file.filename"),
    (("json:" + '{"a":' * 5 + "1" + "}" * 5,), "nested"), (("json:" + '{"a":' * 20000 + "1" + "}" * 20000,), "more than 65536"),
    (("json:" + '{"a":' * 5000 + "1" + "}" * 5000,), "json:"),
    (("json:{" + ",".join(f'"k{i}": 1' for i in range(65)) + "}",), "at most 64"),
    (("--image-opts", ",".join(f"k{i}=1" for i in range(65))), "at most 64"),
    (('json:{"%s": 1}' % ("k" * 200),), "more than 127"), (("--image-opts", "k" * 200 + "=1"), "more than 127"),
    (("--image-opts", "a=" + "b" * 70000), "more than 65536"),
    (("nbd+ssh://localhost/",), "protocol"), (("http://localhost/a",), "protocol"), (("rbd:pool/a",), "protocol")])
def test_bad_names(disk, name, what):
    before = (disk.path / "a").read_bytes()
    assert what in disk.fails("info", *name)
    for verb in (("check", "-r", "all"), ("snapshot", "-c", "x"), ("amend", "-o", "compat=0.10"), ("resize", "--shrink")):
        disk.fails(*verb, *name, *(["1M"] if verb[0] == "resize" else []))
    disk.img("convert", "-O", "qcow2", *name, "x", status=1)
    disk.img("compare", *name, "r", status=2)
    assert (disk.path / "a").read_bytes() == before and sorted(os.listdir(disk.path)) == ["a", "r"]


@pytest.mark.parametrize("option", ["force-share=on", "file.locking=off", "read-only=on"])
def test_changes_need_the_lock(disk, option):
    before = (disk.path / "a").read_bytes()
    name = ("--image-opts", f"{DISK},{option}")
    for args in (("snapshot", "-c", "one", *name), ("check", "-r", "leaks", *name), ("resize", *name, "+1M"),
                 ("bench", "-w", "-c", "1", *name), ("amend", "-o", "lazy_refcounts=on", *name), ("rebase", "-b", "", *name)):
        if option != "read-only=on" or args[0] not in ("snapshot", "check"):
            disk.fails(*args)
    assert (disk.path / "a").read_bytes() == before


@pytest.mark.parametrize("name", ["json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "r"}}),
                                  "nbd://localhost/", "nbd:unix:r"])
def test_options_in_a_header_are_refused(disk, name):
    """The author of the image wrote the header."""
    disk.qemu("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "top", "8M")
    assert "only local files" in disk.fails("convert", "-O", "raw", "top", "x")
    assert "only local files" in disk.fails("map", "top")
    assert not (disk.path / "x").exists()
    assert (disk.path / "r").stat().st_size == 8 * MIB
