"""TCP connections of a guest over a revert: the kernel's TCP at one end, the bare-metal guest's at the other one."""

import contextlib
import ipaddress
import os
import select
import socket
import subprocess

import pytest

import guestlib
from conftest import BUILD, Daemon
from test_net import MAC, LanDaemon, lan, opened, start  # noqa: F401
from test_usernet import free_port

pytestmark = pytest.mark.usefixtures("kvm")

PORT = 7
RESET_SECONDS = 50 * guestlib.SLOW


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "a.qcow2"
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return guestlib.disk(str(path), format="qcow2")


@pytest.fixture
def host(tmp_path, lan):  # noqa: F811
    lan.ip("addr", "add", "192.168.77.1/24", "dev", "br0")
    d = LanDaemon(tmp_path, lan)
    yield d
    d.close()


@pytest.fixture
def daemon(tmp_path):
    d = Daemon(tmp_path)
    yield d
    d.close()


def serves(c, address):
    opened(c)
    c.run(f"tcp listen {int(ipaddress.ip_address(address))} {PORT}")
    c.sock.sendall(b"tcp serve\n")


def echoes(sock, data):
    sock.sendall(data)
    return sock.recv(len(data), socket.MSG_WAITALL) == data


def is_reset(sock):
    """Return whether the connection is reset, though nobody sends anything."""
    if not select.select([sock], [], [], RESET_SECONDS)[0]:
        return False
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(100) == b"", "data came"
    return True


def states(c):
    """Return what the guest knows: {port: (state, bytes received)}."""
    lines = [dict(x.split("=") for x in line.split()) for line in c.run("\ntcp show") + c.run("tcp show") if "=" in line]
    return {int(x["port"]): (x["state"], int(x["received"])) for x in lines}


class Peer:
    """A host of the bridge with connections to the guest at 192.168.77.2."""

    def __init__(self, lan):  # noqa: F811
        self.lan = lan

    def connect(self, family=socket.AF_INET):
        s = self.lan.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
        s.connect(("192.168.77.2", PORT))
        return s


def port(sock):
    return sock.getsockname()[1]


def test_revert_resets_connections_that_have_moved_and_no_others(host, lan, disk):  # noqa: F811
    c = start(host, "a", disks=[disk])
    serves(c, "192.168.77.2")
    p = Peer(lan)
    quiet, moved, ended = p.connect(), p.connect(), p.connect()
    for s in quiet, moved, ended:
        assert echoes(s, b"before")
    host.cairn("snapshot-create-as", "a", "s1")
    later = p.connect()
    for s in moved, ended, later:
        assert echoes(s, b"since the snapshot")
    ended_port = port(ended)
    ended.shutdown(socket.SHUT_WR)
    assert ended.recv(1) == b""
    host.cairn("snapshot-revert", "a", "s1")
    assert is_reset(moved) and is_reset(later)
    assert echoes(quiet, b"after the revert")
    with p.connect() as new:
        assert echoes(new, b"a new one")
        now = states(c)
        # The guest knows it, though it sends nothing: also of the one that ended in the time that it has forgotten.
        assert now == {port(quiet): ("open", 22), port(moved): ("reset", 6), ended_port: ("reset", 6), port(new): ("open", 9)}


def test_every_revert_resets_what_has_moved_since_its_snapshot(host, lan, disk):  # noqa: F811
    c = start(host, "a", disks=[disk])
    serves(c, "192.168.77.2")
    p = Peer(lan)
    quiet, first = p.connect(), p.connect()
    assert echoes(quiet, b"0") and echoes(first, b"0")
    host.cairn("snapshot-create-as", "a", "s1")
    assert echoes(first, b"1")
    host.cairn("snapshot-create-as", "a", "s2")
    host.cairn("snapshot-revert", "a", "s2")
    assert echoes(first, b"2") and echoes(quiet, b"2")  # both were quiet since s2
    host.cairn("snapshot-revert", "a", "s2")
    assert is_reset(first) and is_reset(quiet)
    again = p.connect()
    assert echoes(again, b"3")
    host.cairn("snapshot-revert", "a", "s1")
    assert is_reset(again)
    with p.connect() as new:
        assert echoes(new, b"a new one")
        assert [x for x, _ in states(c).values()] == ["reset", "reset", "open"]


def test_revert_of_a_vm_that_was_off_resets_old_connections_at_the_first_segment(host, lan, disk):  # noqa: F811
    """The VM's new process does not know the connections."""
    c = start(host, "a", disks=[disk])
    serves(c, "192.168.77.2")
    p = Peer(lan)
    old = p.connect()
    assert echoes(old, b"before")
    host.cairn("snapshot-create-as", "a", "s1")
    assert echoes(old, b"since")
    host.cairn("destroy", "a")
    host.cairn("snapshot-revert", "a", "s1")
    # The host's late acknowledgement of the last echo may have been the first segment.
    with contextlib.suppress(ConnectionResetError):
        old.sendall(b"anybody?")
    assert is_reset(old)
    with p.connect() as new:
        assert echoes(new, b"a new one")


def test_connections_over_a_save_go_on(host, lan, disk):  # noqa: F811
    c = start(host, "a", disks=[disk])
    serves(c, "192.168.77.2")
    s = Peer(lan).connect()
    assert echoes(s, b"before")
    host.cairn("managedsave", "a")
    host.cairn("start", "a")
    assert echoes(s, b"after")


def test_revert_resets_all_connections_of_a_user_network(daemon, disk):
    number = free_port()
    c = start(daemon, "a", {"type": "user", "mac": MAC, "forwards": [{"port": number, "to": PORT}]}, disks=[disk])
    serves(c, "10.0.2.15")
    sockets = [socket.create_connection(("127.0.0.1", number), timeout=30 * guestlib.SLOW) for _ in range(2)]
    for s in sockets:
        assert echoes(s, b"before")
    daemon.cairn("snapshot-create-as", "a", "s1")
    assert echoes(sockets[0], b"since")
    daemon.cairn("snapshot-revert", "a", "s1")
    for s in sockets:
        assert is_reset(s)
    with socket.create_connection(("127.0.0.1", number), timeout=30 * guestlib.SLOW) as new:
        assert echoes(new, b"a new one")
        assert sorted(x for x, _ in states(c).values()) == ["open", "reset", "reset"]
