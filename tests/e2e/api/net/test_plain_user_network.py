"""User networks of a plain user's own daemon: all that they offer works without root, and a network of Cairn's is
refused with what to do."""

import json
import os
import shutil
import socket

import pytest

import guestlib
from conftest import BUILD, Console, until
from plainlib import PlainDaemon, plain_folder, qcow2
from slirplib import readable

pytestmark = [pytest.mark.usefixtures("kvm"), pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")]


@pytest.fixture
def plain():
    with plain_folder() as folder:
        for program in "cairn-slirp", "cairn-net":
            shutil.copy(os.path.join(BUILD, program), folder)
        d = PlainDaemon(folder, folder / "denied")
        yield d
        d.close()


def serving(d, name):
    """Start a VM whose guest sends datagrams back."""
    d.define(name, memory="32M", debug_exit=True, boot={"kernel": guestlib.bare("interp")},
             disks=[qcow2(d.tmp / f"{name}.qcow2", "16M")], interfaces=[{"type": "user", "egress": {}}])
    d.cairn("start", name)
    c = Console(d, name)
    while c.line() != "interp":
        pass
    for command in "net open 0", "pit 100":
        c.run(command)
    for i in range(3):  # frames of a type that no rule allows
        c.run(f"net send 60 {i}")
    c.sock.sendall(b"net serve\n")
    c.close()


def answers(port):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port))
        s.send(b"%d" % port)
        until(lambda: readable(s) or s.send(b"%d" % port) == 0)
        return s.recv(100) == b"%d" % port


def forwards(d, name):
    return [f["port"] for f in json.loads(d.cairn("forward-list", "--format", "json", name).stdout)]


def stats(d, name):
    return dict(line.split()[1:] for line in d.cairn("domifstat", name, "net0").stdout.splitlines())


def test_user_network_needs_no_root(plain):
    serving(plain, "a")
    until(lambda: stats(plain, "a")["egress_denied_packets"] == "3")
    plain.cairn("forward-add", "a", "udp:auto:7")
    port, = forwards(plain, "a")
    assert answers(port)
    plain.cairn("domiftune", "a", "net0", "--inbound", "1000")
    plain.cairn("domif-setlink", "a", "net0", "down")
    plain.cairn("domif-setlink", "a", "net0", "up")
    assert answers(port)
    made = json.loads(plain.cairn("clone", "--live", "a", "c", "--count", "2", "--publish", "udp:auto:7", "--format", "json").stdout)
    ports = {p["port"] for p in made["published"]}
    assert len(ports - {port}) == 2 and all(answers(p) for p in ports)
    plain.cairn("forward-remove", "a", f"udp:{port}")
    assert not forwards(plain, "a")
    plain.cairn("snapshot-create-as", "a", "s")
    plain.cairn("snapshot-revert", "a", "s")
    plain.cairn("managedsave", "a")
    plain.cairn("start", "a")
    plain.cairn("forward-add", "a", "udp:auto:7")
    port, = forwards(plain, "a")
    assert answers(port)


def test_network_needs_root_and_says_so(plain):
    (plain.tmp / "lan.json").write_text(json.dumps({"name": "lan", "ipv4": {"address": "10.77.0.1", "prefix": 24}}))
    plain.cairn("net-define", str(plain.tmp / "lan.json"))
    said = plain.cairn("net-start", "default", ok=3).stderr
    assert "there is no network 'default', and this daemon could not start it: networks need root's daemon; an interface of type user" in said
    vm = guestlib.definition("vm1", interfaces=[{"type": "network", "source": "other"}])
    (plain.tmp / "vm1.json").write_text(json.dumps(vm))
    said = plain.cairn("define", str(plain.tmp / "vm1.json")).stderr
    assert "no network 'other', so the VM cannot start; networks need root's daemon; use an interface of type user" in said
    said = plain.cairn("net-start", "lan", ok=5).stderr
    assert "networks need CAP_NET_ADMIN; run cairnd as root; an interface of type user needs no network" in said


def test_group_is_cloned_with_a_network_for_each_clone(plain):
    for name in "ab":
        serving(plain, name)
    result = json.loads(plain.cairn("group-clone", "a", "b", "--ephemeral", "--format", "json").stdout)
    assert result["networks"] == [] and [c["name"] for c in result["clones"]] == ["a-clone", "b-clone"]
    for name in "a-clone", "b-clone":
        plain.cairn("forward-add", name, "udp:auto:7")
        assert answers(forwards(plain, name)[0])
