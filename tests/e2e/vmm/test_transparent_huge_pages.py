"""Guest memory in transparent huge pages: which VMs have them, and that snapshots, clones and handovers of such a VM
keep its memory."""

import os
import pathlib
import re

import pytest

import guestlib
from conftest import Console
from plainlib import PlainDaemon, plain_folder, qcow2
from test_host import needs_root

MIB = 1 << 20
AT, BYTES = 32 * MIB, 32 * MIB

pytestmark = [pytest.mark.usefixtures("kvm")]
nested = pytest.mark.skipif(guestlib.host_kind() not in ("svm", "vmx"), reason="KVM shadows the guest's page tables here")


class Guest:
    def __init__(self, daemon, guest, **keys):
        self.daemon = daemon
        daemon.define("vm1", boot={"kernel": guest("interp.elf")}, **keys)
        daemon.cairn("start", "vm1")
        self.attach()
        while self.console.line() != "interp":
            pass

    def attach(self, name="vm1"):
        self.console = Console(self.daemon, name)

    def fill(self, seed):
        self.console.run(f"fill {AT:#x} {BYTES:#x} {seed}")

    def check(self, seed):
        self.console.run(f"check {AT:#x} {BYTES:#x} {seed}")

    def huge_bytes(self):
        text = pathlib.Path(f"/proc/{self.daemon.info('vm1')['pid']}/smaps_rollup").read_text()
        return int(re.search(r"ShmemPmdMapped: +(\d+) kB", text).group(1)) << 10


def run_plain(guest, test, **keys):
    with plain_folder() as folder:
        d = PlainDaemon(folder, folder / "permitted")
        try:
            test(Guest(d, guest, **keys))
        finally:
            d.close()


def has_huge_pages(g):
    g.fill(1)
    assert g.huge_bytes() >= BYTES
    g.check(1)


@nested
def test_memory_of_128_mib_is_in_huge_pages(daemon, guest):
    has_huge_pages(Guest(daemon, guest, memory="128M"))


@nested
@needs_root
def test_memory_of_a_plain_users_vm_is_in_huge_pages(guest):
    run_plain(guest, has_huge_pages, memory="128M")


@pytest.mark.parametrize("keys", [{"memory": "127M"}, {"memory": "128M", "small_pages": True}, {"memory": "128M", "reclaim_on_pressure": True}])
def test_small_guests_and_those_that_ask_for_it_have_small_pages(daemon, guest, keys):
    g = Guest(daemon, guest, **keys)
    g.fill(1)
    assert g.huge_bytes() == 0


@nested
@pytest.mark.seconds(120)
def test_memory_in_huge_pages_survives_whatever_moves_it(daemon, guest, tmp_path):
    """Each step ends with memory that the next one moves. A snapshot protects memory in small pages."""
    g = Guest(daemon, guest, memory="128M", disks=[qcow2(tmp_path / "vda.qcow2", "1G")])
    g.fill(1)
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    g.check(1)
    g.fill(2)
    daemon.cairn("clone", "--live", "vm1", "copy")
    daemon.cairn("snapshot-create-as", "vm1", "s2")
    g.fill(3)
    for name, seed in (("s1", 1), ("s2", 2), ("s1", 1)):
        daemon.cairn("snapshot-revert", "vm1", name)
        g.attach()
        g.check(seed)
    g.fill(4)
    daemon.cairn("restart-process", "vm1")
    g.attach()
    g.check(4)
    g.fill(5)
    daemon.cairn("managedsave", "vm1")
    daemon.cairn("start", "vm1")
    g.attach()
    g.check(5)
    g.attach("copy")
    g.check(2)


def ram_file(daemon):
    """Open the file of the VM's memory."""
    pid = daemon.info("vm1")["pid"]
    maps = re.findall(r"^(\w+)-(\w+) rw-s ", pathlib.Path(f"/proc/{pid}/maps").read_text(), re.M)
    first, last = max(maps, key=lambda m: int(m[1], 16) - int(m[0], 16))
    return os.open(f"/proc/{pid}/map_files/{first}-{last}", os.O_RDONLY)


@nested
@needs_root
@pytest.mark.seconds(120)
def test_revert_of_a_huge_page_that_is_in_use_replaces_all_memory(daemon, guest, tmp_path):
    """The kernel cannot free a part of a huge page while anybody uses a page of it. A pipe does so here, as a disk
    request may. Its page stays the guest's if the revert replaces the written blocks only."""
    g = Guest(daemon, guest, memory="128M", disks=[qcow2(tmp_path / "vda.qcow2", "1G")])
    g.fill(1)
    assert g.huge_bytes() >= BYTES
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    ram = ram_file(daemon)
    for written, used, is_replaced in ((AT, AT + 3 * MIB, False), (AT + 4 * MIB, AT + 5 * MIB, True)):
        g.console.run(f"fill {written:#x} 0x1000 2")
        before = os.pread(ram, 4096, used)
        out, pipe = os.pipe()
        assert os.splice(ram, pipe, 4096, offset_src=used) == 4096
        daemon.cairn("snapshot-revert", "vm1", "s1")
        g.attach()
        g.check(1)
        g.console.run(f"fill {used:#x} 0x1000 3")
        now = os.pread(ram, 4096, used)
        assert now != before
        assert os.read(out, 4096) == (before if is_replaced else now)
        os.close(out)
        os.close(pipe)
    os.close(ram)


@nested
def test_memory_is_in_huge_pages_again_after_a_new_process(daemon, guest):
    g = Guest(daemon, guest, memory="128M")
    g.fill(1)
    daemon.cairn("restart-process", "vm1")
    g.attach()
    g.check(1)
    assert g.huge_bytes() >= BYTES


SETTINGS = "/sys/kernel/mm/transparent_hugepage/"


@pytest.fixture
def eager_host():
    """All shared memory may be in huge pages, and khugepaged never rests. Only an emulated host is set so."""
    before = {}
    for name, value in (("shmem_enabled", "always"), ("khugepaged/scan_sleep_millisecs", "1"),
                        ("khugepaged/alloc_sleep_millisecs", "1"), ("khugepaged/pages_to_scan", "1000000")):
        path = pathlib.Path(SETTINGS, name)
        before[path] = re.sub(r".*\[(\w+)\].*", r"\1", path.read_text())
        path.write_text(value)
    yield
    for path, value in before.items():
        path.write_text(value)


@pytest.mark.skipif("CAIRN_IN_SVMHOST" not in os.environ, reason="changes settings of the host")
@pytest.mark.seconds(120)
def test_host_that_collects_huge_pages_does_not_fill_memory_with_zeros(daemon, guest, eager_host, tmp_path):
    """Up to Linux 6.3, khugepaged fills holes with zeros that a revert has yet to load."""
    g = Guest(daemon, guest, memory="256M", disks=[qcow2(tmp_path / "vda.qcow2", "1G")])
    g.fill(1)
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    g.fill(2)
    for _ in range(10):
        daemon.cairn("snapshot-revert", "vm1", "s1")
        g.attach()
        g.check(1)
