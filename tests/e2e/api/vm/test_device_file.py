"""attach-device, detach-device and update-device: one disk or interface, from JSON or libvirt's XML."""

import json
import threading

import pytest

from test_hotplug import disks, image, machine
from test_usernet import host as user_host, libexec  # noqa: F401 (fixtures)

pytestmark = pytest.mark.usefixtures("kvm")

NET = "52:54:00:11:22:33"


def disk_xml(path, target="vdb", more=""):
    return (f"<?xml version='1.0'?>\n<disk type='file' device='disk'>\n  <driver name='qemu' type='raw'/>\n  <source file='{path}'/>\n"
            f"  <target dev='{target}' bus='virtio'/>\n{more}</disk>\n")


def live(daemon, *more):
    return json.loads(daemon.cairn("dumpjson", "a", *more).stdout)


def device(daemon, verb, text, *more, ok=True):
    file = daemon.tmp / "device"
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    return daemon.cairn(f"{verb}-device", "a", str(file), *more, ok=ok)


def releasing(g, work):
    t = threading.Thread(target=g.release)
    t.start()
    r = work()
    t.join()
    return r


@pytest.mark.parametrize("form", ["xml", "json"])
def test_disk_comes_and_goes(daemon, guest, tmp_path, form):
    g = machine(daemon, guest, disks=[{"path": image(tmp_path / "a.raw"), "format": "raw"}])
    image(daemon.tmp / "b.raw")
    text = disk_xml(daemon.tmp / "b.raw") if form == "xml" else {"disk": {"id": "vdb", "path": "b.raw", "format": "raw"}}
    assert device(daemon, "attach", text, "--persistent").stdout == "Device attached successfully\n"
    assert disks(daemon) == disks(daemon, "--inactive") == ["vda", "vdb"]
    assert live(daemon)["disks"][1]["path"] == str(daemon.tmp / "b.raw")
    g.run("open 1")
    g.run("write 0 8 3")
    g.run("verify 0 8 3")
    r = releasing(g, lambda: device(daemon, "detach", text, "--live", "--timeout", "60"))
    assert r.stdout == "Device detached successfully\n" and disks(daemon) == ["vda"]
    assert device(daemon, "detach", text, "--config").stdout == "Device detached successfully\n"
    assert disks(daemon, "--inactive") == ["vda"]
    g.close()


def test_detach_refuses_a_disk_with_another_image(daemon, guest, tmp_path):
    """The target alone could select a disk that the file does not mean."""
    a, b, c = (image(tmp_path / f"{n}.raw") for n in "abc")
    (tmp_path / "link.raw").symlink_to(b)
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}, {"id": "vdc", "path": b, "format": "raw"}, {"id": "vdb", "path": c, "format": "raw"}])
    for place in ("--live", "--config"):
        r = device(daemon, "detach", disk_xml(c, "vdc"), place, ok=False)
        assert f"disk vdc has the image {b}, not {c}; cairn domblklist shows" in r.stderr
    assert disks(daemon) == disks(daemon, "--inactive") == ["vda", "vdc", "vdb"]
    device(daemon, "update", disk_xml(c, "vdc"), "--config", ok=False)
    device(daemon, "detach", disk_xml(tmp_path / "link.raw", "vdc"), "--config")
    releasing(g, lambda: device(daemon, "detach", disk_xml(b, "vdc"), "--live", "--timeout", "60"))
    assert disks(daemon) == disks(daemon, "--inactive") == ["vda", "vdb"]
    g.close()


def test_neither_place_is_changed_if_the_definition_cannot_be(daemon, guest, tmp_path):
    a, b, c = (image(tmp_path / f"{n}.raw") for n in "abc")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    daemon.cairn("attach-disk", "a", b, "vdb", "--config")
    daemon.cairn("attach-disk", "a", c, "vdd", "--live")
    same = "nothing is changed, because the definition of the next start cannot be: "
    for args, why in ((("attach-disk", "a", b, "vdc", "--persistent"), "is also the image of"),
                      (("attach-disk", "a", image(tmp_path / "d.raw"), "vdb", "--live", "--config"), "target vdb already exists"),
                      (("detach-disk", "a", "vdd", "--persistent"), "No disk found whose source path or target is vdd")):
        r = daemon.cairn(*args, ok=False)
        assert same in r.stderr and why in r.stderr, r.stderr
        assert disks(daemon) == ["vda", "vdd"] and disks(daemon, "--inactive") == ["vda", "vdb"]
    g.close()


def test_note_about_the_next_start_is_true(daemon, guest, tmp_path):
    """Whatever else the two definitions differ in."""
    a, b, c, e = (image(tmp_path / f"{n}.raw") for n in "abce")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}])
    daemon.cairn("attach-disk", "a", b, "vdb", "--live")
    assert daemon.cairn("attach-disk", "a", c, "vdc", "--persistent").stderr == ""
    assert daemon.cairn("blkdeviotune", "a", "vdc", "--total-iops-sec", "100", "--live", "--config").stderr == ""
    assert daemon.cairn("attach-disk", "a", e, "vdd", "--config").stderr == "note: domain 'a' runs; the change applies to its next start\n"
    g.close()


def test_limits_of_a_disk_change(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.raw"), image(tmp_path / "b.raw")
    g = machine(daemon, guest, disks=[{"path": a, "format": "raw"}, {"path": b, "format": "raw", "iops": 100}])
    tune = "<iotune><total_iops_sec>7</total_iops_sec></iotune>"
    assert device(daemon, "update", disk_xml(b, more=tune), "--live").stdout == "Device updated successfully\n"
    assert live(daemon)["disks"][1]["iops"] == 7 and live(daemon, "--inactive")["disks"][1]["iops"] == 100
    device(daemon, "update", disk_xml(b), "--persistent")
    assert "iops" not in live(daemon)["disks"][1] and "iops" not in live(daemon, "--inactive")["disks"][1]
    more = "<iotune><read_bytes_sec>8192</read_bytes_sec><write_iops_sec>5</write_iops_sec><write_iops_sec_max>50</write_iops_sec_max></iotune>"
    device(daemon, "update", disk_xml(b, more=more), "--live")
    disk = live(daemon)["disks"][1]
    assert (disk["bps_rd"], disk["iops_wr"], disk["iops_wr_max"]) == (8192, 5, 50)
    device(daemon, "update", disk_xml(b), "--live")
    assert not {"bps_rd", "iops_wr", "iops_wr_max"} & set(live(daemon)["disks"][1])
    r = device(daemon, "update", disk_xml(a), "--live", ok=False)
    assert "path of vdb cannot change while the VM runs; use --config" in r.stderr
    device(daemon, "update", disk_xml(a, "vdc"), "--config", ok=False)
    g.close()


def test_medium_changes(daemon, guest, tmp_path):
    a, b = image(tmp_path / "a.iso"), image(tmp_path / "b.iso")
    cd = {"id": "sda", "device": "cdrom", "bus": "scsi", "path": a, "format": "raw"}
    g = machine(daemon, guest, disks=[cd])
    device(daemon, "update", {"disk": {**cd, "path": b}}, "--persistent")
    assert live(daemon)["disks"][0]["path"] == live(daemon, "--inactive")["disks"][0]["path"] == b
    device(daemon, "update", "<disk type='file' device='cdrom'><target dev='sda' bus='scsi'/><readonly/></disk>")
    assert "path" not in live(daemon)["disks"][0] and live(daemon, "--inactive")["disks"][0]["path"] == b
    g.close()


def test_interface_comes_changes_and_goes(user_host, guest):  # noqa: F811
    d = user_host
    g = machine(d, guest)
    text = f"<interface type='user'>\n<mac address='{NET}'/>\n<model type='virtio'/>%s</interface>"
    device(d, "attach", text % "", "--persistent")
    face, = live(d)["interfaces"]
    assert face["mac"] == NET and [face["id"]] == [x["id"] for x in live(d, "--inactive")["interfaces"]]
    link = {"bandwidth": {"inbound": {"average": 1000}}, "link": "down"}
    device(d, "update", text % "<link state='down'/><bandwidth><inbound average='1000'/></bandwidth>", "--persistent")
    for way in ((), ("--inactive",)):
        face, = live(d, *way)["interfaces"]
        assert {k: face[k] for k in link} == link and face["mac"] == NET
    rules = {"rules": [{"deny": "all"}]}
    device(d, "update", {"interface": {"type": "user", "egress": rules, "link": "down"}})
    face, = live(d)["interfaces"]
    assert face["egress"]["rules"] == rules["rules"] and face["link"] == "down" and not face.get("bandwidth")
    device(d, "update", text % "")
    face, = live(d)["interfaces"]
    assert face.get("link", "up") == "up" and face["egress"]["rules"] == rules["rules"]  # XML has no such element
    device(d, "update", {"interface": {"type": "user"}})
    assert "egress" not in live(d)["interfaces"][0]
    r = device(d, "update", {"interface": {"type": "user", "mac": NET, "network": "10.9.0.0/24"}}, "--live", ok=False)
    assert "network of net0 cannot change while the VM runs" in r.stderr
    releasing(g, lambda: device(d, "detach", text % "", "--live", "--timeout", "60"))
    assert live(d).get("interfaces", []) == [] and len(live(d, "--inactive")["interfaces"]) == 1
    g.close()


def test_bad_files_change_nothing(daemon, guest, tmp_path):
    a = image(tmp_path / "a.raw")
    daemon.define("a", boot={"kernel": guest("interp.elf")}, disks=[{"path": a, "format": "raw"}])
    before = live(daemon)
    for text, words in (
            ("", "is empty; a device is JSON or libvirt's device XML"),
            ("[]", "neither JSON"),
            ({"disks": []}, 'must be {"disk": {...}} or {"interface": {...}}'),
            ({"disk": {"path": a, "format": "raw"}}, "the disk has no id"),
            ({"disk": {"id": "vdb", "path": a, "format": "vmdk"}}, "format"),
            ({"disk": {"id": "vdb", "path": a, "format": "raw"}, "interface": {"type": "user"}}, "must be"),
            (disk_xml(a) + disk_xml(a, "vdc")[21:], "has 2 disks and 0 interfaces"),
            ("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", "has 0 disks and 0 interfaces"),
            ("<disk type='file'>\n<source file='x'/>\n</disk>", "has no target"),
            ("<disk type='file'>\n<source file='x'>\n</disk>", "line 3"),
            (disk_xml(a, "vda"), "target vda already exists")):
        assert words in device(daemon, "attach", text, ok=False).stderr, text
    assert "No disk found" in device(daemon, "detach", disk_xml(a), ok=False).stderr
    assert "the VM has no disk 'vdb'" in device(daemon, "update", disk_xml(a), ok=False).stderr
    assert "No such file" in daemon.cairn("attach-device", "a", str(tmp_path / "none"), ok=False).stderr
    assert live(daemon) == before
