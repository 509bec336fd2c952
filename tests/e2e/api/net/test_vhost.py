"""Interfaces that the host's kernel serves (vhost-net). The emulated SVM host has it; elsewhere most tests are
skipped."""

import json
import os
import subprocess
import threading
import time

import pytest

import guestlib
from conftest import Console, until
from guestlib import fields
from netlib import frame
from plainlib import qcow2
from test_interface_limits import seconds_of
from test_net import LanDaemon, definition, figures, goes_through, gone_through, lan, opened, start  # noqa: F401
from test_queue_pairs import PAIRS, all_pairs_used, interface, open_pairs, use

DEVICE = "/dev/vhost-net"


def has_vhost():
    if not os.path.exists(DEVICE) and "CAIRN_IN_SVMHOST" in os.environ:
        subprocess.run(["modprobe", "vhost_net"], check=False)
    return os.path.exists(DEVICE)


needs_vhost = pytest.mark.skipif(not has_vhost(), reason="the host has no /dev/vhost-net")
pytestmark = pytest.mark.usefixtures("kvm")


class Host(LanDaemon):
    def command(self):
        return [*super().command(), "--log-level", "debug"]

    def served(self, name="a"):
        """Return how often vhost has begun to serve a pair, and how often it has given one back."""
        self.logs_written()
        log = "".join(p.read_text(errors="replace") for p in self.state.glob("vms/*/log") if name in self.names(p))
        return log.count("vhost-net serves pair"), log.count("vhost-net gives pair")

    @staticmethod
    def names(log):
        return json.loads((log.parent / "definition.json").read_text())["name"]

    def serves(self, name="a"):
        began, ended = self.served(name)
        return began > ended


@pytest.fixture
def host(tmp_path, lan):  # noqa: F811
    d = Host(tmp_path, lan)
    yield d
    d.close()


def vhost(**more):
    return interface(vhost=True, **more)


def disks(d):
    return [{"id": "vda", **qcow2(d.tmp / "a.qcow2", "8M")}]


def passes(c, s):
    for i, n in enumerate((46, 1486)):
        goes_through(c, s, n, 10 * i)


@pytest.mark.skipif(has_vhost(), reason="the host has /dev/vhost-net")
def test_start_says_what_is_missing(host):
    r = None
    host.cairn("define", definition(host, "a", vhost()))
    r = host.cairn("start", "a", ok=False)
    assert "interfaces[0].vhost: this host has no /dev/vhost-net; load the module with: modprobe vhost_net, or remove" in r.stderr
    host.cairn("define", definition(host, "a", interface()))
    host.cairn("start", "a")


def test_user_network_has_no_vhost(host):
    path = definition(host, "a", {"type": "user", "vhost": True})
    assert "interfaces[0]: vhost requires type network or bridge; remove it" in host.cairn("define", path, ok=2).stderr


@needs_vhost
def test_kernel_moves_the_frames(host, lan):  # noqa: F811
    c = start(host, "a", vhost())
    assert opened(c)["features"] == 0x100238028
    s = lan.socket()
    passes(c, s)
    assert host.served() == (1, 0)
    # The tap counts what the VM's process does not see.
    i = figures(host, "a")
    assert i["tx-packets"] == 2 and i["tx-bytes"] == 2 * 14 + 46 + 1486 and i["rx-packets"] >= 2
    # Frames without a buffer wait in the tap; then all arrive in order.
    for n in range(300):
        s.send(frame(600, n & 255))
    came = 0
    while came < 300:
        came += int(c.run("net drain")[-1], 0)
    # A driver that begins anew, and one without mergeable buffers.
    assert opened(c, without=1 << 15)["features"] & 1 << 15 == 0
    passes(c, s)
    assert host.served() == (2, 1)
    host.cairn("reset", "a")
    assert c.line() == "interp"
    until(lambda: host.served() == (2, 2))
    opened(c)
    passes(c, s)
    assert host.serves()


@needs_vhost
def test_limits_and_a_link_that_is_down_are_the_process_s(host, lan):  # noqa: F811
    c = start(host, "a", vhost())
    opened(c)
    s = lan.socket()
    passes(c, s)
    host.cairn("domiftune", "a", "net0", "--outbound", "100,0,10")
    least = (60 * 1000 - 10 * 1024 - 1000) / (100 * 1024)
    assert seconds_of(c, "net send 986 1 60") >= 0.95 * least
    assert not host.serves()
    for _ in range(60):
        s.recv(65536)
    host.cairn("domiftune", "a", "net0", "--outbound", "0")
    passes(c, s)
    assert host.serves()
    host.cairn("domif-setlink", "a", "net0", "down")
    assert fields(c.run("net show")[-1])["link"] == 0
    s.send(frame(100, 9))
    c.run("net send 100 3")
    assert not host.serves()
    host.cairn("domif-setlink", "a", "net0", "up")
    passes(c, s)
    assert host.serves()


@needs_vhost
def test_frames_that_the_process_held_back_go_when_vhost_begins(host, lan):  # noqa: F811
    """The frames are in the ring, and the process has taken their doorbells, so the guest rings no more."""
    c = start(host, "a", vhost())
    opened(c)
    s = lan.socket()
    host.cairn("domiftune", "a", "net0", "--outbound", "1,0,2")
    c.sock.sendall(b"net send 986 1 30\n")
    assert len(s.recv(65536)) == 1000
    assert not host.serves()
    host.cairn("domiftune", "a", "net0", "--outbound", "0")
    for _ in range(29):
        assert len(s.recv(65536)) == 1000
    assert c.line() == "ok"
    assert host.serves()


@needs_vhost
def test_snapshot_and_revert_have_what_the_kernel_wrote(host, lan):  # noqa: F811
    c = start(host, "a", vhost(), disks=disks(host))
    opened(c)
    s = lan.socket()
    passes(c, s)
    # A dump copies memory while the guest runs; afterwards vhost serves again.
    host.cairn("dump", "a", str(host.tmp / "core"))
    assert host.served() == (1, 1) or host.served() == (2, 1)
    passes(c, s)
    assert host.serves()
    # From the first snapshot on, the process notes connections, so it serves the interface.
    s.send(frame(700, 41))
    host.cairn("snapshot-create-as", "a", "one")
    assert not host.serves()
    assert fields(c.run("net recv 41")[-1])["bytes"] == 700
    passes(c, s)
    host.cairn("snapshot-revert", "a", "one")
    assert fields(c.run("net recv 41")[-1])["bytes"] == 700
    passes(c, s)
    host.cairn("snapshot-create-as", "a", "two")
    host.cairn("snapshot-revert", "a", "one")
    assert fields(c.run("net recv 41")[-1])["bytes"] == 700
    passes(c, s)
    assert not host.serves()


@needs_vhost
def test_save_and_handover(host, lan):  # noqa: F811
    c = start(host, "a", vhost(), disks=disks(host))
    opened(c)
    s = lan.socket()
    passes(c, s)
    host.cairn("managedsave", "a")
    host.cairn("start", "a")
    c = Console(host, "a")
    passes(c, s)
    assert host.serves()
    sent = figures(host, "a")["tx-packets"]
    # The next process of the VM serves the interface itself, and the counters go on.
    host.cairn("restart-process", "a")
    assert not host.serves()
    passes(c, s)
    assert figures(host, "a")["tx-packets"] == sent + 2


@needs_vhost
def test_live_clone_has_vhost_and_so_has_its_source(host, lan):  # noqa: F811
    c = start(host, "a", vhost(), disks=disks(host))
    opened(c)
    s = lan.socket()
    passes(c, s)
    host.cairn("clone", "--live", "a", "b")
    passes(c, s)
    until(host.serves)
    host.cairn("destroy", "a")
    b = Console(host, "b")
    gone_through(b, s)  # what its source has sent and got
    passes(b, s)
    assert host.serves("b")


@needs_vhost
def test_frames_pass_once_and_in_order_over_changes(host, lan):  # noqa: F811
    """vhost begins and ends again and again while the guest sends and receives."""
    c = start(host, "a", vhost())
    opened(c)
    s = lan.socket()
    stop = threading.Event()

    def change():
        while not stop.is_set():
            host.cairn("domiftune", "a", "net0", "--outbound", "4000000")
            host.cairn("domiftune", "a", "net0", "--outbound", "0")
            host.cairn("suspend", "a")
            host.cairn("resume", "a")

    t = threading.Thread(target=change)
    t.start()
    try:
        end = time.monotonic() + 8 * guestlib.SLOW
        while time.monotonic() < end:
            passes(c, s)
            c.run("net send 200 5 300")
            for _ in range(300):
                assert s.recv(65536)[14:18] == bytes((5, 12, 19, 26))
            for n in range(100):
                s.send(frame(600, n))
            came = 0
            while came < 100:
                came += int(c.run("net drain")[-1], 0)
    finally:
        stop.set()
        t.join()
    began, ended = host.served()
    assert began > 5 and began - ended in (0, 1)


@needs_vhost
def test_pairs_of_queues(host, lan):  # noqa: F811
    c = start(host, "a", vhost(queues=PAIRS))
    open_pairs(c)
    s = lan.socket()
    assert use(c, PAIRS)["answer"] == 0
    assert all_pairs_used(host, c, lan)
    began, ended = host.served()
    assert began - ended == PAIRS
    assert use(c, 1)["answer"] == 0
    passes(c, s)
    began, ended = host.served()
    assert began - ended == 1


@needs_vhost
@pytest.mark.parametrize("wrong", range(3))
def test_malformed_ring_needs_a_reset(host, lan, wrong):  # noqa: F811
    c = start(host, "a", vhost())
    opened(c)
    s = lan.socket()
    passes(c, s)
    assert host.serves()
    r = fields(c.run(f"net wrong {wrong}")[-1])
    opened(c)
    passes(c, s)
    assert r["reset"] == 1 or host.serves()
