"""Disks that come and go while the VM runs. The guest `interp` does what a system does by the DSDT: it reads the event
and the ports of devices/pci/pci_hotplug.h."""

import json
import os
import subprocess
import threading

import pytest

import guestlib
from carrylib import carry
from conftest import Console, until

pytestmark = pytest.mark.usefixtures("kvm")

ROUNDS = int(os.environ.get("CAIRN_PLUGS", 0))
long = pytest.mark.skipif(not ROUNDS, reason="part of make check-long: CAIRN_PLUGS is not set")
GPE_STATUS, GPE_PLUG = 0x620, 1 << 1
HOT_SLOT = 24  # PCI_HOTPLUG_FIRST_SLOT
PLUGGED, ASKED, RELEASE, STATUS = 0xae00, 0xae04, 0xae08, 0xae0c


class Guest(Console):
    def __init__(self, d, name):
        q = d.qmp()
        q.run("vm-console", vm=name, history=False)
        super().__init__(d, name, q.fds.pop())
        q.close()
        self.sock.sendall(b"\necho here\n")
        until(lambda: self.line() == "here")
        until(lambda: self.line() == "ok")

    def inl(self, port):
        return int(self.run(f"inl {port}")[0], 16)

    def event(self):
        """Return whether the event has come, and clear it."""
        came = int(self.run(f"inw {GPE_STATUS}")[0], 16) & GPE_PLUG
        self.run(f"outw {GPE_STATUS} {GPE_PLUG}")
        return bool(came)

    def release(self):
        """Wait for the host's request, and release the device. Return the slots."""
        until(lambda: self.inl(ASKED))
        slots = self.inl(ASKED)
        self.run(f"outl {RELEASE} {slots}")
        return slots

    def refuse(self):
        until(lambda: self.inl(ASKED))
        slot = self.inl(ASKED).bit_length() - 1
        self.run(f"outl {STATUS} {slot << 24 | 0x81}")


def image(path, size=4 << 20):
    with open(path, "wb") as f:
        f.truncate(size)
    return str(path)


def machine(d, guest, name="a", **keys):
    d.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")}, **keys)
    d.cairn("start", name)
    return Guest(d, name)


def disks(d, *more):
    return [x["id"] for x in json.loads(d.cairn("domblklist", "a", "--format", "json", *more).stdout)]


def detach(d, work, *more, ok=True):
    """Detach vdb of VM a, while the guest does `work`."""
    done = []
    t = threading.Thread(target=lambda: done.append(work()))
    t.start()
    r = d.cairn("detach-disk", "a", "vdb", *(more or ("--timeout", "60")), ok=ok)
    t.join()
    assert done
    return r


def test_disk_is_attached_and_detached(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    g.run("open 0")
    g.run("write 0 8 1")
    assert not g.event() and g.inl(PLUGGED) == 0
    assert daemon.cairn("attach-disk", "a", b, "vdb", "--live").stdout == "Disk attached successfully\n"
    assert g.event()
    slots = g.inl(PLUGGED)
    assert bin(slots).count("1") == 1 and g.inl(PLUGGED) == 0
    assert disks(daemon) == ["vda", "vdb"] and disks(daemon, "--inactive") == ["vda"]
    g.run("open 1")
    g.run("write 16 64 7")
    g.run("verify 16 64 7")
    g.run("flush")
    # The guest is asked, and does nothing: the disk stays, and works.
    r = daemon.cairn("detach-disk", "a", "vdb", "--timeout", "1", ok=False)
    assert "the guest has not released vdb within 1 s, so it stays attached" in r.stderr
    assert g.event() and g.inl(ASKED) == slots
    g.run("verify 16 64 7")
    # The guest refuses.
    q = daemon.qmp()
    g.run(f"outl {STATUS} {(slots.bit_length() - 1) << 24 | 0x81}")
    q.event("DEVICE_UNPLUG_GUEST_ERROR", device="vdb")
    assert g.inl(ASKED) == 0
    r = detach(daemon, g.refuse, ok=False)
    assert "the guest refuses to release vdb, so it stays attached" in r.stderr
    g.run("verify 16 64 7")
    # The guest releases it.
    assert detach(daemon, g.release).stdout == "Disk detached successfully\n"
    q.event("DEVICE_DELETED", device="vdb")
    assert disks(daemon) == ["vda"]
    assert int(g.run(f"cfgrd {(slots.bit_length() - 1) << 3} 0 4")[0], 16) == 0xffffffff
    g.run("open 0")
    g.run("verify 0 8 1")
    g.close()
    # Nobody has the image any more, and it has what the guest has written.
    daemon.cairn("destroy", "a")
    g = machine(daemon, guest, disks=[{"path": b, "format": "raw"}])
    g.run("open 0")
    g.run("verify 16 64 7")
    g.close()


def test_machine_version_1_has_no_hotplug(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}], machine=1)
    assert daemon.info("a")["machine"] == 1 and g.inl(PLUGGED) == 0xffffffff
    r = daemon.cairn("attach-disk", "a", b, "vdb", "--live", ok=False)
    assert "machine version 1, which has no hot-plug; change its definition with --config, or set its key machine to 7" in r.stderr
    daemon.cairn("attach-disk", "a", b, "vdb", "--config")
    assert disks(daemon) == ["vda"] and disks(daemon, "--inactive") == ["vda", "vdb"]
    g.close()


def test_bad_requests_change_nothing(daemon, guest, tmp_path):
    a, b, c = (image(tmp_path / f"{n}.raw") for n in "abc")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    other = machine(daemon, guest, "b", disks=[{"path": c, "format": "raw"}])

    def refused(words, *args):
        assert words in daemon.cairn(*args, ok=False).stderr

    refused("target vda already exists", "attach-disk", "a", b, "vda", "--live")
    refused("is also the image of disks[0]", "attach-disk", "a", a, "vdb", "--live")
    refused(f"{c} is in use by VM 'b'; shut that VM down first", "attach-disk", "a", c, "vdb", "--live")
    refused("No such file", "attach-disk", "a", str(tmp_path / "none"), "vdb", "--live")
    refused("has no disk and no interface 'vdx'", "detach-disk", "a", "vdx", "--live")
    refused("vda is the first disk of VM 'a', from which its guest runs", "detach-disk", "a", "vda", "--live")
    daemon.cairn("destroy", "b")
    refused("VM 'b' is shut off; change its definition instead, with --config", "attach-disk", "b", b, "vdb", "--live")
    assert disks(daemon) == ["vda"] and g.inl(PLUGGED) == 0
    g.close()
    other.close()


@long
def test_eight_devices_can_be_attached(daemon, guest, tmp_path):
    """More would cost each start of Linux time, where KVM emulates kernel mode."""
    cold = [{"path": image(tmp_path / f"{n}.raw"), "format": "raw"} for n in "ab"]
    g = machine(daemon, guest, disks=cold)
    for i in range(2, 10):
        daemon.cairn("attach-disk", "a", image(tmp_path / f"{i}.raw"), f"vd{chr(97 + i)}", "--live")
    r = daemon.cairn("attach-disk", "a", image(tmp_path / "z.raw"), "vdz", "--live", ok=False)
    assert "all 8 PCI slots for devices that are attached while the VM runs are taken; detach one first" in r.stderr
    assert len(disks(daemon)) == 10
    g.run("open 9")
    g.run("write 0 8 1")
    g.run("verify 0 8 1")
    g.close()


def slot_of(g, device):
    """Return the slot of the n-th device with this PCI device id."""
    return [slot for slot in range(1, 32) if int(g.run(f"cfgrd {slot << 3} 0 4")[0], 16) == device << 16 | 0x1af4]


BLK, NET = 0x1042, 0x1041


def test_devices_of_the_start_are_detached(daemon, guest, tmp_path):
    """A disk and an interface; and afterwards a handover, a reset and another disk."""
    a, b, c = (image(tmp_path / f"{n}.raw") for n in "abc")
    g = machine(daemon, guest, disks=[{"path": p, "format": "raw"} for p in (a, b, c)], rng=True,
                interfaces=[{"type": "user"}, {"type": "user"}])
    assert slot_of(g, BLK) == [1, 2, 3] and len(slot_of(g, NET)) == 2
    g.run("open 2")
    g.run("write 0 8 1")
    assert detach(daemon, g.release).stdout == "Disk detached successfully\n"
    assert slot_of(g, BLK) == [1, 3] and disks(daemon) == ["vda", "vdc"] and disks(daemon, "--inactive") == ["vda", "vdb", "vdc"]
    g.run("verify 0 8 1")
    faces, face = slot_of(g, NET), interfaces(daemon)[0]
    t = threading.Thread(target=g.release)
    t.start()
    daemon.cairn("detach-interface", "a", "user", "--mac", face, "--live")
    t.join()
    assert slot_of(g, NET) == faces[1:] and len(interfaces(daemon)) == 1
    assert len(interfaces(daemon, "--inactive")) == 2
    bus = g.run("pci")
    g.close()
    # A process that takes the VM over needs the same definition.
    daemon.cairn("detach-disk", "a", "vdb", "--config")
    daemon.cairn("detach-interface", "a", "user", "--mac", face, "--config")
    daemon.cairn("restart-process", "a")
    g = Guest(daemon, "a")
    assert g.run("pci") == bus
    g.run("verify 0 8 1")
    daemon.cairn("attach-disk", "a", b, "vdb", "--live")
    assert slot_of(g, BLK) == [1, 3, 24]
    g.close()
    daemon.cairn("reset", "a")
    g = Guest(daemon, "a")
    assert slot_of(g, BLK) == [1, 3, 24]
    g.run("open 1")
    g.run("verify 0 8 1")
    t = threading.Thread(target=g.release)
    t.start()
    daemon.cairn("detach-disk", "a", "vdc", "--persistent", "--timeout", "60")
    t.join()
    assert disks(daemon) == ["vda", "vdb"] and disks(daemon, "--inactive") == ["vda"]
    assert slot_of(g, BLK) == [1, 24]
    g.close()
    daemon.cairn("destroy", "a")
    g = machine(daemon, guest, "b", disks=[{"path": c, "format": "raw"}])
    g.run("open 0")
    g.run("verify 0 8 1")
    g.close()


def interfaces(d, *more):
    return [x["mac"] for x in json.loads(d.cairn("domiflist", "a", "--format", "json", *more).stdout)]


def next_slots(d):
    """The slots of the interfaces that the definition of the next start names, in the order of the interfaces."""
    return [i.get("slot") for i in json.loads(d.cairn("dumpjson", "a", "--inactive").stdout)["interfaces"]]


@pytest.mark.parametrize("more", [
    {}, {"rng": True, "guest_agent": True, "balloon": True}, {"console": {"virtio": True}, "watchdog": {"model": "i6300esb"}, "rng": False},
    {"vsock": {"cid": 3}, "machine": 6}])
def test_interfaces_keep_their_slots(daemon, guest, tmp_path, more):
    """Whatever disks and interfaces come and go, at the next start or before."""
    a, b, c, s = (image(tmp_path / f"{n}.raw") for n in "abcs")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}, {"path": s, "format": "raw", "bus": "scsi"}],
                interfaces=[{"type": "user"}, {"type": "user"}], **more)
    faces = slot_of(g, NET)
    assert len(faces) == 2 and next_slots(daemon) == [None, None]
    daemon.cairn("attach-disk", "a", b, "vdb", "--persistent")
    assert next_slots(daemon) == faces
    daemon.cairn("attach-interface", "a", "user", "--persistent")
    assert slot_of(g, BLK) == [1, 24] and slot_of(g, NET) == [*faces, 25] and next_slots(daemon) == [*faces, 25]
    g.close()
    daemon.cairn("destroy", "a")
    daemon.cairn("attach-disk", "a", c, "vdc", "--config")
    daemon.cairn("detach-interface", "a", "user", "--config", "--mac", interfaces(daemon)[0])
    daemon.cairn("attach-interface", "a", "user", "--config")
    assert next_slots(daemon) == [faces[1], 25, None]
    daemon.cairn("start", "a")
    g = Guest(daemon, "a")
    now = slot_of(g, NET)
    assert {faces[1], 25} < set(now) and len(now) == 3 and slot_of(g, BLK)[:2] == [1, 2] and len(slot_of(g, BLK)) == 3
    daemon.cairn("restart-process", "a")
    g.close()
    g = Guest(daemon, "a")
    assert slot_of(g, NET) == now
    g.close()


def test_machine_version_6_keeps_devices_of_the_start(daemon, guest, tmp_path):
    """The devices cannot be detached until the guest boots with a newer version."""
    cold = [{"path": image(tmp_path / f"{n}.raw"), "format": "raw"} for n in "ab"]
    g = machine(daemon, guest, disks=cold, machine=6)
    r = daemon.cairn("detach-disk", "a", "vdb", "--live", ok=False)
    assert "vdb was there when the VM started, and with machine version 6 only devices that were attached while it runs can be detached " \
        "from it; detach vdb with --config, or set the key machine of its definition to 7 and start the VM again" in r.stderr
    g.close()
    daemon.cairn("save", "a", str(tmp_path / "saved"))
    daemon.define("a", debug_exit=True, boot={"kernel": guest("interp.elf")}, disks=cold, machine=7)
    daemon.cairn("restore", str(tmp_path / "saved"))
    r = daemon.cairn("detach-disk", "a", "vdb", "--live", ok=False)
    assert "with machine version 6, in which only devices that were attached later can be detached; reboot the guest, which then has " \
        "version 7, or detach vdb with --config" in r.stderr
    daemon.cairn("reset", "a")
    g = Guest(daemon, "a")
    detach(daemon, g.release)
    assert disks(daemon) == ["vda"]
    g.close()


def test_persistent_changes_both(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    daemon.cairn("attach-disk", "a", b, "vdb", "--persistent")
    assert disks(daemon) == disks(daemon, "--inactive") == ["vda", "vdb"]
    detach(daemon, g.release)  # as virsh: the running VM
    assert disks(daemon) == ["vda"] and disks(daemon, "--inactive") == ["vda", "vdb"]
    daemon.cairn("detach-disk", "a", "vdb", "--config")
    assert disks(daemon, "--inactive") == ["vda"]
    g.close()


def test_plugged_disk_survives_handover_save_and_daemon(daemon, guest, tmp_path):
    """The slot stays, too: the guest goes on without looking at the bus again."""
    a, b, c, d, e = (image(tmp_path / f"{n}.raw") for n in "abcde")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}], rng=True)
    daemon.cairn("attach-disk", "a", c, "vdc", "--live")
    daemon.cairn("attach-disk", "a", b, "vdb", "--live")
    g.run("open 2")
    bus = g.run("pci")
    # The slots are not in a row any more.
    assert "Disk detached" in detach_of(daemon, g, "vdc")
    bus = g.run("pci")
    g.run("write 0 8 1")
    g.close()
    # The next start would not have the disk.
    assert "runs with other disks than its next start would have" in daemon.cairn("managedsave", "a", ok=False).stderr
    daemon.cairn("attach-disk", "a", b, "vdb", "--config")
    for move in carry(daemon, tmp_path):
        g = Guest(daemon, "a")
        assert g.run("pci") == bus, move
        assert disks(daemon) == ["vda", "vdb"], move
        g.run("verify 0 8 1")
        # Further disks do not lie where the earlier process has put vdb.
        for target, path in ("vdd", d), ("vde", e):
            daemon.cairn("attach-disk", "a", path, target, "--live")
        bars = [g.run(f"cfgrd {slot << 3:#x} 0x10 4")[0] for slot in range(HOT_SLOT, HOT_SLOT + 3)]
        assert len(set(bars)) == 3, (move, bars)
        for target in "vde", "vdd":
            assert "Disk detached" in detach_of(daemon, g, target)
        g.close()


def detach_of(d, g, target):
    t = threading.Thread(target=g.release)
    t.start()
    r = d.cairn("detach-disk", "a", target, "--timeout", "60")
    t.join()
    return r.stdout


@long
@pytest.mark.seconds(60 + 5 * ROUNDS)
def test_disks_come_and_go_while_another_works(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    for i in range(ROUNDS):
        daemon.cairn("attach-disk", "a", b, "vdb", "--live")
        g.run("open 1")
        g.run(f"verify 0 8 {i}" if i else "sum 0 8")
        g.run(f"write 0 8 {i + 1}")
        g.run("open 0")
        detach(daemon, lambda: (g.run("bench randwrite 8 64 4096 4096 1"), g.release()))
        g.run("open 0")
        g.run(f"write 0 8 {i}")
        g.run(f"verify 0 8 {i}")
    assert disks(daemon) == ["vda"]
    g.close()


def test_revert_to_before_the_plug_detaches_the_disk(daemon, guest, tmp_path):
    for name in "ab":
        subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(tmp_path / name), "4M"],
                       check=True)
    g = machine(daemon, guest, disks=[{"path": str(tmp_path / "a"), "format": "qcow2"}])
    g.run("open 0")
    g.run("write 0 8 1")
    daemon.cairn("snapshot-create-as", "a", "before")
    daemon.cairn("attach-disk", "a", str(tmp_path / "b"), "vdb", "--live", "--subdriver", "qcow2")
    g.run("write 0 8 2")
    g.run("open 1")
    g.run("write 0 8 3")
    daemon.cairn("snapshot-create-as", "a", "after")
    g.run("write 0 8 4")
    daemon.cairn("snapshot-revert", "a", "after")
    g.run("verify 0 8 3")
    g.close()
    q = daemon.qmp()
    daemon.cairn("snapshot-revert", "a", "before")
    q.event("DEVICE_DELETED", device="vdb")
    assert disks(daemon) == ["vda"]
    g = Guest(daemon, "a")
    g.run("verify 0 8 1")
    g.close()
    # The snapshot from after the plug has the disk. A new process gets it.
    assert reverted(daemon, "after")["stopped"] and disks(daemon) == ["vda", "vdb"] and disks(daemon, "--inactive") == ["vda"]
    g = Guest(daemon, "a")
    g.run("verify 0 8 3")
    # So does one of a VM that is off, and after the disk was attached anew.
    g.close()
    daemon.cairn("destroy", "a")
    reverted(daemon, "after")
    g = Guest(daemon, "a")
    g.run("verify 0 8 3")
    g.close()
    daemon.cairn("snapshot-revert", "a", "before")
    daemon.cairn("attach-disk", "a", str(tmp_path / "b"), "vdb", "--live", "--subdriver", "qcow2")
    assert not reverted(daemon, "after")["stopped"]
    g = Guest(daemon, "a")
    g.run("verify 0 8 3")
    g.close()


def reverted(d, name, *more):
    return json.loads(d.cairn("snapshot-revert", "a", name, "--format", "json", *more).stdout)


def qcow2(path):
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(path), "4M"], check=True)
    return {"path": str(path), "format": "qcow2"}


def test_revert_brings_back_what_was_detached(daemon, guest, tmp_path):
    """Disks in the order that they had, and an interface; a later daemon knows them, too."""
    g = machine(daemon, guest, disks=[qcow2(tmp_path / n) for n in "abc"], interfaces=[{"type": "user"}], rng=True)
    g.run("open 1")
    g.run("write 0 8 1")
    bus = g.run("pci")
    daemon.cairn("snapshot-create-as", "a", "all")
    g.run("write 0 8 2")
    detach(daemon, g.release)
    face, = interfaces(daemon)
    t = threading.Thread(target=g.release)
    t.start()
    daemon.cairn("detach-interface", "a", "user", "--mac", face, "--live")
    t.join()
    daemon.cairn("attach-disk", "a", qcow2(tmp_path / "d")["path"], "vdd", "--live", "--subdriver", "qcow2")
    g.close()
    daemon.cairn("snapshot-create-as", "a", "fewer")
    daemon.stop(9)
    daemon.start()
    # Nothing happens without the image, or while another VM uses it.
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    r = daemon.cairn("snapshot-revert", "a", "all", ok=False)
    assert "No such file" in r.stderr and str(tmp_path / "b") in r.stderr
    assert "No such file" in daemon.cairn("snapshot-revert", "a", "all", "--dry-run", ok=False).stderr
    (tmp_path / "elsewhere").rename(tmp_path / "b")
    machine(daemon, guest, "b", disks=[{"path": str(tmp_path / "b"), "format": "qcow2"}]).close()
    assert "is in use by VM 'b'" in daemon.cairn("snapshot-revert", "a", "all", ok=False).stderr
    daemon.cairn("destroy", "b")
    g = Guest(daemon, "a")
    g.run("open 0")
    g.run("sum 0 8")
    g.close()
    would = reverted(daemon, "all", "--dry-run")
    assert would["stopped"] and disks(daemon) == ["vda", "vdc", "vdd"]
    assert would["disks-lost"] == ["vda", "vdb", "vdc"]  # vdb comes back
    q = daemon.qmp()
    assert reverted(daemon, "all")["state"] == "running"
    q.event("DEVICE_DELETED", device="vdd")
    assert disks(daemon) == ["vda", "vdb", "vdc"] and interfaces(daemon) == [face]
    g = Guest(daemon, "a")
    assert g.run("pci") == bus
    g.run("verify 0 8 1")
    g.close()
    # In place: the VM has all that the other snapshot has, but for a disk that is not part of it.
    assert reverted(daemon, "fewer")["stopped"] and disks(daemon) == ["vda", "vdc", "vdd"]
    assert not reverted(daemon, "fewer")["stopped"] and interfaces(daemon) == []
    assert disks(daemon, "--inactive") == ["vda", "vdb", "vdc"]
    daemon.cairn("destroy", "a")
    assert disks(daemon) == ["vda", "vdb", "vdc"]


def test_revert_brings_back_the_disks_of_the_snapshots_own_image(daemon, guest, tmp_path):
    """The VM has had snapshots in another image meanwhile, with the same ids and another disk."""
    old, new, b, c = (qcow2(tmp_path / n) for n in ("old", "new", "b", "c"))
    g = machine(daemon, guest, disks=[old, b])
    g.run("open 1")
    g.run("write 0 8 1")
    daemon.cairn("snapshot-create-as", "a", "s")
    g.close()
    daemon.cairn("destroy", "a")
    machine(daemon, guest, disks=[new, c]).close()
    daemon.cairn("snapshot-create-as", "a", "t")
    daemon.cairn("destroy", "a")
    for disk in (old, new):
        machine(daemon, guest, disks=[disk]).close()
        daemon.cairn("destroy", "a")
        reverted(daemon, "s" if disk is old else "t")
        assert disks(daemon) == ["vda", "vdb"]
        if disk is old:
            g = Guest(daemon, "a")
            g.run("verify 0 8 1")
            g.close()
        daemon.cairn("destroy", "a")


def test_clones_of_a_snapshot_have_its_devices(daemon, guest, tmp_path):
    """Or are refused before anything is made: their definition is that of the VM."""
    g = machine(daemon, guest, disks=[qcow2(tmp_path / "a")])
    daemon.cairn("attach-disk", "a", qcow2(tmp_path / "b")["path"], "vdb", "--live", "--subdriver", "qcow2")
    g.run("open 1")
    g.run("write 0 8 1")
    daemon.cairn("snapshot-create-as", "a", "more")
    g.close()
    daemon.cairn("destroy", "a")
    files = set(os.listdir(tmp_path))
    error = daemon.cairn("clone", "--live", "a", "c", "--snapshotname", "more", ok=4).stderr
    assert "the guest of snapshot 'more' has the disk vdb, and clones would lack it" in error and "cairn attach-disk --config" in error
    assert set(os.listdir(tmp_path)) == files and "c" not in daemon.cairn("list", "--all", "--name").stdout.split()
    daemon.cairn("attach-disk", "a", str(tmp_path / "b"), "vdb", "--config", "--subdriver", "qcow2")
    daemon.cairn("clone", "--live", "a", "c", "--snapshotname", "more")
    c = Guest(daemon, "c")
    c.run("verify 0 8 1")
    c.close()
    daemon.cairn("destroy", "c")
    daemon.cairn("attach-interface", "a", "user", "--config")
    error = daemon.cairn("clone", "--live", "a", "d", "--snapshotname", "more", ok=4).stderr
    assert "the guest of snapshot 'more' lacks the interface" in error and "cairn detach-interface --config" in error


@pytest.mark.skipif(not guestlib.has_userfaultfd(), reason="memory is read on demand only with userfaultfd")
def test_disk_stays_until_memory_is_read_from_it(daemon, guest, tmp_path):
    """The memory that was reclaimed comes back from the VM's only disk, which the guest releases."""
    subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(tmp_path / "b"), "64M"], check=True)
    g = machine(daemon, guest, memory="64M")
    daemon.cairn("attach-disk", "a", str(tmp_path / "b"), "vdb", "--live", "--subdriver", "qcow2")
    g.run("fill 0x1000000 0x2000000 5")
    daemon.cairn("snapshot-create-as", "a", "one")
    detach(daemon, lambda: True, "--timeout", "1", ok=False)
    daemon.cairn("reclaim", "a")
    g.release()
    g.run("check 0x1000000 0x2000000 5")
    until(lambda: disks(daemon) == [])
    g.run("check 0x1000000 0x2000000 5")
    assert daemon.info("a")["state"] == "running"
    g.close()


def test_clone_has_an_attached_disk(daemon, guest, tmp_path):
    """Its guest finds the disk in the same slot."""
    for name in "abc":
        subprocess.run([os.path.join(guestlib.BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(tmp_path / name), "4M"],
                       check=True)
    g = machine(daemon, guest, disks=[{"path": str(tmp_path / "a"), "format": "qcow2"}], rng=True)
    for disk in "cb":
        daemon.cairn("attach-disk", "a", str(tmp_path / disk), f"vd{disk}", "--live", "--subdriver", "qcow2")
    detach_of(daemon, g, "vdc")
    g.run("open 1")
    g.run("write 0 8 3")
    bus = g.run("pci")
    assert "runs with other disks than its next start" in daemon.cairn("clone", "--live", "a", "x", ok=False).stderr
    daemon.cairn("attach-disk", "a", str(tmp_path / "b"), "vdb", "--config", "--subdriver", "qcow2")
    g.close()
    daemon.cairn("clone", "--live", "a", "x")
    c = Guest(daemon, "x")
    assert c.run("pci") == bus
    c.run("verify 0 8 3")
    c.close()
