"""The rules of VMs' taps on networks: a guest sends with its own addresses only. With the real cairn-net and real
guests, in a network namespace of the test's own. A stand-in for cairn-net shows the daemon's requests."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

import guestlib
from conftest import BUILD, Console, library, until
from hostnetlib import PROGRAM, netns, processes
from test_network import MAC, RealNetDaemon, asks, host, lan  # noqa: F401

OTHER = "52:54:00:00:00:00"  # the guest's "net probe 1"
ARP = 0x0806


def mac_of(frame):
    return frame[6:12].hex(":")


class RealDaemon(RealNetDaemon):
    def __init__(self, tmp, lan):  # noqa: F811
        super().__init__(tmp, lan)
        self.define_net(filter="clean-traffic")
        self.cairn("net-start", "lan")
        self.net_uuid = self.net()["uuid"]

    def rules(self):
        return subprocess.run([*self.lan.enter, "nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    def programs(self):
        """Return the numbers of the network's dnsmasq and cairn-dns."""
        found = processes("dnsmasq") + processes("cairn-dns")
        return [p for p in found if self.net_uuid in pathlib.Path(f"/proc/{p}/cmdline").read_text()]

    def run_vm(self, name, **more):
        v = guestlib.definition(name, interfaces=[{"type": "network", "source": "lan", "mac": MAC}], **more)
        (self.tmp / f"{name}.json").write_text(json.dumps(v))
        self.cairn("define", str(self.tmp / f"{name}.json"))
        return self.begin(name)

    def tap(self, name):
        return self.figures(name)["interfaces"][0]["target"]

    def probes(self, c, s):
        """Have the guest send with another MAC address and with its own. Return the addresses that arrive."""
        came = []
        c.run("net probe 1")
        c.run("net probe 0")
        while MAC not in came:
            mac = mac_of(s.recv(2048))
            came += [mac] if mac in (MAC, OTHER) else []
        return came

    def close_in_order(self):
        if self.cairn("net-list", "--name", ok=None).stdout.strip():
            for name in self.cairn("list", "--name", ok=None).stdout.split():
                self.cairn("destroy", name, ok=None)
            self.cairn("net-destroy", "lan", ok=None)
        super().close_in_order()


@pytest.fixture
def real(tmp_path, lan, kvm):  # noqa: F811
    d = RealDaemon(tmp_path, lan)
    yield d
    d.close()


# ---- with the real cairn-net ----

def test_guest_sends_with_its_own_mac_only(real, lan):  # noqa: F811
    s = lan.socket("virbr0", ARP)
    c = real.run_vm("vm1")
    tap = real.tap("vm1")
    assert re.fullmatch("vnet[0-9a-f]{8}", tap) and f"in_{tap}" in real.rules()
    assert real.probes(c, s) == [MAC]
    assert json.loads(real.cairn("restart-process", "vm1", "--format", "json").stdout)[0]["way"] == "handover"
    assert real.tap("vm1") == tap and real.probes(c, s) == [MAC]
    real.cairn("destroy", "vm1")
    until(lambda: tap not in real.rules())
    # Without the rules, both arrive: so the test can fail.
    real.cairn("net-destroy", "lan")
    real.define_net(filter="none")
    real.cairn("net-start", "lan")
    s = lan.socket("virbr0", ARP)
    assert real.probes(real.begin("vm1"), s) == [OTHER, MAC]
    assert "vnet" not in real.rules()


def test_guest_does_not_send_with_the_mac_of_a_fixed_host(real, lan):  # noqa: F811
    """The default: another MAC address passes until somebody else is known to have it."""
    real.cairn("net-destroy", "lan")
    real.define_net(filter=None)
    real.cairn("net-start", "lan")
    s = lan.socket("virbr0", ARP)
    c = real.run_vm("vm1")
    assert real.probes(c, s) == [OTHER, MAC]
    real.cairn("net-update", "lan", "add", "ip-dhcp-host", json.dumps({"mac": OTHER, "address": "10.77.0.50"}), "--live")
    assert real.probes(c, s) == [MAC]


def test_links_and_rules_stay_over_a_kill_of_the_daemon_and_go_with_the_network(real, lan):  # noqa: F811
    def now():
        return [(i["ifname"], i["address"], i.get("master"), i["flags"]) for i in lan.ip("link", "show")], real.rules()
    real.cairn("net-destroy", "lan")
    before = now()
    assert [name for name, *_ in before[0]] == ["lo", "br0"] and not before[1]
    real.cairn("net-start", "lan")
    c = real.run_vm("vm1")
    running = now()
    assert running != before
    real.stop(signal.SIGKILL)
    assert now() == running
    real.start()
    c.close()
    s = lan.socket("virbr0", ARP)
    assert real.probes(Console(real, "vm1"), s) == [MAC]  # the daemon has taken both over
    assert now() == running
    real.cairn("destroy", "vm1")
    real.cairn("net-destroy", "lan")
    assert now() == before


def test_nothing_is_left_of_a_network_whose_bridge_was_deleted_while_no_daemon_ran(real, lan):  # noqa: F811
    def now():
        return sorted(i["ifname"] for i in lan.ip("link", "show")), real.rules(), real.programs()
    real.cairn("net-destroy", "lan")
    before = now()
    real.cairn("net-start", "lan")
    assert real.programs() and now() != before
    real.stop(signal.SIGKILL)
    lan.ip("link", "del", "virbr0")
    real.start()
    assert real.states() == {"lan": "inactive"} and now() == before
    real.cairn("net-start", "lan")


def mac_of_clone(d, name):
    return d.figures(name)["interfaces"][0]["mac"]


def test_live_clone_sends_with_its_own_mac(real, lan):  # noqa: F811
    """The clone's guest has the source's address until its driver starts again, also after a managed save."""
    real.run_vm("vm1")
    real.cairn("clone", "--live", "vm1", "vm2")
    real.cairn("destroy", "vm1")
    s = lan.socket("virbr0", ARP)
    own = mac_of_clone(real, "vm2")

    def probe():
        c = Console(real, "vm2")
        c.run("net probe 1")
        c.run("net probe 0")
        mac = None
        while mac != own:
            mac = mac_of(s.recv(2048))
            assert mac not in (MAC, OTHER)
    probe()
    real.cairn("managedsave", "vm2")
    real.stop()
    real.start()
    real.cairn("start", "vm2")
    probe()


GATEWAY = "net ask 0x0a4d0001"


def leases(d):
    return [(x["mac"], x["address"]) for x in json.loads(d.cairn("net-dhcp-leases", "lan", "--format", "json").stdout)]


def test_guest_gets_its_address_from_dnsmasq(real, lan):  # noqa: F811
    before = real.rules()
    c = real.run_vm("vm1")
    address = c.run("net dhcp")[0]
    until(lambda: leases(real) == [(MAC, address)])
    assert address.startswith("10.77.0.")
    assert c.run(GATEWAY)[0] == "answered=1"
    rows = real.cairn("domifaddr", "vm1", "--source", "lease").stdout.splitlines()[2:]
    assert [row.split() for row in rows if row] == [["net0", MAC, "ipv4", f"{address}/24"]]
    shown = json.loads(real.cairn("domifaddr", "vm1", "net0", "--source", "lease", "--format", "json").stdout)
    assert shown[0]["addresses"] == [{"type": "ipv4", "address": address, "prefix": 24}]
    assert "no interface 'net7'" in real.cairn("domifaddr", "vm1", "net7", "--source", "lease", ok=False).stderr
    # Nothing stays after a kill of the daemon, either.
    real.stop(signal.SIGKILL)
    real.start()
    assert c.run(GATEWAY)[0] == "answered=1"
    real.cairn("destroy", "vm1")
    until(lambda: "vnet" not in real.rules())
    real.cairn("net-destroy", "lan")
    assert "cairn" in before and "cairn" not in real.rules()


def test_restored_guest_keeps_the_address_of_an_ended_lease(real, lan):  # noqa: F811
    c = real.run_vm("vm1")
    address = c.run("net dhcp")[0]
    until(lambda: leases(real) == [(MAC, address)])
    state = str(real.tmp / "saved")
    real.cairn("save", "vm1", state)
    until(lambda: "vnet" not in real.rules())
    folder = next((real.tmp / "state").rglob("dnsmasq")).parent
    assert (folder / "addresses").read_text() == f"{MAC} {address}\n"
    real.cairn("net-destroy", "lan")
    (folder / "dnsmasq/state/leases").write_text("")
    real.cairn("net-start", "lan")
    real.cairn("restore", state)
    assert leases(real) == [] and Console(real, "vm1").run(GATEWAY)[0] == "answered=1"
    real.cairn("destroy", "vm1")
    until(lambda: "vnet" not in real.rules())
    (folder / "addresses").unlink()  # without it, the guest is cut off: so the test can fail
    real.cairn("restore", state)
    c = Console(real, "vm1")
    assert c.run(GATEWAY + " 1")[0] == "answered=0"
    assert c.run("net dhcp")[0].startswith("10.77.0.") and c.run(GATEWAY)[0] == "answered=1"


# ---- live clones on a network ----

def ask_by_udp(lan, address, text):  # noqa: F811
    """Have the guest send a datagram back."""
    s = lan.inside(lambda: socket.socket(type=socket.SOCK_DGRAM))
    s.settimeout(0.5)
    s.connect((address, 7))
    for _ in range(60):
        s.send(text)
        try:
            if s.recv(100) == text:
                return True
        except TimeoutError:
            pass
    return False


def test_live_clones_answer_at_addresses_of_their_own(real, lan):  # noqa: F811
    before = real.rules()
    c = real.run_vm("vm1")
    address = c.run("net dhcp")[0]
    until(lambda: leases(real) == [(MAC, address)])
    rules = real.rules()
    c.run("pit 100")
    c.sock.sendall(b"net serve\n")
    c.close()
    made = json.loads(real.cairn("clone", "--live", "vm1", "c", "--count", "3", "--format", "json").stdout)["addresses"]
    assert [(a["name"], a["interface"], a["network"], a["guest-address"]) for a in made] == [
        (f"c-{i}", "net0", "lan", address) for i in (1, 2, 3)]
    unique = [a["address"] for a in made]
    assert len({address, *unique}) == 4
    # The host speaks to each clone without a question of ARP and without a flooded frame, which all guests would get.
    known = {n["dst"]: n["lladdr"] for n in lan.ip("neigh", "show", "dev", "virbr0") if "lladdr" in n}
    r = subprocess.run([*lan.enter, "bridge", "-j", "fdb", "show", "br", "virbr0"], check=True, stdout=subprocess.PIPE)
    learnt = {(n["mac"], n["ifname"]) for n in json.loads(r.stdout)}
    for a in made:
        assert known[a["address"]] == mac_of_clone(real, a["name"])
        assert (mac_of_clone(real, a["name"]), real.tap(a["name"])) in learnt
    for a in address, *unique:
        assert ask_by_udp(lan, a, a.encode())
    assert json.loads(real.cairn("net-info", "lan", "--format", "json").stdout)["clones"] == made
    assert f"c-1 {unique[0]}, in the guest {address}" in real.cairn("net-info", "lan").stdout
    rows = real.cairn("domifaddr", "c-1", "--source", "lease").stdout.splitlines()[2:]
    assert [row.split() for row in rows if row] == [["net0", mac_of_clone(real, "c-1"), "ipv4", f"{unique[0]}/24"]]
    # The rules survive the daemon, also a killed one, and go with the VMs.
    real.stop(signal.SIGKILL)
    assert ask_by_udp(lan, unique[0], b"nobody")
    real.start()
    assert json.loads(real.cairn("net-info", "lan", "--format", "json").stdout)["clones"] == made
    assert ask_by_udp(lan, unique[1], b"next")
    real.cairn("clone", "--live", "c-1", "d")
    grandchild = real.figures("d")["interfaces"][0]
    assert grandchild["guest-address"] == address and ask_by_udp(lan, grandchild["network-address"].split("/")[0], b"d")
    for name in "d", "c-2":
        real.cairn("destroy", name)
    pid = real.info("c-1")["pid"]
    real.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    real.start()
    until(lambda: "clones" in json.loads(real.cairn("net-info", "lan", "--format", "json").stdout))
    assert ask_by_udp(lan, unique[2], b"last")
    real.cairn("destroy", "c-3")
    until(lambda: "_forks" not in real.rules())
    real.cairn("destroy", "vm1")
    real.cairn("net-destroy", "lan")
    assert "_forks" not in before + rules and "cairn" not in real.rules()


@pytest.mark.parametrize("daemon_runs", [True, False])
@pytest.mark.parametrize("command", ["nft flush ruleset", "nft delete table bridge {table}_ports", "ip link del virbr0"])
def test_running_vms_get_their_rules_and_bridge_back(real, lan, command, daemon_runs):  # noqa: F811
    """After another program has removed these: a VM, and a live clone, which needs its rules to be reached."""
    c = real.run_vm("vm1")
    address = c.run("net dhcp")[0]
    c.run("pit 100")
    c.sock.sendall(b"net serve\n")
    c.close()
    unique = json.loads(real.cairn("clone", "--live", "vm1", "c", "--format", "json").stdout)["addresses"][0]["address"]
    taps = [real.tap(name) for name in ("vm1", "c")]
    if not daemon_runs:
        real.stop()  # a kill could come before the state of the clone is stored
    table = "cairn_" + real.net_uuid.replace("-", "")
    subprocess.run([*lan.enter, *command.format(table=table).split()], check=True)
    assert not all(f"in_{tap}" in real.rules() for tap in taps) or "virbr0" in command
    if not daemon_runs:
        real.start()
        real.cairn("net-start", "lan", ok=None)  # without its bridge, it is inactive
    until(lambda: all(f"in_{tap}" in real.rules() for tap in taps) and
          all(i.get("master") == "virbr0" for i in lan.ip("link", "show") if i["ifname"] in taps))
    assert ask_by_udp(lan, address, b"source") and ask_by_udp(lan, unique, b"clone")


def test_live_clone_of_a_clone_whose_driver_has_started_again(real, lan):  # noqa: F811
    """The second clone's guest has the first clone's own MAC and IPv4 address."""
    real.run_vm("vm1").run("net dhcp")
    real.cairn("clone", "--live", "vm1", "c")
    c = Console(real, "c")
    assert guestlib.fields(c.run("net open 0")[-1])["mac"] == mac_of_clone(real, "c")
    unique = c.run("net dhcp")[0]
    assert unique == real.figures("c")["interfaces"][0]["network-address"].split("/")[0] and c.run(GATEWAY)[0] == "answered=1"
    real.cairn("clone", "--live", "c", "d")
    face = real.figures("d")["interfaces"][0]
    assert face["guest-address"] == unique and face["network-address"].split("/")[0] != unique
    assert Console(real, "d").run(GATEWAY)[0] == "answered=1"
    real.cairn("managedsave", "d")
    real.stop(signal.SIGKILL)
    real.start()
    real.cairn("start", "d")
    assert Console(real, "d").run(GATEWAY)[0] == "answered=1" and c.run(GATEWAY)[0] == "answered=1"


# ---- what the daemon asks for ----

def define(d, *sources, **keys):
    faces = [{"type": "network", "source": n, "mac": f"52:54:00:00:00:0{i}", **keys} for i, n in enumerate(sources, 1)]
    d.write("vm1", interfaces=faces)
    d.cairn("define", str(d.tmp / "vm1.json"))


def ports(d):
    return [(r["verb"], r["port"]) for r in d.requests() if r["verb"].startswith("port-")]


def test_each_tap_has_its_rules_before_the_guest_runs(host):  # noqa: F811
    host.define_net()
    host.define_net("far", isolated_ports=True, filter="clean-traffic", ipv4={"address": "10.78.0.1", "prefix": 24})
    for n in "lan", "far":
        host.cairn("net-start", n)
    define(host, "lan", "far")
    host.tell("port-up", "hold")
    q = host.qmp()
    q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
    until(lambda: ports(host))
    assert host.info("vm1")["state"] == "shutoff" and len(ports(host)) == 1
    host.untell("port-up", "hold")
    assert "return" in q.answer()
    up = ports(host)
    assert [(v, p["mac"], p["filter"], p["isolated"]) for v, p in up] == [
        ("port-up", MAC, "no-spoofing", False), ("port-up", "52:54:00:00:00:02", "clean-traffic", True)]
    host.cairn("destroy", "vm1")
    until(lambda: len(ports(host)) == 4)
    assert sorted(p["tap"] for v, p in ports(host)[2:] if v == "port-down") == sorted(p["tap"] for _, p in up)


def test_start_fails_when_the_rules_cannot_be_installed(host, lan):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.tell("port-up", "json", {"error": {"class": "HostError", "desc": "nft is unwell; mend it"}})
    refused = "interfaces[0]: network 'lan' cannot filter the guest's frames, so the VM was not started: nft is unwell; mend it"
    assert refused in host.cairn("start", "vm1", ok=False).stderr
    assert not lan.taps() and "shut off" in host.cairn("domstate", "vm1").stdout
    until(lambda: [v for v, _ in ports(host)] == ["port-up", "port-down"])
    host.untell("port-up", "json")
    host.cairn("start", "vm1")
    assert len(lan.taps()) == 1


def asked(d, verb):
    """The MAC addresses, or the taps, of each request."""
    return [[p.get("mac", p["tap"]) for p in r.get("ports", [r.get("port")])] for r in d.requests() if r["verb"] == verb]


def starts_held(d, n):
    """Begin to start n VMs; only the first one's rules are asked for. Return the sockets, and the MAC addresses."""
    d.define_net()
    d.cairn("net-start", "lan")
    for i in range(n):
        d.write(f"vm{i}", interfaces=[{"type": "network", "source": "lan", "mac": f"52:54:00:00:00:0{i}"}])
        d.cairn("define", str(d.tmp / f"vm{i}.json"))
    d.tell("port-up", "hold")
    clients = [d.qmp() for _ in range(n)]
    for i, q in enumerate(clients):
        q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": f"vm{i}"}}).encode())
        until(lambda: len(d.lan.taps()) == i + 1 and asked(d, "port-up"))
    return clients, [f"52:54:00:00:00:0{i}" for i in range(n)]


def test_vms_that_start_together_share_a_call(host):  # noqa: F811
    clients, macs = starts_held(host, 5)
    assert asked(host, "port-up") == [macs[:1]]
    host.untell("port-up", "hold")
    assert all("return" in q.answer() for q in clients)
    assert asked(host, "port-up") == [macs[:1], macs[1:]]
    host.tell("port-down", "hold")
    for i in range(5):
        host.cairn("destroy", f"vm{i}")
    until(lambda: asked(host, "port-down"))
    host.untell("port-down", "hold")
    until(lambda: sum(map(len, asked(host, "port-down"))) == 5)
    assert len(asked(host, "port-down")) == 2


def test_port_that_is_refused_fails_alone(host):  # noqa: F811
    clients, macs = starts_held(host, 4)
    host.tell("port-up", "refuse", macs[2])
    host.untell("port-up", "hold")
    answers = [q.answer() for q in clients]
    assert [i for i in range(4) if "error" in answers[i]] == [2] and f"{macs[2]} is unwell" in answers[2]["error"]["desc"]
    assert asked(host, "port-up") == [macs[:1], macs[1:], *([m] for m in macs[1:])]
    until(lambda: len(host.lan.taps()) == 3)


def test_vm_that_is_stopped_while_its_call_waits(host):  # noqa: F811
    """The stopped VM delays no other VM, and the daemon makes no further call for it."""
    clients, macs = starts_held(host, 3)
    host.qmp().send(json.dumps({"execute": "vm-destroy", "arguments": {"vm": "vm1"}}).encode())
    host.untell("port-up", "hold")
    assert ["return" in q.answer() for q in clients] == [True, False, True]
    until(lambda: len(host.lan.taps()) == 2 and [[t] for t, *_ in asked(host, "port-down")])


def test_late_removal_leaves_the_rules_of_the_next_tap_of_that_name(host):  # noqa: F811
    """The kernel may give a tap the name of one that is gone before the daemon has seen the end of that one's VM."""
    clients, _ = starts_held(host, 2)
    host.untell("port-up", "hold")
    assert all("return" in q.answer() for q in clients)
    host.stop()
    files = [host.state / f"vms/{name}/state.json" for name in ("vm0", "vm1")]
    taps = [json.loads(f.read_text())["ports"][0]["tap"] for f in files]
    files[1].write_text(files[1].read_text().replace(taps[1], taps[0]))
    host.start()
    host.cairn("destroy", "vm0")
    n = len(asked(host, "port-up"))
    host.write("vm2", interfaces=[{"type": "network", "source": "lan"}])
    host.cairn("define", str(host.tmp / "vm2.json"))
    host.cairn("start", "vm2")  # its call comes after those before
    assert len(asked(host, "port-up")) == n + 1 and asked(host, "port-down") == []
    host.cairn("destroy", "vm1")
    until(lambda: asked(host, "port-down") == [[taps[0]]])


def test_start_waits_for_the_start_of_its_network(real):
    real.run_vm("vm1").run("net dhcp")
    real.cairn("destroy", "vm1")
    real.cairn("clone", "vm1", "vm2")
    real.cairn("net-destroy", "lan")
    gate, program = real.tmp / "gate", real.program / "cairn-net"
    program.unlink()
    program.write_text(f"#!/bin/sh\n[ ! -p {gate} ] || read -r line <{gate}\nexec {PROGRAM}\n")
    program.chmod(0o755)
    os.mkfifo(gate)
    net, = asks(real, ("net-start", {"network": "lan"}))
    until(lambda: real.states() == {"lan": "starting"})
    one, two = asks(real, ("vm-start", {"vm": "vm1"}), ("vm-start", {"vm": "vm2"}))
    real.cairn("destroy", "vm2")
    assert "error" in two.answer()
    writer = os.open(gate, os.O_RDWR)
    gate.unlink()
    os.close(writer)
    assert "return" in net.answer()
    assert "return" in one.answer()
    assert guestlib.fields(Console(real, "vm1").run("net open 0")[-1])["link"] == 1
    assert real.info("vm2")["state"] == "shutoff"


def test_clones_of_a_fork_share_a_call(real, lan):  # noqa: F811
    """There are more clones than may start at a time. Clones that wait for their rules do not keep the others from
    starting."""
    real.run_vm("vm1").run("net dhcp")
    calls, gate = real.tmp / "calls", real.tmp / "gate"
    (real.program / "cairn-net").unlink()
    (real.program / "cairn-net").write_text(f"#!/bin/sh\nread -r r; echo \"$r\" >>{calls}\nif [ -p {gate} ]; then read -r line <{gate}; fi\n"
                                            f"printf %s \"$r\" >{calls}.$$; exec {PROGRAM} <{calls}.$$\n")
    (real.program / "cairn-net").chmod(0o755)

    def taken(verb="port-up"):
        """Return the number of ports of each call so far."""
        requests = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        return [len(r.get("ports", [0])) for r in requests if r["verb"] == verb]

    def release():
        """Let the call that waits at the gate, and all further ones, go on."""
        writer = os.open(gate, os.O_RDWR)
        gate.unlink()
        os.close(writer)
    os.mkfifo(gate)
    job = real.cairn("clone", "--live", "vm1", "c", "--count", "20", "--no-wait").stdout.split()[-1]
    until(lambda: len(lan.taps()) == 21 and taken())
    assert len(taken()) == 1
    real.qmp().run("job-cancel", id=job)  # also those that wait
    release()
    until(lambda: lan.taps() == [real.tap("vm1")] and "c-" not in real.cairn("list", "--all").stdout)
    until(lambda: sum(taken("port-down")) == 20)
    until(lambda: not [p for p in processes("cairn-net") if netns(p) == netns(real.lan.holder.pid)])
    calls.unlink()
    os.mkfifo(gate)
    real.cairn("clone", "--live", "vm1", "d", "--count", "20", "--no-wait")
    until(lambda: len(lan.taps()) == 21 and taken())
    release()
    until(lambda: real.cairn("list", "--state-running", "--name", ok=None).stdout.count("d-") == 20)
    assert len(taken()) == 2 and sum(taken()) == 20
    made = json.loads(real.cairn("net-info", "lan", "--format", "json").stdout)["clones"]
    assert len({c["address"] for c in made}) == 20


def test_daemon_that_ends_meanwhile_starts_nothing(host, lan):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.tell("port-up", "hold")
    host.qmp().send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
    until(lambda: ports(host))
    host.stop()
    until(lambda: not lan.taps())
    host.untell("port-up", "hold")
    host.start()
    host.cairn("start", "vm1")
    assert len(lan.taps()) == 1


def stored_ports(d):
    return json.loads((d.state / "vms/vm1/state.json").read_text()).get("ports")


def test_guest_runs_when_the_next_daemon_would_know_its_port(host, lan):  # noqa: F811
    go = host.tmp / "go"
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    host.stop()
    host.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "vm1/state.json", "SLOW_SYNC_UNTIL": str(go)}
    go.touch()
    host.start()
    host.define_net()
    host.cairn("net-start", "lan")
    define(host, "lan")
    go.unlink()
    q = host.qmp()
    q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
    until(lambda: ports(host))
    host.cairn("list")
    assert host.info("vm1")["state"] == "shutoff" and not stored_ports(host)
    go.touch()
    assert "return" in q.answer()
    assert [p["tap"] for p in stored_ports(host)] == [p["tap"] for _, p in ports(host)]
    host.stop(signal.SIGKILL)
    host.start()
    host.cairn("destroy", "vm1")
    until(lambda: [v for v, _ in ports(host)] == ["port-up", "port-down"])


def test_leases_are_shown_where_no_agent_answers(host):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    host.define("vm1", cmdline="no-agent", interfaces=[{"type": "network", "source": "lan", "mac": MAC}])
    host.cairn("start", "vm1")
    assert "guest agent" in host.cairn("domifaddr", "vm1", ok=False).stderr
    host.tell("leases", "json", {"return": {"leases": [{"expires": 1900000000, "mac": MAC, "address": "10.77.0.7", "prefix": 24, "family": "ipv4",
                                                       "name": None, "client_id": None}]}})
    rows = host.cairn("domifaddr", "vm1").stdout
    assert rows.splitlines()[2].split() == ["net0", MAC, "ipv4", "10.77.0.7/24"] and rows == host.cairn("domifaddr", "vm1", "--source", "lease").stdout
    assert "guest agent" in host.cairn("domifaddr", "vm1", "--source", "agent", ok=False).stderr


def test_address_that_an_earlier_daemon_has_not_stored(host):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.cairn("start", "vm1")
    host.tell("port-reserve", "json", {"return": {"address": "10.77.0.9"}})
    host.cairn("forward-add", "vm1", "auto:22")
    host.stop(signal.SIGKILL)
    state = host.state / "vms/vm1/state.json"
    old = json.loads(state.read_text())
    assert old["ports"][0].pop("address") == "10.77.0.9"
    state.write_text(json.dumps(old))
    host.tell("port-up", "json", {"return": {"address": "10.77.0.10"}})
    host.start()
    until(lambda: len(ports(host)) == 3)
    up, first = ports(host)[2][1], ports(host)[0][1]
    assert up["reserve"] and up["tap"] == first["tap"]
    until(lambda: stored_ports(host)[0].get("address") == "10.77.0.10")


def test_macvtap_links_that_no_vm_has_are_removed(host):  # noqa: F811
    host.define_net()
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.cairn("start", "vm1")
    own = ports(host)[0][1]["tap"]
    host.stop(signal.SIGKILL)
    host.tell("check", "json", {"return": {"active": True, "complete": True, "missing": [], "pid": 1, "links": ["vnet00000001", own]}})
    host.start()
    until(lambda: len(ports(host)) == 2)
    host.cairn("destroy", "vm1")
    until(lambda: len(ports(host)) == 3)
    assert [p for _, p in ports(host)[1:]] == [{"tap": "vnet00000001"}, {"tap": own}]
    # None is removed if it may be that of a VM whose ports are lost.
    host.cairn("start", "vm1")
    host.stop(signal.SIGKILL)
    (host.state / "vms/vm1/state.json").write_text("{")
    host.start()
    host.cairn("destroy", "vm1")
    assert [v for v, _ in ports(host)] == ["port-up", "port-down", "port-down", "port-up"]


@pytest.mark.parametrize("keys", [{"mode": "open"}, {"mode": "bridge", "bridge": "br0", "ipv4": None}, {"filter": "none"}], ids=json.dumps)
def test_network_without_rules_asks_for_none(host, keys):  # noqa: F811
    host.define_net(**keys)
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.cairn("start", "vm1")
    host.cairn("destroy", "vm1")
    assert not ports(host)


def test_open_network_with_a_filter_has_it(host):  # noqa: F811
    host.define_net(mode="open", filter="no-spoofing")
    assert json.loads(host.cairn("net-dumpjson", "lan").stdout)["filter"] == "no-spoofing"
    host.cairn("net-start", "lan")
    define(host, "lan")
    host.cairn("start", "vm1")
    assert [p["filter"] for v, p in ports(host) if v == "port-up"] == ["no-spoofing"]


@pytest.mark.parametrize("keys", [{}, {"filter": "none"}, {"mode": "open"}], ids=json.dumps)
def test_interface_asks_for_more_than_its_network(host, keys):  # noqa: F811
    host.define_net(**keys)
    host.cairn("net-start", "lan")
    define(host, "lan", filter="clean-traffic", isolated=True)
    shown = json.loads(host.cairn("dumpjson", "vm1").stdout)["interfaces"][0]
    assert (shown["filter"], shown["isolated"]) == ("clean-traffic", True)
    xml = host.cairn("dumpxml", "vm1").stdout
    assert "<filterref filter='clean-traffic'/>" in xml and "<port isolated='yes'/>" in xml
    host.cairn("start", "vm1")
    assert [(p["filter"], p["isolated"]) for v, p in ports(host) if v == "port-up"] == [("clean-traffic", True)]


def test_filter_of_an_interface_where_it_cannot_be(host):  # noqa: F811
    host.define_net(mode="bridge", bridge="br0", ipv4=None)
    host.cairn("net-start", "lan")
    define(host, "lan", filter="clean-traffic")
    assert "'lan' has mode bridge; remove them, or use another network" in host.cairn("start", "vm1", ok=False).stderr
    host.write("vm2", interfaces=[{"type": "user", "isolated": True}])
    assert "filter and isolated require type network" in host.cairn("define", str(host.tmp / "vm2.json"), ok=False).stderr


def test_isolated_ports_in_libvirts_xml(host):  # noqa: F811
    host.define_net(isolated_ports=True)
    xml = host.cairn("net-dumpxml", "lan").stdout
    assert "<port isolated='yes'/>" in xml
    (host.tmp / "net.xml").write_text(xml)
    host.cairn("net-undefine", "lan")
    assert "warning" not in host.cairn("net-define", str(host.tmp / "net.xml")).stderr
    assert json.loads(host.cairn("net-dumpjson", "lan").stdout)["isolated_ports"] is True


def test_forward_gets_its_address_while_another_interface_is_detached(host):  # noqa: F811
    """Its interface has another place in the list then."""
    host.define_net()
    host.cairn("net-start", "lan")
    define(host)
    host.cairn("start", "vm1")
    for mac in MAC, OTHER:
        host.cairn("attach-interface", "vm1", "network", "lan", "--mac", mac, "--live")
    host.tell("port-reserve", "json", {"return": {"address": "10.77.0.9"}})
    host.tell("port-reserve", "hold")
    q = host.qmp()
    q.send(json.dumps({"execute": "forward-add", "arguments": {"vm": "vm1", "to": 22, "interface": "net1"}}).encode())
    until(lambda: asked(host, "port-reserve"))
    host.cairn("detach-interface", "vm1", "network", "--mac", MAC, "--live")
    host.untell("port-reserve", "hold")
    assert "return" in q.answer()
    assert [p.get("address") for p in json.loads((host.state / "vms/vm1/state.json").read_text())["ports"]] == ["10.77.0.9"]
