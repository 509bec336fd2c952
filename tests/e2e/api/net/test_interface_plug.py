"""Interfaces that come and go while the VM runs. The guest `interp` releases a device as test_hotplug.py says."""

import json
import os
import signal
import socket
import threading

import pytest

import guestlib
from conftest import QmpError, until
from guestlib import fields
from test_bios import qcow2
from test_hotplug import Guest, image
from test_lost_connection import cut
from test_net import goes_through, host, lan, opened  # noqa: F401 (fixtures)
from test_network import NetDaemon
from test_usernet import answers, connect, free_port, libexec, listens, slirps  # noqa: F401 (libexec is a fixture)
from test_usernet import host as user_host  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("kvm")

BRIDGE = ("bridge", "br0")


def machine(daemon, name="a", **keys):
    daemon.define(name, debug_exit=True, boot={"kernel": guestlib.bare("interp")}, **keys)
    daemon.cairn("start", name)
    return Guest(daemon, name)


def interfaces(daemon, *more):
    return {x["id"]: x["mac"] for x in json.loads(daemon.cairn("domiflist", "a", "--format", "json", *more).stdout)}


def attach(daemon, *args):
    """Attach an interface to VM a. Return its id and MAC address."""
    before = interfaces(daemon)
    assert daemon.cairn("attach-interface", "a", *args).stdout == "Interface attached successfully\n"
    [new] = interfaces(daemon).items() - before.items()
    return new


def detach(daemon, g, kind, mac, *more):
    """Detach an interface of VM a, which its guest releases."""
    t = threading.Thread(target=g.release)
    t.start()
    r = daemon.cairn("detach-interface", "a", kind, "--mac", mac, "--timeout", "60", *more)
    t.join()
    assert r.stdout == "Interface detached successfully\n" and mac not in interfaces(daemon).values()


def test_interface_is_attached_and_detached(host, lan):
    g = machine(host)
    assert interfaces(host) == {}
    s = lan.socket()
    one, mac = attach(host, *BRIDGE, "--live")
    assert one == "net0" and g.event() and interfaces(host, "--inactive") == {} and lan.taps() == ["vnet0"]
    assert opened(g)["mac"] == mac
    goes_through(g, s, 100, 3, mac)
    # Two, of which the first goes.
    two, other = attach(host, *BRIDGE)
    assert two == "net1"
    opened(g, 1)
    goes_through(g, s, 100, 5, other)
    detach(host, g, "bridge", mac)
    assert interfaces(host) == {two: other} and lan.taps() == ["vnet1"]
    goes_through(g, s, 100, 7, other)
    assert host.figures("a")["interfaces"][0]["id"] == two
    # The slot and the id are free again.
    one, mac = attach(host, *BRIDGE)
    assert one == "net0"
    host.cairn("domif-setlink", "a", one, "down")
    opened(g, 0)
    assert fields(g.run("net show")[-1])["link"] == 0
    g.close()
    host.cairn("destroy", "a")
    until(lambda: not lan.taps())


def test_revert_to_an_interface_whose_slot_another_one_has_now(host, lan):
    """The plan of the revert has both."""
    g = machine(host, disks=[qcow2(host.tmp / "a", b"")])
    _, mac = attach(host, *BRIDGE, "--target", "lan0", "--live")
    host.cairn("snapshot-create-as", "a", "one")
    detach(host, g, "bridge", mac, "--live")
    attach(host, *BRIDGE, "--target", "lan1", "--live")

    def slots():
        return {i["id"]: i.get("slot") for i in json.loads(host.cairn("dumpjson", "a").stdout)["interfaces"]}
    until(lambda: slots() == {"lan1": 24})
    g.close()
    host.cairn("snapshot-revert", "a", "one")
    assert slots() == {"lan0": 24}
    host.cairn("destroy", "a")
    until(lambda: not lan.taps())


def test_bad_requests_change_nothing(host, lan):
    g = machine(host, disks=[{"path": image(host.tmp / "a.raw"), "format": "raw"}])
    q = host.qmp()

    def refused(words, **interface):
        with pytest.raises(QmpError, match=words):
            q.run("vm-attach-interface", vm="a", interface=interface)

    refused("cannot find bridge|No such device|bridge 'none'", type="bridge", source="none")
    refused("target vda already exists", type="bridge", source="br0", id="vda")
    refused("without forwards; add them afterwards: cairn forward-add a", type="user", forwards=[{"port": 2222, "to": 22}])
    attach(host, *BRIDGE, "--target", "lan0")
    refused("lan0", type="bridge", source="br0", id="lan0")
    assert list(interfaces(host)) == ["lan0"] and lan.taps() == ["vnet0"]
    r = host.cairn("detach-interface", "a", "bridge", "--timeout", "1", ok=False)
    assert "the guest has not released lan0 within 1 s, so it stays attached" in r.stderr
    assert list(interfaces(host)) == ["lan0"]
    host.cairn("destroy", "a")
    r = host.cairn("attach-interface", "a", *BRIDGE, "--live", ok=False)
    assert "VM 'a' is shut off; change its definition instead, with --config" in r.stderr
    g.close()


def test_mac_that_another_vm_has_is_refused(host, lan):
    """In a definition, in one for the next start, and at a running VM; the sentence says who has it."""
    g, mac = machine(host), "52:54:00:00:00:0b"
    host.define("b", interfaces=[{"type": "bridge", "source": "br0", "mac": mac}])
    words = "interfaces[0].mac: is taken by VM 'b'; omit it to have one generated"
    for scope in "--live", "--config":
        assert words in host.cairn("attach-interface", "a", *BRIDGE, "--mac", mac.upper(), scope, ok=False).stderr
    assert words in host.cairn("define", host.write("c", interfaces=[{"type": "bridge", "source": "br0", "mac": mac}]), ok=False).stderr
    assert interfaces(host) == interfaces(host, "--inactive") == {} and lan.taps() == []
    assert host.cairn("list", "--all", "--name").stdout.split() == ["a", "b"]
    # A running VM keeps its address until it is off, though its definition has another one.
    host.define("b", interfaces=[{"type": "bridge", "source": "br0", "mac": mac}], boot={"kernel": guestlib.bare("interp")})
    host.cairn("start", "b")
    host.define("b", interfaces=[{"type": "bridge", "source": "br0", "mac": "52:54:00:00:00:0c"}])
    assert words in host.cairn("attach-interface", "a", *BRIDGE, "--mac", mac, "--live", ok=False).stderr
    host.cairn("destroy", "b")
    assert attach(host, *BRIDGE, "--mac", mac, "--live") == ("net0", mac)
    assert g.event()


def test_persistent_interface_survives_save_handover_and_daemon(host, lan):
    g = machine(host, disks=[{"path": image(host.tmp / "a.raw"), "format": "raw"}])
    one, mac = attach(host, *BRIDGE, "--live")
    assert "runs with other" in host.cairn("managedsave", "a", ok=False).stderr
    # The next process takes it over from the present one, not from the definition.
    g.close()
    host.cairn("restart-process", "a")
    g = Guest(host, "a")
    assert interfaces(host) == {one: mac} and not interfaces(host, "--inactive")
    opened(g)
    goes_through(g, lan.socket(), 10, 3, mac)
    detach(host, g, "bridge", mac)
    one, mac = attach(host, *BRIDGE, "--persistent")
    assert interfaces(host, "--inactive") == {one: mac}
    opened(g)
    g.close()
    s = lan.socket()
    for move in (["restart-process", "a"], None, ["managedsave", "a"]):
        if move:
            host.cairn(*move)
        else:
            host.stop(signal.SIGKILL)
            host.start()
        if move and move[0] == "managedsave":
            host.cairn("start", "a")
        g = Guest(host, "a")
        assert interfaces(host) == {one: mac}, move
        goes_through(g, s, 100, 3, mac)
        g.close()


def test_revert_to_before_the_plug_detaches_the_interface(host, lan):
    g = machine(host, disks=[qcow2(host.tmp / "a", b"")])
    host.cairn("snapshot-create-as", "a", "before")
    one, mac = attach(host, *BRIDGE)
    opened(g)
    host.cairn("snapshot-create-as", "a", "with")
    s = lan.socket()
    host.cairn("snapshot-revert", "a", "with")
    goes_through(g, s, 100, 3, mac)
    q = host.qmp()
    host.cairn("snapshot-revert", "a", "before")
    q.event("DEVICE_DELETED", device=one)
    assert interfaces(host) == {} and lan.taps() == []
    g.close()
    # The snapshot from after the plug has the interface. A new process gets it.
    assert "continues in a new process" in host.cairn("snapshot-revert", "a", "with").stdout
    assert interfaces(host) == {one: mac}
    g = Guest(host, "a")
    goes_through(g, s, 100, 3, mac)
    g.close()


def test_forwards_of_an_attached_interface(user_host, tmp_path):
    """The VM has two user networks. The first is detached; the port of the other one stays, also under the next
    daemon."""
    daemon, port, more = user_host, free_port(), free_port()
    g = machine(daemon)
    _, first = attach(daemon, "user")
    two, _ = attach(daemon, "user", "--network", "10.9.0.0/24", "--forward", f"{port}:22")
    until(lambda: len(slirps(daemon)) == 2)
    opened(g, 1)
    detach(daemon, g, "user", first)
    until(lambda: len(slirps(daemon)) == 1)
    with connect(port) as s:
        answers(g, s, 3)
    for sig in (None, signal.SIGKILL):
        if sig:
            daemon.stop(sig)
            daemon.start()
            g = Guest(daemon, "a")
        daemon.cairn("forward-add", "a", f"{more}:22", "--live", "--interface", two)
        with connect(more) as s:
            answers(g, s, 5)
        daemon.cairn("forward-remove", "a", str(more), "--live")
        g.close()
    daemon.cairn("destroy", "a")


def test_forward_is_added_while_another_interface_is_detached(user_host):
    """Its interface has another place in the list then."""
    daemon, port = user_host, free_port()
    g = machine(daemon)
    _, first = attach(daemon, "user")
    until(lambda: len(slirps(daemon)) == 1)
    before = slirps(daemon)
    two, _ = attach(daemon, "user", "--network", "10.9.0.0/24")
    until(lambda: len(slirps(daemon)) == 2)
    [slow] = set(slirps(daemon)) - set(before)
    os.kill(slow, signal.SIGSTOP)
    q = daemon.qmp()
    q.send(json.dumps({"execute": "forward-add", "arguments": {"vm": "a", "port": port, "to": 22, "interface": two}}).encode())
    until(lambda: listens(port))
    detach(daemon, g, "user", first)
    os.kill(slow, signal.SIGCONT)
    q.answer()  # an error if the detach took five seconds; the forward is there all the same
    until(lambda: str(port) in daemon.cairn("forward-list", "a").stdout)
    daemon.cairn("forward-remove", "a", str(port), "--live")
    assert str(port) not in daemon.cairn("forward-list", "a").stdout and not listens(port)
    g.close()


def test_forward_that_cannot_be_had_is_told_with_the_interface_that_stays(user_host):
    """Only the guest could release the interface."""
    daemon, port = user_host, free_port()
    machine(daemon).close()
    with socket.create_server(("127.0.0.1", port)):
        said = daemon.cairn("attach-interface", "a", "user", "--forward", f"{port}:22", ok=False).stderr
    assert f"127.0.0.1:{port} is used by another program" in said and "The VM has the interface net0 without this forward" in said
    assert said.endswith(f"cairn detach-interface a user --mac {interfaces(daemon)['net0']}\n")
    daemon.cairn("forward-add", "a", f"{port}:22", "--live", "--interface", "net0")


def asks_for_release(host):
    """Start a VM whose guest is asked to release its interface, and has not."""
    g = machine(host)
    attach(host, *BRIDGE, "--persistent")
    assert "has not released" in host.cairn("detach-interface", "a", "bridge", "--timeout", "1", ok=False).stderr
    return g


def test_interface_that_was_released_without_a_connection_is_gone(host, lan):
    g = asks_for_release(host)
    os.kill(host.proc.pid, signal.SIGSTOP)
    cut(host.proc.pid)
    g.release()
    os.kill(host.proc.pid, signal.SIGCONT)
    until(lambda: interfaces(host) == {})
    assert lan.taps() == []
    g.close()


def test_save_fails_while_the_guest_releases_an_interface(host, lan):
    """The daemon reads of the save before it reads of the interface: the next start would have it, the state not."""
    g = asks_for_release(host)
    q = host.qmp()
    os.kill(host.proc.pid, signal.SIGSTOP)
    q.send(b'{"execute": "vm-managed-save", "arguments": {"vm": "a"}}')
    slots = g.release()
    until(lambda: int(g.run(f"cfgrd {(slots.bit_length() - 1) << 3} 0 4")[0], 16) == 0xffffffff)
    os.kill(host.proc.pid, signal.SIGCONT)
    answer = q.answer()
    if "return" in answer:
        q.event("JOB_STATUS_CHANGE", id=answer["return"]["job"], status="concluded")
    until(lambda: interfaces(host) == {})
    assert host.info("a")["state"] == "running" and list(interfaces(host, "--inactive")) == ["net0"]
    g.run("echo on")
    g.close()


def test_clone_without_its_first_interface_keeps_the_addresses_of_the_second(lan, tmp_path):
    """The clone's guest has its source's MAC and IP address, which the rules of its next start name."""
    d = NetDaemon(tmp_path, lan, vm_program=None)
    try:
        d.define_net()
        d.cairn("net-start", "lan")
        machine(d).close()
        attach(d, *BRIDGE, "--persistent")
        two, mac = attach(d, "network", "lan", "--persistent")
        assert two == "net1"
        d.tell("port-up", "json", {"return": {"address": "10.77.0.50", "inner": "10.77.0.5"}})
        d.cairn("clone", "--live", "a", "b")
        d.cairn("destroy", "a")

        def clone():
            """The interface of the clone that cairn-net gave an address, and what it was asked for."""
            [c] = json.loads(d.cairn("net-info", "lan", "--format", "json").stdout)["clones"]
            return c["interface"], c["address"], c["guest-address"], [r["port"] for r in d.requests() if r["verb"] == "port-up"][-1]["fork"]

        assert clone() == ("net1", "10.77.0.50", "10.77.0.5", {"mac": mac})
        g = Guest(d, "b")
        t = threading.Thread(target=g.release)
        t.start()
        d.cairn("detach-interface", "b", "bridge", "--timeout", "60", "--persistent")
        t.join()
        g.close()
        assert clone() == ("net1", "10.77.0.50", "10.77.0.5", {"mac": mac})
        d.stop(signal.SIGKILL)
        d.start()
        d.cairn("managedsave", "b")
        d.cairn("start", "b")
        assert clone() == ("net1", "10.77.0.50", "10.77.0.5", {"mac": mac, "address": "10.77.0.5"})
        # The next daemon knows them, although the definition has no such interface any more.
        d.cairn("detach-interface", "b", "network", "--config")
        d.stop(signal.SIGKILL)
        d.start()
        assert clone()[:3] == ("net1", "10.77.0.50", "10.77.0.5")
    finally:
        d.close()
