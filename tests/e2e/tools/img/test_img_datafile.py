"""Images with an external data file: cairn-img compared with qemu-img."""
import json
import os
import random
import shutil
import subprocess

import pytest

from test_img import MIB, box  # noqa: F401 (box is a fixture)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

KINDS = [
    "data_file_raw=off",
    "data_file_raw=on",
    "data_file_raw=off,extended_l2=on",
    "data_file_raw=on,extended_l2=on,cluster_size=16k",
    "data_file_raw=off,cluster_size=4k",
]


def options(kind, data="disk.raw"):
    return f"data_file={data},{kind}"


def info(box, name):
    return json.loads(box.img("info", "--output", "json", name).stdout)


def mapped(box, name):
    """Return QEMU's map. QEMU looks for holes in a data file when the image's own file has some."""
    extents = json.loads(box.qemu("map", "--output", "json", name).stdout)
    return [{k: v for k, v in x.items() if k != "zero"} for x in extents]


def content(path, size=8 * MIB, seed=1):
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(20):
            f.seek(rng.randrange(size - 70000) // 512 * 512)
            f.write(rng.randbytes(rng.randrange(1, 130) * 512))


def same(a, b):
    return a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_create_is_what_qemu_creates(box, kind):
    box.img("create", "-q", "-f", "qcow2", "-o", options(kind, "ours.raw"), "ours", "20M")
    box.qemu("create", "-q", "-f", "qcow2", "-o", options(kind, "theirs.raw"), "theirs", "20M")
    got = {}
    for name in ("ours", "theirs"):
        seen = json.loads(box.qemu("info", "--output", "json", name).stdout)
        assert seen["format-specific"]["data"].pop("data-file") == f"{name}.raw"
        for key in ("filename", "actual-size"):
            del seen[key]
        got[name] = seen, mapped(box, name)
        assert (box.path / f"{name}.raw").stat().st_size == 20 * MIB
    assert got["ours"] == got["theirs"]
    box.qemu("check", "ours")
    box.img("check", "ours")


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_writes_we_read(box, kind):
    box.qemu("create", "-q", "-f", "qcow2", "-o", options(kind), "disk", "8M")
    box.io("disk", "write -P 1 0 64k", "write -P 2 1M 4k", "write -z 2M 128k", "write -P 3 5000k 200k",
           "discard 0 32k", "write -z -u 5M 64k", "write -P 4 2M 512")
    box.qemu("convert", "-O", "raw", "disk", "theirs")
    box.img("convert", "-O", "raw", "disk", "ours")
    assert same(box.path / "ours", box.path / "theirs")
    for verb in (["map"], ["check"], ["map", "--output", "json"]):
        assert box.img(*verb, "disk").stdout == box.qemu(*verb, "disk").stdout
    assert box.img("compare", "disk", "theirs").stdout == "Images are identical.\n"
    ours = box.img("info", "disk").stdout.splitlines()
    theirs = box.qemu("info", "disk").stdout.splitlines()
    assert [s for s in ours if "data file" in s] == [s for s in theirs if "data file" in s]
    assert info(box, "disk")["format-specific"] == json.loads(
        box.qemu("info", "--output", "json", "disk").stdout)["format-specific"]


@pytest.mark.parametrize("kind", KINDS)
def test_we_write_qemu_reads(box, kind):
    content(box.path / "src")
    box.img("convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options(kind), "src", "disk")
    assert sorted(os.listdir(box.path)) == ["disk", "disk.raw", "src"]
    box.qemu("check", "disk")
    box.img("check", "disk")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "disk")
    if "raw=on" in kind:
        assert same(box.path / "src", box.path / "disk.raw")
    # over existing data: zeros, other data
    content(box.path / "src", seed=2)
    box.img("convert", "-q", "-n", "-f", "raw", "-O", "qcow2", "src", "disk")
    box.qemu("check", "disk")
    box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "disk")
    if "raw=on" in kind:
        assert same(box.path / "src", box.path / "disk.raw")
    box.io("disk", "write -P 9 3M 100k", "read -P 9 3M 100k")
    assert box.img("compare", "src", "disk", status=1).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_resize_changes_data_file(box, kind):
    content(box.path / "src")
    box.img("convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options(kind), "src", "disk")
    if "raw=on" not in kind:
        with open(box.path / "disk.raw", "ab") as f:  # data behind the end must not become visible
            f.write(b"x" * MIB)
    for size, args in ((11 * MIB, []), (3 * MIB, ["--shrink"]), (9 * MIB, ["--preallocation=metadata"])):
        box.img("resize", "-f", "qcow2", *args, "disk", size)
        with open(box.path / "src", "r+b") as f:
            f.truncate(size)
        assert (box.path / "disk.raw").stat().st_size == size
        box.qemu("check", "disk")
        box.qemu("compare", "-f", "raw", "-F", "qcow2", "src", "disk")
        assert box.img("compare", "src", "disk").returncode == 0
        if "raw=on" in kind:
            assert same(box.path / "src", box.path / "disk.raw")


@pytest.mark.parametrize("how", ["off", "metadata", "falloc"])
def test_growing_keeps_what_a_raw_data_file_has_behind_the_end(box, how):
    box.img("create", "-q", "-f", "qcow2", "-o", options("data_file_raw=on"), "disk", "1M")
    box.io("disk", "write -P 42 0 1M")
    with open(box.path / "disk.raw", "ab") as f:
        f.write(b"x" * 3 * MIB)
    want = (box.path / "disk.raw").read_bytes()
    box.img("resize", "-f", "qcow2", "-q", f"--preallocation={how}", "disk", "2M")
    assert (box.path / "disk.raw").read_bytes() == want
    box.io("disk", "read -P 42 0 1M", f"read -P {ord('x')} 1M 1M")
    box.qemu("check", "disk")


@pytest.mark.parametrize("kind", KINDS)
def test_added_range_is_mapped_as_by_qemu(box, kind):
    for verb, name in ((box.img, "ours"), (box.qemu, "theirs")):
        box.qemu("create", "-q", "-f", "qcow2", "-o", options(kind, f"{name}.raw"), name, "1M")
        verb("resize", "-q", "-f", "qcow2", name, "20M")
    assert mapped(box, "ours") == mapped(box, "theirs")
    box.qemu("check", "ours")


def test_first_write_does_not_fill_cluster(box):
    """Where the data file has a hole, a first write does not fill the rest of the cluster."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", options("data_file_raw=off"), "disk", "8M")
    box.img("bench", "-w", "-s", "4k", "-S", "64k", "-c", "128", "-f", "qcow2", "--pattern=7", "disk")
    assert (box.path / "disk.raw").stat().st_blocks * 512 <= MIB
    box.io("disk", "read -P 7 0 4k", "read -P 0 4k 60k", "read -P 7 64k 4k")
    # data in the file below an unmapped cluster must not become visible
    with open(box.path / "disk.raw", "r+b") as f:
        f.truncate(0)
        f.write(b"x" * (8 * MIB))
    box.qemu("create", "-q", "-f", "qcow2", "-o", options("data_file_raw=off", "other.raw"), "other", "8M")
    os.rename(box.path / "disk.raw", box.path / "other.raw")
    box.img("bench", "-w", "-s", "4k", "-S", "64k", "-c", "128", "-f", "qcow2", "--pattern=7", "other")
    box.io("other", "read -P 7 0 4k", "read -P 0 4k 60k", "read -P 7 64k 4k")


def test_trim_includes_data_file(box):
    box.qemu("create", "-q", "-f", "qcow2", "-o", options("data_file_raw=off"), "disk", "8M")
    box.io("disk", "write -P 0 0 4M", "write -P 1 4M 1M")
    said = json.loads(box.img("trim", "-f", "qcow2", "--zeros", "--format", "json", "disk").stdout.splitlines()[-1])
    assert said["before"] - said["after"] >= 4 * MIB
    assert "and its data file:" in box.img("trim", "-f", "qcow2", "--zeros", "disk").stdout


@pytest.mark.parametrize("how", ["metadata", "falloc", "full"])
def test_preallocation_fills_data_file(box, how):
    for tool, name in ((box.img, "ours"), (box.qemu, "theirs")):
        tool("create", "-q", "-f", "qcow2", "-o", f"data_file={name}.raw,preallocation={how}", name, "4M")
    assert mapped(box, "ours") == mapped(box, "theirs")
    if how != "metadata":
        assert (box.path / "ours.raw").stat().st_blocks * 512 >= 4 * MIB
    box.qemu("check", "ours")


def test_rebase_and_commit_with_data_files(box):
    content(box.path / "base.raw")
    box.img("convert", "-q", "-f", "raw", "-O", "qcow2", "-o", "data_file=base.data,data_file_raw=on", "base.raw", "base")
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=top.data", "-b", "base", "-F", "qcow2", "top")
    box.io("top", "write -P 7 1M 100k", "write -z 4M 1M")
    box.qemu("convert", "-O", "raw", "top", "want")
    assert box.img("compare", "want", "top").returncode == 0
    # after a commit the base has its own data file, which stays raw
    box.img("commit", "-f", "qcow2", "-q", "top")
    assert same(box.path / "want", box.path / "base.data")
    assert (box.path / "top.data").stat().st_blocks == 0
    box.qemu("check", "base")
    box.qemu("check", "top")
    assert box.img("compare", "want", "top").returncode == 0
    # without a backing file in the end
    box.img("rebase", "-f", "qcow2", "-b", "", "top")
    box.qemu("check", "top")
    assert box.img("compare", "want", "top").returncode == 0
    assert "do not go together" in box.fails("rebase", "-u", "-b", "top", "-F", "qcow2", "base")


def test_convert_makes_an_overlay_with_a_data_file(box):
    content(box.path / "base")
    box.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "a")
    box.io("a", "write -P 7 1M 1M")
    for tool, name in ((box.img, "ours"), (box.qemu, "theirs")):
        tool("convert", "-O", "qcow2", "-o", f"data_file={name}.data", "-B", "base", "-F", "raw", "a", name)
        box.qemu("compare", "a", name)
    box.qemu("check", "ours")
    assert info(box, "ours")["backing-filename"] == "base"
    assert same(box.path / "ours.data", box.path / "theirs.data")
    assert not list(box.path.glob("*.part*"))


def test_amend_of_data_file_options(box):
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=a,data_file_raw=on", "disk", "1M")
    box.io("disk", "write -P 5 0 64k")
    box.img("amend", "-o", "data_file_raw=off", "disk")
    assert info(box, "disk")["format-specific"]["data"]["data-file-raw"] is False
    assert "cannot be switched on" in box.fails("amend", "-o", "data_file_raw=on", "disk")
    os.rename(box.path / "a", box.path / "b")
    assert "data file" in box.fails("convert", "-O", "raw", "disk", "x")
    box.img("amend", "-o", "data_file=b", "disk")
    box.io("disk", "read -P 5 0 64k")
    assert json.loads(box.qemu("info", "--output", "json", "disk").stdout)["format-specific"]["data"]["data-file"] == "b"
    box.img("create", "-q", "-f", "qcow2", "plain", "1M")
    assert "keeps its data itself" in box.fails("amend", "-o", "data_file=b", "plain")
    box.img("amend", "-o", "lazy_refcounts=on", "disk")
    box.qemu("check", "disk")


def test_conflicting_options_are_refused(box):
    box.img("create", "-q", "-f", "qcow2", "base", "1M")
    before = sorted(os.listdir(box.path))
    for opts, says in (("data_file_raw=on", "needs data_file"), ("compat=0.10,data_file=d", "compat=1.1"),
                       ("data_file=d,data_file_raw=on,backing_file=base,backing_fmt=qcow2", "do not go together"),
                       ("data_file=", "1 to 1023"), ("data_file=nbd://host/x", "invalid data file name"),
                       ("data_file=disk", "its own data file"), (f"data_file={'n' * 1024}", "1 to 1023")):
        assert says in box.fails("create", "-f", "qcow2", "-o", opts, "disk", "1M"), opts
        assert sorted(os.listdir(box.path)) == before
    assert "no compressed clusters" in box.fails("convert", "-c", "-O", "qcow2", "-o", "data_file=d", "base", "x")
    assert "raw" in box.fails("create", "-f", "raw", "-o", "data_file=d", "x", "1M")
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=d", "disk", "1M")
    says = box.fails("snapshot", "-c", "s", "disk")
    assert "external data file" in says and "convert" in says
    box.qemu("check", "disk")


def test_failed_convert_leaves_no_data_file(box):
    content(box.path / "src")
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=d", "disk", "1M")
    box.io("disk", "write -P 3 0 1M")
    was = (box.path / "d").read_bytes()
    # the source's data file as the target's
    assert "the target's data file d is a data file of the source disk" in box.fails("convert", "-O", "qcow2", "-o", "data_file=d", "disk", "other")
    assert (box.path / "d").read_bytes() == was
    assert "cannot create" in box.fails("convert", "-O", "qcow2", "-o", "data_file=no/folder", "disk", "other")
    assert sorted(os.listdir(box.path)) == ["d", "disk", "src"]


def data_name(box, name):
    """Change the name of the data file in the image, to one that is not longer."""
    image = (box.path / "disk").read_bytes()
    at = image.index(b"DATA", 104)
    size = int.from_bytes(image[at + 4:at + 8], "big")
    padded = (size + 7) // 8 * 8
    assert len(name) <= padded
    with open(box.path / "disk", "r+b") as f:
        f.seek(at + 4)
        f.write(len(name).to_bytes(4, "big") + name.ljust(padded, b"\0"))
        if (len(name) + 7) // 8 * 8 < padded:
            pytest.fail("the extension behind would move")


def test_unsafe_data_file_names_are_refused(box, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(b"s" * MIB)
    long = "x" * 79
    box.img("create", "-q", "-f", "qcow2", "-o", f"data_file={long}", "disk", "1M")
    (box.path / "link").symlink_to(outside / "secret")
    (box.path / "folder").mkdir()

    def padded(name):  # the same length, and the same file
        return name.replace("PAD", "/" * (79 - len(name) + 3)).encode()

    for name, says in (("PAD/etc/shadow", "outside of its folder"), ("..PAD" + f"{outside.name}/secret", "outside"),
                       (".PADlink", "outside of its folder"), (".PADnothing", "nothing"), (".PADfolder", "a folder"),
                       (".PADdisk", "occurs twice"), ("nbd:PADhost", "local files"), ("json:{}PAD", "local files")):
        data_name(box, padded(name))
        says_it = box.fails("convert", "-O", "raw", "disk", "x")
        assert says in says_it, (name, says_it)
        assert not (box.path / "x").exists()
        box.img("info", "disk")  # looks at the image only
        box.img("check", "disk")
    data_name(box, padded(".PADlink"))
    box.img("convert", "-O", "raw", "--allow", outside, "disk", "x")
    assert (outside / "secret").read_bytes() == b"s" * MIB


def test_image_without_data_file_name_is_refused(box):
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=d", "disk", "1M")
    image = bytearray((box.path / "disk").read_bytes())
    at = image.index(b"DATA", 104)
    image[at:at + 4] = b"DATX"
    (box.path / "disk").write_bytes(image)
    assert "does not name it" in box.fails("convert", "-O", "raw", "disk", "x")


def test_data_file_is_locked_against_other_images(box):
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "disk", "1M")
    shutil.copy(box.path / "disk", box.path / "twin")  # another image with the same data file
    with subprocess.Popen(["qemu-io", "-f", "qcow2", "twin"], cwd=box.path, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as holder:
        holder.stdin.write("write 0 512\n")
        holder.stdin.flush()
        line = ""
        while "wrote" not in line:
            line = holder.stdout.readline()
            assert line
        says = box.fails("resize", "-f", "qcow2", "disk", "2M")
        assert "data file" in says and "in use" in says
        assert "data file" in box.fails("convert", "-O", "raw", "disk", "x")
        assert "in use" in box.fails("create", "-f", "qcow2", "-o", "data_file=d", "third", "1M")
        holder.stdin.close()
        holder.stdout.read()
        assert holder.wait() == 0


def test_repair_of_image_with_data_file(box):
    box.img("create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "disk", "1M")
    box.io("disk", "write -P 6 0 1M")
    image = (box.path / "disk").read_bytes()
    l1 = int.from_bytes(image[40:48], "big")
    l2 = int.from_bytes(image[l1:l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    with open(box.path / "disk", "r+b") as f:
        for i, entry in ((1, 0x8000000000050000), (2, 0x4000000000020000), (3, 0x30000), (4, 0x8000000000040200)):
            f.seek(l2 + 8 * i)
            f.write(entry.to_bytes(8, "big"))
    out = box.img("check", "disk", status=2).stdout
    assert "its own place" in out and "compressed" in out and "COPIED" in out
    box.qemu("check", "disk", status=2)
    box.img("check", "-r", "all", "disk")
    box.qemu("check", "disk")
    box.io("disk", "read -P 6 0 1M")  # a raw data file has lost nothing


@pytest.mark.parametrize("target", [("-O", "qcow2", "x"), ("--target-image-opts", "driver=qcow2,file.filename=x"),
                                    ("--target-image-opts", "driver=qcow2,file.filename=x,data-file.filename=d")])
def test_convert_to_an_image_whose_data_file_is_the_source_is_refused(box, target):
    """-U takes no lock, so no lock detects it."""
    box.qemu("create", "-q", "-f", "qcow2", "-o", "data_file=d", "x", "1M")
    box.io("x", "write -P 7 0 128k")
    before = (box.path / "d").read_bytes()
    assert "source and target's data file are the same file" in box.fails("convert", "-U", "-n", "-f", "raw", "d", *target)
    assert (box.path / "d").read_bytes() == before
