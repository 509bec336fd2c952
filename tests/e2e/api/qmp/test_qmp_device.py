"""device_add and what belongs to it, on a VM's own socket. QEMU beside it gets the same commands."""

import json
import os
import subprocess
import time

import pytest

from conftest import Qmp, QmpError
from test_hotplug import disks, image, machine
from test_qmp import QEMU
from test_usernet import host as user_host, libexec  # noqa: F401 (fixtures)

pytestmark = pytest.mark.usefixtures("kvm")


def own(daemon, name="a"):
    q = Qmp(daemon.cairn("qmp-path", name).stdout.rstrip("\n"))
    daemon.clients.append(q)
    return q


def fails(q, command, **args):
    with pytest.raises(QmpError) as e:
        q.run(command, **args)
    return e.value


def node(q, name, path, driver="raw", **args):
    assert q.run("blockdev-add", driver=driver, node_name=name, file={"driver": "file", "filename": str(path)}, **args) == {}


def test_disk_is_added_and_deleted(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    q = own(daemon)
    # In libvirt's way: the file, the format, the device.
    assert q.run("blockdev-add", **{"driver": "file", "node-name": "s1", "filename": b, "auto-read-only": True, "discard": "unmap"}) == {}
    assert q.run("blockdev-add", **{"driver": "raw", "node-name": "f1", "file": "s1", "read-only": False}) == {}
    assert q.run("object-add", **{"qom-type": "iothread", "id": "io1"}) == {}
    assert q.run("device_add", **{"driver": "virtio-blk-pci", "id": "disk1", "drive": "f1", "serial": "S1", "num-queues": 1,
                                  "iothread": "io1", "bus": "pci.0"}) == {}
    assert disks(daemon) == ["vda", "disk1"] and disks(daemon, "--inactive") == ["vda"]
    assert [(x["qdev"], x["inserted"]["node-name"]) for x in q.run("query-block")] == [("vda", "vda"), ("disk1", "f1")]
    g.run("open 1")
    g.run("write 0 8 3")
    g.run("verify 0 8 3")
    assert fails(q, "blockdev-del", node_name="f1").desc == "Node f1 is in use"
    # The answer does not wait for the guest.
    assert q.run("device_del", id="disk1") == {}
    assert disks(daemon) == ["vda", "disk1"]
    g.refuse()
    assert q.event("DEVICE_UNPLUG_GUEST_ERROR")["data"] == {"device": "disk1", "path": "/machine/peripheral/disk1"}
    assert q.run("device_del", id="disk1") == {}
    g.release()
    assert q.event("DEVICE_DELETED")["data"] == {"device": "disk1", "path": "/machine/peripheral/disk1"}
    assert disks(daemon) == ["vda"]
    for name in ("f1", "s1"):
        assert q.run("blockdev-del", node_name=name) == {}
    assert q.run("object-del", id="io1") == {}
    g.close()


def test_interface_is_added_and_deleted(user_host, guest):  # noqa: F811
    g = machine(user_host, guest)
    q = own(user_host)
    assert q.run("netdev_add", type="user", id="n1", net="10.9.0.0/24", restrict=True) == {}
    assert q.run("device_add", driver="virtio-net-pci", id="nic1", netdev="n1", mac="52:54:00:11:22:33") == {}
    face, = json.loads(user_host.cairn("dumpjson", "a").stdout)["interfaces"]
    assert (face["id"], face["mac"], face["network"], face["restrict"]) == ("nic1", "52:54:00:11:22:33", "10.9.0.0/24", True)
    assert "is in use by 'nic1'" in fails(q, "netdev_del", id="n1").desc
    for name, up in (("nic1", False), ("n1", True), ("n1", False)):
        assert q.run("set_link", name=name, up=up) == {}
        face, = json.loads(user_host.cairn("dumpjson", "a").stdout)["interfaces"]
        assert face.get("link", "up") == ("up" if up else "down")
    assert q.run("device_del", id="nic1") == {}
    g.release()
    assert q.event("DEVICE_DELETED")["data"]["device"] == "nic1"
    assert q.run("netdev_del", id="n1") == {}
    g.close()


def test_layers_and_the_image_tool_agree(daemon, guest, tmp_path):
    base, top = tmp_path / "base", tmp_path / "top"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "4M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 0xab 0 64k", base], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top], check=True)
    g = machine(daemon, guest)
    q = own(daemon)
    node(q, "base", base, "qcow2")
    node(q, "top", top, "qcow2", backing="base")
    q.run("device_add", driver="virtio-blk-pci", drive="top")
    assert disks(daemon) == ["top"]
    said, = q.run("query-named-block-nodes")
    assert (said["node-name"], said["backing_file"], said["backing_file_depth"]) == ("top", str(base), 1)
    assert fails(q, "blockdev-del", node_name="base").desc == "Node base is in use"
    g.close()


def concluded(q, job):
    while q.event("JOB_STATUS_CHANGE", id=job)["data"]["status"] != "concluded":
        pass
    return next(j.get("error") for j in q.run("query-jobs") if j["id"] == job)


def test_commands_take_the_nodes_that_were_added(daemon, guest, tmp_path):
    """QEMU's schema asks for names of nodes; the id of the disk, which QEMU does not know there, serves as well."""
    for name, base in (("a", None), ("b", None), ("t", "b"), ("u", "t")):
        args = ["-F", "qcow2", "-b", f"{tmp_path}/{base}.qcow2"] if base else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args, f"{tmp_path}/{name}.qcow2", "4M"], check=True)
    g = machine(daemon, guest, disks=[{"path": f"{tmp_path}/a.qcow2", "format": "qcow2"}])
    q = own(daemon)
    node(q, "b", f"{tmp_path}/b.qcow2", "qcow2")
    node(q, "t", f"{tmp_path}/t.qcow2", "qcow2", backing="b")
    node(q, "q1", f"{tmp_path}/u.qcow2", "qcow2", backing="t")
    assert fails(q, "blockdev-add", driver="raw", node_name="vda", file={"driver": "file", "filename": "/x"}).desc == \
        "Duplicate nodes with node-name='vda'"
    q.run("device_add", driver="virtio-blk-pci", id="dev1", drive="q1")
    for devices, why in ((["vda"], "devices: 'q1' is missing"), (["vda", "q1", "dev1"], "devices: 'dev1' is there twice"),
                         (["vda", "t"], "No block device node 't'")):
        assert why in fails(q, "snapshot-save", job_id="s", tag="s", vmstate="vda", devices=devices).desc
    assert "the memory is stored in 'vda', not in 'q1'" in fails(q, "snapshot-save", job_id="s", tag="s", vmstate="q1", devices=["vda", "q1"]).desc
    for command, more in (("snapshot-save", {"vmstate": "vda"}), ("snapshot-load", {"vmstate": "vda"}), ("snapshot-delete", {})):
        q.run(command, job_id=command, tag="s", devices=["vda", "q1"], **more)
        assert concluded(q, command) is None
    assert q.run("block_resize", node_name="q1", size=8 << 20) == {}
    assert fails(q, "block-commit", device="q1", **{"base-node": "b", "base": "/b"}).desc == "'base-node' and 'base' are mutually exclusive"
    assert fails(q, "block-commit", device="q1", **{"top-node": "x"}).desc == "Cannot find device='' nor node-name='x'"
    q.run("block-commit", device="q1", job_id="c", **{"top-node": "t", "base-node": "b"})
    assert concluded(q, "c") is None
    layers = json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][1]
    assert layers["path"] == f"{tmp_path}/u.qcow2" and [b["path"] for b in layers["backing"]] == [f"{tmp_path}/b.qcow2"]
    q.run("block-stream", device="q1")
    assert concluded(q, "q1") is None
    assert not json.loads(daemon.cairn("dumpjson", "a").stdout)["disks"][1].get("backing")
    g.close()


def test_overlay_of_a_node(daemon, guest, tmp_path):
    for name in ("a", "over"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{tmp_path}/{name}.qcow2", "4M"], check=True)
    g = machine(daemon, guest)
    q = own(daemon)
    node(q, "q1", f"{tmp_path}/a.qcow2", "qcow2")
    q.run("device_add", driver="virtio-blk-pci", id="dev1", drive="q1")
    over = {"snapshot-file": f"{tmp_path}/over.qcow2", "mode": "existing"}
    assert "give either device or node-name" in fails(q, "blockdev-snapshot-sync", **over).desc
    assert fails(q, "blockdev-snapshot-sync", node_name="zz", **over).desc == "Cannot find device='' nor node-name='zz'"
    for key in ("device", "node-name"):
        said = fails(q, "blockdev-snapshot-sync", **{key: "q1"}, **over).desc
        assert "dev1" in said and "q1" not in said, said
    g.close()


def test_bad_requests_change_nothing(daemon, guest, tmp_path):
    g = machine(daemon, guest)
    q = own(daemon)
    for i in range(128):
        node(q, f"n{i}", tmp_path / f"{i}")
    assert "the maximum; remove some first" in fails(q, "netdev_add", type="user", id="x").desc
    assert q.run("blockdev-del", node_name="n64") == {}
    assert q.run("netdev_add", type="user", id="x") == {}
    # The file is opened by device_add.
    assert "No such file or directory" in fails(q, "device_add", driver="virtio-blk-pci", drive="n1").desc
    image(tmp_path / "1")
    assert "must have 1 to 15 characters" in fails(q, "device_add", driver="virtio-blk-pci", drive="n1", id="a" * 16).desc
    assert disks(daemon) == []
    for kind in ("secret", "rng-random", "memory-backend-ram"):
        e = fails(q, "object-add", **{"qom-type": kind, "id": "o"})
        assert f"objects of type {kind} are not supported: " in e.desc and e.cls == "GenericError"
    assert "netdevs of type tap are not supported; use user, or bridge with br" in fails(q, "netdev_add", type="tap", id="t").desc
    g.close()


@pytest.fixture
def qemu(tmp_path):
    if not os.path.exists(QEMU):
        pytest.skip("qemu-system-x86 is not installed")
    path = str(tmp_path / "s")
    p = subprocess.Popen([QEMU, "-M", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp",
                          f"unix:{path},server=on,wait=off"])
    try:
        while True:
            try:
                q = Qmp(path, longest=1 << 20)
                break
            except OSError:
                assert p.poll() is None
                time.sleep(0.02)
        yield q
        q.close()
    finally:
        p.terminate()
        p.wait(100)


def said(q, command, args):
    try:
        return q.run(command, **args)
    except QmpError as e:
        return str(e)


def test_answers_are_qemus(daemon, guest, qemu, tmp_path):
    """The same commands, the same answers, words included. Each has its own images, because QEMU locks them."""
    raw = {"driver": "file", "filename": None}
    sequence = [
        ("blockdev-add", {"driver": "raw", "node-name": "1x", "file": raw}),
        ("blockdev-add", {"driver": "raw", "file": raw}),
        ("blockdev-add", {"driver": "raw", "node-name": "x", "file": "nofile"}),
        ("blockdev-add", {"driver": "raw", "node-name": "x"}),
        ("blockdev-add", {"driver": "raw", "node-name": "d1", "file": raw}),
        ("blockdev-add", {"driver": "raw", "node-name": "d1", "file": raw}),
        ("blockdev-del", {"node-name": "zz"}),
        ("device_add", {"driver": "virtio-blk-pci", "id": "disk2"}),
        ("device_add", {"driver": "virtio-blk-pci", "id": "disk1", "drive": "d1"}),
        ("device_add", {"driver": "virtio-blk-pci", "id": "disk1", "drive": "d1"}),
        ("device_add", {"driver": "virtio-blk-pci", "id": "d", "drive": "d1", "bus": "no"}),
        ("blockdev-del", {"node-name": "d1"}),
        ("device_del", {"id": "zz"}),
        ("netdev_add", {"type": "nope", "id": "n2"}),
        ("netdev_add", {"id": "n2"}),
        ("netdev_add", {"type": "user", "id": "1n"}),
        ("netdev_add", {"type": "user", "id": "n1"}),
        ("netdev_add", {"type": "user", "id": "n1"}),
        ("netdev_del", {"id": "zz"}),
        ("netdev_del", {"id": "n1"}),
        ("netdev_del", {"id": "n1"}),
        ("set_link", {"name": "zz", "up": True}),
        ("object-add", {"qom-type": "nope", "id": "o"}),
        ("object-add", {"qom-type": "iothread", "id": "o"}),
        ("object-add", {"qom-type": "iothread", "id": "o"}),
        ("object-del", {"id": "o"}),
        ("object-del", {"id": "o"}),
        ("query-memory-devices", {}),
    ]
    g = machine(daemon, guest)
    q = own(daemon)
    for command, args in sequence:
        answers = []
        for who, name in ((qemu, "theirs"), (q, "ours")):
            mine = {**args, "file": {**raw, "filename": image(tmp_path / name)}} if args.get("file") == raw else args
            answers.append(said(who, command, mine))
        assert answers[0] == answers[1], (command, args)
    g.close()


def test_query_pci_shows_what_the_guest_has_configured(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}], rng=True)
    q = own(daemon)
    daemon.cairn("attach-disk", "a", b, "vdb", "--live")
    bus, = q.run("query-pci")
    devices = bus["devices"]
    assert bus["bus"] == 0 and [(d["slot"], d["qdev_id"]) for d in devices] == [(0, ""), (1, "vda"), (2, "rng0"), (24, "vdb")]
    assert devices[0]["class_info"] == {"class": 0x600, "desc": "Host bridge"} and not devices[0]["regions"]
    # The guest moves a BAR, and turns another one off.
    g.run("cfgwr 0x08 0x10 0xd0000000 4")
    g.run("cfgwr 0xc0 0x4 0 2")
    for d in q.run("query-pci")[0]["devices"]:
        bdf = d["slot"] << 3
        ids = int(g.run(f"cfgrd {bdf} 0 4")[0], 16)
        assert (d["id"]["vendor"], d["id"]["device"]) == (ids & 0xffff, ids >> 16)
        ids = int(g.run(f"cfgrd {bdf} 0x2c 4")[0], 16)
        assert (d["id"]["subsystem-vendor"], d["id"]["subsystem"]) == (ids & 0xffff, ids >> 16)
        for r in d["regions"]:
            at = int(g.run(f"cfgrd {bdf} {0x10 + 4 * r['bar']} 4")[0], 16) & ~0xf
            assert r["address"] == (-1 if d["slot"] == 24 else at), (d, r)
    assert q.run("query-pci")[0]["devices"][1]["regions"][0]["address"] == 0xd0000000
    g.close()
