"""Snapshots and disks: which disks a snapshot covers, their sizes, and what qemu-img makes of them."""

import json
import re
import subprocess

import pytest

from conftest import BUILD, Console
from mountlib import tmpfs
from snapshotlib import check, qemu_names, vm, wait_released  # noqa: F401 (vm is a fixture)


def test_snapshot_covers_two_disks(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.daemon.cairn("undefine", "vm1")
    vm.define()
    vm.start()
    vm.run("write 0 8 1")
    vm.run("open 1")
    vm.run("write 0 8 2")
    vm.snapshot("s1")
    vm.run("write 0 8 3")
    vm.run("open 0")
    vm.run("write 0 8 4")
    vm.revert("s1")
    vm.run("verify 0 8 2")  # disk 1 was open
    vm.run("open 0")
    vm.run("verify 0 8 1")
    vm.stop()
    for d in vm.disks:
        check(d)
        assert qemu_names(d) == ["s1"]


def test_revert_of_one_disk_only(vm, tmp_path):
    vm.daemon.cairn("snapshot-create-as", "vm1", "s0")
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define()
    vm.start()
    for disk, seed in ((0, 11), (1, 12)):
        vm.run(f"open {disk}")
        vm.run(f"write 0 64 {seed}")
    vm.snapshot("s1")
    vm.snapshot("s2", "--disk-only")
    for disk, seed in ((0, 21), (1, 22)):
        vm.run(f"open {disk}")
        vm.run(f"write 0 64 {seed}")
    vm.revert("s1", "--disk", "vdb", ok=2)  # with memory, all or nothing reverts
    vm.revert("s1", "--disks-only", "--disk", "vdx", ok=3)
    for more in ([], ["--disk", "vdb"]):
        assert "disk vdb has no snapshot 's0'" in vm.revert("s0", "--disks-only", *more, ok=3).stderr
    vm.run("verify 0 64 22")  # and it kept running
    vm.revert("s1", "--disks-only", "--disk", "vdb")
    assert vm.daemon.cairn("snapshot-current", "vm1", "--name").stdout == "s2\n"
    vm.start()
    vm.run("verify 0 64 21")
    vm.run("open 1")
    vm.run("verify 0 64 12")
    vm.stop()
    for d in vm.disks:
        check(d)


def test_snapshot_on_full_file_system_names_the_disk(vm, tmp_path):
    """The snapshot is not listed. With more space the next one succeeds, and the guest continues."""
    with tmpfs(tmp_path / "small", "16M") as small:
        vm.disks = [small / "vda.qcow2"]
        vm.daemon.cairn("undefine", "vm1")
        vm.define()
        vm.start()
        vm.run("write 0 8 1")
        vm.run("fill 0x1000000 0x2000000 5")
        error = vm.daemon.cairn("snapshot-create-as", "vm1", "s1", ok=False).stderr
        assert "cannot write the VM's memory into vda: No space left on device" in error
        assert vm.names() == []
        subprocess.run(["mount", "-o", "remount,size=128M", small], check=True)
        vm.snapshot("s1")
        # Meanwhile the image's tables could not be written; that pauses the VM, and is known before the next answer.
        vm.daemon.cairn("resume", "vm1", ok=None)
        vm.run("check 0x1000000 0x2000000 5")
        vm.run("write 10000 8 2")
        vm.run("verify 10000 8 2")
        vm.run("verify 0 8 1")
        vm.stop()
        check(vm.disks[0])


def test_a_raw_disk_is_refused_by_name(vm, tmp_path):
    raw = tmp_path / "extra.raw"
    raw.write_bytes(bytes(1 << 20))
    vm.daemon.cairn("undefine", "vm1")
    vm.define(disks=[{"path": str(vm.disks[0]), "format": "qcow2"},
                     {"path": str(raw), "format": "raw"}])
    vm.start()
    r = vm.daemon.cairn("snapshot-create-as", "vm1", "s1", ok=None)
    assert r.returncode != 0
    assert "disk vdb is raw; internal snapshots need qcow2: shut the VM down and convert it" in r.stderr
    vm.daemon.cairn("snapshot-create-as", "vm1", "s1", "--disk-only", "--external")  # the other way out
    vm.run("echo alive")


def test_a_read_only_raw_disk_is_left_out(vm, tmp_path):
    raw = tmp_path / "cd.raw"
    raw.write_bytes(bytes(1 << 20))
    vm.daemon.cairn("undefine", "vm1")
    vm.define(disks=[{"path": str(vm.disks[0]), "format": "qcow2"},
                     {"path": str(raw), "format": "raw", "readonly": True}])
    vm.start()
    assert vm.snapshot("s1")["disks-left-out"] == ["vdb"]
    r = vm.daemon.cairn("snapshot-create-as", "vm1", "s2")
    assert "left out (read-only): vdb" in r.stdout
    assert vm.names() == ["s1", "s2"]


def test_copied_image_has_tree_and_memory(vm, tmp_path):
    """The tree is in the image; the memory is valid for a VM with the same uuid and size."""
    d = vm.daemon
    vm.start()
    vm.run("fill 0x1000000 0x100000 5")
    vm.run("write 0 64 11")
    vm.snapshot("s1", "all is well", "--tag", "keep")
    vm.snapshot("s2")
    vm.revert("s1")
    vm.snapshot("s3", "--disk-only")
    vm.run("write 0 64 12")
    vm.stop()
    wait_released(vm.disks[0])
    copy = tmp_path / "copy.qcow2"
    copy.write_bytes(vm.disks[0].read_bytes())
    uuid = json.loads(d.cairn("dumpjson", "vm1").stdout)["uuid"]

    def other(name, **keys):
        d.define(name, debug_exit=True, boot={"kernel": vm.guest("interp.elf")},
                 disks=[{"path": str(copy), "format": "qcow2"}], **keys)

    def refused(name, why):
        assert why in d.cairn("snapshot-revert", name, "s1", ok=False).stderr
        assert d.cairn("snapshot-current", name, "--name").stdout == "s3\n"

    other("copied", memory="64M")
    for args in (("--tree",), ("--parent",)):
        assert d.cairn("snapshot-list", "copied", *args).stdout == d.cairn("snapshot-list", "vm1", *args).stdout
    info = d.cairn("snapshot-info", "copied", "s1").stdout
    assert "all is well\n" in info and re.search("Tags: +keep\n", info) and re.search("Children: +2\n", info)
    shown = subprocess.run([BUILD + "/cairn-img", "vmstate-info", copy, "s1"], capture_output=True, text=True).stdout
    assert f"uuid: {uuid}\n" in shown and "ram-bytes: 67108864\n" in shown
    assert re.search(r"virtio-blk +vda +1 ", shown) and re.search(r"vcpu +0 +1 ", shown)
    refused("copied", "belongs to another VM")
    d.cairn("snapshot-revert", "copied", "s1", "--disks-only", "--running")
    console = Console(d, "copied")
    assert console.line() == "interp"  # it boots; earlier output is lost
    console.run("open 0")
    console.run("verify 0 64 11")
    d.cairn("destroy", "copied")
    d.cairn("undefine", "copied", "--snapshots-metadata")
    d.cairn("undefine", "vm1", "--snapshots-metadata")
    copy.write_bytes(vm.disks[0].read_bytes())
    other("larger", memory="96M", uuid=uuid)
    refused("larger", "was taken with 64 MiB of memory; this VM has 96 MiB; change that while the VM is off, with cairn setmaxmem, or revert "
            "with --disks-only")
    d.cairn("setmaxmem", "larger", "64M")
    d.cairn("snapshot-revert", "larger", "s1")
    d.cairn("destroy", "larger")
    d.cairn("undefine", "larger", "--snapshots-metadata")
    other("moved", memory="64M", uuid=uuid)
    d.cairn("snapshot-revert", "moved", "s1")
    Console(d, "moved").run("check 0x1000000 0x100000 5")
    d.cairn("destroy", "moved")
    check(copy)


def test_qemu_applies_snapshot_of_vm_that_is_off(vm):
    vm.start()
    vm.run("write 0 64 11")
    vm.snapshot("s1")
    vm.run("write 0 64 12")
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-a", "s1", vm.disks[0]], check=True)
    check(vm.disks[0])
    vm.start()
    vm.run("verify 0 64 11")
    assert vm.names() == ["s1"]
    vm.stop()
    subprocess.run(["qemu-img", "snapshot", "-d", "s1", vm.disks[0]], check=True)
    check(vm.disks[0])
    assert vm.names() == []


@pytest.mark.parametrize("size", ["16M", "128M"])
def test_revert_restores_disk_size(vm, size):
    """A revert restores the size, for the guest as well."""
    vm.start()
    vm.run("write 100000 8 5")
    vm.run("flush")
    vm.snapshot("s1")
    vm.stop()
    wait_released(vm.disks[0])
    subprocess.run([BUILD + "/cairn-img", "resize", "-q", "--shrink", vm.disks[0], size], check=True)
    vm.start()
    assert vm.run("info")[0].startswith(f"sectors={int(size[:-1]) * 2048} ")
    vm.revert("s1")
    assert vm.run("info")[0].startswith("sectors=131072 ")
    vm.run("verify 100000 8 5")
    vm.run("write 131064 8 6")
    vm.stop()
    check(vm.disks[0])


def own_size(vm, name):
    info = json.loads(vm.daemon.cairn("snapshot-info", "vm1", name, "--format", "json").stdout)
    return info["own-size"]


def in_use(image):
    """Return the bytes in clusters with a refcount above 0 (16 bits, 64 KiB)."""
    data = image.read_bytes()
    table = int.from_bytes(data[48:56], "big")
    blocks = [int.from_bytes(data[at:at + 8], "big") for at in range(table, table + 65536, 8)]
    return sum(65536 for b in blocks if b for at in range(b, b + 65536, 2) if any(data[at:at + 2]))


def test_snapshot_info_shows_own_size(vm, tmp_path):
    vm.disks.append(tmp_path / "vdb.qcow2")
    vm.define()
    vm.start()
    vm.run("write 0 512 11")
    vm.snapshot("s1", "--disk-only")
    assert own_size(vm, "s1") == 0
    vm.run("write 0 512 12")
    # The guest's 256 KiB, and the L2 table.
    assert own_size(vm, "s1") == 5 * 65536
    vm.run("open 1")
    vm.run("write 0 128 13")
    assert own_size(vm, "s1") == 5 * 65536
    vm.snapshot("s2")
    vm.run("write 0 128 14")
    # Memory, and 64 KiB on the second disk with their table.
    assert own_size(vm, "s2") > 2 * 65536
    assert "Own size:       320.0 KiB\n" in vm.daemon.cairn("snapshot-info", "vm1", "s1").stdout
    vm.stop()
    for name in ("s1", "s2"):
        own = own_size(vm, name)
        before = sum(in_use(d) for d in vm.disks)
        copies = []
        for d in vm.disks:
            copies.append(tmp_path / f"copy-{d.name}")
            copies[-1].write_bytes(d.read_bytes())
            subprocess.run(["qemu-img", "snapshot", "-d", name, copies[-1]], check=True)
        # Each disk also frees an L1 table of one cluster.
        assert own == before - sum(in_use(c) for c in copies) - 2 * 65536
    vm.daemon.cairn("snapshot-info", "vm1", "s9", ok=3)


@pytest.mark.parametrize("format", ["raw", None])
def test_list_of_a_vm_without_a_qcow2_disk_is_empty(daemon, tmp_path, format):
    (tmp_path / "a.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", disks=[{"path": str(tmp_path / "a.raw"), "format": "raw"}] if format else [])
    assert json.loads(daemon.cairn("snapshot-list", "vm1", "--format", "json").stdout) == []
    assert "qcow2" in daemon.cairn("snapshot-create-as", "vm1", "s1", ok=False).stderr


@pytest.mark.parametrize("off", [False, True])
def test_revert_of_disks_is_refused_if_one_would_stay(vm, tmp_path, off):
    """The next start lacks a disk that the snapshot has: two disks of different times fit together no longer."""
    vm.define()
    vm.start()
    cairn_img = BUILD + "/cairn-img"
    subprocess.run([cairn_img, "create", "-q", "-f", "qcow2", tmp_path / "x.qcow2", "4M"], check=True)
    vm.daemon.cairn("attach-disk", "vm1", str(tmp_path / "x.qcow2"), "vdb", "--live", "--subdriver", "qcow2")
    vm.run("write 0 8 5")
    vm.snapshot("s1", "--disk-only")
    vm.run("write 0 8 1")
    if off:
        vm.daemon.cairn("destroy", "vm1")
    for more in ([], ["--dry-run"]):
        assert "disk vdb would stay as it is" in vm.revert("s1", *more, ok=4).stderr
    assert vm.daemon.info("vm1")["state"] == ("shutoff" if off else "running")
    vm.daemon.cairn("attach-disk", "vm1", str(tmp_path / "x.qcow2"), "vdb", "--config", "--subdriver", "qcow2")
    vm.revert("s1")
    vm.start()
    vm.run("verify 0 8 5")


def test_revert_of_disks_is_refused_before_the_vm_stops(vm, tmp_path):
    """The next start has a disk that the snapshot lacks, and the VM runs without it."""
    vm.define()
    vm.start()
    vm.snapshot("s1", "--disk-only")
    subprocess.run([BUILD + "/cairn-img", "create", "-q", "-f", "qcow2", tmp_path / "x.qcow2", "4M"], check=True)
    vm.daemon.cairn("attach-disk", "vm1", str(tmp_path / "x.qcow2"), "vdb", "--config", "--subdriver", "qcow2")
    vm.run("write 0 8 1")
    for more in ([], ["--dry-run"]):
        assert "disk vdb of the VM's next start has no snapshot 's1'" in vm.revert("s1", *more, ok=3).stderr
    vm.run("verify 0 8 1")  # it runs on
    vm.revert("s1", "--disks-only", "--disk", "vda")
    assert vm.daemon.info("vm1")["state"] == "shutoff"
