"""VMs that share a network: group-clone gives their clones an isolated network of their own, which goes with its last
VM. With a stand-in for cairn-net; and with the real one and guests that ask for each other."""

import functools
import ipaddress
import json
import os
import re
import signal

import pytest

import guestlib
from conftest import FAKE_VM, Console, Qmp, until
from test_kill_points import Killer, has_no_job, listed, patient
from test_network import NetDaemon, bridges, host, lan  # noqa: F401
from test_network_ports import real  # noqa: F401

SHARED = [{"type": "network", "source": "lan"}]


def begin(d, name, interfaces=None, **more):
    d.define(name, interfaces=SHARED if interfaces is None else interfaces, **more)
    d.cairn("start", name)


@pytest.fixture
def two(host):  # noqa: F811
    host.define_net(mtu=1400)
    host.cairn("net-start", "lan")
    begin(host, "a")
    begin(host, "b")
    return host


def source_of(d, name):
    return json.loads(d.cairn("dumpjson", name).stdout)["interfaces"][0]["source"]


def only_the_sources_are_left(d, lan):  # noqa: F811
    return sorted(listed(d)) == ["a", "b"] and d.states() == {"lan": "active"} and bridges(lan) == ["virbr0"] and has_no_job(d)


def test_clones_get_a_network_that_goes_with_the_last(two, lan):  # noqa: F811
    begin(two, "c", interfaces=[])
    r = two.cairn("group-clone", "a", "b", "c").stdout
    name, = set(two.states()) - {"lan"}
    assert re.fullmatch("group-[0-9a-f]{16}-1", name) and f"Network '{name}' in place of 'lan' for the clones\n" in r
    assert two.states() == {"lan": "active", name: "active"} and len(bridges(lan)) == 2
    assert [source_of(two, f"{vm}-clone") for vm in "ab"] == [name] * 2 and source_of(two, "a") == "lan"
    made = next(x["network"] for x in two.requests() if x["verb"] == "up" and x["network"]["name"] == name)
    assert made["mode"] == "isolated" and made["mtu"] == 1400 and "ipv4" not in made
    two.stop(signal.SIGKILL)
    two.start()
    assert two.states() == {"lan": "active", name: "active"}
    for vm in "abc":
        two.cairn("destroy", f"{vm}-clone")
    two.cairn("undefine", "a-clone")
    assert two.states()[name] == "active"  # b-clone may start again
    two.cairn("start", "b-clone")
    two.cairn("destroy", "b-clone")
    two.cairn("undefine", "b-clone")
    two.cairn("undefine", "c-clone")
    two.cairn("destroy", "c")
    two.cairn("undefine", "c")
    until(lambda: only_the_sources_are_left(two, lan))


def test_network_of_an_admin_with_such_a_name_stays(two, lan):  # noqa: F811
    """The daemon knows a network of its own by a fact in the network's file, not by the name."""
    own, other, short = (f"group-{digit * 16}-1" for digit in "abc")
    for name in own, other:
        two.define_net(name, mode="isolated", ipv4=None)
        two.cairn("net-start", name)
    two.cairn("net-autostart", own)
    two.cairn("net-create", two.network(short, mode="isolated", ipv4=None))
    begin(two, "c", interfaces=[{"type": "network", "source": own}])
    two.cairn("group-clone", "a", "b")
    two.cairn("destroy", "c")
    two.cairn("undefine", "c")
    for sig in signal.SIGKILL, signal.SIGTERM:
        two.stop(sig)
        two.start()
    for vm in "ab":
        two.cairn("destroy", f"{vm}-clone")
        two.cairn("undefine", f"{vm}-clone")
    left = {"lan", own, other, short}
    until(lambda: two.states() == dict.fromkeys(left, "active"))
    assert len(bridges(lan)) == 4 and not two.net(other)["autostart"]


def test_definition_that_replaces_that_of_a_group_does_not_keep_the_network(two, lan):  # noqa: F811
    two.cairn("group-clone", "a", "b")
    name, = set(two.states()) - {"lan"}
    two.cairn("net-update", name, "add", "user", "1000", "--live", "--config")
    two.stop(signal.SIGKILL)
    two.start()
    for vm in "ab":
        two.cairn("destroy", f"{vm}-clone")
        two.cairn("undefine", f"{vm}-clone")
    until(lambda: only_the_sources_are_left(two, lan))


def test_network_that_shall_not_start_with_the_host_goes_with_the_last_clone(two, lan):  # noqa: F811
    two.cairn("group-clone", "a", "b")
    name, = set(two.states()) - {"lan"}
    assert two.net(name)["autostart"]
    two.cairn("net-autostart", name, "--disable")
    two.stop(signal.SIGKILL)
    two.start()
    assert two.states()[name] == "active" and not two.net(name)["autostart"]
    for vm in "ab":
        two.cairn("destroy", f"{vm}-clone")
        two.cairn("undefine", f"{vm}-clone")
    until(lambda: only_the_sources_are_left(two, lan))


@pytest.mark.parametrize("completed", [True, False])
def test_network_whose_file_an_older_cairn_wrote(two, lan, completed):  # noqa: F811
    """There, autostart tells that all clones are there."""
    two.cairn("group-clone", "a", "b")
    name, = set(two.states()) - {"lan"}
    two.stop()
    file = two.state / "networks" / f"net-{name}.json"
    o = json.loads(file.read_text())
    del o["group-complete"]
    file.write_text(json.dumps(o | {"autostart": completed}))
    two.start()
    assert two.net(name)["autostart"]
    for vm in "ab":
        two.cairn("destroy", f"{vm}-clone")
        two.cairn("undefine", f"{vm}-clone")
    until(lambda: only_the_sources_are_left(two, lan))


def test_network_that_an_admin_defines_after_undefining_that_of_a_group_stays(two):
    two.cairn("group-clone", "a", "b")
    name, = set(two.states()) - {"lan"}
    two.cairn("net-undefine", name)
    two.define_net(name, mode="isolated", ipv4=None)
    two.cairn("net-autostart", name)
    for vm in "ab":
        two.cairn("destroy", f"{vm}-clone")
        two.cairn("undefine", f"{vm}-clone")
    two.stop(signal.SIGKILL)
    two.start()
    assert two.states() == {"lan": "active", name: "active"}


@pytest.mark.seconds(600)
def test_daemon_killed_at_any_call_leaves_no_network(tmp_path, lan):  # noqa: F811
    """The daemon is killed while it makes the clones with their network, and while it removes both."""
    killer = Killer(tmp_path, FAKE_VM, functools.partial(NetDaemon, lan=lan))
    d = killer.daemon
    d.define_net()
    d.cairn("net-start", "lan")
    begin(d, "a")
    begin(d, "b")

    def settled():
        q = Qmp(d.socket)
        try:
            return (has_no_job(d) and not list((d.state / "groups").glob("*"))
                    and len(q.run("net-list")["networks"]) == 1 + (len(listed(d)) > 2))
        finally:
            q.close()

    def clone_and_remove():
        done = d.cairn("group-clone", "a", "b", ok=None).returncode == 0
        for command in "destroy", "undefine":
            for name in "ab":
                done &= d.cairn(command, f"{name}-clone", ok=None).returncode == 0
        return done

    def look(done):
        for name in set(listed(d)) - set("ab"):
            d.cairn("destroy", name, ok=None)
            d.cairn("undefine", name)
        until(lambda: only_the_sources_are_left(d, lan))
    try:
        killer.sweep(lambda: None, clone_and_remove, look, settled, step=24 if guestlib.WHOLE else 72)
    finally:
        killer.point.unlink(missing_ok=True)
        d.close()


def test_networks_that_one_vm_has_alone_stay(two):
    two.define_net("other", ipv4={"address": "10.78.0.1", "prefix": 24, "dhcp": {"ranges": [{"start": "10.78.0.2", "end": "10.78.0.99"}]}})
    two.cairn("net-start", "other")
    begin(two, "c", interfaces=[{"type": "network", "source": "other"}])
    result = json.loads(two.cairn("group-clone", "a", "c", "--format", "json").stdout)
    assert result["networks"] == [] and sorted(two.states()) == ["lan", "other"]
    assert source_of(two, "a-clone") == "lan" and source_of(two, "c-clone") == "other"


def test_ports_are_refused_where_the_clones_share_their_only_network(two, lan):  # noqa: F811
    r = two.cairn("group-clone", "a", "b", "--publish", "auto:22", ok=False).stderr
    assert "VM 'a': forwards: interface 'net0' is on network 'lan', which several of the VMs share" in r and "no domain was cloned" in r
    assert only_the_sources_are_left(two, lan)
    begin(two, "c", interfaces=[])
    assert "VM 'c': forwards: VM 'c' has no interface whose ports could be forwarded. Next: cairn attach-interface c user" in two.cairn("group-clone", "c", "--publish", "auto:22", ok=False).stderr
    assert two.states() == {"lan": "active"} and sorted(listed(two)) == ["a", "b", "c"]


def test_network_that_cannot_be_made_leaves_no_clone(two, lan):  # noqa: F811
    two.tell("up", "json", {"error": {"class": "HostError", "desc": "no room for a bridge"}})
    r = two.cairn("group-clone", "a", "b", ok=False).stderr
    assert "no room for a bridge" in r and "no domain was cloned" in r
    until(lambda: only_the_sources_are_left(two, lan))
    assert not list((two.state / "groups").glob("*"))


def test_failure_of_a_clone_leaves_no_network(two, lan):  # noqa: F811
    two.cairn("destroy", "b")
    begin(two, "b", cmdline="work-fails")
    assert "VM 'b': vda: no space left" in two.cairn("group-clone", "a", "b", ok=False).stderr
    until(lambda: only_the_sources_are_left(two, lan))


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("makes", [True, False])
def test_daemon_that_ends_leaves_no_network(two, lan, sig, makes):  # noqa: F811
    """The daemon ends while it makes the network, and while a VM's process works."""
    two.cairn("destroy", "b")
    begin(two, "b", cmdline=f"work-until={two.tmp / 'go'}")
    if makes:
        two.tell("up", "hold")
    two.qmp().run("group-clone", vms=["a", "b"])
    until(lambda: len(two.states()) == 2 and (makes or two.info("a").get("job") is None))
    two.stop(sig)
    if makes:
        two.untell("up", "hold")
    (two.tmp / "go").touch()
    two.start()
    until(lambda: patient(lambda: only_the_sources_are_left(two, lan)))


# ---- clones that stay on the network ----

def fork_requests(d):
    """Return the peers of each live clone, by its own MAC address, from the requests to cairn-net."""
    ports = [p for r in d.requests() if r["verb"] == "port-up" for p in r.get("ports", [r.get("port")])]
    return {p["mac"]: {(i["mac"], i["own"]) for i in p["fork"].get("peers", ())} for p in ports if "fork" in p}


def macs(d, name):
    return [i["mac"] for i in json.loads(d.cairn("dumpjson", name).stdout)["interfaces"]]


def test_clones_that_stay_on_the_network_are_each_others_peers(two, lan):  # noqa: F811
    """They stay peers after an end of the daemon and of the clone. A network that the VMs do not share has no peers."""
    two.define_net("other", ipv4={"address": "10.78.0.1", "prefix": 24})
    two.cairn("net-start", "other")
    begin(two, "c", interfaces=[{"type": "network", "source": "other"}, {"type": "network", "source": "lan"}])
    begin(two, "d", interfaces=[])
    r = two.cairn("group-clone", "a", "b", "c", "d", "--network", "shared").stdout
    assert "in place of" not in r and two.states() == {"lan": "active", "other": "active"} and len(bridges(lan)) == 2
    on_lan = [(macs(two, vm)[at], macs(two, f"{vm}-clone")[at]) for vm, at in (("a", 0), ("b", 0), ("c", 1))]
    want = {own: set(on_lan) - {(mac, own)} for mac, own in on_lan} | {macs(two, "c-clone")[0]: set()}
    assert fork_requests(two) == want
    two.stop(signal.SIGKILL)
    two.start()
    two.cairn("destroy", "a-clone")
    two.cairn("start", "a-clone")
    assert fork_requests(two) == want and len([r for r in two.requests() if r["verb"] == "port-up"]) > 4
    # A clone of a clone has the same peers, and a group of clones is one of its own.
    two.cairn("clone", "--live", "a-clone", "alone")
    assert fork_requests(two)[macs(two, "alone")[0]] == want[on_lan[0][1]]
    two.cairn("group-clone", "a-clone", "b-clone", "--network", "shared")
    own = [macs(two, f"{vm}-clone-clone")[0] for vm in "ab"]
    for i, peer in (0, 1), (1, 0):
        assert fork_requests(two)[own[i]] == {(mac, own[peer]) for mac in on_lan[peer]}
    r = two.cairn("group-clone", "b", "a", "alone", "--network", "shared", "--name-pattern", "%s2", ok=False).stderr
    assert f"the guests of two of the VMs have the MAC address {on_lan[0][0]}" in r and "different groups" in r
    two.cairn("group-clone", "a", "--network", "shared", "--name-pattern", "%s2")
    assert fork_requests(two)[macs(two, "a2")[0]] == set()
    two.cairn("group-clone", "a", "b", "--network", "own", "--name-pattern", "%s3")
    assert len(two.states()) == 3


def test_promoted_clone_keeps_its_peers(two):
    two.cairn("group-clone", "a", "b", "--network", "shared")
    own, want = macs(two, "a-clone")[0], fork_requests(two)
    two.cairn("promote", "a-clone")
    assert macs(two, "a")[0] == own
    two.cairn("destroy", "a")
    two.cairn("start", "a")
    two.stop()
    two.start()
    two.cairn("destroy", "a")
    two.cairn("start", "a")
    asked = [r["port"]["fork"] for r in two.requests() if r["verb"] == "port-up" and r.get("port", {}).get("mac") == own]
    assert [{(i["mac"], i["own"]) for i in f["peers"]} for f in asked[-2:]] == [want[own]] * 2 and want[own]


def test_clones_cannot_stay_on_networks_without_rules(two, lan):  # noqa: F811
    two.define_net("plain", mode="isolated", ipv4=None)
    two.define_net("given", mode="bridge", bridge="br0", ipv4=None)
    for name, says in (("plain", "network 'plain' has mode isolated and no IPv4"), ("given", "network 'given' has mode bridge")):
        two.cairn("net-start", name)
        for vm in "ab":
            begin(two, f"{vm}-{name}", interfaces=[{"type": "network", "source": name}])
        r = two.cairn("group-clone", f"a-{name}", f"b-{name}", "--network", "shared", ok=False).stderr
        assert says in r and "--network own" in r and "no domain was cloned" in r
    assert "--network must be own or shared" in two.cairn("group-clone", "a", "b", "--network", "lan", ok=2).stderr
    assert not [name for name in listed(two) if "clone" in name] and has_no_job(two)


def run_vm(d, name, mac):
    v = guestlib.definition(name, interfaces=[{"type": "network", "source": "lan", "mac": mac}])
    (d.tmp / f"{name}.json").write_text(json.dumps(v))
    d.cairn("define", str(d.tmp / f"{name}.json"))
    return d.begin(name)


def answers(c, address):
    """Return whether the guest's ARP request for the address gets an answer."""
    return c.run(f"net ask {int(ipaddress.ip_address(address))} 3")[0] == "answered=1"


def test_clones_on_the_network_meet_and_have_a_way_out(real, lan):  # noqa: F811
    """A clone finds the other clone and not that one's source, and the gateway; after a kill of the daemon, too."""
    before = real.rules()
    a, b = run_vm(real, "vm1", "52:54:00:00:00:01"), run_vm(real, "vm2", "52:54:00:00:00:02")
    address, own = a.run("net dhcp")[0], b.run("net dhcp")[0]
    a.run("pit 100")
    a.sock.sendall(b"net serve\n")
    r = json.loads(real.cairn("group-clone", "vm1", "vm2", "--name-pattern", "%s-b", "--network", "shared", "--format", "json").stdout)
    assert r["networks"] == [] and [c["addresses"][0]["guest-address"] for c in r["clones"]] == [address, own]
    unique = [c["addresses"][0]["address"] for c in r["clones"]]
    rows = real.cairn("domifaddr", "vm1-b", "--source", "lease").stdout
    assert f"{unique[0]}/24" in rows
    clone = Console(real, "vm2-b")
    assert answers(clone, address) and answers(clone, "10.77.0.1") and answers(b, address)
    real.stop(signal.SIGKILL)
    real.start()
    assert answers(clone, address)
    real.cairn("suspend", "vm1-b")  # its source still answers, but not to the clone
    assert not answers(clone, address) and answers(b, address)
    real.cairn("destroy", "vm1-b")
    assert not answers(clone, address) and answers(clone, "10.77.0.1") and answers(b, address)
    clone.close()
    real.cairn("managedsave", "vm2-b")
    real.cairn("start", "vm2-b")
    clone = Console(real, "vm2-b")
    assert not answers(clone, address) and answers(clone, "10.77.0.1")
    real.cairn("destroy", "vm2-b")
    until(lambda: "_forks" not in real.rules())
    for name in "vm1", "vm2":
        real.cairn("destroy", name)
    until(lambda: "vnet" not in real.rules())
    real.cairn("net-destroy", "lan")
    assert "cairn" in before and "cairn" not in real.rules()


# ---- real guests on an isolated network ----

def test_clones_meet_and_do_not_reach_their_sources(real, lan):  # noqa: F811
    a, b = run_vm(real, "vm1", "52:54:00:00:00:01"), run_vm(real, "vm2", "52:54:00:00:00:02")
    address, own = a.run("net dhcp")[0], b.run("net dhcp")[0]
    a.run("pit 100")
    a.sock.sendall(b"net serve\n")
    real.cairn("group-clone", "vm1", "vm2", "--name-pattern", "%s-b")
    assert answers(b, address) and answers(b, "10.77.0.1")
    real.cairn("destroy", "vm1")
    clone = Console(real, "vm2-b")
    assert answers(clone, address) and not answers(clone, "10.77.0.1") and not answers(b, address)
    real.stop(signal.SIGKILL)
    real.start()
    assert answers(clone, address) and own != address
    for name in "vm1-b", "vm2-b":
        real.cairn("destroy", name)
        real.cairn("undefine", name)
    until(lambda: bridges(lan) == ["virbr0"] and list(real.states()) == ["lan"])
    assert os.listdir(real.state / "networks")
