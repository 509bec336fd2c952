"""4,096 blocks of memory that are not zero but have the CRC32C of zeros: each way in which memory is stored and comes
back keeps them. The guest writes and checks them."""

import subprocess

import pytest

from conftest import Console

AT, BYTES = 32 << 20, 256 << 20

pytestmark = pytest.mark.seconds(300)  # the guest reads or writes 2 GiB; beside other tests, at a load of 36, that took 125 s


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    """A running interpreter, src, with such blocks by seed 1."""
    disk = tmp_path / "vda.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"], check=True)
    daemon.define("src", debug_exit=True, memory="320M", boot={"kernel": guest("interp.elf")},
                  disks=[{"path": str(disk), "format": "qcow2"}])
    daemon.cairn("start", "src")
    with_console(daemon, "src", first=f"like-zeros {AT} {BYTES} 1")


def with_console(daemon, name, first=None, holds=None):
    console = Console(daemon, name)
    try:
        if first:
            while console.line() != "interp":
                pass
            console.run(first)
        if holds:
            console.run(f"like-zeros-check {AT} {BYTES} {holds}")
    finally:
        console.close()


def again(daemon, seed):
    """Give the blocks other content."""
    console = Console(daemon, "src")
    console.run(f"like-zeros {AT} {BYTES} {seed}")
    console.close()


def test_snapshots_and_reverts_keep_blocks_with_the_crc_of_zeros(vm, daemon):
    daemon.cairn("snapshot-create-as", "src", "first")
    again(daemon, 2)
    daemon.cairn("snapshot-create-as", "src", "second")  # shares unchanged blocks with the first
    again(daemon, 3)
    for name, seed in ("second", 2), ("first", 1), ("second", 2):
        daemon.cairn("snapshot-revert", "src", name)
        with_console(daemon, "src", holds=seed)
    daemon.cairn("destroy", "src")
    daemon.cairn("snapshot-revert", "src", "first")  # by a process of its own, which loads all memory
    with_console(daemon, "src", holds=1)


def test_save_and_restore_keep_blocks_with_the_crc_of_zeros(vm, daemon, tmp_path):
    daemon.cairn("save", "src", str(tmp_path / "src.save"))
    daemon.cairn("restore", str(tmp_path / "src.save"))
    with_console(daemon, "src", holds=1)


def test_forks_keep_blocks_with_the_crc_of_zeros(vm, daemon):
    daemon.cairn("snapshot-create-as", "src", "first")
    daemon.cairn("clone", "--live", "src", "a")
    daemon.cairn("clone", "--live", "a", "b")  # of a clone
    daemon.cairn("clone", "--live", "src", "c", "--snapshotname", "first")
    for name in "a", "b", "c", "src":
        with_console(daemon, name, holds=1)
