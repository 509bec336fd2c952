"""Disks and CD drives with bus scsi that come and go while the VM runs: targets of the SCSI controller, and the
controller itself, which comes with its first disk and goes with its last one. The guest `interp` does what a system
does: see test_hotplug.py. It has no event ring; tests/unit/devices/virtio/test_virtio_scsi_plug.c and
test_linux_devices.py do."""

import json
import os

import pytest

from carrylib import carry
from conftest import Qmp, QmpError, until
from guestlib import fields
from test_hotplug import PLUGGED, Guest, detach_of, disks, image, machine, qcow2, reverted, slot_of

pytestmark = pytest.mark.usefixtures("kvm")

SCSI = 0x1048
ROUNDS = int(os.environ.get("CAIRN_PLUGS", 0))
BAD_TARGET = 3


def scsi(path, **keys):
    return {"path": path, "format": "raw", "bus": "scsi", **keys}


def attach(d, path, target="sdb", *more, ok=True):
    return d.cairn("attach-disk", "a", path, target, "--targetbus", "scsi", "--live", *more, ok=ok)


def detach(d, target="sdb", *more, ok=True):
    return d.cairn("detach-disk", "a", target, "--live", *more, ok=ok)


def response(g, target):
    """The controller's response to TEST UNIT READY."""
    g.run(f"sopen {target} 512")
    return fields(g.run("scsi 000000000000")[-1])["response"]


def targets(g):
    """Return the targets that answer to INQUIRY, with their serial numbers."""
    found = {}
    for target in range(24):
        g.run(f"sopen {target} 512")
        said = fields(g.run("scsi 12018000ff 255")[-1])
        if said["response"] == 0:
            found[target] = bytes.fromhex(said["data"][8:]).decode()
    return found


def bench_begin(g, requests):
    g.sock.sendall(f"bench randwrite 32 {requests} 4096 4096 1\n".encode())


def bench_end(g, requests):
    """Return how many of the requests have failed. Each has an answer."""
    work = fields(g.line())
    assert work["requests"] == requests and g.line() == ("err errors" if work["errors"] else "ok")
    return work["errors"]


def test_target_is_attached_and_detached(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[scsi(a)], machine=1)  # no machine version lacks it
    bus, q = g.run("pci"), daemon.qmp()
    assert response(g, 1) == BAD_TARGET
    assert attach(daemon, b).stdout == "Disk attached successfully\n"
    assert disks(daemon) == ["sda", "sdb"] and disks(daemon, "--inactive") == ["sda"] and g.run("pci") == bus
    g.run("sopen 1 512")
    g.run("write 16 64 7")
    g.run("verify 16 64 7")
    assert daemon.figures("a")["disks"][1]["wr-reqs"] > 0
    assert "target sdb already exists" in attach(daemon, image(tmp_path / "c.raw"), ok=False).stderr
    assert "sda is the first disk of VM 'a', from which its guest runs" in detach(daemon, "sda", ok=False).stderr
    assert detach(daemon).stdout == "Disk detached successfully\n"
    q.event("DEVICE_DELETED", device="sdb")
    assert disks(daemon) == ["sda"] and response(g, 1) == BAD_TARGET
    g.run("sopen 0 512")
    g.run("write 0 8 1")
    g.run("verify 0 8 1")
    # The image is free, and has what the guest wrote. It comes back as another target.
    with open(b, "rb") as f:
        f.seek(16 * 512)
        assert any(f.read(512))
    assert attach(daemon, b, "sdz", "--persistent").returncode == 0
    assert disks(daemon, "--inactive") == ["sda", "sdz"] and response(g, 1) == BAD_TARGET
    g.run("sopen 2 512")
    g.run("verify 16 64 7")
    g.close()


def test_controller_comes_with_its_first_disk_and_goes_with_the_last(daemon, guest, tmp_path):
    a, b, c = (image(tmp_path / f"{n}.raw") for n in "abc")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}], rng=True)
    q = daemon.qmp()
    for _ in range(2):
        attach(daemon, b, "sda")
        assert g.event() and g.inl(PLUGGED) and slot_of(g, SCSI) == [24]
        attach(daemon, c, "sdb")
        assert not g.event()
        g.run("sopen 1 512")
        g.run("write 0 8 3")
        g.run("verify 0 8 3")
        detach(daemon, "sda")  # a target of several
        assert slot_of(g, SCSI) == [24] and response(g, 0) == BAD_TARGET
        g.run("sopen 1 512")
        g.run("verify 0 8 3")
        r = detach(daemon, "sdb", "--timeout", "1", ok=False)
        assert "the guest has not released sdb within 1 s, so it stays attached" in r.stderr
        # A disk that comes meanwhile goes with the controller, too.
        attach(daemon, b, "sdc")
        g.release()
        q.event("DEVICE_DELETED", device="sdb")
        q.event("DEVICE_DELETED", device="sdc")
        until(lambda: disks(daemon) == ["vda"])
        assert slot_of(g, SCSI) == []
        g.event()
    attach(daemon, b, "sda")
    g.close()
    # It can still go after the guest has booted again.
    daemon.cairn("reset", "a")
    g = Guest(daemon, "a")
    assert "Disk detached" in detach_of(daemon, g, "sda") and slot_of(g, SCSI) == []
    g.close()


def test_what_cannot_be_done_is_refused(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}], machine=1)
    assert "machine version 1, which has no hot-plug; change its definition with --config, or set its key machine to" in \
        attach(daemon, b, ok=False).stderr
    g.close()
    daemon.cairn("destroy", "a")
    daemon.cairn("undefine", "a")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}, scsi(b, id="sda")])
    assert "sda is the last disk at the SCSI controller, which was there when the guest booted and stays as long as the guest runs" in \
        detach(daemon, "sda", ok=False).stderr
    assert "No such file" in attach(daemon, str(tmp_path / "none"), ok=False).stderr
    assert "is in use by" in attach(daemon, b, ok=False).stderr or "is also the image of" in attach(daemon, b, ok=False).stderr
    assert disks(daemon) == ["vda", "sda"] and list(targets(g)) == [0]
    g.close()


def test_targets_survive_handover_daemon_and_save(daemon, guest, tmp_path):
    """Their numbers stay, which are no longer in a row."""
    paths = {n: image(tmp_path / f"{n}.raw") for n in "abcd"}
    plugged = [scsi(paths[n], id=f"sd{n}", serial=f"serial-{n}") for n in "bcd"]
    g = machine(daemon, guest, disks=[{"path": paths["a"], "format": "raw"}])

    def plug(disk, verb="attach-device", *more):
        (tmp_path / "disk.json").write_text(json.dumps({"disk": disk}))
        daemon.cairn(verb, "a", str(tmp_path / "disk.json"), *more)

    for disk in plugged:
        plug(disk)
    assert targets(g) == {0: "serial-b", 1: "serial-c", 2: "serial-d"}
    plug(plugged[0], "detach-device")
    plug(plugged[0])
    plug(plugged[1], "detach-device")
    bus, expected = g.run("pci"), {2: "serial-d", 3: "serial-b"}
    assert targets(g) == expected
    g.run("sopen 3 512")
    g.run("write 0 8 5")
    g.close()
    for disk in (plugged[2], plugged[0]):
        plug(disk, "attach-device", "--config")
    for move in carry(daemon, tmp_path):
        g = Guest(daemon, "a")
        assert g.run("pci") == bus and targets(g) == expected, move
        assert disks(daemon) == ["vda", "sdd", "sdb"]
        g.run("sopen 3 512")
        g.run("verify 0 8 5")
        assert daemon.figures("a")["disks"][2]["rd-reqs"] > 0, move
        g.close()
    g = Guest(daemon, "a")
    plug(plugged[2], "detach-device")
    assert targets(g) == {3: "serial-b"}
    g.close()


def test_snapshots_and_clones_have_their_targets(daemon, guest, tmp_path):
    a, b, c = ({**qcow2(tmp_path / n), "serial": n} for n in "abc")
    g = machine(daemon, guest, disks=[{**a, "bus": "scsi"}])
    more, q = ("--subdriver", "qcow2", "--serial"), daemon.qmp()
    daemon.cairn("snapshot-create-as", "a", "one")
    attach(daemon, b["path"], "sdb", *more, "b")
    attach(daemon, c["path"], "sdc", *more, "c")
    detach(daemon, "sdb")
    g.run("sopen 2 512")
    g.run("write 0 8 3")
    daemon.cairn("snapshot-create-as", "a", "two")
    g.run("write 0 8 4")
    daemon.cairn("snapshot-revert", "a", "two")
    g.run("verify 0 8 3")
    # A clone has the target, too.
    daemon.cairn("attach-disk", "a", c["path"], "sdc", "--targetbus", "scsi", "--config", *more, "c")
    daemon.cairn("clone", "--live", "a", "x")
    x = Guest(daemon, "x")
    assert targets(x) == {0: "a", 2: "c"}
    x.run("sopen 2 512")
    x.run("verify 0 8 3")
    x.close()
    daemon.cairn("detach-disk", "a", "sdc", "--config")
    # The state lacks a target, which goes in place.
    assert not reverted(daemon, "one")["stopped"]
    q.event("DEVICE_DELETED", device="sdc")
    assert disks(daemon) == ["sda"] and targets(g) == {0: "a"}
    attach(daemon, b["path"], "sdb", *more, "b")
    g.close()
    # The VM lacks a target of the state: a new process gets it, without the disk that the state lacks.
    assert reverted(daemon, "two")["stopped"]
    q.event("DEVICE_DELETED", device="sdb")
    g = Guest(daemon, "a")
    assert disks(daemon) == ["sda", "sdc"] and targets(g) == {0: "a", 2: "c"}
    g.run("sopen 2 512")
    g.run("verify 0 8 3")
    g.close()
    daemon.cairn("destroy", "a")
    reverted(daemon, "two")
    g = Guest(daemon, "a")
    assert targets(g) == {0: "a", 2: "c"}
    g.close()


def test_revert_takes_the_controller_away_and_brings_it_back(daemon, guest, tmp_path):
    a, b = qcow2(tmp_path / "a"), qcow2(tmp_path / "b")
    g = machine(daemon, guest, disks=[a], interfaces=[{"type": "user"}], vsock={"cid": 77})
    daemon.cairn("snapshot-create-as", "a", "without")
    attach(daemon, b["path"], "sda", "--subdriver", "qcow2", "--serial", "b")
    g.run("sopen 0 512")
    g.run("write 0 8 3")
    bus = g.run("pci")
    daemon.cairn("snapshot-create-as", "a", "with")
    reverted(daemon, "without")
    assert disks(daemon) == ["vda"] and slot_of(g, SCSI) == []
    g.close()
    assert reverted(daemon, "with")["stopped"]
    g = Guest(daemon, "a")
    assert g.run("pci") == bus and disks(daemon) == ["vda", "sda"]
    g.run("verify 0 8 3")
    g.close()


def test_cd_drive_comes_and_goes(daemon, guest, tmp_path):
    a, one, two = image(tmp_path / "a.raw"), image(tmp_path / "1.iso", 1 << 20), image(tmp_path / "2.iso", 2 << 20)
    g = machine(daemon, guest, disks=[scsi(a)])
    xml = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>%s<target dev='sdb' bus='scsi'/><readonly/></disk>"
    (tmp_path / "cd.xml").write_text(xml % f"<source file='{one}'/>")

    def blocks():
        g.run("sopen 1 2048")
        said = fields(g.run("scsi 25000000000000000000 8")[-1])
        return said["sense"] if said["status"] else int(said["data"][:8], 16) + 1

    daemon.cairn("attach-device", "a", str(tmp_path / "cd.xml"), "--live")
    blocks()  # the power-on attention
    assert blocks() == 512
    (tmp_path / "cd.xml").write_text(xml % f"<source file='{two}'/>")
    daemon.cairn("update-device", "a", str(tmp_path / "cd.xml"), "--live")
    blocks()
    assert blocks() == 1024
    daemon.cairn("change-media", "a", "sdb", "--eject", "--live")
    daemon.cairn("change-media", "a", "sdb", one, "--insert", "--live")
    blocks()
    assert blocks() == 512
    daemon.cairn("detach-device", "a", str(tmp_path / "cd.xml"), "--live")
    assert disks(daemon) == ["sda"] and list(targets(g)) == [0]
    g.close()


def test_qmp_adds_and_deletes_targets(daemon, guest, tmp_path):
    a, b, c = image(tmp_path / "a.raw"), image(tmp_path / "b.raw"), image(tmp_path / "c.iso")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    q = Qmp(daemon.cairn("qmp-path", "a").stdout.rstrip("\n"))
    for name, path in (("b", b), ("c", c), ("d", image(tmp_path / "d.raw"))):
        q.run("blockdev-add", driver="raw", node_name=name, file={"driver": "file", "filename": path})
    q.run("device_add", driver="scsi-hd", id="data", drive="b", bus="scsi0.0", serial="S1", wwn=0x5000c50015ea71aa)
    q.run("device_add", driver="scsi-cd", id="cd", drive="c", wwn="0x5000c50015ea71ab")
    live = json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][1:]
    assert [(d["id"], d["bus"], d["device"], d["wwn"]) for d in live] == [
        ("data", "scsi", "disk", "5000c50015ea71aa"), ("cd", "scsi", "cdrom", "5000c50015ea71ab")]
    assert [x["removable"] for x in q.run("query-block")] == [False, False, True]
    assert targets(g)[0] == "S1"
    for words, args in (("Bus 'pci.0' not found", {"driver": "scsi-hd", "bus": "pci.0"}),
                        ("Property 'scsi-hd.num-queues' not found", {"driver": "scsi-hd", "num-queues": 2}),
                        ("must be 16 hexadecimal digits", {"driver": "scsi-hd", "drive": "d", "wwn": "5z"}),
                        *(("must be 16 hexadecimal digits", {"driver": "scsi-hd", "drive": "d", "wwn": wwn})
                          for wwn in ([1], -1, "-1", " 1", "", "0x15000c50015ea71aa", "18446744073709551616")),
                        ("is not a valid device model name; virtio-blk-pci, scsi-hd", {"driver": "virtio-scsi-pci"})):
        with pytest.raises(QmpError, match=words):
            q.run("device_add", **{"id": "x", "drive": "b", **args})
    q.run("device_del", id="cd")
    q.event("DEVICE_DELETED", device="cd")
    q.run("device_del", id="data")
    g.release()
    q.event("DEVICE_DELETED", device="data")
    q.run("blockdev-del", node_name="b")
    assert disks(daemon) == ["vda"]
    q.close()
    g.close()


def test_target_goes_while_requests_are_under_way(daemon, guest, tmp_path):
    """The device answers requests that the disk's limit holds back, and each later request, also in a paused VM."""
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[scsi(a)])
    for paused in (False, True):
        attach(daemon, b)
        target = max(targets(g))
        daemon.cairn("blkdeviotune", "a", "sdb", "--total-iops-sec", "50", "--live")
        g.run(f"sopen {target} 512")
        bench_begin(g, 3000)
        until(lambda: daemon.figures("a")["disks"][1]["wr-reqs"] > 2)
        if paused:
            daemon.cairn("suspend", "a")
        detach(daemon)
        if paused:
            daemon.cairn("resume", "a")
        assert 0 < bench_end(g, 3000) < 3000
        assert disks(daemon) == ["sda"] and response(g, target) == BAD_TARGET
    g.run("sopen 0 512")
    g.run("write 0 8 1")
    g.run("verify 0 8 1")
    g.close()


@pytest.mark.parametrize("rounds", [20, pytest.param(ROUNDS, marks=pytest.mark.skipif(
    not ROUNDS, reason="part of make check-long: CAIRN_PLUGS is not set"))])
@pytest.mark.seconds(60 + ROUNDS)
def test_targets_come_and_go_with_io_under_way(daemon, guest, tmp_path, rounds):
    """Thousands of requests are under way when the disk goes. Each has an answer, and what was flushed before is
    there."""
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[scsi(a)], vcpus=2)
    failed, total, requests = 0, 0, 2000
    for i in range(rounds):
        attach(daemon, b)
        g.run(f"sopen {1 + i % 23} 512 64 2 0")
        g.run(f"verify 8000 8 {i}" if i else "sum 8000 8")
        g.run(f"write 8000 8 {i + 1}")
        g.run("flush")
        bench_begin(g, requests)
        detach(daemon)
        errors = bench_end(g, requests)
        failed, total = failed + errors, total + requests
        if not errors:  # on a busy machine the command may come after the last request
            requests *= 2
    assert 0 < failed < total and disks(daemon) == ["sda"]
    g.run("sopen 0 512")
    g.run("write 0 8 1")
    g.run("verify 0 8 1")
    g.close()
