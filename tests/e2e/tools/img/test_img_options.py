"""Options of qemu-img's command line that cairn-img has too, compared with qemu-img; what cairn-img lacks, it refuses
with a sentence before it touches a file."""
import json
import os
import shutil

import pytest
from test_img import box  # noqa: F401
from test_img_verbs import kill_writer

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")


@pytest.mark.parametrize("args", [
    ("create", "-f", "qcow2", "-o", "help"), ("create", "-f", "qcow2", "-o", "size=1M", "-o", "?", "x", "1M"),
    ("create", "-f", "qcow2", "-o", "cluster_size=4k,help", "x", "1M"), ("amend", "-f", "qcow2", "-o", "help"),
    ("convert", "-O", "qcow2", "-o", "help"), ("measure", "-O", "qcow2", "-o", "help", "--size", "1M")])
def test_help_lists_options_in_the_words_of_qemu(box, args):
    """Each line is one that qemu-img prints; only encryption is missing."""
    ours = box.img(*args).stdout.splitlines()
    verb = "amend" if args[0] == "amend" else "create"
    theirs = box.qemu(verb, "-f", "qcow2", "-o", "help").stdout.splitlines()
    assert ours[0] == theirs[0]
    assert set(ours) <= set(theirs)
    lacking = [line for line in theirs if line not in ours and line.startswith("  ")]
    assert lacking and all("encrypt" in line for line in lacking)
    assert os.listdir(box.path) == []


@pytest.mark.parametrize("size", ["0x100000", "0XfFe00", "0x10"])
def test_sizes_in_hexadecimal(box, size):
    box.img("create", "-q", "-f", "raw", "ours", size)
    box.qemu("create", "-q", "-f", "raw", "theirs", size)
    ours, theirs = (json.loads(box.qemu("info", "-f", "raw", "--output", "json", n).stdout)["virtual-size"]
                    for n in ("ours", "theirs"))
    assert ours == theirs


@pytest.mark.parametrize("size,what", [("0x", "invalid size"), ("0x1k", "invalid size"), ("0x1.8", "invalid size"),
                                       ("0x-1", "invalid size"), ("0x10000000000000000", "too large")])
def test_bad_sizes_in_hexadecimal(box, size, what):
    assert what in box.fails("create", "-f", "raw", "x", size)
    assert not (box.path / "x").exists()


def test_encryption_off_is_as_qemu_takes_it(box):
    ours = box.img("create", "-f", "qcow2", "-o", "encryption=off", "x", "1M").stdout
    assert ours == box.qemu("create", "-f", "qcow2", "-o", "encryption=off", "x", "1M").stdout


@pytest.mark.parametrize("args,what", [
    (("create", "-f", "qcow2", "-o", "encryption=on", "x", "1M"), "does not encrypt"),
    (("create", "-f", "qcow2", "-o", "encrypt.format=luks", "x", "1M"), "does not encrypt"),
    (("create", "-f", "luks", "x", "1M"), "does not encrypt"),
    (("create", "-f", "vmdk", "x", "1M"), "qemu-img convert -O vmdk OLD NEW"),
    (("convert", "-f", "vhdx", "-O", "qcow2", "a", "x"), "qemu-img convert"),
    (("info", "-f", "vpc", "a"), "qemu-img convert"),
    (("convert", "-O", "vdi", "a", "x"), "qemu-img convert -O vdi OLD NEW"),
    (("create", "--object", "secret,id=s,data=abc", "-f", "qcow2", "x", "1M"), "--object is not supported"),
    (("info", "--object", "secret,id=s,data=abc", "a"), "--object is not supported"),
    (("create", "--nonsense", "x", "1M"), "unknown option"),
    (("info", "--outptu", "json", "a"), "unknown option '--outptu' of info; did you mean --output?"),
    (("info", "-x", "a"), "unknown option '-x' of info\n"), (("create", "-T", "none"), "unknown option '-T' of create\n"),
    (("info", "a", "--output"), "--output needs a value\n"), (("map", "a", "-s"), "-s needs a value\n"), (("check", "a", "-T"), "-T needs a value\n"),
    (("resize", "--shrink=1", "a", "1M"), "--shrink takes no value\n"),
    (("bench", "-c", "many", "a"), "'many' is not a number"), (("bench", "-s", "big", "a"), "invalid size 'big'"),
    (("create", "", "1M"), "the name of the image is empty"), (("convert", "a", "none/x"), "cannot create none/x: No such file"),
    (("repair", "a"), "the verb for this is check -r all"),
    (("create", "-f", "qcow2", "-o", "nonsense=1", "x", "1M"), "unknown option"),
    (("create", "-f", "qcow2", "-o", "size", "x"), "not key=value"),
    (("convert", "--nonsense", "a", "x"), "unknown option"),
])
def test_unsupported_options_are_refused_before_anything_is_touched(box, args, what):
    box.qemu("create", "-q", "-f", "raw", "a", "1M")
    assert what in box.fails(*args)
    assert os.listdir(box.path) == ["a"]


def test_raw_image_with_the_name_of_another_format_is_told(box):
    for args, option in ((["create", "a.qcow2", "1M"], "-f"), (["convert", "a.qcow2", "b.qcow2"], "-O")):
        told = f"cairn-img: warning: {args[0] == 'create' and 'a' or 'b'}.qcow2 gets the format raw in spite of its name; for qcow2, add {option} qcow2\n"
        assert box.img(*args).stderr == told
        assert box.img(args[0], "-q", *args[1:]).stderr == ""
    assert box.img("create", "-f", "raw", "a.qcow2", "1M").stderr == box.img("convert", "-O", "raw", "a.qcow2", "c.qcow2").stderr == ""


def test_option_values_with_commas(box):
    """Two commas stand for one comma in a value."""
    for tool, image in ((box.qemu, "theirs"), (box.img, "ours")):
        box.qemu("create", "-q", "-f", "raw", "a,b=c", "1M")
        tool("create", "-q", "-f", "qcow2", "-o", "backing_file=a,,b=c,backing_fmt=raw,cluster_size=4k", image)
        info = json.loads(box.qemu("info", "--output", "json", image).stdout)
        assert info["backing-filename"] == "a,b=c" and info["cluster-size"] == 4096


def test_encrypted_file_is_no_raw_disk(box):  # noqa: F811
    (box.path / "a").write_bytes(b"LUKS\xba\xbe" + bytes(4090))
    for verb in (("info", "a"), ("convert", "-O", "raw", "a", "x")):
        assert "a begins like an image of the format luks, which is not supported" in box.fails(*verb)
    box.img("info", "-f", "raw", "a")


def test_command_that_is_named_for_an_encrypted_file_converts_it(box):  # noqa: F811
    (box.path / "SECRET").write_text("x")
    options = "key-secret=s,iter-time=10"
    r = box.qemu("create", "-q", "-f", "luks", "--object", "secret,id=s,file=SECRET", "-o", options, "OLD", "1M", status=None)
    if "accurate CPU usage" in r.stderr:
        pytest.skip("qemu-img cannot measure how fast this host computes keys")
    assert r.returncode == 0, r.stderr
    command = box.fails("info", "OLD").split("`")[1].split()
    assert command[0] == "qemu-img"
    box.qemu(*command[1:])
    assert json.loads(box.qemu("info", "--output", "json", "NEW").stdout)["format"] == "qcow2"


@pytest.mark.parametrize("name", ["vmdk", "vmdk,subformat=monolithicFlat", "vdi", "vhdx", "vpc", "qed", "parallels", "bochs"])
def test_other_formats_are_refused_and_never_taken_as_raw(box, name):
    fmt, _, option = name.partition(",")
    if fmt == "bochs":
        (box.path / "a").write_bytes(b"Bochs Virtual HD Image".ljust(4096, b"\0"))
    else:
        box.qemu("create", "-q", "-f", fmt, *(["-o", option] if option else []), "a", "8M")
    before = (box.path / "a").read_bytes()
    for verb in (["info", "a"], ["convert", "-O", "qcow2", "a", "b"], ["map", "a"], ["measure", "-O", "qcow2", "a"], ["compare", "a", "a"],
                 ["check", "a"], ["resize", "a", "16M"], ["dd", "if=a", "of=b"], ["create", "-f", "qcow2", "-b", "a", "-F", fmt, "b"],
                 ["bench", "-w", "-c", "1", "a"]):
        assert f"`qemu-img convert -f {fmt} -O qcow2 OLD NEW`" in box.fails(*verb, status=2 if verb[0] == "compare" else 1)
        assert not (box.path / "b").exists() and (box.path / "a").read_bytes() == before
    assert "file format: raw" in box.img("info", "-f", "raw", "a").stdout


def test_host_device_as_the_format_of_a_backing_file(box):
    box.qemu("create", "-q", "-f", "raw", "base", "1M")
    box.io("base", "write -P 5 0 1M", fmt="raw")
    box.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    box.img("rebase", "-u", "-b", "base", "-F", "host_device", "top")
    assert json.loads(box.img("info", "--output", "json", "top").stdout)["backing-filename-format"] == "host_device"
    box.img("compare", "-f", "qcow2", "-F", "raw", "top", "base")
    box.img("rebase", "-b", "", "top")
    box.qemu("compare", "-F", "raw", "top", "base")


@pytest.mark.parametrize("options", ["lazy_refcounts=off", "compat=0.10", "size=64M"])
def test_amend_repairs_an_image_that_was_not_closed(box, options):
    for tool, image in ((box.img, "ours"), (box.qemu, "theirs")):
        box.qemu("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "32M")
        kill_writer(box, image, "write -P 3 0 5M", "write -P 4 20M 1M")
        tool("amend", "-o", options, image)
        box.qemu("check", image)
    box.qemu("compare", "ours", "theirs")


def test_refused_amend_does_not_repair(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "32M")
    kill_writer(box, "a", "write -P 3 0 5M")
    before = (box.path / "a").read_bytes()
    for options in ("refcount_bits=3", "size=1M", "backing_file=x,backing_fmt=raw"):
        box.fails("amend", "-o", options, "a")
    assert (box.path / "a").read_bytes() == before


@pytest.mark.parametrize("options,status", [
    ("backing_file=b,backing_fmt=raw", 0), ("backing_file=c,backing_fmt=raw", 1), ("backing_file=b", 1),
    ("backing_file=", 1), ("backing_fmt=qcow2", 1), ("backing_file=b,backing_fmt=qcow2", 1), ("cluster_size=64k", 1),
    ("preallocation=off", 1), ("encryption=off", 1), ("compression_type=zlib", 1), ("data_file=x", 1)])
def test_amend_takes_the_options_of_qemu(box, options, status):
    box.qemu("create", "-q", "-f", "raw", "b", "1M")
    box.qemu("create", "-q", "-f", "raw", "c", "1M")
    for tool in (box.img, box.qemu):
        box.qemu("create", "-q", "-f", "qcow2", "-b", "b", "-F", "raw", "o")
        before = (box.path / "o").read_bytes()
        tool("amend", "-q", "--force", "-t", "none", "-o", options, "o", status=status)
        assert (box.path / "o").read_bytes() == before
