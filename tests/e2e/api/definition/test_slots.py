"""Slots of interfaces that the daemon writes into a definition: the next daemon reads them. And the device file in
libvirt's XML, which takes away nothing that XML cannot express."""

import json

MAC = "52:54:00:00:00:0%d"


def interfaces(d, name="vm1"):
    return json.loads(d.cairn("dumpjson", name, "--inactive").stdout)["interfaces"]


def restarted(d):
    d.stop()
    d.start()
    assert d.info("vm1")["state"] == "shutoff"


def test_slot_that_no_key_can_name_is_not_kept(fake):
    """The 31st device is in slot 31."""
    disks = [{"path": f"{fake.tmp}/{i}.raw", "format": "raw"} for i in range(24)]
    for d in disks:
        open(d["path"], "wb").truncate(1 << 20)
    devices = {"console": {"virtio": True}, "rng": True, "guest_agent": True, "watchdog": {"model": "i6300esb"},
               "interfaces": [{"type": "user"}] * 3}
    fake.define("vm1", disks=disks, **devices)
    fake.define("vm1", disks=disks[:-1], **devices)
    assert [i.get("slot") for i in interfaces(fake)] == [29, 30, None]
    restarted(fake)


def test_slot_goes_with_the_machine_version_that_has_it(fake):
    face = {"id": "net0", "type": "user", "mac": MAC % 1}
    fake.define("vm1", interfaces=[{**face, "slot": 5}])
    fake.define("vm1", interfaces=[face])
    assert interfaces(fake)[0]["slot"] == 5
    fake.define("vm1", machine=1, interfaces=[face])
    assert "slot" not in interfaces(fake)[0]
    restarted(fake)


def test_device_file_in_xml_keeps_what_xml_cannot_express(fake):
    rules = {"rules": [{"deny": "all"}]}
    fake.define("vm1", interfaces=[{"id": "net0", "type": "user", "mac": MAC % 1, "restrict": True, "egress": rules}])
    before = interfaces(fake)[0]
    for link in ("down", "up"):
        (fake.tmp / "i.xml").write_text(f"<interface type='user'><mac address='{MAC % 1}'/><link state='{link}'/></interface>")
        fake.cairn("update-device", "vm1", str(fake.tmp / "i.xml"), "--config")
        after = interfaces(fake)[0]
        assert after == {**before, "link": link} and after["restrict"] and after["egress"]["rules"] == rules["rules"]
    # JSON can say all, so it also takes away.
    (fake.tmp / "i.json").write_text(json.dumps({"interface": {"type": "user", "mac": MAC % 1}}))
    fake.cairn("update-device", "vm1", str(fake.tmp / "i.json"), "--config")
    assert not interfaces(fake)[0].get("restrict") and "egress" not in interfaces(fake)[0]
