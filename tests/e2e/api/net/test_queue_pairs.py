"""Pairs of queues of a network interface, on a tap with several queues."""

import struct

from conftest import Console, until
from guestlib import fields
from plainlib import qcow2
from netlib import frame, mac_bytes
from test_net import MAC, definition, figures, goes_through, host, lan, opened, pytestmark, start  # noqa: F401

F_MQ = 1 << 22
PAIRS = 4
FLOWS = 64


def interface(**more):
    return {"type": "bridge", "source": "br0", "mac": MAC, **more}


def datagram(port):
    """UDP over IPv4 from this port: a flow of its own for the kernel."""
    udp = struct.pack(">HHHH", port, 9, 26, 0) + bytes(18)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, bytes([10, 9, 9, 9]), bytes([10, 9, 9, 1]))
    return mac_bytes(MAC) + mac_bytes("02:00:00:00:00:99") + b"\x08\x00" + ip + udp


def flows_send(lan):
    s = lan.socket(kind=0x0800)  # the kernel takes the socket's protocol for that of the frames
    for port in range(FLOWS):
        s.send(datagram(1000 + port))


def flows_taken(c):
    """Return the number that each pair has got."""
    r = fields(c.run(f"net count {FLOWS}")[-1])
    return [r[f"pair{i}"] for i in range(PAIRS)]


def flows_spread(c, lan):
    flows_send(lan)
    return flows_taken(c)


def use(c, n):
    return fields(c.run(f"net pairs {n}")[-1])


def open_pairs(c):
    features = fields(c.run(f"net open 0 0 {F_MQ:#x}")[-1])["features"]
    assert features & F_MQ


def queues(daemon, lan, name):
    target = figures(daemon, name)["target"]
    return lan.ip("-d", "link", "show", target)[0]["linkinfo"]["info_data"]


def all_pairs_used(daemon, c, lan, name="a"):
    until(lambda: queues(daemon, lan, name)["numqueues"] == PAIRS)  # the process attaches the queues a moment later
    return all(flows_spread(c, lan))


def test_flows_are_spread_over_the_pairs_in_use(host, lan):
    c = start(host, "a", interface(queues=PAIRS))
    s = lan.socket()
    assert queues(host, lan, "a")["multi_queue"]
    # Before there is a driver, before it asks for more, and after it has asked for fewer, no frame goes where nobody
    # looks.
    flows_send(lan)
    open_pairs(c)
    assert flows_taken(c) == [FLOWS, 0, 0, 0]
    assert flows_spread(c, lan) == [FLOWS, 0, 0, 0]
    assert use(c, PAIRS) == {"answer": 0, "of": PAIRS}
    assert all_pairs_used(host, c, lan)
    assert use(c, 2)["answer"] == 0
    two = flows_spread(c, lan)
    assert two[0] and two[1] and two[2:] == [0, 0]
    assert use(c, 0)["answer"] == 1 and use(c, PAIRS + 1)["answer"] == 1
    # The guest sends by each of its queues, also by one that it no longer uses.
    for pair in range(PAIRS):
        c.run(f"net by {pair}")
        c.run(f"net send 100 {pair}")
        assert s.recv(65536)[14:18] == bytes((pair, pair + 7, pair + 14, pair + 21))
    # A driver that knows nothing of pairs gets all frames in its one queue.
    assert opened(c)["features"] & F_MQ == 0
    assert goes_through(c, s, 100, 1) == 1
    assert flows_spread(c, lan) == [FLOWS, 0, 0, 0]


def test_snapshot_and_handover_keep_the_pairs_in_use(host, lan):
    disks = [{"id": "vda", **qcow2(host.tmp / "a.qcow2", "8M")}]
    c = start(host, "a", interface(queues=PAIRS), disks=disks)
    open_pairs(c)
    s = lan.socket()
    assert use(c, PAIRS)["answer"] == 0
    host.cairn("snapshot-create-as", "a", "four")
    assert use(c, 1)["answer"] == 0
    host.cairn("restart-process", "a")
    assert flows_spread(c, lan) == [FLOWS, 0, 0, 0]
    host.cairn("snapshot-revert", "a", "four")
    assert all_pairs_used(host, c, lan)
    host.cairn("restart-process", "a")
    assert all_pairs_used(host, c, lan)
    # A saved state fits only the number of pairs that it was saved with.
    host.cairn("managedsave", "a")
    host.cairn("define", definition(host, "a", interface(queues=2), disks=disks))
    wrong = "net0: the state has 4 pairs of queues and the definition 2; set \"queues\" of the interface to 4"
    assert wrong in host.cairn("start", "a", ok=2).stderr
    host.cairn("define", definition(host, "a", interface(queues=PAIRS), disks=disks))
    host.cairn("start", "a")
    c = Console(host, "a")
    assert all_pairs_used(host, c, lan)
    # So does a fork.
    host.cairn("clone", "--live", "a", "b")
    until(lambda: queues(host, lan, "b")["numqueues"] == PAIRS)


def test_revert_to_a_snapshot_with_other_numbers_of_queues_changes_nothing(host):
    image = qcow2(host.tmp / "a.qcow2", "8M")

    def disks(n):
        return [{"id": "vda", **image, "queues": n}]

    start(host, "a", interface(queues=PAIRS), disks=disks(2))
    host.cairn("snapshot-create-as", "a", "then")
    for pairs, queues, wrong in ((2, 2, "net0: the state has 4 pairs of queues and the definition 2"), (PAIRS, 1, "vda: the state has 2 queues and the definition 1")):
        host.cairn("destroy", "a")
        host.cairn("define", definition(host, "a", interface(queues=pairs), disks=disks(queues)))
        host.cairn("start", "a")
        assert wrong in host.cairn("snapshot-revert", "a", "then", ok=2).stderr
        assert host.cairn("domstate", "a").stdout.strip() == "running"


def test_wrong_numbers_of_queues_are_refused(host):
    def refused(*interfaces):
        return host.cairn("define", definition(host, "a", *interfaces), ok=None).stderr

    assert "interfaces[0]: queues: an interface of type user has one pair of queues" in refused({"type": "user", "queues": 2})
    for n in (0, 9):
        assert "interfaces[0].queues" in refused(interface(queues=n))
    host.cairn("define", definition(host, "a", {"type": "user", "queues": 1}))
    host.cairn("attach-interface", "a", "bridge", "br0", "--queues", "3", "--config")
    assert '<driver queues="3"/>' in host.cairn("dumpxml", "a").stdout.replace("'", '"')
    r = host.cairn("attach-interface", "a", "bridge", "br0", "--queues", "9", "--config", ok=2)
    assert '--queues must be a number from 1 to 8, not "9"' in r.stderr
