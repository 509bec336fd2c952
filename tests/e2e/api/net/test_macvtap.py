"""Networks of macvtap links: guests on a link of the host, without a bridge. With the real cairn-net and real guests,
in a network namespace of the test's own, where the link is one end of a veth."""

import json
import os
import re
import signal

import pytest

import guestlib
from conftest import Console, until
from netlib import TYPE, frame, mac_bytes
from test_network import RealNetDaemon, host, lan, plain  # noqa: F401 (fixtures)


class Direct(RealNetDaemon):
    def __init__(self, tmp, lan):  # noqa: F811
        super().__init__(tmp, lan)
        lan.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for link in "up0", "far0":
            lan.ip("link", "set", link, "up")

    def net(self, mode="bridge", ok=True, **keys):  # noqa: A003
        d = {"name": "lan", "mode": mode, "dev": "up0", **keys}
        (self.tmp / "net.json").write_text(json.dumps({k: v for k, v in d.items() if v is not None}))
        self.cairn("net-define", str(self.tmp / "net.json"))
        return self.cairn("net-start", "lan", ok=ok)

    def write_vm(self, name, mac="52:54:00:00:00:01", **face):
        v = guestlib.definition(name, interfaces=[{"type": "network", "source": "lan", "mac": mac, **face}])
        (self.tmp / f"{name}.json").write_text(json.dumps(v))
        self.cairn("define", str(self.tmp / f"{name}.json"))

    def need_nodes(self):
        # A machine in a folder, such as that of tests/fresh.sh, has a /dev in which the kernel makes no node.
        if not os.path.exists("/run/udev/control") and " /dev devtmpfs " not in open("/proc/mounts").read():
            pytest.skip("neither udev nor devtmpfs makes the device of a macvtap link here")

    def begin(self, name):
        self.need_nodes()
        return super().begin(name)

    def run_vm(self, name, **more):
        self.write_vm(name, **more)
        return self.begin(name)

    def links(self):
        return [i["ifname"] for i in self.lan.ip("link", "show", "type", "macvtap")]

    def close_in_order(self):
        for name in self.cairn("list", "--name", ok=None).stdout.split():
            self.cairn("destroy", name, ok=None)
        super().close_in_order()


@pytest.fixture
def direct(tmp_path, lan, kvm):  # noqa: F811
    d = Direct(tmp_path, lan)
    yield d
    d.close()


def received(s, payload_bytes):
    """Return the source of the next frame of that size from a guest."""
    while True:
        f = s.recv(65536)
        if f[12:14] == TYPE.to_bytes(2, "big") and len(f) == 14 + payload_bytes:
            return f[6:12].hex(":")


def test_guests_meet_each_other_and_the_link(direct, lan):  # noqa: F811
    direct.net()
    assert "Device:         up0" in direct.cairn("net-info", "lan").stdout and direct.links() == []
    outside = lan.socket("far0")
    a, b = direct.run_vm("a"), direct.run_vm("b", mac="52:54:00:00:00:02", queues=2)
    a.run("net send 200 3")
    assert guestlib.fields(b.run("net recv 3")[-1])["bytes"] == 200
    assert received(outside, 200) == "52:54:00:00:00:01"
    outside.send(frame(300, 4, to=mac_bytes("52:54:00:00:00:02")))
    assert guestlib.fields(b.run("net recv 4")[-1])["bytes"] == 300
    face = direct.figures("a")["interfaces"][0]
    assert face["target"] in direct.links() and len(direct.links()) == 2
    link = lan.ip("-d", "link", "show", face["target"])[0]
    assert (link["address"], link["linkinfo"]["info_data"]["mode"]) == ("52:54:00:00:00:01", "bridge")
    assert link["ifalias"].startswith("cairn " + direct.cairn("net-uuid", "lan").stdout.strip() + "-")  # by it, net-destroy finds leftovers
    # The same holds in another process of the VM, and with another daemon.
    assert json.loads(direct.cairn("restart-process", "a", "--format", "json").stdout)[0]["way"] == "handover"
    direct.stop(signal.SIGKILL)
    direct.start()
    a.run("net send 201 5")
    assert guestlib.fields(b.run("net recv 5")[-1])["bytes"] == 201
    assert "is in use by the running VMs a and b" in direct.cairn("net-destroy", "lan", ok=False).stderr
    direct.cairn("destroy", "a")
    until(lambda: len(direct.links()) == 1)
    # A VM that ends while no daemon runs, of whose port the next one knows, or not.
    for known in True, False:
        direct.cairn("start", "b", ok=None)
        pid = direct.info("b")["pid"]
        direct.stop(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        state = direct.state / "vms/b/state.json"
        stored = json.loads(state.read_text())
        assert len(stored["ports"]) == 1 and len(direct.links()) == 1
        if not known:
            state.write_text(json.dumps({**stored, "ports": []}))
        direct.start()
        until(lambda: direct.links() == [])
    direct.cairn("net-destroy", "lan")


def test_private_guests_reach_the_link_only(direct, lan):  # noqa: F811
    direct.net("private")
    outside = lan.socket("far0")
    a, b = direct.run_vm("a"), direct.run_vm("b", mac="52:54:00:00:00:02")
    a.run("net send 200 3")
    assert received(outside, 200) == "52:54:00:00:00:01"
    outside.send(frame(300, 4, to=mac_bytes("52:54:00:00:00:02")))
    assert guestlib.fields(b.run("net recv 4")[-1])["bytes"] == 300  # and not a's, which was sent before


def test_passthrough_serves_one_guest(direct, lan):  # noqa: F811
    before = lan.ip("link", "show", "up0")[0]["address"]
    direct.net("passthrough")
    assert lan.ip("link", "show", "up0")[0]["address"] == before
    outside = lan.socket("far0")
    a = direct.run_vm("a")
    a.run("net send 200 3")
    assert received(outside, 200) == "52:54:00:00:00:01"
    direct.write_vm("b", mac="52:54:00:00:00:02")
    why = direct.cairn("start", "b", ok=False).stderr
    assert "interfaces[0]: network 'lan' cannot connect the guest, so the VM was not started: " in why
    assert "one in mode passthrough has it alone" in why and "shut off" in direct.cairn("domstate", "b").stdout
    direct.cairn("destroy", "a")
    until(lambda: direct.links() == [] and lan.ip("link", "show", "up0")[0]["address"] == before)
    direct.begin("b")


def test_start_is_refused_with_a_remedy(direct, lan):  # noqa: F811
    direct.net()
    direct.run_vm("a")
    direct.write_vm("b", mac="52:54:00:00:00:02")
    lan.ip("link", "add", "link", "up0", "name", "other", "address", "52:54:00:00:00:02", "type", "macvlan", "mode", "bridge")
    lan.ip("link", "set", "other", "up")
    assert "has the MAC address of the interface; give the interface another one" in direct.cairn("start", "b", ok=False).stderr
    until(lambda: len(direct.links()) == 1)
    lan.ip("link", "del", "other")
    direct.write_vm("b", mac="52:54:00:00:00:02", filter="clean-traffic")
    assert "'lan' has mode bridge; remove them" in direct.cairn("start", "b", ok=False).stderr
    assert "has macvtap devices, which deliver nothing to the MAC address that the guest of a live clone has" in direct.cairn("clone", "--live", "a", "c", ok=False).stderr
    assert "ports lead to VMs on networks of mode nat" in direct.cairn("forward-add", "a", "auto:22", ok=False).stderr
    name, = direct.links()
    alias = lan.ip("link", "show", name)[0]["ifalias"]
    direct.cairn("destroy", "a")
    until(lambda: direct.links() == [])
    direct.cairn("net-destroy", "lan")
    lan.ip("link", "set", "up0", "master", "br0")
    assert "'up0' is a port of a bridge or bond already" in direct.cairn("net-start", "lan", ok=False).stderr
    lan.ip("link", "set", "up0", "nomaster")
    lan.ip("link", "set", "up0", "down")
    assert "'up0' is down, so the guests of network 'lan' reach nobody" in direct.cairn("net-start", "lan").stderr
    # net-destroy removes what a killed daemon and VM left, and no link of another daemon's network with the same UUID.
    for left, owner in ("left", alias), ("others", alias[:-16] + 16 * "0"):
        lan.ip("link", "add", "link", "up0", "name", left, "type", "macvtap", "mode", "bridge")
        lan.ip("link", "set", left, "alias", owner)
    direct.cairn("net-destroy", "lan")
    assert direct.links() == ["others"]
    lan.ip("link", "del", "up0")
    assert "there is no link 'up0'; give the name of a link of this host" in direct.cairn("net-start", "lan", ok=False).stderr


def test_kernel_without_macvtap_is_named(host):  # noqa: F811
    """cairn-net's sentence reaches the user, and the network stays inactive."""
    host.define_net(mode="private", dev="br0", ipv4=None)
    why = "network 'lan': the kernel of this host has no macvtap; load the module with: modprobe macvtap"
    host.tell("up", "json", {"error": {"class": "HostError", "desc": why}})
    assert why in host.cairn("net-start", "lan", ok=False).stderr and host.states() == {"lan": "inactive"}


def test_interface_of_a_running_vm(direct, lan):  # noqa: F811
    direct.need_nodes()
    direct.net()
    outside = lan.socket("far0")
    v = guestlib.definition("a")
    (direct.tmp / "a.json").write_text(json.dumps(v))
    direct.cairn("define", str(direct.tmp / "a.json"))
    direct.cairn("start", "a")
    c = Console(direct, "a")
    assert c.line() == "interp"
    direct.cairn("attach-interface", "a", "network", "lan", "--mac", "52:54:00:00:00:07", "--live")
    assert len(direct.links()) == 1 and direct.figures("a")["interfaces"][0]["target"] in direct.links()
    c.run("net open 0")
    c.run("net send 200 3")
    assert received(outside, 200) == "52:54:00:00:00:07"


XML = """<network>
  <name>lan</name>
  <forward {attr}mode='{mode}'>
    <interface dev='eth0'/>
  </forward>
</network>
"""


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthrough"])
def test_libvirts_xml_both_ways(plain, mode):  # noqa: F811
    path = plain.tmp / "net.xml"
    path.write_text(XML.format(attr="", mode=mode))
    assert plain.cairn("net-define", str(path)).stderr == ""
    d = json.loads(plain.cairn("net-dumpjson", "lan").stdout)
    uuid = d.pop("uuid")
    assert d == {"name": "lan", "mode": mode, "dev": "eth0", "users": [], "groups": []}
    xml = plain.cairn("net-dumpxml", "lan").stdout
    assert [line.strip() for line in xml.rstrip().splitlines()] == [
        line.strip() for line in XML.format(attr="dev='eth0' ", mode=mode).replace("</name>", f"</name>\n<uuid>{uuid}</uuid>").splitlines()]
    path.write_text(xml)
    assert plain.cairn("net-define", str(path)).stderr == ""
    assert json.loads(plain.cairn("net-dumpjson", "lan").stdout) == {"uuid": uuid, **d}


@pytest.mark.parametrize("keys,why", [
    ({"mode": "private"}, "dev is missing; mode private needs the name of a link of the host, such as eth0"),
    ({"mode": "bridge", "dev": "eth0", "bridge": "br0"}, "bridge: mode bridge has a bridge that exists or macvtap devices on dev; remove bridge or dev"),
    ({"mode": "vepa", "dev": "eth0", "devs": ["eth1"]}, "devs: has all links of the network; remove dev"),
    ({"mode": "isolated", "devs": ["eth1"]}, "devs: needs mode bridge, private, vepa or passthrough"),
    ({"mode": "vepa", "devs": []}, "dev is missing"),
    ({"mode": "vepa", "dev": "eth0", "mtu": 9000}, "mode vepa uses a link that exists as it is; remove all keys but name, uuid, mode, dev"),
])
def test_wrong_definition_is_refused(plain, keys, why):  # noqa: F811
    (plain.tmp / "net.json").write_text(json.dumps({"name": "lan", **keys}))
    assert why in plain.cairn("net-define", str(plain.tmp / "net.json"), ok=False).stderr


def test_guests_get_the_link_with_fewest_guests(direct, lan):  # noqa: F811
    """One of the three links is missing when the guests start."""
    for n in 1, 2:
        lan.ip("link", "add", f"up{n}", "type", "veth", "peer", "name", f"far{n}")
        for link in f"up{n}", f"far{n}":
            lan.ip("link", "set", link, "up")
    direct.net(dev=None, devs=["up0", "up1", "up2"])
    assert re.search("Devices: +up0\n +up1\n +up2\nMode", direct.cairn("net-info", "lan").stdout)
    lan.ip("link", "del", "up2")

    def link_of(name):
        face = direct.figures(name)["interfaces"][0]["target"]
        return lan.ip("link", "show", face)[0]["link"]

    consoles = [direct.run_vm(f"vm{i}", mac=f"52:54:00:00:00:0{i}") for i in range(1, 5)]
    assert [link_of(f"vm{i}") for i in range(1, 5)] == ["up0", "up1", "up0", "up1"]
    for n in 0, 1:
        s = lan.socket(f"far{n}")
        consoles[n].run("net send 200 3")
        assert received(s, 200) == f"52:54:00:00:00:0{n + 1}"
    for name in "vm1", "vm3":
        direct.cairn("destroy", name)
    until(lambda: len(direct.links()) == 2)
    direct.begin("vm1")
    assert link_of("vm1") == "up0"
    for name in "vm1", "vm2", "vm4":
        direct.cairn("destroy", name)
    until(lambda: direct.links() == [])
    lan.ip("link", "del", "up0")
    lan.ip("link", "del", "up1")
    assert "there is no link 'up2'" in direct.cairn("start", "vm1", ok=False).stderr


def test_passthrough_takes_a_free_link_of_several(direct, lan):  # noqa: F811
    lan.ip("link", "add", "up1", "type", "veth", "peer", "name", "far1")
    lan.ip("link", "set", "up1", "up")
    lan.ip("link", "add", "link", "up0", "name", "other", "type", "macvtap", "mode", "passthru")  # somebody else's
    for i in 1, 2:
        direct.write_vm(f"vm{i}", mac=f"52:54:00:00:00:0{i}")
    assert "'up0' takes no further macvtap link" in direct.net("passthrough", dev="up0", ok=False).stderr
    lan.ip("link", "del", "other")
    direct.net("passthrough", dev=None, devs=["up0", "up1"])
    lan.ip("link", "add", "link", "up0", "name", "other", "type", "macvtap", "mode", "passthru")
    direct.begin("vm1")
    assert lan.ip("link", "show", "up1")[0]["address"] == "52:54:00:00:00:01"
    assert "none of its 2 links is free; each of them serves one guest" in direct.cairn("start", "vm2", ok=False).stderr
    lan.ip("link", "del", "other")
    direct.begin("vm2")
    assert lan.ip("link", "show", "up0")[0]["address"] == "52:54:00:00:00:02"


def test_several_links_in_libvirts_xml(plain):  # noqa: F811
    path = plain.tmp / "net.xml"
    text = XML.format(attr="dev='eth0' ", mode="vepa").replace("<interface dev='eth0'/>", "<interface dev='eth0'/><interface dev='eth1'/>")
    path.write_text(text)
    assert plain.cairn("net-define", str(path)).stderr == ""
    shown = json.loads(plain.cairn("net-dumpjson", "lan").stdout)
    assert shown["devs"] == ["eth0", "eth1"] and "dev" not in shown
    xml = plain.cairn("net-dumpxml", "lan").stdout
    assert re.sub(r"\s", "", re.sub("<uuid>.*</uuid>", "", xml)) == re.sub(r"\s", "", text)
    path.write_text(text.replace("eth1", "eth0"))
    assert 'devs[1]: "eth0" is there twice; remove one' in plain.cairn("net-define", str(path), ok=False).stderr
