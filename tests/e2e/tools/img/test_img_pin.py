"""cairn-img with pins, and with the disks of live clones, which stand on them. Oracle: qemu-img, which reads what
cairn-img makes of such a disk, and refuses the disk itself."""
import json
import os
import shutil

import pinlib
import pytest
from test_img import MIB, box  # noqa: F401

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

PIN = bytes(range(0xF0, 0x100))
NAME = f"cairn-pin-{PIN.hex()}"


def content(box, name):
    """The disk's content, as QEMU reads it."""
    box.qemu("convert", "-f", "qcow2", "-O", "raw", name, "content.raw")
    data = (box.path / "content.raw").read_bytes()
    (box.path / "content.raw").unlink()
    return data


@pytest.fixture
def fork(box):
    """An image `src` with a pin, an overlay `fork` on it, and the content that `fork` must have in `frozen`."""
    box.qemu("create", "-q", "-f", "qcow2", "base", "16M")
    box.io("base", "write -P 9 0 1M", "write -P 8 14M 1M")
    box.qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "src")
    box.io("src", "write -P 1 1M 3M", "write -P 2 10M 128k")
    box.qemu("snapshot", "-c", NAME, "src")
    ext = pinlib.mark(box.path / "src", PIN)
    box.qemu("create", "-q", "-f", "qcow2", "fork", "16M")
    box.io("fork", "write -P 5 2M 128k")
    pinlib.stand_on(box.path / "fork", "src", ext)
    box.qemu("convert", "-f", "qcow2", "-O", "qcow2", "src", "copy")
    box.io("copy", "write -P 5 2M 128k")
    box.frozen = content(box, "copy")
    # Later writes of the source do not reach the fork.
    box.io("src", "write -P 3 0 16M", "discard 12M 1M")
    box.qemu("check", "-q", "src")
    return box


def test_convert_reads_the_frozen_content(fork):
    fork.img("convert", "-O", "qcow2", "fork", "out")
    assert content(fork, "out") == fork.frozen
    fork.img("compare", "fork", "out")
    fork.img("compare", "fork", "src", status=1)
    fork.img("convert", "-O", "raw", "fork", "raw")
    assert (fork.path / "raw").read_bytes() == fork.frozen


def test_rebase_makes_an_image_that_qemu_reads(fork):
    fork.qemu("info", "--backing-chain", "fork", status=1)
    fork.img("rebase", "-b", "", "fork")
    assert "backing-filename" not in json.loads(fork.qemu("info", "--output", "json", "fork").stdout)
    assert content(fork, "fork") == fork.frozen
    fork.qemu("check", "-q", "fork")
    assert b"CRNP" not in (fork.path / "fork").read_bytes()[:4096]
    os.unlink(fork.path / "src")
    fork.img("check", "fork")


def test_rebase_to_another_backing_file_keeps_the_content(fork):
    fork.img("rebase", "-b", "base", "-F", "qcow2", "fork")
    assert content(fork, "fork") == fork.frozen


def test_info_and_map_show_the_chain(fork):
    out = fork.img("info", "fork").stdout
    assert f"backing file: cairn-fork:src?snapshot={PIN.hex()}\n" in out
    assert f"backing file's pin: {PIN.hex()}\n" in out
    chain = json.loads(fork.img("info", "--backing-chain", "--output", "json", "fork").stdout)
    assert [os.path.basename(x["filename"]) for x in chain] == ["fork", "src", "base"]
    assert chain[0]["backing-pin"] == PIN.hex()
    assert os.path.basename(chain[0]["full-backing-filename"]) == "src"
    assert [s["pin"] for s in chain[1]["snapshots"]] == [PIN.hex()]
    layers = json.loads(fork.img("map", "--output", "json", "fork").stdout)
    assert {x["depth"] for x in layers if x["data"]} == {0, 1, 2}
    at = {x["start"]: x for x in layers}
    assert at[2 * MIB]["depth"] == 0 and at[MIB]["depth"] == 1 and at[0]["depth"] == 2


def test_check_accepts_both(fork):
    for name in ("fork", "src"):
        assert "No errors" in fork.img("check", name).stdout
        fork.img("check", "-r", "all", name)
    fork.img("convert", "-O", "raw", "fork", "raw")
    assert (fork.path / "raw").read_bytes() == fork.frozen


def test_verbs_that_would_change_a_pin_are_refused(fork):
    before = (fork.path / "src").read_bytes()
    assert f"'{NAME}' is a pin" in fork.fails("snapshot", "-d", NAME, "src")
    assert f"'{NAME}' is a pin" in fork.fails("snapshot", "-d", "1", "src")
    for args in (["rebase", "-b", ""], ["rebase", "-u", "-b", ""], ["commit", "-f", "qcow2"]):
        assert "holds the content of live clones' disks (1 pin)" in fork.fails(*args, "src")
    assert (fork.path / "src").read_bytes() == before
    before = (fork.path / "fork").read_bytes()
    assert "rebase -b" in fork.fails("commit", "-f", "qcow2", "fork")
    assert (fork.path / "fork").read_bytes() == before


def test_source_that_has_moved_is_found_by_its_new_name(fork):
    """The plain name would lead to what the source has now."""
    os.rename(fork.path / "src", fork.path / "away")
    before = (fork.path / "fork").read_bytes()
    assert "leave out -u" in fork.fails("rebase", "-u", "-b", "", "fork")
    assert "is not the image that fork was cloned from" in fork.fails("rebase", "-u", "-b", "copy", "-F", "qcow2", "fork")
    assert "No such file" in fork.fails("rebase", "-u", "-b", "none", "-F", "qcow2", "fork")
    assert (fork.path / "fork").read_bytes() == before
    fork.img("rebase", "-u", "-b", "away", "-F", "qcow2", "fork")
    assert f"backing file: cairn-fork:away?snapshot={PIN.hex()}\n" in fork.img("info", "fork").stdout
    fork.img("convert", "-O", "raw", "fork", "raw")
    assert (fork.path / "raw").read_bytes() == fork.frozen
    fork.qemu("convert", "fork", "out", status=1)


def test_names_of_pins_are_given_by_live_clones_only(fork):
    name = f"cairn-fork:src?snapshot={PIN.hex()}"
    assert "only a live clone" in fork.fails("create", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", "new", "16M")
    assert "only a live clone" in fork.fails("rebase", "-u", "-b", name, "-F", "qcow2", "fork")
    assert not (fork.path / "new").exists()


def test_source_elsewhere_needs_allow(fork):
    os.mkdir(fork.path / "sub")
    os.rename(fork.path / "fork", fork.path / "sub/fork")
    assert "No such file" in fork.fails("convert", "-O", "raw", "sub/fork", "raw")
    os.symlink("../src", fork.path / "sub/src")
    assert "lies outside of its folder" in fork.fails("convert", "-O", "raw", "sub/fork", "raw")
    fork.img("convert", "--allow", ".", "-O", "raw", "sub/fork", "raw")
    assert (fork.path / "raw").read_bytes() == fork.frozen


def test_fork_without_its_pin_is_refused_by_name(fork):
    fork.qemu("snapshot", "-d", NAME, "src")
    for args in (["convert", "-O", "raw", "fork", "raw"], ["map", "fork"], ["rebase", "-b", "", "fork"]):
        assert "its pin (a hidden snapshot) was deleted" in fork.fails(*args)
    fork.img("info", "fork")
    fork.img("check", "fork")
