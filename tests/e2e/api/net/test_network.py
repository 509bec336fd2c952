"""Networks as objects: definitions, states, VMs that use them, and what a restart of the daemon does. A stand-in for
cairn-net (tests/helpers/fake_net.py) makes the bridges, in a network namespace of the test's own."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, ROOT, Console, Daemon, QmpError, until
from daemonlib import as_nobody
from hostnetlib import PROGRAM
from netlib import Lan

MAC = "52:54:00:00:00:01"


class NetDaemon(Daemon):
    def __init__(self, tmp, lan, vm_program=FAKE_VM, env=None):
        self.lan = lan
        self.program = tmp / "libexec"
        self.program.mkdir(exist_ok=True)
        shutil.copy(os.path.join(ROOT, "tests/helpers/fake_net.py"), self.program / "cairn-net")
        super().__init__(tmp, vm_program, env={"CAIRN_LIBEXEC": str(self.program), **(env or {})})

    def command(self):
        return [*(self.lan.enter if self.lan else []), *super().command()]

    def requests(self):
        path = self.program / "requests"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self):
        return [r["verb"] for r in self.requests()]

    def tell(self, verb, kind, text=""):
        new = self.program / "new"  # a stand-in that runs reads all of it or nothing
        new.write_text(text if isinstance(text, str) else json.dumps(text))
        new.rename(self.program / f"{verb}.{kind}")

    def untell(self, verb, kind):
        (self.program / f"{verb}.{kind}").unlink()

    def network(self, name="lan", **keys):
        d = {"name": name, "ipv4": {"address": "10.77.0.1", "prefix": 24,
                                    "dhcp": {"ranges": [{"start": "10.77.0.2", "end": "10.77.0.99"}]}}, **keys}
        path = self.tmp / f"net-{name}.json"
        path.write_text(json.dumps({k: v for k, v in d.items() if v is not None}))
        return str(path)

    def define_net(self, name="lan", **keys):
        return self.cairn("net-define", self.network(name, **keys))

    def states(self):
        return {n["name"]: n["state"] for n in json.loads(self.cairn("net-list", "--all", "--format", "json").stdout)}

    def net(self, name="lan"):
        return json.loads(self.cairn("net-info", name, "--format", "json").stdout)


class RealNetDaemon(NetDaemon):
    """A daemon with the real cairn-net and real guests."""

    def __init__(self, tmp, lan):
        super().__init__(tmp, lan, vm_program=None)
        shutil.copy(PROGRAM, self.program / "cairn-net")

    def begin(self, name):
        self.cairn("start", name)
        c = Console(self, name)
        assert c.line() == "interp"
        assert guestlib.fields(c.run("net open 0")[-1])["link"] == 1
        return c


@pytest.fixture
def lan():
    if os.geteuid():
        pytest.skip("needs root, for a network namespace")
    n = Lan()
    yield n
    n.close()


@pytest.fixture
def host(tmp_path, lan):
    d = NetDaemon(tmp_path, lan)
    yield d
    d.close()


@pytest.fixture
def plain(tmp_path):
    """A daemon whose networks are only defined, or whose stand-in has told answers."""
    d = NetDaemon(tmp_path, None)
    yield d
    d.close()


def bridges(lan):
    return sorted(i["ifname"] for i in lan.ip("link", "show", "type", "bridge") if i["ifname"] != "br0")


# ---- the life of a network ----

def test_life_of_a_network_in_virshs_words(host, lan):
    assert host.define_net().stdout == f"Network lan defined from {host.tmp}/net-lan.json\n"
    assert host.cairn("net-list").stdout.splitlines()[2:] == [""]
    assert host.cairn("net-list", "--all").stdout == (
        " Name   State      Autostart   Persistent\n"
        "-------------------------------------------\n"
        " lan    inactive   no          yes\n\n")
    assert host.cairn("net-start", "lan").stdout == "Network lan started\n"
    assert bridges(lan) == ["virbr0"]
    request = host.requests()[-1]
    uuid = host.cairn("net-uuid", "lan").stdout.strip()
    assert (request["verb"], request["network"]["name"], request["network"]["uuid"]) == ("up", "lan", uuid)
    assert request["network"]["ipv4"]["dhcp"]["ranges"] == [{"start": "10.77.0.2", "end": "10.77.0.99"}]
    assert os.stat(request["folder"]).st_mode & 0o777 == 0o700
    assert host.cairn("net-info", "lan").stdout.splitlines() == [
        "Name:           lan", f"UUID:           {uuid}", "Active:         yes", "Persistent:     yes",
        "Autostart:      no", "Bridge:         virbr0", "Mode:           nat", ""]
    assert "denied" not in host.verbs()
    assert host.cairn("net-name", uuid).stdout == "lan\n"
    assert "is already active" in host.cairn("net-start", "lan", ok=4).stderr
    assert host.cairn("net-list", "--name").stdout == "lan\n"
    assert host.cairn("net-destroy", "lan").stdout == "Network lan destroyed\n"
    assert bridges(lan) == []
    assert "is not active" in host.cairn("net-destroy", "lan", ok=4).stderr
    assert host.cairn("net-undefine", "lan").stdout == "Network lan has been undefined\n"
    assert not os.path.exists(request["folder"]) and not list((host.state / "networks").iterdir())
    assert "there is no network 'lan'. Next: cairn net-list --all" in host.cairn("net-info", "lan", ok=3).stderr


def test_dry_run_of_a_start_finds_forwards_that_the_network_refuses(host):
    host.define_net(mode="route")
    host.cairn("net-start", "lan")
    host.define("a", interfaces=[{"type": "network", "source": "lan", "forwards": [{"port": 8007, "to": 7}]}])
    said = host.cairn("start", "a", "--dry-run", ok=False).stderr
    assert "network 'lan' has mode route, and ports lead to VMs on networks of mode nat" in said
    host.define("a", interfaces=[{"type": "network", "source": "lan"}])
    host.cairn("start", "a", "--dry-run")


def test_egress_rules_of_a_network_reach_cairn_net(host):
    """cairn-net gets the rules as one text. net-info shows the denied packets, and the definition stays as the user
    wrote it."""
    rules = {"default": "deny", "rules": [{"allow": "192.0.2.0/24", "protocol": "tcp", "ports": "443"}, {"deny": "::/0"}]}
    host.define_net(egress=rules)
    host.cairn("net-start", "lan")
    assert host.requests()[-1]["network"]["egress"] == "deny;allow tcp 443 192.0.2.0/24;deny any - ::/0"
    assert json.loads(host.cairn("net-dumpjson", "lan").stdout)["egress"] == rules
    assert host.net()["denied-packets"] == 7 and "Denied packets: 7" in host.cairn("net-info", "lan").stdout
    host.tell("denied", "json", {"error": {"class": "HostError", "desc": "no"}})
    assert "denied-packets" not in host.net()
    host.cairn("net-destroy", "lan")
    assert "denied-packets" not in host.net()
    host.define_net("names", egress={"rules": [{"allow": "*.example.org", "ports": 443}]})
    host.tell("denied", "json", {"return": {"packets": 1, "questions": 2}})
    host.cairn("net-start", "names")
    assert host.requests()[-1]["network"]["egress"] == "deny;allow any 443 *.example.org"
    assert json.loads(host.cairn("net-info", "names", "--format", "json").stdout)["denied-questions"] == 2
    assert "Denied names:   2" in host.cairn("net-info", "names").stdout
    for keys, sentence in (({"egress": {"rules": [{"allow": "*.example.org"}]}, "dns": {"enable": False}}, "rules with names need the network's DNS"),
                           ({"egress": {}, "mode": "isolated"}, "egress: needs mode nat or route"),
                           ({"egress": {"rules": [{"allow": "10.0.0.1/8"}]}}, "has bits beyond its length")):
        assert sentence in host.cairn("net-define", host.network("two", **keys), ok=2).stderr

def test_transient_network_is_gone_when_it_stops(host, lan):
    path = host.network()
    assert host.cairn("net-create", path).stdout == f"Network lan created from {path}\n"
    assert host.net()["persistent"] is False and bridges(lan) == ["virbr0"]
    assert "exists; start it with" in host.cairn("net-create", path, ok=False).stderr
    assert "is transient" in host.cairn("net-undefine", "lan", ok=4).stderr
    assert "is transient" in host.cairn("net-autostart", "lan", ok=4).stderr
    leases = next((host.state / "networks").glob("*/dnsmasq/state"))
    outside = host.tmp / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (leases / "link").symlink_to(outside)
    host.cairn("net-destroy", "lan")
    assert host.states() == {} and not list((host.state / "networks").iterdir()) and (outside / "kept").exists()
    # With a definition it becomes persistent; without one, transient.
    host.cairn("net-create", path)
    host.define_net()
    assert host.net()["persistent"] is True
    host.cairn("net-undefine", "lan")
    assert host.net()["persistent"] is False and host.states() == {"lan": "active"}
    host.cairn("net-destroy", "lan")
    assert host.states() == {} and bridges(lan) == []


def test_events_and_audit_name_the_network(host):
    q = host.qmp()
    host.define_net()
    host.cairn("net-start", "lan")
    host.cairn("net-destroy", "lan")
    host.cairn("net-undefine", "lan")
    uuid = q.event("NETWORK_DEFINED", network="lan")["data"]["network-uuid"]
    assert [q.event("NETWORK_STATE_CHANGE", network="lan")["data"] for _ in range(2)] == [
        {"network": "lan", "network-uuid": uuid, "state": s} for s in ("active", "inactive")]
    q.event("NETWORK_UNDEFINED", **{"network-uuid": uuid})
    lines = json.loads(host.cairn("audit", "--format", "json").stdout)
    assert [(x["command"], x["arguments"].get("network"), x["outcome"]) for x in lines] == [
        ("net-define", None, "ok"), ("net-start", "lan", "ok"), ("net-destroy", "lan", "ok"), ("net-undefine", "lan", "ok")]


def test_redefined_active_network_keeps_running_with_its_definition(host):
    host.define_net()
    host.cairn("net-start", "lan")
    host.define_net(domain="vms.example")
    assert host.net()["pending"] is True and "Pending:" in host.cairn("net-info", "lan").stdout
    assert "domain" not in json.loads(host.cairn("net-dumpjson", "lan").stdout)
    assert json.loads(host.cairn("net-dumpjson", "--inactive", "lan").stdout)["domain"] == "vms.example"
    host.cairn("net-destroy", "lan")
    assert host.requests()[-1]["network"].get("domain") is None
    host.cairn("net-start", "lan")
    assert host.requests()[-1]["network"]["domain"] == "vms.example" and host.net()["pending"] is False


# ---- bad input: one sentence, and nothing is stored ----

@pytest.mark.parametrize("keys,why", [
    ({"bridge": "a-name-of-17-char"}, "bridge: has 17 characters; a link's name has 1 to 15"),
    ({"ipv4": {"address": "10.77.0.0", "prefix": 24}}, "10.77.0.0 is the address of the network 10.77.0.0/24 itself"),
    ({"mode": "bridge"}, "bridge is missing; mode bridge needs the name of a bridge that exists"),
    ({"name": "a/b"}, 'name: may have letters, digits, "-", "_" and "." only'),
    ({"uuid": "x"}, 'uuid: "x" is not a UUID'),
    ({"no": 1}, '"no" is not a key'),
])
def test_bad_definition_is_refused_with_its_key(plain, keys, why):
    path = plain.network("lan")
    d = {**json.loads(pathlib.Path(path).read_text()), **keys}
    pathlib.Path(path).write_text(json.dumps(d))
    r = plain.cairn("net-define", path, ok=False)
    assert why in r.stderr and r.stderr.startswith(f"error: Failed to define network from {path}\n"), r.stderr
    assert plain.states() == {}


def test_names_and_bridges_are_unique(plain):
    plain.define_net("a")
    plain.define_net("b")
    bridge = plain.net("b")["bridge"]
    assert bridge != plain.net("a")["bridge"] and re.fullmatch("virbr[0-9]+", bridge)
    r = plain.cairn("net-define", plain.network("c", bridge=bridge), ok=False)
    assert f"bridge: {bridge} is the bridge of network 'b'; give another name" in r.stderr
    r = plain.cairn("net-define", plain.network("c", uuid=plain.net("a")["uuid"]), ok=False)
    assert "uuid: network 'a' has this UUID" in r.stderr
    r = plain.cairn("net-define", plain.network("a", uuid="2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"), ok=False)
    assert "network 'a' exists with another UUID" in r.stderr
    assert plain.cairn("net-define", "--dry-run", plain.network("c")).stdout.endswith("net-c.json validates\n")
    assert set(plain.states()) == {"a", "b"}


# ---- what cairn-net says ----

def test_failed_start_leaves_nothing_and_says_why(plain):
    why = "network 'lan': 10.77.0.0/24 overlaps the route 10.0.0.0/8 by eth0; choose another address"
    plain.define_net()
    plain.tell("up", "json", {"error": {"class": "Busy", "desc": why}})
    r = plain.cairn("net-start", "lan", ok=6)
    assert why in r.stderr and plain.states() == {"lan": "inactive"} and plain.verbs() == ["up"]
    plain.cairn("net-create", plain.network("other"), ok=6)
    assert plain.states() == {"lan": "inactive"}
    plain.tell("up", "json", {"error": {"class": "PermissionDenied", "desc": "cairn-net needs CAP_NET_ADMIN"}})
    r = plain.cairn("net-start", "lan", ok=5)
    assert "needs CAP_NET_ADMIN; an interface of type user needs no network and no privileges" in r.stderr


def test_notes_become_warnings(plain):
    plain.define_net()
    plain.tell("up", "json", {"return": {"bridge": "virbr0", "notes": ["Docker drops the guests' traffic; run this"]}})
    plain.tell("down", "json", {"return": {"removed": []}})
    assert plain.cairn("net-start", "lan").stderr == "warning: Docker drops the guests' traffic; run this\n"
    assert "Docker drops" in plain.log.read_text()


def test_start_that_dies_is_undone(host, lan):
    host.define_net()
    host.tell("up", "die")
    r = host.cairn("net-start", "lan", ok=7)
    assert "cairn-net ended without an answer" in r.stderr
    assert host.verbs() == ["up", "down"] and bridges(lan) == [] and host.states() == {"lan": "inactive"}


def test_missing_program_is_named(tmp_path):
    d = NetDaemon(tmp_path, None)
    try:
        (d.program / "cairn-net").write_text("#!/no/such/interpreter\n")
        d.define_net()
        assert "cairn-net cannot be run" in d.cairn("net-start", "lan", ok=7).stderr
        assert d.states() == {"lan": "inactive"}
    finally:
        d.close()


def asks(d, *commands):
    """Begin each command on a connection of its own. At return, the daemon has read all of them, in this order."""
    clients = []
    for execute, arguments in commands:
        q = d.qmp()
        q.send(json.dumps({"execute": execute, "arguments": arguments}).encode())
        clients.append(q)
        d.qmp().run("query-version")
    return clients


def test_operations_wait_for_their_turn(plain):
    """The second start finds the network active, and the stops follow in their order; other networks do not wait."""
    plain.define_net()
    plain.define_net("other")
    plain.tell("up", "json", {"return": {"bridge": "virbr0", "notes": []}})
    plain.tell("down", "json", {"return": {"removed": []}})
    plain.tell("check", "json", {"return": {"active": True, "complete": True, "missing": [], "pid": 1}})
    plain.tell("up", "hold")
    lan = {"network": "lan"}
    first, again, stop, late = asks(plain, ("net-start", lan), ("net-start", lan), ("net-destroy", lan), ("net-destroy", lan))
    until(lambda: plain.verbs() == ["up"])
    assert plain.states() == {"lan": "starting", "other": "inactive"}
    plain.untell("up", "hold")
    plain.cairn("net-start", "other")
    assert first.answer()["return"] == {"bridge": plain.net()["bridge"]}
    assert again.answer()["error"]["desc"] == "network 'lan' is already active"
    assert stop.answer()["return"] == {}
    assert late.answer()["error"]["desc"] == "network 'lan' is not active"
    assert [r["verb"] for r in plain.requests() if r["network"]["name"] == "lan"] == ["up", "check", "down"]


def test_commands_that_wait_are_bounded_and_end_with_their_network(plain):
    plain.tell("up", "json", {"return": {"bridge": "virbr0", "notes": []}})
    plain.tell("down", "json", {"return": {"removed": []}})
    plain.cairn("net-create", plain.network())
    plain.tell("down", "hold")
    lan = {"network": "lan"}
    stop, *waiting = asks(plain, *[("net-destroy", lan)] * 17)
    until(lambda: plain.verbs() == ["up", "down"])
    refused = plain.cairn("net-start", "lan", ok=6).stderr
    assert "network 'lan': 16 commands wait for the end of the operation \"down\"; try again when it has ended" in refused
    plain.untell("down", "hold")
    assert stop.answer()["return"] == {}
    # A plain user's daemon says besides that networks need root's.
    assert {re.split("[.,]", q.answer()["error"]["desc"])[0] for q in waiting} == {"there is no network 'lan'"}


def test_two_users_add_to_an_active_network_at_once(plain):
    """Each command reads the definition, changes it and sends it. The command that comes second reads it again."""
    plain.define_net()
    plain.tell("up", "json", {"return": {"bridge": "virbr0", "notes": []}})
    plain.cairn("net-start", "lan")
    plain.tell("update", "hold")
    def add(i):
        return plain.cairn("net-update", "lan", "add", "ip-dhcp-host", json.dumps({"mac": f"52:54:00:00:00:{i:02x}", "name": f"vm{i}"}), "--live",
                           ok=None)
    with ThreadPoolExecutor() as pool:
        adds = [pool.submit(add, i) for i in range(1, 5)]
        until(lambda: "update" in plain.verbs())
        plain.untell("update", "hold")
        assert [a.result(30).stderr for a in adds] == [""] * 4
    hosts = plain.qmp().run("net-dump-definition", network="lan")["definition"]["ipv4"]["dhcp"]["hosts"]
    assert sorted(h["name"] for h in hosts) == ["vm1", "vm2", "vm3", "vm4"]


def test_questions_delay_no_operation(plain):
    """A viewer cannot keep an admin from acting."""
    plain.define_net()
    plain.tell("up", "json", {"return": {"bridge": "virbr0", "notes": []}})
    plain.tell("down", "json", {"return": {"removed": []}})
    plain.tell("leases", "hold")
    asking = [plain.qmp() for _ in range(8)]
    for q in asking:
        q.send(b'{"execute":"net-dhcp-leases","arguments":{"network":"lan"}}')
    until(lambda: plain.verbs().count("leases") == 8)
    assert "8 questions about it are under way" in plain.cairn("net-dhcp-leases", "lan", ok=6).stderr
    plain.cairn("net-start", "lan")
    plain.cairn("net-destroy", "lan")
    plain.cairn("net-undefine", "lan")
    assert {q.answer()["error"]["desc"] for q in asking} == {"network 'lan' was removed meanwhile"}
    plain.untell("leases", "hold")
    plain.define_net()
    assert json.loads(plain.cairn("net-dhcp-leases", "lan", "--format", "json").stdout) == []


# ---- VMs ----

def network_vm(d, name, **interface):
    return d.write(name, interfaces=[{"type": "network", "source": "lan", "mac": MAC, **interface}])


def test_vm_starts_on_an_active_network_only(host, lan):
    r = host.cairn("define", network_vm(host, "vm1"))
    assert r.stderr == ("warning: interface net0: there is no network 'lan', so the VM cannot start; define it with: cairn "
                        "net-define\n")
    assert "interfaces[0].source: there is no network 'lan'. Next: cairn net-list --all" in host.cairn("start", "vm1", ok=3).stderr
    host.define_net()
    assert host.cairn("define", network_vm(host, "vm1")).stderr == ""
    r = host.cairn("start", "vm1", ok=4)
    assert "network 'lan' is not active; start it with: cairn net-start lan" in r.stderr
    assert not lan.taps()
    host.cairn("net-start", "lan")
    host.cairn("start", "vm1")
    assert [i["master"] for i in lan.ip("link", "show", "type", "tun")] == ["virbr0"]
    # A network in use stays.
    assert host.net()["vms"] == ["vm1"]
    r = host.cairn("net-destroy", "lan", ok=6)
    assert "network 'lan' is in use by the running VMs vm1; shut them down first" in r.stderr
    host.cairn("domif-setlink", "vm1", "net0", "down")  # its tap stays, for when the link is up again
    assert "in use by the running VMs vm1" in host.cairn("net-destroy", "lan", ok=6).stderr
    assert bridges(lan) == ["virbr0"] and len(lan.taps()) == 1
    host.cairn("destroy", "vm1")
    host.cairn("net-destroy", "lan")
    assert bridges(lan) == []


def test_frames_of_two_guests_meet_on_a_network(tmp_path, lan, kvm):
    d = NetDaemon(tmp_path, lan, vm_program=None)
    try:
        d.define_net()
        d.cairn("net-start", "lan")
        consoles = []
        for i in (1, 2):
            v = guestlib.definition(f"vm{i}", interfaces=[{"type": "network", "source": "lan", "mac": f"52:54:00:00:00:0{i}"}])
            (tmp_path / f"vm{i}.json").write_text(json.dumps(v))
            d.cairn("define", str(tmp_path / f"vm{i}.json"))
            d.cairn("start", f"vm{i}")
            c = Console(d, f"vm{i}")
            assert c.line() == "interp"
            assert guestlib.fields(c.run("net open 0")[-1])["link"] == 1
            consoles.append(c)
        s = lan.socket("virbr0")
        consoles[0].run("net send 100 7")
        assert guestlib.fields(consoles[1].run("net recv 7")[-1])["bytes"] == 100
        assert s.recv(2048)[6:12] == bytes.fromhex("525400000001")
    finally:
        d.close()


@pytest.fixture
def open_to_others(lan):
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        d = NetDaemon(pathlib.Path(folder), lan)
        os.chmod(d.program, 0o711)
        d.cairn("grant", "admin", "--user", "nobody")
        d.write("x")
        os.chmod(d.tmp / "kernel", 0o644)
        yield d
        d.close()


def test_vm_of_another_user_needs_the_networks_permission(open_to_others, lan):
    d = open_to_others
    d.define_net()
    d.cairn("net-start", "lan")
    v = {"name": "theirs", "memory": 32, "boot": {"kernel": str(d.tmp / "kernel")},
         "interfaces": [{"type": "network", "source": "lan"}]}
    defined, started = as_nobody(d, ["vm-define", {"definition": v}], ["vm-start", {"vm": "theirs"}])
    assert "return" in defined and started["error"]["class"] == "PermissionDenied"
    assert ("user 65534 defined the interface and may not use a network 'lan'; an admin can permit it with: cairn net-update lan "
            "add user 65534" in started["error"]["desc"])
    assert "may not use" in d.cairn("start", "theirs", ok=5).stderr and not lan.taps()  # root starts it: the same
    d.cairn("net-update", "lan", "add", "user", "65534", "--live", "--config")
    assert "network 'lan' has this user already\n" in d.cairn("net-update", "lan", "add", "user", "65534", ok=False).stderr
    assert d.verbs()[-1] == "update"
    d.cairn("start", "theirs")
    assert len(lan.taps()) == 1
    # Only what the active network permits counts: not the definition of its next start.
    d.cairn("destroy", "theirs")
    assert d.cairn("net-update", "lan", "delete", "user", "65534").stdout == "Updated network lan live state\n"
    assert "may not use" in d.cairn("start", "theirs", ok=5).stderr
    d.cairn("net-update", "lan", "delete", "user", "65534", "--config")
    d.cairn("net-update", "lan", "add", "user", "65534")  # as the error says
    d.cairn("start", "theirs")
    # A role for one VM shows the permitted networks only.
    d.define_net("other")
    d.cairn("revoke", "--user", "nobody")
    d.cairn("grant", "owner", "theirs", "--user", "nobody")
    listed, info, start = as_nobody(d, ["net-list", {}], ["net-info", {"network": "lan"}], ["net-destroy", {"network": "lan"}])
    assert [n["name"] for n in listed["return"]["networks"]] == ["lan"]
    assert info["error"]["class"] == start["error"]["class"] == "PermissionDenied"


def test_edit_by_root_lends_the_network_to_a_users_vm(open_to_others):
    """Root is the author of an interface that root adds to another user's VM, as with bridges."""
    d = open_to_others
    d.define_net()
    d.cairn("net-start", "lan")
    v = {"name": "theirs", "memory": 32, "boot": {"kernel": str(d.tmp / "kernel")}}
    as_nobody(d, ["vm-define", {"definition": v}])
    (d.tmp / "theirs.json").write_text(json.dumps({**v, "interfaces": [{"type": "network", "source": "lan"}]}))
    d.cairn("define", str(d.tmp / "theirs.json"))
    d.cairn("start", "theirs")


# ---- a daemon that ends ----

def test_active_network_and_its_vm_survive_a_kill_of_the_daemon(host, lan):
    host.define_net()
    host.cairn("net-start", "lan")
    host.cairn("define", network_vm(host, "vm1"))
    host.cairn("start", "vm1")
    index = lan.ip("link", "show", "virbr0")[0]["ifindex"]
    host.stop(signal.SIGKILL)
    host.start()
    assert host.states() == {"lan": "active"} and host.net()["vms"] == ["vm1"]
    assert lan.ip("link", "show", "virbr0")[0]["ifindex"] == index
    assert host.verbs() == ["up", "port-up", "check"]  # the rules of its tap stay, too
    host.cairn("destroy", "vm1")
    host.cairn("net-destroy", "lan")


@pytest.mark.parametrize("verb", ["up", "down"])
def test_operation_of_a_killed_daemon_is_undone(host, lan, verb):
    host.define_net()
    q = host.qmp()
    if verb == "down":
        host.cairn("net-start", "lan")
    host.tell(verb, "hold")
    q.send(json.dumps({"execute": "net-start" if verb == "up" else "net-destroy", "arguments": {"network": "lan"}}).encode())
    until(lambda: host.verbs()[-1:] == [verb])
    host.stop(signal.SIGKILL)
    host.untell(verb, "hold")
    host.start()
    assert host.states() == {"lan": "inactive"} and host.verbs()[-1] == "down"
    assert bridges(lan) == []


@pytest.fixture
def two(tmp_path, lan):
    """Two daemons of one host, with cairn-net itself."""
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        made.append(RealNetDaemon(tmp_path / name, lan))
    yield made
    for d in made:
        d.cairn("net-destroy", "lan", ok=None)
        d.close()


def test_network_of_another_daemon_is_left_alone(two, lan):
    a, b = two
    a.define_net()
    (b.tmp / "lan.json").write_text(a.cairn("net-dumpjson", "lan").stdout)
    b.cairn("net-define", str(b.tmp / "lan.json"))
    a.cairn("net-start", "lan")

    def parts():
        return [subprocess.run([*lan.enter, *c], capture_output=True, text=True, check=True).stdout for c in (["nft", "-s", "list", "ruleset"], ["ip", "link"])]
    before = parts()
    assert "another daemon of this host runs a network with the same UUID (bridge 'virbr0')" in b.cairn("net-start", "lan", ok=4).stderr
    assert b.states() == {"lan": "inactive"} and parts() == before
    for d in two:
        d.stop(signal.SIGKILL)
        d.start()
    assert (a.states(), b.states()) == ({"lan": "active"}, {"lan": "inactive"}) and parts() == before
    a.cairn("net-destroy", "lan")
    b.cairn("net-start", "lan")
    assert "another daemon" in a.cairn("net-start", "lan", ok=4).stderr
    assert (a.states(), b.states()) == ({"lan": "inactive"}, {"lan": "active"})


def test_network_that_is_gone_is_inactive_and_autostarts(host, lan):
    for name in ("lan", "auto"):
        host.define_net(name)
        host.cairn("net-start", name)
    assert host.cairn("net-autostart", "auto").stdout == "Network auto marked as autostarted\n"
    host.cairn("net-create", host.network("short"))
    host.stop(signal.SIGKILL)
    for b in bridges(lan):
        lan.ip("link", "del", b)
    host.start()
    assert host.states() == {"auto": "active", "lan": "inactive"}
    assert bridges(lan) == [host.net("auto")["bridge"]]
    # A network that was stopped on purpose stays down, also with autostart.
    host.cairn("net-destroy", "auto")
    host.stop()
    host.start()
    assert host.states() == {"auto": "inactive", "lan": "inactive"}
    assert host.cairn("net-autostart", "--disable", "auto").stdout == "Network auto unmarked as autostarted\n"
    assert host.net("auto")["autostart"] is False


def test_incomplete_network_is_mended(host):
    host.define_net()
    host.cairn("net-start", "lan")
    host.stop()
    host.tell("check", "json", {"return": {"active": True, "complete": False, "missing": ["dnsmasq"], "pid": 0}})
    host.start()
    assert host.verbs() == ["up", "check", "up"] and host.states() == {"lan": "active"}


def test_start_of_an_active_network_makes_what_is_missing(host, lan):
    """The host had no default route when the network started. The note of that start names this verb."""
    host.define_net()
    host.cairn("net-start", "lan")
    index = lan.ip("link", "show", "virbr0")[0]["ifindex"]
    host.tell("check", "json", {"return": {"active": True, "complete": False, "missing": ["forwarding"], "pid": 0}})
    host.tell("up", "json", {"return": {"bridge": "virbr0", "notes": ["still no route"]}})
    assert host.cairn("net-start", "lan").stderr == "warning: still no route\n"
    assert host.verbs() == ["up", "check", "up"] and host.states() == {"lan": "active"}
    host.tell("up", "json", {"error": {"class": "HostError", "desc": "it cannot be mended"}})
    assert "it cannot be mended" in host.cairn("net-start", "lan", ok=7).stderr
    host.untell("check", "json")
    assert "is already active" in host.cairn("net-start", "lan", ok=4).stderr
    # It stays as it is meanwhile.
    assert host.states() == {"lan": "active"} and lan.ip("link", "show", "virbr0")[0]["ifindex"] == index
    host.cairn("net-destroy", "lan")


def test_damaged_file_is_set_aside(plain):
    plain.define_net("a")
    plain.define_net("b")
    plain.stop()
    path = plain.state / "networks" / "net-a.json"
    o = json.loads(path.read_text())
    path.write_text(json.dumps({**o, "state": "active"}))  # without the live definition
    (plain.state / "networks" / "net-b.json").write_text("{")
    plain.start()
    assert plain.states() == {}
    assert sorted(p.name for p in (plain.state / "networks").iterdir()) == ["net-a.json.damaged", "net-b.json.damaged"]


# ---- changes and leases ----

def test_net_update_changes_the_active_network_and_the_definition(host):
    host.define_net()
    entry = '{"mac": "52:54:00:00:00:07", "address": "10.77.0.7", "name": "seven"}'
    assert host.cairn("net-update", "lan", "add", "ip-dhcp-host", entry).stdout == "Updated network lan persistent config\n"
    host.cairn("net-start", "lan")
    assert host.requests()[-1]["network"]["ipv4"]["dhcp"]["hosts"] == [json.loads(entry)]
    assert "has this ip-dhcp-host already" in host.cairn("net-update", "lan", "add", "ip-dhcp-host", entry, ok=False).stderr
    moved = '{"mac": "52:54:00:00:00:07", "address": "10.77.0.8"}'
    r = host.cairn("net-update", "lan", "modify", "ip-dhcp-host", moved, "--live", "--config")
    assert r.stdout == "Updated network lan persistent config and live state\n"
    assert host.requests()[-1]["verb"] == "update" and not host.net()["pending"]
    assert host.requests()[-1]["network"]["ipv4"]["dhcp"]["hosts"] == [json.loads(moved)]
    outside = '{"start": "10.78.0.100", "end": "10.78.0.120"}'
    r = host.cairn("net-update", "lan", "add-first", "ip-dhcp-range", outside, ok=False)
    assert "ipv4.dhcp.ranges[0].start: 10.78.0.100 is outside the network 10.77.0.0/24" in r.stderr
    host.cairn("net-update", "lan", "add-first", "ip-dhcp-range", '{"start": "10.77.0.100", "end": "10.77.0.120"}')
    assert [x["start"] for x in host.requests()[-1]["network"]["ipv4"]["dhcp"]["ranges"]] == ["10.77.0.100", "10.77.0.2"]
    assert host.net()["pending"] is True  # only the active one was changed
    host.cairn("net-update", "lan", "delete", "ip-dhcp-host", moved, "--live")
    assert "has no such ip-dhcp-host" in host.cairn("net-update", "lan", "delete", "ip-dhcp-host", moved, "--live", ok=3).stderr
    assert host.requests()[-1]["network"]["ipv4"]["dhcp"]["hosts"] == []
    assert "is not a change" in host.cairn("net-update", "lan", "turn", "ip-dhcp-host", moved, ok=2).stderr


def test_net_update_of_the_last_range_keeps_the_lease_time(host):
    host.define_net(ipv4={"address": "10.77.0.1", "prefix": 24, "dhcp": {"ranges": [{"start": "10.77.0.2", "end": "10.77.0.9"}],
                                                                        "lease_seconds": 120}})
    host.cairn("net-start", "lan")
    both = "--live", "--config"
    host.cairn("net-update", "lan", "delete", "ip-dhcp-range", '{"start": "10.77.0.2", "end": "10.77.0.9"}', *both)
    xml = host.cairn("net-dumpxml", "lan").stdout
    assert host.cairn("net-define", "-", stdin=None, input=xml).stderr == ""
    host.cairn("net-update", "lan", "add", "ip-dhcp-range", '{"start": "10.77.0.2", "end": "10.77.0.20"}', *both)
    assert host.requests()[-1]["network"]["ipv4"]["dhcp"]["lease_seconds"] == 120
    assert json.loads(host.cairn("net-dumpjson", "lan", "--inactive").stdout)["ipv4"]["dhcp"]["lease_seconds"] == 120


def test_net_update_changes_the_egress_rules_of_the_active_network(host):
    host.define_net()
    host.cairn("net-start", "lan")

    def update(*args, ok=True):
        return host.cairn("net-update", "lan", *args, ok=ok)
    rule, other = '{"allow": "192.0.2.7", "ports": 443}', '{"allow": "192.0.2.7", "ports": 80}'
    assert "net-update lan add egress" in update("add", "egress-rule", rule, ok=False).stderr
    assert "no such egress" in update("modify", "egress", "{}", ok=3).stderr
    update("add", "egress", '{"default": "deny"}')
    assert host.verbs() == ["up", "update", "up"] and host.requests()[-1]["network"]["egress"] == "deny"
    assert "already" in update("add", "egress", "{}", ok=False).stderr
    update("add", "egress-rule", rule, "--live", "--config", ok=False)  # the definition has none yet
    update("add", "egress-rule", other)
    assert host.requests()[-1]["network"]["egress"] == "deny;allow any 443 192.0.2.7;allow any 80 192.0.2.7"
    update("delete", "egress-rule", rule)
    update("add-first", "egress-rule", '{"deny": "192.0.2.0/25"}')
    assert host.requests()[-1]["network"]["egress"] == "deny;deny any - 192.0.2.0/25;allow any 80 192.0.2.7"
    update("add", "egress-rule", '{"allow": "*.example.org"}')
    assert host.requests()[-1]["network"]["egress"].endswith(";allow any - *.example.org")
    update("delete", "egress-rule", '{"allow": "*.example.org"}')
    # The rules that the daemon tells are those that are in force.
    before = host.cairn("net-dumpjson", "lan").stdout
    host.tell("up", "json", {"error": {"class": "HostError", "desc": "no rules today"}})
    assert "no rules today" in update("delete", "egress", "{}", ok=False).stderr
    assert host.cairn("net-dumpjson", "lan").stdout == before
    host.tell("up", "json", {"return": {}})
    update("delete", "egress", "{}")
    assert "egress" not in host.requests()[-1]["network"] and host.requests()[-1]["verb"] == "up"
    n = len(host.verbs())
    update("add", "dns-host", '{"address": "10.77.0.9", "names": ["nine"]}')
    assert host.verbs()[n:] == ["update"]  # the rules stay, and so does their count


def test_refused_update_changes_nothing(host):
    host.define_net()
    host_entry = '<host mac="52:54:00:00:00:05" ip="10.77.0.5"/>'
    for scope in ("--live",), ("--live", "--config"):
        r = host.cairn("net-update", "lan", "add", "ip-dhcp-host", host_entry, *scope, ok=4)
        assert r.stderr == "error: Failed to update network lan\nerror: network 'lan' is not active\n"
    assert host_entry[:10] not in host.cairn("net-dumpxml", "lan").stdout
    host.cairn("net-start", "lan")
    before = host.cairn("net-dumpjson", "lan").stdout
    d = json.loads(before)
    q = host.qmp()
    # A change that the program would not make, although the answer would report it.
    for key, value in (("mode", "isolated"), ("stp", True), ("dev", "eth9"), ("mtu", 1400), ("mac", MAC), ("bridge", "other"),
                       ("filter", "clean-traffic"), ("isolated_ports", True),
                       ("ipv4", {**d["ipv4"], "address": "10.77.0.200"}), ("ipv6", {"address": "fd77::1", "prefix": 64})):
        with pytest.raises(QmpError, match=f"network 'lan': another {key} needs net-destroy and net-start"):
            q.run("net-update", network="lan", definition={**d, key: value})
    with pytest.raises(QmpError, match="another dns.enable needs"):
        q.run("net-update", network="lan", definition={**d, "dns": {"enable": False}})
    assert host.verbs() == ["up"]
    host.tell("update", "json", {"error": {"class": "AlreadyExists", "desc": "DHCP and DNS have this address"}})
    with pytest.raises(QmpError, match="DHCP and DNS have this address"):
        q.run("net-update", network="lan", definition={**d, "domain": "vms"})
    assert host.cairn("net-dumpjson", "lan").stdout == before
    with pytest.raises(QmpError, match="has changed meanwhile"):
        q.run("net-update", network="lan", definition=json.loads(before), was={**json.loads(before), "mode": "route"})


def test_net_dhcp_leases_prints_virshs_table(plain):
    plain.define_net()
    leases = [{"expires": 1700000000 + i, "mac": f"52:54:00:00:00:{i:02x}", "address": f"10.77.0.{i}", "prefix": 24,
               "family": "ipv4", "name": "web1" if i == 2 else None, "client_id": None} for i in range(2, 150)]
    plain.tell("leases", "json", {"return": {"leases": leases}})
    lines = plain.cairn("net-dhcp-leases", "lan").stdout.splitlines()
    assert re.sub(" +", " ", lines[0]) == " Expiry Time MAC address Protocol IP address Hostname Client ID or DUID"
    assert len(lines) == 2 + len(leases) + 1
    assert lines[2].split()[2:] == ["52:54:00:00:00:02", "ipv4", "10.77.0.2/24", "web1", "-"]
    one = json.loads(plain.cairn("net-dhcp-leases", "lan", "52:54:00:00:00:77", "--format", "json").stdout)
    assert one == [leases[0x75]]


def test_leases_of_a_large_network_come_in_pages(daemon, tmp_path):
    """A guest can lease all addresses of a network without a filter, with a client id of 255 bytes."""
    path = tmp_path / "net.json"
    path.write_text(json.dumps({"name": "big", "ipv4": {"address": "10.78.0.1", "prefix": 16}}))
    daemon.cairn("net-define", str(path))
    q = daemon.qmp()
    state = pathlib.Path(daemon.state, "networks", q.run("net-info", network="big")["uuid"], "dnsmasq/state")
    state.mkdir(parents=True)
    client = ":".join(["ab"] * 170)
    (state / "leases").write_text("".join(f"0 52:54:00:00:{i // 250:02x}:{i % 250:02x} 10.78.{i // 250}.{i % 250 + 2} * {client}\n"
                                          for i in reversed(range(4000))))
    leases = json.loads(daemon.cairn("net-dhcp-leases", "big", "--format", "json").stdout)
    assert [lease["address"] for lease in leases] == [f"10.78.{i // 250}.{i % 250 + 2}" for i in range(4000)]
    lease, = q.run("net-dhcp-leases", network="big", mac="52:54:00:00:0F:01")["leases"]
    assert lease["address"] == "10.78.15.3"
    assert q.run("net-dhcp-leases", network="big", **{"from": 3999})["leases"] == leases[3999:]
    assert q.run("net-dhcp-leases", network="big", **{"from": 4000}) == {"leases": []}


# ---- ssh ----

def fake_ssh(host, tmp_path):
    """Return a function that runs `cairn ssh` with a script in place of ssh. It returns the arguments of the script, or
    with ok= the error."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    env = {**host.env, "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def ssh(*args, ok=0, enter=()):
        r = subprocess.run([*enter, os.path.join(BUILD, "cairn"), "ssh", *args], env=env, capture_output=True, text=True, timeout=50)
        assert r.returncode == ok, r.stderr
        return r.stdout.splitlines() if not ok else r.stderr
    return ssh


def test_ssh_goes_by_network_if_the_guest_does_not_listen_on_vsock(host, tmp_path):
    ssh = fake_ssh(host, tmp_path)
    host.define_net()
    host.cairn("net-start", "lan")
    mac = "52:54:00:00:00:77"
    host.define("web1", cmdline="no-agent", interfaces=[{"type": "network", "source": "lan", "mac": mac}])
    assert "is shut off" in ssh("web1", ok=4)
    host.cairn("start", "web1")
    assert 'no vsock device; set "vsock": true' in ssh("web1", ok=1)  # and it has no lease
    lease = {"expires": 0, "address": "10.77.0.7", "prefix": 24, "family": "ipv4", "name": None, "client_id": None}
    host.tell("leases", "json", {"return": {"leases": [{**lease, "mac": "52:54:00:00:00:99"}]}})
    assert "no vsock device" in ssh("web1", ok=1)  # another guest's
    host.tell("leases", "json", {"return": {"leases": [{**lease, "mac": mac}]}})
    uuid = host.cairn("domuuid", "web1").stdout.strip()
    options = ["-o", "HostName=10.77.0.7", "-o", f"HostKeyAlias=cairn-{uuid}", "-o", "StrictHostKeyChecking=accept-new",
               "-o", "LogLevel=ERROR"]
    assert ssh("web1") == [*options, "--", "cairn-network"]
    assert ssh("carol@web1", "--", "ls", "-l") == [*options, "-l", "carol", "--", "cairn-network", "ls", "-l"]
    assert "there is no VM 'none'" in ssh("none", ok=3)
    # Without a lease, the guest agent is asked; fake_vm's has this address.
    host.cairn("define", network_vm(host, "web2", mac=MAC))
    host.cairn("start", "web2")
    assert ssh("web2")[1] == "HostName=192.0.2.7"
    # But not an address of this host: the commands for the guest would run here.
    enter = ["unshare", "-n" if not os.geteuid() else "-Urn", "sh", "-c", 'ip address add 192.0.2.7/32 dev lo && exec "$@"', "sh"]
    assert "no vsock device" in ssh("web2", ok=1, enter=enter)


# ---- libvirt's XML ----

LIBVIRT = """<network connections='1'>
  <name>lan</name>
  <uuid>2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11</uuid>
  <forward mode='nat' dev='eth0'><nat ipv6='yes'><port start='1024' end='65535'/></nat></forward>
  <bridge name='virbr7' stp='on' delay='0'/>
  <mac address='52:54:00:6c:3c:01'/>
  <mtu size='9000'/>
  <domain name='vms.example' localOnly='yes'/>
  <dns><forwarder addr='1.1.1.1'/><host ip='10.77.0.5'><hostname>web</hostname><hostname>www</hostname></host></dns>
  <ip address='10.77.0.1' netmask='255.255.255.0'>
    <tftp root='/srv/tftp'/>
    <dhcp><range start='10.77.0.2' end='10.77.0.99'/><host mac='52:54:00:00:00:05' name='web' ip='10.77.0.5'/><bootp file='pxelinux.0' server='10.77.0.7'/></dhcp>
  </ip>
  <ip family='ipv6' address='fd77::1' prefix='64'/>
</network>
"""


def test_libvirts_xml_becomes_the_same_network(plain):
    path = plain.tmp / "lan.xml"
    path.write_text(LIBVIRT)
    r = plain.cairn("net-define", str(path))
    assert r.stdout == f"Network lan defined from {path}\n" and r.stderr == ""
    d = json.loads(plain.cairn("net-dumpjson", "lan").stdout)
    assert d == {
        "name": "lan", "uuid": "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11", "mode": "nat", "dev": "eth0", "bridge": "virbr7", "stp": True,
        "mac": "52:54:00:6c:3c:01", "mtu": 9000, "domain": "vms.example", "domain_local": True,
        "ipv4": {"address": "10.77.0.1", "prefix": 24, "tftp_root": "/srv/tftp", "dhcp": {
            "ranges": [{"start": "10.77.0.2", "end": "10.77.0.99"}],
            "hosts": [{"mac": "52:54:00:00:00:05", "name": "web", "address": "10.77.0.5"}],
            "boot_file": "pxelinux.0", "boot_server": "10.77.0.7"}},
        "ipv6": {"address": "fd77::1", "prefix": 64, "nat": True},
        "dns": {"enable": True, "forwarders": ["1.1.1.1"], "hosts": [{"address": "10.77.0.5", "names": ["web", "www"]}]},
        "users": [], "groups": []}
    xml = plain.cairn("net-dumpxml", "lan").stdout
    path.write_text(xml)
    r = plain.cairn("net-define", str(path))
    assert r.stderr == "" and json.loads(plain.cairn("net-dumpjson", "lan").stdout) == d, xml
    plain.cairn("net-update", "lan", "add", "ip-dhcp-host", "<host mac='52:54:00:00:00:06' ip='10.77.0.6'/>")
    plain.cairn("net-update", "lan", "delete", "ip-dhcp-range", "<range start='10.77.0.2' end='10.77.0.99'/>")
    dhcp = json.loads(plain.cairn("net-dumpjson", "lan").stdout)["ipv4"]["dhcp"]
    assert dhcp["ranges"] == [] and dhcp["hosts"][1] == {"mac": "52:54:00:00:00:06", "address": "10.77.0.6"}


def test_net_update_takes_a_file(plain):
    """As virsh does; and it says what of the XML has no effect."""
    plain.define_net()
    path = plain.tmp / "host.xml"
    path.write_text("<?xml version='1.0'?>\n<host mac='52:54:00:00:00:06' ip='10.77.0.6' tag='x'>\n  <lease expiry='1'/>\n</host>\n")
    r = plain.cairn("net-update", "lan", "add-last", "ip-dhcp-host", str(path))
    assert r.stderr.splitlines() == ["warning: line 2: /host/@tag: has no effect: Cairn does not know it",
                                     "warning: line 3: /host/lease: has no effect: Cairn does not know it"]
    plain.cairn("net-update", "lan", "add", "ip-dhcp-host", "-", stdin=None, input=' {"mac": "52:54:00:00:00:07", "address": "10.77.0.7"}\n')
    hosts = json.loads(plain.cairn("net-dumpjson", "lan").stdout)["ipv4"]["dhcp"]["hosts"]
    assert [h["address"] for h in hosts] == ["10.77.0.6", "10.77.0.7"]
    assert plain.cairn("net-update", "lan", "delete", "dns-host", "<host ip='10.77.0.6'><hostname>web</hostname></host>", ok=3).stderr.count("warning") == 0
    r = plain.cairn("net-update", "lan", "add", "ip-dhcp-host", "52:54:00:00:00:08", ok=False)
    assert "the entry is neither JSON ({...}) nor XML (<...>), so it names a file: 52:54:00:00:00:08: No such file" in r.stderr


def test_xml_has_keys_that_libvirt_lacks(plain):
    """Without them, a network that is defined again from its XML would let guests reach everything."""
    plain.define_net(egress={"default": "deny", "rules": [{"allow": "192.0.2.0/24"}]}, filter="clean-traffic", users=[1000], groups=[100],
                     ipv4={"address": "10.77.0.1", "prefix": 24,
                           "dhcp": {"ranges": [{"start": "10.77.0.2", "end": "10.77.0.99"}], "lease_seconds": 600}})
    d = plain.cairn("net-dumpjson", "lan").stdout
    xml = plain.cairn("net-dumpxml", "lan").stdout
    plain.cairn("net-undefine", "lan")
    assert plain.cairn("net-define", "-", stdin=None, input=xml).stderr == ""
    assert plain.cairn("net-dumpjson", "lan").stdout == d, xml


def test_xml_loses_no_limit_silently(plain):
    """The only link that leads outside, which libvirt also writes as an element; what is lost gets a warning."""
    path = plain.tmp / "lan.xml"
    path.write_text(LIBVIRT.replace(" dev='eth0'><nat ipv6='yes'><port start='1024' end='65535'/></nat>",
                                    "><interface dev='eth5'/><interface dev='eth6'/><nat><address start='1.2.3.4' end='1.2.3.5'/>"
                                    "<port start='500' end='600'/></nat>")
                    .replace("end='10.77.0.99'/>", "end='10.77.0.99'><lease expiry='1'/></range>").replace("delay='0'", "delay='15'")
                    .replace("prefix='64'/>", "prefix='64'><tftp root='/x'/><dhcp><range start='fd77::2' end='fd77::9'/><bootp file='x'/></dhcp></ip>"))
    r = plain.cairn("net-define", str(path))
    assert json.loads(plain.cairn("net-dumpjson", "lan").stdout)["dev"] == "eth5"
    for what in ("forward/interface", "nat/address", "nat/port", "range/lease", "bridge/@delay", "ip[2]/tftp", "dhcp/bootp"):
        assert what in r.stderr, r.stderr
    assert r.stderr.count("warning") == 7


@pytest.mark.parametrize("more,why", [
    ("<vlan><tag id='42'/></vlan>", "VLAN tags are not supported, and the guests would be in another network"),
    ("<virtualport type='openvswitch'/>", "virtual ports (Open vSwitch, 802.1Qbg) are not supported"),
    ("<portgroup name='dmz'><vlan><tag id='42'/></vlan></portgroup>", "networks have no port groups")])
def test_xml_of_a_network_in_a_vlan_is_refused(plain, more, why):
    path = plain.tmp / "lan.xml"
    path.write_text(f"<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/>{more}</network>")
    assert why in plain.cairn("net-define", str(path), ok=False).stderr


def test_unknown_attributes_of_xml_are_named(plain):
    path = plain.tmp / "lan.xml"
    path.write_text(LIBVIRT.replace("<dns>", "<dns forwardPlainNames='yes'>").replace("<forwarder", "<forwarder domain='corp'")
                    .replace("delay='0'", "delay='0' zone='dmz'")
                    .replace(" ip='10.77.0.5'/>", " ip='10.77.0.5' extra='1'/>"))
    r = plain.cairn("net-define", str(path))
    for what in ("/network/dns/@forwardPlainNames", "/network/bridge/@zone", "/dhcp/host/@extra"):
        assert f"{what}: has no effect" in r.stderr, r.stderr
    assert "/network/dns/forwarder: has no effect: Cairn asks a server for all names, or for none" in r.stderr
    assert json.loads(plain.cairn("net-dumpjson", "lan").stdout)["dns"]["forwarders"] == []
    assert r.stderr.count("warning") == 4


@pytest.mark.parametrize("old,new,why", [
    ("mode='nat'", "mode='hostdev'", "line 4: /network/forward/@mode: \"hostdev\" is not supported"),
    ("netmask='255.255.255.0'", "netmask='255.0.255.0'", '"255.0.255.0" is not a netmask'),
    ("end='10.77.0.99'", "end='10.78.0.99'", "line 12: ipv4.dhcp.ranges[0].end: 10.78.0.99 is outside"),
    ("server='10.77.0.7'", "server='pxe'", 'line 12: ipv4.dhcp.boot_server: "pxe" is not an IPv4 address'),
    ("root='/srv/tftp'", "root='tftp'", "line 11: ipv4.tftp_root: must be an absolute path"),
    ("<network connections='1'>", "<domain>", "not well-formed"),
    ("<mtu size='9000'/>", "<mtu size='9000'/><mtu size='1500'/>", "/network/mtu[2]: is there twice"),
])
def test_bad_xml_is_refused_with_its_line(plain, old, new, why):
    path = plain.tmp / "lan.xml"
    path.write_text(LIBVIRT.replace(old, new))
    assert why in plain.cairn("net-define", str(path), ok=False).stderr
    assert plain.states() == {}


# ---- the default network ----

def test_mac_that_the_networks_own_links_have_is_refused(host):
    """The tap would get what is for the name server or the bridge: its address differs from theirs in one byte only."""
    host.define_net()
    host.cairn("net-start", "lan")
    near = ":".join(re.findall("..", host.net("lan")["uuid"].replace("-", ""))[1:6])
    for mac in (f"52:{near}", f"02:{near}"):
        host.define("web1", interfaces=[{"type": "network", "source": "lan", "mac": mac}])
        assert "interfaces[0].mac: is too near that of network 'lan' itself; give the interface another one" in host.cairn("start", "web1", ok=2).stderr
    host.define("web1", interfaces=[{"type": "network", "source": "lan", "mac": f"52:54{near[2:]}"}])
    host.cairn("start", "web1")


def test_default_network_exists_from_the_first_start(tmp_path, lan):
    """In root's daemon with the default folders, which the test has in a mount namespace of its own."""
    d = NetDaemon.__new__(NetDaemon)
    d.lan, d.program = lan, tmp_path / "libexec"
    d.program.mkdir()
    shutil.copy(os.path.join(ROOT, "tests/helpers/fake_net.py"), d.program / "cairn-net")
    script = f"""
        set -e; trap 'kill $pid 2>/dev/null || :' EXIT
        mount -t tmpfs none /var/lib; mount -t tmpfs none /run
        export CAIRN_LIBEXEC={d.program} CAIRN_JOURNAL= PATH="{BUILD}:$PATH"
        unset CAIRN_SOCKET
        begin() {{ cairnd 2>>{tmp_path}/log & pid=$!; until cairn net-list >/dev/null 2>&1; do sleep 0.02; done; }}
        end() {{ kill $pid; wait $pid; pid=; }}
        begin; cairn net-list --all; cairn net-dumpjson default; end
        begin; cairn net-undefine default; end
        begin; cairn net-list --all; end
    """
    r = subprocess.run([*lan.enter, "unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=50)
    assert r.returncode == 0, r.stderr + (tmp_path / "log").read_text()
    assert " default   inactive   no          yes\n" in r.stdout
    assert '"address":"192.168.123.1"' in re.sub(r"\s", "", r.stdout)  # the next free one
    assert r.stdout.count("default   inactive") == 1  # an undefined one stays away


def test_daemon_with_a_state_folder_says_how_to_define_the_default_network(host):
    said = host.cairn("net-start", "default", ok=3).stderr
    assert "a daemon with --state-dir has only the networks that you define. Next: cairn help net-define" in said
    with open(os.path.join(ROOT, "docs/networks.md"), encoding="utf-8") as f:
        command = re.search("```\n(echo '[^']*' [|] cairn net-define -)\n```", f.read()).group(1)
    subprocess.run(["sh", "-c", command], check=True, env={**host.env, "PATH": f"{BUILD}:{os.environ['PATH']}"})
    host.cairn("net-start", "default")


# ---- net-edit ----

def edit(d, script, *args, ok=True):
    d.env["EDITOR"] = f"sed -i '{script}'"
    d.env.pop("VISUAL", None)
    return d.cairn("net-edit", "lan", *args, ok=ok)


def stored(d):
    return json.loads(d.cairn("net-dumpjson", "lan", "--inactive").stdout)


def test_net_edit_changes_the_definition(plain):
    plain.define_net(users=[1000], filter="clean-traffic", isolated_ports=True, egress={"default": "deny", "rules": [{"allow": "192.0.2.7"}]})
    was = stored(plain)
    assert "Network 'lan' JSON configuration not changed." in edit(plain, "s/x/x/").stdout
    shown = edit(plain, "s/10.77.0.99/10.77.0.88/", "--print-only").stdout
    assert "10.77.0.88" in shown and stored(plain) == was
    assert "Network 'lan' JSON configuration edited." in edit(plain, "s/10.77.0.99/10.77.0.88/").stdout
    assert stored(plain)["ipv4"]["dhcp"]["ranges"] == [{"start": "10.77.0.2", "end": "10.77.0.88"}]
    # libvirt's XML has no users and filters: they are in its metadata.
    assert "Network 'lan' XML configuration edited." in edit(plain, "s/10.77.0.88/10.77.0.99/", "--xml").stdout
    assert stored(plain) == was


def test_net_edit_refuses(plain):
    plain.define_net()
    was = stored(plain)
    assert "name: cannot be edited" in edit(plain, 's/"lan"/"wan"/', ok=False).stderr
    refused = edit(plain, "s/10.77.0.99/10.78.0.99/", ok=False).stderr
    assert "10.78.0.99" in refused and "your changes are in " in refused and stored(plain) == was
    os.unlink(refused.split("your changes are in ")[1].strip())
    other = plain.network(mtu=1400)
    again = edit(plain, f"s/10.77.0.99/10.77.0.88/;w /dev/null' \"$1\"; \"{BUILD}/cairn\" -c {plain.socket} net-define {other} >/dev/null; : '", ok=False)
    assert "changed in the meantime" in again.stderr and stored(plain) == was | {"mtu": 1400}
