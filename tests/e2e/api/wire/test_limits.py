"""Limits of clients: what one client's texts, fds and unread answers may cost the daemon."""

import array
import contextlib
import json
import os
import pathlib
import socket
import subprocess

import pytest

import guestlib
from conftest import Qmp, QmpError
from daemonlib import shared  # noqa: F401
from otherslib import as_user, run_as_user

NODES_MAX = 16384
STRANGER_TEXT_MAX, STRANGER_NODES_MAX = 4096, 64


@pytest.fixture
def opened(shared):  # noqa: F811
    """A daemon to which every user may connect, since a group has a permission."""
    shared.cairn("grant", "viewer", "--group", "4242")
    return shared


def peak_bytes(daemon):
    """Return the most memory that the daemon has had."""
    status = pathlib.Path(f"/proc/{daemon.proc.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def answers(q, *texts):
    """Send each text and return its answer; None where the daemon hangs up instead."""
    got = []
    for text in texts:
        try:
            q.send(text)
            got.append(q.answer())
        except (EOFError, ConnectionError):
            got.append(None)
    return got


def nested(n):
    """Return a command with n nodes in all, the surplus in its arguments."""
    head = b'{"execute":"query-version","arguments":{"x":['
    return head + b"," * (n - head.count(b":") - head.count(b"{") - head.count(b",") - 1) + b"]}}"


def test_command_with_too_many_values_is_not_parsed(fake):
    q = fake.qmp()
    q.run("query-version")
    before = peak_bytes(fake)
    many = b"[" + b"{}," * 340000 + b"{}]"
    for text in (b'{"execute":"query-version","id":%s}' % many, b'{"execute":"vm-define","arguments":{"x":%s}}' % many):
        refused, = answers(q, text)
        assert "more than 16384 braces" in refused["error"]["desc"] and "id" not in refused
    if not guestlib.SANITIZED:
        assert peak_bytes(fake) - before < 16 << 20
    fits, exceeds = answers(q, nested(NODES_MAX), nested(NODES_MAX + 1))
    assert "more than" not in fits["error"]["desc"] and "more than" in exceeds["error"]["desc"]
    assert "qemu" in q.run("query-version")


@pytest.mark.parametrize("kind, text", [("string", '"%s"'), ("list", '["%s"]'), ("fraction", "1.%s")])
def test_id_is_limited(fake, kind, text):
    q = fake.qmp()
    longest = 1024 if kind == "string" else 1026 - len(text)
    fits, exceeds = (text % ("1" * n) for n in (longest, longest + 1))
    a, b = answers(q, b'{"execute":"query-version","id":%s}' % fits.encode(), b'{"execute":"query-version","id":%s}' % exceeds.encode())
    assert a["id"] == json.loads(fits) and "return" in a
    assert "'id' has more than 1024 bytes" in b["error"]["desc"] and "id" not in b
    b, = answers(q, b'{"execute":"query-version","id":7}')
    assert b["id"] == 7 and "return" in b


def test_strangers_send_small_texts(opened):
    """A longer text ends the connection; one with too many nodes is an error."""
    def client(say):
        q = Qmp(opened.socket)
        denied = b'{"execute":"vm-start","arguments":{"vm":"%s"}}'
        small = denied % (b"x" * (STRANGER_TEXT_MAX - len(denied) + 2))
        assert len(small) == STRANGER_TEXT_MAX
        say(answers(q, small, nested(STRANGER_NODES_MAX), nested(STRANGER_NODES_MAX + 1), b" " + small,
                    b'{"x":"%s"}' % (b"x" * STRANGER_TEXT_MAX), small))
    (fits, values, too_many, again, too_long, gone), = run_as_user(client)
    assert fits["error"]["class"] == again["error"]["class"] == "PermissionDenied"
    assert "unexpected" in values["error"]["desc"] and "more than 64" in too_many["error"]["desc"]
    assert "more than 4096 bytes" in too_long["error"]["desc"] and gone is None


@pytest.mark.parametrize("groups", [1024, 1025])
def test_client_has_few_groups(opened, groups):
    """The kernel allows 65,536, which each connection and request of the client would take along."""
    def client(say):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(opened.socket)
            say(json.loads(s.makefile().readline()))
    (first,), = [run_as_user(client, groups=range(10000, 10000 + groups))]
    if groups == 1024:
        assert "QMP" in first
    else:
        assert first["error"]["class"] == "Unsupported" and "more than 1024 supplementary groups" in first["error"]["desc"]
    assert opened.qmp().run("query-version")


def test_strangers_unfinished_texts_take_little_memory(opened):
    opened.qmp().run("query-version")
    before = peak_bytes(opened)

    def client(say):
        kept = []
        for _ in range(60):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(50)
            s.connect(opened.socket)
            with contextlib.suppress(OSError):  # disconnected
                s.sendall(b'{"execute":"' + b"x" * 1000000)
            kept.append(s)
        say(len(kept))
    assert run_as_user(client) == [60]
    opened.qmp().run("query-version")
    if not guestlib.SANITIZED:
        assert peak_bytes(opened) - before < 8 << 20


def answers_to_file(path, flags):
    """Send a file with the first byte of a command. Return the answers to it and to the next command."""
    q = Qmp(path)
    with open("/dev/null") as f:
        q.sock.sendmsg([b"{"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno()]))], flags)
    with contextlib.suppress(ConnectionError):  # the daemon has hung up
        q.send(b'"execute":"query-version"}')
    return [q.answer(), *answers(q, b'{"execute":"query-version"}')]


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["in band", "out of band"])
def test_strangers_send_no_files(opened, flags):
    """The daemon never takes the file: it hangs up. Any role is enough to send files."""
    def client(say):
        say(answers_to_file(opened.socket, flags))
    (refused, gone), = run_as_user(client)
    assert refused["error"]["class"] == "PermissionDenied" and "open files" in refused["error"]["desc"] and gone is None
    opened.cairn("grant", "viewer", "mine", "--user", "nobody")
    assert ["return" in a for a in run_as_user(client)[0]] == [True, True]


def test_limits_follow_the_permissions_of_open_connections(opened):
    """A grant or a revoke holds for the next text of a client that is connected already."""
    long = b'{"execute":"query-version","id":1,"arguments":{"x":"%s"}}' % (b"x" * 9000)
    granted, go = os.pipe()

    def client(say):
        q = Qmp(opened.socket)
        say("ready")
        os.read(granted, 1)
        say(answers(q, long))
        os.read(granted, 1)
        say(answers(q, long))
    with as_user(client) as lines:
        assert json.loads(lines.readline()) == "ready"
        opened.cairn("grant", "viewer", "mine", "--user", "nobody")
        os.write(go, b"x")
        known, = json.loads(lines.readline())
        opened.cairn("revoke", "mine", "--user", "nobody")
        os.write(go, b"x")
        stranger, = json.loads(lines.readline())
    for fd in (granted, go):
        os.close(fd)
    assert known["id"] == 1 and "more than 4096 bytes" in stranger["error"]["desc"]


def test_definition_longer_than_a_line_is_refused(fake):
    q = fake.qmp()
    fake.define("small")
    definition = {**json.loads(fake.cairn("dumpjson", "small").stdout), "name": "big",
                  "shares": [{"path": "/" + n * "\u00e9", "tag": f"t{n}"} for n in range(1890, 1898)]}
    del definition["uuid"]
    with pytest.raises(QmpError, match="the definition has 9[0-9]{4} bytes as JSON, but may have 61440; shorten its paths or lists"):
        q.run("vm-define", definition=definition, validate_only=True)
    del definition["shares"][5:]
    q.run("vm-define", definition=definition)
    shown = q.run("vm-dump-definition", vm="big")["definition"]["shares"]  # a line of less than 64 KiB
    assert [s["path"] for s in shown] == [s["path"] for s in definition["shares"]]


def test_vm_with_long_paths_harms_no_other_client(fake):
    """An older daemon accepted definitions with paths so long that no answer about all VMs would reach a client."""
    folder = fake.tmp.joinpath(*["\u00e9" * 120] * 14)
    folder.mkdir(parents=True)
    disks = []
    for i in range(8):
        layers = [str(folder / f"{i}-{k}.qcow2") for k in range(15)]
        for layer in layers:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", layer, "1M"], check=True)
        disks.append({"path": layers[0], "format": "qcow2", "backing": [{"path": p, "format": "qcow2"} for p in layers[1:]]})
    for name in ("big", "small"):
        fake.define(name)
    fake.stop()
    stored = fake.state / "vms" / "big" / "definition.json"
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "disks": disks}))
    fake.start()
    q = fake.qmp()
    for vm in ("big", "small"):
        fake.cairn("start", vm)
    assert [vm["name"] for vm in q.run("vm-stats")["vms"]] == ["big", "small"]
    shown = q.run("vm-info", vm="big")["disks"]
    assert shown[0]["path"] == disks[0]["path"] and "path" not in shown[-1]
    with pytest.raises(QmpError, match="the answer has 1[0-9]* bytes, and a client can get 1048576; shorten the paths"):
        q.run("vm-dump-definition", vm="big")
    assert q.run("query-version")  # the client stays connected
