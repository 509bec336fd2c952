"""Options of an image that choose its backing file, its data file or a range of a raw file, compared with qemu-img."""
import json
import os

import pytest
from nbdlib import nbdkit
from test_img import MIB, box  # noqa: F401


@pytest.fixture
def disk(box):
    """Raw disks of 4 MiB: b with 3 in [0, 1M), c with 4 in [1M, 2M); over b the qcow2 image t with 5 in [3M, 3M + 64k);
    the image x with the data file d, whose copy is e with 6 at its start; s, which is shorter than a sector."""
    for name, where in (("b", "3 0 1M"), ("c", "4 1M 1M")):
        box.qemu("create", "-q", "-f", "raw", name, "4M")
        box.io(name, "write -P " + where, fmt="raw")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "b", "-F", "raw", "t")
    box.io("t", "write -P 5 3M 64k")
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=d", "x", "1M")
    box.io("x", "write -P 7 0 128k")
    (box.path / "e").write_bytes(b"\6" * 1000 + (box.path / "d").read_bytes()[1000:])
    (box.path / "s").write_bytes(b"\1" * 100)
    return box


def as_json(**options):
    return "json:" + json.dumps(options)


T = {"driver": "qcow2", "file": {"driver": "file", "filename": "t"}}
X = {"driver": "qcow2", "file.filename": "x"}
B = {"driver": "raw", "file": {"driver": "file", "filename": "b"}}

NAMES = [
    (as_json(**T, backing=None),), (as_json(**T, backing={"driver": "raw", "file": {"driver": "file", "filename": "c"}}),),
    (as_json(**T, backing={"driver": "qcow2", "file": {"filename": "t2"}}),), (as_json(**{**T, "backing.driver": "raw"}),),
    (as_json(**{**T, "backing.file.filename": "c"}),), (as_json(**{**T, "backing.file.driver": "file", "backing.file.filename": "c"}),),
    ("--image-opts", "driver=qcow2,file.filename=t,backing.cache.direct=off"),
    (as_json(**X, **{"data-file": {"driver": "file", "filename": "e"}}),), ("--image-opts", "driver=qcow2,file.filename=x,data-file.driver=file,data-file.filename=e"),
    (as_json(**B, offset=MIB // 2, size=MIB),), ("--image-opts", "driver=raw,offset=3M,file.filename=b"), ("--image-opts", "driver=raw,size=512,file.filename=b"),
    ("--image-opts", "driver=raw,offset=512,size=1M,file.driver=file,file.filename=b"),
    (as_json(driver="qcow2", file={"driver": "raw", "file": {"driver": "file", "filename": "t"}}),),
    ("--image-opts", "driver=raw,offset=1M,file.driver=raw,file.file.filename=c")]


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", NAMES)
def test_options_are_read_as_qemu_reads_them(disk, name):
    disk.qemu("create", "-q", "-f", "qcow2", "-b", "c", "-F", "raw", "t2")
    disk.io("t2", "write -P 8 2M 64k")
    for verb in (("map", "--output", "json"), ("measure", "-O", "qcow2", "--output", "json")):
        ours, theirs = (json.loads(tool(*verb, *name).stdout) for tool in (disk.img, disk.qemu))
        assert ours == theirs
    info = json.loads(disk.img("info", "--output", "json", *name).stdout)
    if "backing" not in name[-1]:  # qemu-img refuses options that `info` does not use
        theirs = json.loads(disk.qemu("info", "--output", "json", *name).stdout)
        assert info["format"] == theirs["format"] and info["virtual-size"] == theirs["virtual-size"]
    for fmt in ("raw", "qcow2"):
        disk.img("convert", "-O", fmt, *name, "ours")
        disk.qemu("convert", "-O", fmt, *name, "theirs")
        disk.qemu("compare", "-f", fmt, "-F", fmt, "ours", "theirs")
    disk.img("compare", *name, name[-1])


def test_ranges_that_are_not_aligned(disk):
    """qemu-img cannot map them, but reads them."""
    for offset in (1, 511, MIB - 7):
        name = as_json(**B, offset=offset, size=MIB)
        disk.img("convert", "-O", "raw", name, "ours")
        assert (disk.path / "ours").read_bytes() == (disk.path / "b").read_bytes()[offset:offset + MIB]
        disk.img("compare", name, "ours")


def test_options_with_servers(disk):
    with nbdkit(disk.path, "file", "c") as sock:
        over, part = as_json(**T, backing={"driver": "raw", "file.filename": "c"}), {"driver": "raw", "offset": MIB, "size": 2 * MIB}
        for name, local in ((as_json(**T, backing={"driver": "nbd", "server": {"type": "unix", "path": sock}}), over),
                            (as_json(**T, backing={"driver": "raw", "file": {"driver": "nbd", "path": sock}}), over),
                            (as_json(**part, file={"driver": "nbd", "path": sock}), as_json(**part, file={"filename": "c"}))):
            assert json.loads(disk.img("map", "--output", "json", name).stdout) == json.loads(disk.qemu("map", "--output", "json", local).stdout)
            disk.img("convert", "-O", "raw", name, "ours")
            disk.qemu("convert", "-O", "raw", local, "theirs")
            assert (disk.path / "ours").read_bytes() == (disk.path / "theirs").read_bytes()


def test_data_file_is_written(disk):
    before = (disk.path / "d").read_bytes()
    disk.qemu("create", "-q", "-f", "raw", "new", "1M")
    disk.io("new", "write -P 9 0 1M", fmt="raw")
    disk.img("convert", "-n", "--target-image-opts", "new", "driver=qcow2,file.filename=x,data-file.filename=e")
    assert (disk.path / "d").read_bytes() == before
    disk.qemu("compare", "--image-opts", "driver=qcow2,file.filename=x,data-file.driver=file,data-file.filename=e", "driver=raw,file.filename=new")


@pytest.mark.sample(12)
@pytest.mark.parametrize("options,what", [
    ({**T, "backing": "node0"}, "cannot name a node"), ({**T, "backing": {"driver": "raw", "file": {"filename": "missing"}}}, "No such file"),
    ({**T, "backing": {"driver": "qcow2", "file": {"filename": "t"}}}, "loop"), ({**T, "backing": {"driver": "vmdk"}}, "unknown format"),
    ({**T, "backing": {"driver": "raw", "backing": {"driver": "raw"}}}, "only driver=qcow2"),
    ({**T, "backing": {"driver": "qcow2", "file.filename": "t2", "backing.driver": "raw"}}, "not supported"),
    ({**T, "backing": {"driver": "raw", "offset": 512, "file.filename": "c"}}, "not supported"), ({**T, "backing": {"foo": 1}}, "unknown option 'foo'"),
    ({**T, "backing": {"driver": "raw", "file": {"filename": "c" * 5000}}}, "more than 4095 bytes"), ({**B, "backing": None}, "only driver=qcow2"),
    ({**T, "backing": {"driver": "qcow2", "file": {"driver": "nbd", "path": "/x"}}}, "qcow2 image over NBD"),
    ({**T, "data-file.filename": "e"}, "no external data file"), ({**X, "data-file": "node0"}, "cannot name a node"), ({**X, "data-file.filename": "x"}, "loop"),
    ({**X, "data-file": {"driver": "nbd", "filename": "e"}}, "of a data file is not supported"), ({**X, "data-file.foo": "e"}, "unknown option"),
    ({**T, "offset": 512}, "need driver=raw"), ({"driver": "file", "filename": "b", "offset": 512}, "need driver=raw"), ({**B, "offset": -1}, "invalid size"),
    ({**B, "size": 1000}, "multiple of 512"), ({**B, "size": 0}, "multiple of 512"), ({**B, "offset": 4 * MIB + 1}, "outside"), ({**B, "size": 5 * MIB}, "outside"),
    ({**B, "offset": 1 << 62, "size": 1 << 62}, "outside"), ({**B, "offset": 1 << 63}, "too large"), ({**B, "offset": 3 * MIB, "size": 2 * MIB}, "outside"),
    ({"driver": "raw", "file": {"driver": "raw", "filename": "b"}}, "file.file"), ({"driver": "raw", "file": {"driver": "file", "file": {"filename": "b"}}}, "file.file"),
    ({"driver": "qcow2", "file": {"driver": "raw", "offset": 512, "file": {"filename": "t"}}}, "unknown option 'file.offset'")])
def test_bad_options(disk, options, what):
    disk.qemu("create", "-q", "-f", "qcow2", "-b", "c", "-F", "raw", "t2")
    name = as_json(**options)
    assert what in disk.fails("map", name)
    assert disk.fails("convert", "-O", "raw", name, "y")
    assert not (disk.path / "y").exists()


def test_changes_refuse_another_backing_file_and_ranges(disk):
    before = {n: (disk.path / n).read_bytes() for n in "btc"}
    for name in (as_json(**T, backing=None), as_json(**T, backing={"driver": "raw", "file.filename": "c"}), as_json(**B, size=MIB)):
        for verb in (("rebase", "-b", ""), ("commit",), ("bench", "-w", "-c", "1"), ("trim",), ("resize", "--shrink")):
            disk.fails(*verb, name, *(["1M"] if verb[0] == "resize" else []))
    disk.fails("convert", "-n", "--target-image-opts", "c", "driver=raw,offset=512,file.filename=b")
    assert {n: (disk.path / n).read_bytes() for n in "btc"} == before
    assert "backing-chain" in disk.fails("info", "--backing-chain", as_json(**T, backing=None))


def test_header_names_stay_untrusted(disk):
    """Options without a file keep the name in the header, with its limits."""
    os.mkdir(disk.path / "sub")
    os.rename(disk.path / "t", disk.path / "sub/t")
    disk.qemu("rebase", "-u", "-b", "../b", "-F", "raw", "sub/t")
    name = "driver=qcow2,file.filename=sub/t,backing.driver=raw"
    assert "--allow" in disk.fails("map", "--image-opts", name)
    assert disk.img("map", "--allow", ".", "--image-opts", name).stdout
    disk.qemu("rebase", "-u", "-b", "nbd:unix:/nowhere", "-F", "raw", "sub/t")
    assert "--trust-backing" in disk.fails("map", "--image-opts", name)
    assert "cannot connect" in disk.fails("map", "--trust-backing", "--image-opts", name)


@pytest.mark.parametrize("verb", ["create", "rebase"])
def test_overlay_beyond_the_most_layers_is_refused(box, verb):
    """Cairn could not open it; -u, which does not open the backing file, refuses nothing."""
    box.img("create", "-q", "-f", "raw", "l0", "1M")
    for n in range(1, 16):
        box.img("create", "-q", "-f", "qcow2", "-b", f"l{n - 1}", "-F", "qcow2" if n > 1 else "raw", f"l{n}")
    box.img("info", "--backing-chain", "l15")
    box.img("create", "-q", "-f", "qcow2", "top", "1M")
    before = (box.path / "top").read_bytes()
    args = ("create", "-f", "qcow2", "-b", "l15", "-F", "qcow2", "top") if verb == "create" else ("rebase", "-b", "l15", "-F", "qcow2", "top")
    assert "the backing file l15 has 16 layers itself" in box.fails(*args)
    assert (box.path / "top").read_bytes() == before
    box.img(*args[:-1], "-u", "top", *(["1M"] if verb == "create" else []))
