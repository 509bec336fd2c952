"""A VM's process that its guest has taken over sends the daemon any message. The daemon drops that VM or takes no
notice; it answers others meanwhile, and needs no more memory and files afterwards."""

import os
import struct

import pytest

from conftest import open_fds, until
from fuselib import Op, fuse
from plainlib import qcow2
from test_traitor import MAIN, POLL, SENDMSG, SENDTO, taken  # noqa: F401
from traitorlib import CONTROL_FD

pytestmark = pytest.mark.usefixtures("kvm", "sandbox")

VERSION = 2
REPLY, INFO, SNAPSHOTS, DONE, SPACES, ADDRESSES, EVENT = 16, 17, 19, 20, 28, 30, 32
# enum vm_msg_type: the answers, and the length of those whose length is fixed
SPACES_BYTES = 24 * (16 + 40 + 8)  # an older process sends the first part
CHANNEL_BODY_MAX = 98304
LENGTHS = {REPLY: 488, ADDRESSES: 8 + 96 * 64, EVENT: 8 + 16 + 32 + 384 + 8}
REQUESTS = [*range(16), 18, 21, 22, 23, 24, 25, 26, 27, 29, 31, 33, 34, 35, 36, 37, 38, 65535]
NOSIGNAL = 0x4000
PROTOCOL = ("host error", "its process violated the protocol and was killed")


def message(kind, body=b"", version=VERSION, length=None, seq=7):
    return struct.pack("<HHIQ", version, kind, len(body) if length is None else length, seq) + body


def event(kind, phase=0, reason=0, value=0, device=b"", detail=b""):
    return message(EVENT, struct.pack("<IBBBBqQ32s384sq", kind, phase, reason, 0, 0, value, 0, device, detail, 0), seq=0)


def send(blob):
    return [SENDTO, CONTROL_FD, blob, len(blob), NOSIGNAL, 0, 0]


def send_files(traitor, blob, fds):
    """Return the call that sends a message with these fds; an empty one needs no bytes."""
    control = struct.pack(f"<Qii{len(fds)}i", 16 + 4 * len(fds), 1, 1, *fds)
    control += bytes(-len(control) % 8)
    iov = struct.pack("<QQ", traitor.data(blob or b"x"), len(blob))
    header = struct.pack("<QQQQQQQ", 0, 0, traitor.data(iov), 1, traitor.data(control), len(control), 0)
    return [SENDMSG, CONTROL_FD, header, NOSIGNAL]


def malformed():
    for kind, length in LENGTHS.items():
        for n in (0, 1, length - 1, length + 1, 65536):
            yield f"{n} bytes of {length}, type {kind}", message(kind, bytes(n))
    for n in (1, 24 * 16 - 1):
        yield f"{n} bytes, type {SPACES}", message(SPACES, bytes(n))
    for kind in (INFO, SNAPSHOTS, DONE, SPACES):
        yield f"an empty message of type {kind}", message(kind)
        yield f"a message of type {kind} above the channel's limit", message(kind, bytes(CHANNEL_BODY_MAX + 1))
    for kind in REQUESTS:
        yield f"type {kind}", message(kind)
    for length in (0, 1, LENGTHS[EVENT] - 1, 1 << 16, (1 << 32) - 1):
        yield f"a length that says {length}", message(EVENT, bytes(LENGTHS[EVENT]), length=length)
    for version in (0, 1, 3, 65535):
        yield f"version {version}", message(EVENT, bytes(LENGTHS[EVENT]), version=version)
    for n in (1, 8, 15):
        yield f"{n} bytes of a header", message(EVENT)[:n]
    yield "more than the longest message", message(EVENT, b"\xff" * 150000)


def test_malformed_message_ends_that_vm_only(taken):  # noqa: F811
    taken.define()
    files = len(os.listdir(f"/proc/{taken.daemon.proc.pid}/fd"))
    for name, blob in malformed():
        taken.start(MAIN)
        taken.traitor.order(send(blob))
        assert taken.ends(may_go_on=True) == PROTOCOL, name
    until(lambda: len(os.listdir(f"/proc/{taken.daemon.proc.pid}/fd")) <= files)


@pytest.mark.parametrize("blob", [event(255), message(EVENT, bytes(LENGTHS[EVENT])), b""], ids=["event", "zeros", "empty"])
@pytest.mark.parametrize("count", [1, 128, 253])
def test_message_with_files_ends_that_vm_only(taken, blob, count):  # noqa: F811
    """The daemon keeps none of the files."""
    taken.define()
    daemon = taken.daemon.proc.pid
    numbers = []
    for _ in range(2):  # the first time, the daemon starts the process that closes sockets
        taken.start(MAIN)
        t = taken.traitor
        t.used = 0
        t.order(send_files(t, blob, [0] * count), keep=True)
        assert taken.ends(may_go_on=True) == PROTOCOL
        until(lambda: not numbers or len(os.listdir(f"/proc/{daemon}/fd")) <= numbers[0])
        numbers.append(len(os.listdir(f"/proc/{daemon}/fd")))


def fd_of(pid, path):
    """Return the process's number of an open file."""
    return next(fd for fd, target in open_fds(pid).items() if target == path)


@pytest.mark.parametrize("first", [b"", event(255)], ids=["first", "behind another message"])
def test_file_whose_close_hangs_stops_nobody(taken, tmp_path, first):  # noqa: F811
    """The file system of the VM's image does not answer when the daemon closes its copy of the image."""
    with fuse(tmp_path / "fuse", disk=bytes(65536)) as f:
        taken.define(disks=[{"path": f["disk"], "format": "raw"}])
        taken.start(MAIN)
        fd = fd_of(taken.q.run("vm-info", vm="a")["pid"], f["disk"])
        f.hang(Op.FLUSH)
        t = taken.traitor
        t.used = 0
        t.order(*[send(first)] * bool(first), send_files(t, event(255), [fd] * 3), keep=True)
        until(lambda: "violated the protocol" in taken.daemon.log.read_text())
        assert taken.daemon.info("honest")["state"] == "running"
        f.release()
        assert taken.ends(may_go_on=True) == PROTOCOL


# Answers that lie: their type and length, and the commands that ask for them.
LIES = {
    "info": (INFO, 8192, [["dominfo", "a"], ["domblkstat", "a"], ["domiflist", "a"]]),
    "reply": (REPLY, LENGTHS[REPLY], [["suspend", "a"], ["resume", "a"], ["snapshot-delete", "a", "x"]]),
    "snapshots": (SNAPSHOTS, 16, [["snapshot-list", "a"]]),
    "spaces": (SPACES, SPACES_BYTES, [["domstats", "a"], ["domblkinfo", "a"]]),
    "done": (DONE, 2000, [["snapshot-create-as", "a", "s"]]),
}


@pytest.mark.parametrize("kind,length,commands", LIES.values(), ids=LIES)
def test_lies_in_answers_harm_nobody(taken, tmp_path, kind, length, commands):  # noqa: F811
    """Huge counts, unknown values, texts without an end."""
    taken.define(disks=[qcow2(tmp_path / "vda.qcow2", "16M")])
    d = taken.daemon
    for body in (b"\xff" * length, b"\x9b\x1b[2J" * (length // 5 + 1)):
        taken.start(MAIN)
        taken.traitor.lie(kind, body[:length])
        for command in commands:
            d.cairn(*command, ok=None)
            assert d.info("honest")["state"] == "running"
        taken.traitor.lie(0, b"")
        d.cairn("destroy", "a", ok=None)
        d.wait("a", "shutoff" if "crashed" not in d.cairn("domstate", "a").stdout else "crashed")
    taken.deaths = d.log.read_text().count("VM 'a': crashed (")
    assert "\x1b" not in d.log.read_text()


def resident(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# Messages that are in order, one by one.
FLOODS = {
    "events of no kind": [event(255)],
    "replies that nobody awaits": [message(REPLY, b"\xff" * LENGTHS[REPLY], seq=1 << 60)],
    "lists that nobody awaits": [message(SNAPSHOTS, struct.pack("<IIII", *[0xffffffff] * 4), seq=1 << 60)],
    "the guest panicked": [event(4, value=1, detail=b"\x1b[31m" * 70)],
    "progress": [event(7, value=1 << 62)],
    "an interface lost its link": [event(13, device=b"\xff" * 32, detail=b"\xff" * 384)],
    "resets": [event(3, value=1)],
    "the agent comes and goes": [event(12, value=2), event(12, value=1)],
}
FLOOD = 100000
MIB = 1 << 20


def flood(taken, blobs, count):
    """Let the VM send messages, each when there is room for it. Return how the daemon grew: memory and log."""
    d, t = taken.daemon, taken.traitor
    taken.define()
    taken.start(MAIN)
    q = d.qmp()
    before = resident(d.proc.pid), d.log.stat().st_size
    t.used = 0
    room = t.data(struct.pack("<ihh", t.control_fd(), 4, 0))  # POLLOUT
    waits = [[POLL, room, 1, -1]] * len(blobs)
    t.order(*(call for pair in zip(waits, map(send, blobs)) for call in pair), rounds=count // len(blobs), keep=True)
    while True:
        q.run("vm-info", vm="honest")
        if t.done() or d.info("a")["state"] == "crashed":
            break
    return resident(d.proc.pid) - before[0], d.log.stat().st_size - before[1]


@pytest.mark.parametrize("blobs", FLOODS.values(), ids=FLOODS)
def test_flood_of_messages_harms_nobody(taken, blobs):  # noqa: F811
    count = FLOOD if blobs is FLOODS["replies that nobody awaits"] else FLOOD // 10
    memory, log = flood(taken, blobs, count)
    assert taken.traitor.rounds() == count // len(blobs) and memory < 8 * MIB and log < MIB // 16
    assert taken.daemon.figures("a")["state"] == "running"


def test_changes_of_state_without_end_end_that_vm(taken):  # noqa: F811
    """Each is stored, logged and told to clients."""
    memory, log = flood(taken, [event(1, 1, 2), event(1, 2, 2)], FLOOD)
    assert taken.ends(may_go_on=True) == PROTOCOL
    assert taken.traitor.rounds() < FLOOD // 2 and memory < 8 * MIB and log < MIB // 16
