"""The daemon's socket and a VM's own, case by case as QMP clients use them."""

import json
import os
import socket
import time

import pytest

from conftest import Qmp, QmpError


class Side:
    """One of the two sockets, and a way to make it emit an event."""

    def __init__(self, fake, which):
        self.fake = fake
        self.proc = fake.proc
        self.log = fake.log
        self.which = which
        self.events = 0
        self.socket = fake.socket
        if which == "vm":
            fake.define("own")
            fake.cairn("start", "own")
            self.socket = fake.qmp().run("vm-qmp-path", vm="own")["path"]

    def qmp(self, **kwargs):
        q = Qmp(self.socket, **kwargs)
        self.fake.clients.append(q)
        return q

    def emit(self):
        """Emit an event. Return its name on this socket."""
        self.events += 1
        if self.which == "daemon":
            self.fake.define(f"emit{self.events}")
            return "VM_DEFINED"
        self.fake.cairn("suspend" if self.events % 2 else "resume", "own")
        return "STOP" if self.events % 2 else "RESUME"


@pytest.fixture(params=["daemon", "vm"])
def side(fake, request):
    return Side(fake, request.param)


def raw(side):
    s = socket.socket(socket.AF_UNIX)
    s.connect(side.socket)
    return s


def test_greeting_is_a_separate_packet(side):
    s = raw(side)
    # Sent before the greeting is read: greeting and answer must be separate packets.
    s.sendall(b'{"execute":"qmp_capabilities"}')
    time.sleep(0.2)
    first = s.recvmsg(65536)[0]
    greeting, rest = first.split(b"\r\n", 1)
    g = json.loads(greeting)
    assert g["QMP"]["capabilities"] == []
    assert set(g["QMP"]["version"]["qemu"]) == {"micro", "minor", "major"}
    assert "Cairn" in g["QMP"]["version"]["package"]
    # A stream may join packets; without a command the greeting is alone.
    s2 = raw(side)
    assert s2.recv(65536).count(b"\r\n") == 1
    s2.settimeout(0.2)
    with pytest.raises(TimeoutError):
        s2.recv(1)


def test_commands_need_negotiation_first(side):
    q = side.qmp(negotiate=False)
    q.read()
    q.send(b'{"execute":"query-jobs","id":1}')
    assert q.read() == {"id": 1, "error": {
        "class": "CommandNotFound",
        "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}
    q.send(b'{"execute":"nonsense"}')
    assert q.read()["error"]["desc"].startswith("Expecting capabilities")
    q.send(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}')
    assert q.read()["error"]["class"] == "GenericError"
    q.send(b'{"execute":"qmp_capabilities"}')
    assert q.read() == {"return": {}}
    q.send(b'{"execute":"qmp_capabilities"}')
    assert q.read()["error"] == {
        "class": "CommandNotFound",
        "desc": "Capabilities negotiation is already complete, command ignored"}


def test_no_events_before_negotiation(side):
    silent = side.qmp(negotiate=False)
    silent.read()
    side.emit()
    silent.send(b'{"execute":"qmp_capabilities"}')
    assert silent.read() == {"return": {}}
    name = side.emit()
    assert silent.read()["event"] == name


@pytest.mark.parametrize("value", [0, -1, 1.5, "x", "ä\U0001f600", None, True, [], [1, {"a": None}],
                                   {"b": [2]}, "", 2**60])
def test_answer_repeats_command_id(side, value):
    q = side.qmp()
    q.send(json.dumps({"execute": "query-version", "id": value}).encode())
    m = q.read()
    assert m["id"] == value and type(m["id"]) is type(value)
    q.send(json.dumps({"execute": "nonsense", "id": value}).encode())
    assert q.read()["id"] == value


def test_command_may_be_cut_anywhere(side):
    q = side.qmp()
    text = b'{"execute":"query-version","id":"a}\\"{b"}'
    for i in range(1, len(text)):
        q.send(text[:i])
        time.sleep(0.001)
        q.send(text[i:])
        assert q.read()["id"] == 'a}"{b'
    for i in text:
        q.send(bytes([i]))
    assert q.read()["id"] == 'a}"{b'


def test_many_in_one_packet_come_in_order(fake):
    fake.define("vm1")
    q = fake.qmp()
    many = [{"execute": "vm-start", "arguments": {"vm": "vm1"}, "id": 0}]
    many += [{"execute": "query-version", "id": i} for i in range(1, 200)]
    many += [{"execute": "vm-destroy", "arguments": {"vm": "vm1"}, "id": 200}]
    q.send("".join(map(json.dumps, many)).encode())
    ids = [q.answer() for _ in range(201)]
    assert [m["id"] for m in ids] == list(range(201))
    assert all("return" in m for m in ids)


def test_byte_0xff_resynchronizes_parser(side):
    q = side.qmp()
    q.send(b'{"execute":"query-li\xff{"execute":"query-version","id":7}')
    assert q.read()["id"] == 7


@pytest.mark.parametrize("text, desc", [
    (b'{"execute" "x"}', "JSON parse error"),
    (b"hello\n", "JSON parse error"),
    (b"[]", "QMP input must be a JSON object"),
    (b"{}", "QMP input lacks member 'execute'"),
    (b'{"execute":1}', "QMP input member 'execute' must be a string"),
    (b'{"execute":"query-version","arguments":[]}', "QMP input member 'arguments' must be an object"),
    (b'{"execute":"query-version","extra":1}', "QMP input member 'extra' is unexpected"),
    (b'{"execute":"query-version","arguments":{"x":1}}', "Parameter 'x' is unexpected"),
    (b'{"execute":"job-cancel"}', "Parameter 'id' is missing"),
    (b'{"execute":"job-cancel","arguments":{"id":1}}', "Invalid parameter type for 'id', expected: string"),
    (b"{" + b'"a":{' * 9999 + b"}" * 10000, "nested deeper than 64"),
])
def test_malformed_input_is_answered_with_error(side, text, desc):
    q = side.qmp()
    q.send(text)
    m = q.read()
    assert set(m) == {"error"}
    e = m["error"]
    assert e["class"] == "GenericError" and desc in e["desc"]
    q.send(b'{"execute":"query-version","id":1}')
    assert q.read()["id"] == 1


def test_unknown_command(side):
    q = side.qmp()
    with pytest.raises(QmpError) as e:
        q.run("no-such")
    assert e.value.cls == "CommandNotFound"
    assert e.value.desc == "The command no-such has not been found"


def test_command_of_a_vms_own_socket_names_that_socket(fake):
    with pytest.raises(QmpError) as e:
        fake.qmp().run("query-status")
    assert e.value.cls == "CommandNotFound"
    assert e.value.desc == ("The command query-status has not been found; a VM's own socket has it, and vm-qmp-path tells the path of "
                            "that socket (cairn qmp-path VM)")


@pytest.mark.parametrize("start, fill", [(b"", b"a"), (b'{"execute":"', b"a"), (b"{", b" ")])
def test_endless_text_is_refused_with_bounded_memory(side, start, fill):
    other = side.qmp()
    s = raw(side)
    s.recv(65536)
    sent = 0
    try:
        s.sendall(start)
        while sent < 100 * 2**20:
            sent += s.send(fill * 65536)
    except OSError:
        pass
    assert sent < 8 * 2**20
    # Another client does not have to wait.
    assert other.run("query-version")
    rss = int(open(f"/proc/{side.proc.pid}/statm").read().split()[1]) * 4096
    assert rss < 40 * 2**20 or "asan" in os.environ.get("CAIRN_BUILD", "")


def test_disconnect_inside_command_does_no_harm(side):
    for i in range(50):
        s = raw(side)
        s.sendall(b'{"execute":"query-ver')
        s.close()
    assert side.qmp().run("query-version")


def test_half_closed_connection_still_gets_answers(fake):
    fake.define("vm1")
    s = raw(fake)
    s.sendall(b'{"execute":"qmp_capabilities"}{"execute":"vm-start","arguments":{"vm":"vm1"}}')
    s.shutdown(socket.SHUT_WR)
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    lines = [json.loads(x) for x in data.split(b"\r\n") if x]
    assert lines[-1]["return"]["id"] == 1


@pytest.mark.seconds(120)
def test_500_clients_are_served(side):
    clients = [side.qmp() for _ in range(500)]
    for i, q in enumerate(clients):
        q.send(json.dumps({"execute": "query-version", "id": i}).encode())
    for i, q in enumerate(clients):
        assert q.read()["id"] == i
    name = side.emit()
    for q in clients:
        assert q.read()["event"] == name


@pytest.mark.seconds(120)
def test_queries_are_answered_during_snapshots(fake):
    """Of 500 clients. The snapshots take a day, so a daemon that waits for one of them never answers."""
    names = [f"vm{i}" for i in range(20)]
    for n in names:
        (fake.tmp / n).write_bytes(bytes(1 << 20))
        fake.define(n, cmdline="work-takes=100000000", disks=[{"path": n, "format": "qcow2"}])
    fake.cairn("start", "--all")
    q, *_ = [fake.qmp() for _ in range(500)]
    for n in names:
        q.run("snapshot-create", vm=n, name="s")
    for command, args in (("vm-list", {}), ("vm-info", {"vm": "vm7"}), ("query-jobs", {})):
        for _ in range(100):
            q.run(command, **args)
    assert [j["status"] for j in q.jobs()] == ["running"] * 20
    for j in q.jobs():
        q.run("job-cancel", id=j["id"])


def test_client_that_does_not_read_is_dropped_or_waits(side):
    """The daemon drops the client, or reads no more of its requests, which then fill the socket."""
    deaf, other = raw(side), side.qmp()
    deaf.sendall(b'{"execute":"qmp_capabilities"}')
    deaf.setblocking(False)
    sent = refused = 0
    try:
        while refused < 50 and sent < 10**5:
            try:
                deaf.send(b'{"execute":"query-qmp-schema"}')
                sent += 1
            except BlockingIOError:
                refused += 1
                assert other.run("query-version")
    except OSError:
        pass
    assert sent < 10**5
    assert other.run("query-version")
    # The daemon may buffer little in both directions.
    rss = int(open(f"/proc/{side.proc.pid}/statm").read().split()[1]) * 4096
    assert rss < 40 * 2**20 or "asan" in os.environ.get("CAIRN_BUILD", "")


def test_events_for_client_that_does_not_read_are_bounded(fake):
    """Few commands make the events: each has the name, and commands that come at once share syncs of the audit log."""
    vm = "v" * 200
    fake.define(vm)
    deaf, q = raw(fake), fake.qmp()
    deaf.sendall(b'{"execute":"qmp_capabilities"}')
    q.run("vm-start", vm=vm)
    commands = [json.dumps({"execute": c, "arguments": {"vm": vm}}).encode() for c in ("vm-suspend", "vm-resume")] * 50
    for _ in range(80):
        q.send(b"".join(commands))
        assert all("return" in q.answer() for _ in commands)
        q.events.clear()
        if "does not read its answers; disconnected" in fake.log.read_text():
            break
    else:
        pytest.fail("never dropped")
    assert q.run("vm-info", vm=vm)["state"] == "running"


@pytest.mark.parametrize("order", ["", "event-last"])
def test_stop_and_resume_events_precede_answer(fake, order):
    fake.define("vm1", cmdline="x " + order)
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for command, event in (("vm-suspend", "STOP"), ("vm-resume", "RESUME")):
        q.events.clear()
        q.run(command, vm="vm1")
        names = [e["event"] for e in q.events]
        assert names.count(event) == 1, names
        assert q.events[0]["data"]["vm"] == "vm1"
        assert set(q.events[0]["timestamp"]) == {"seconds", "microseconds"}
    with pytest.raises(QmpError) as e:
        q.run("vm-resume", vm="vm1")
    assert e.value.cls == "WrongState"
    assert not [e for e in q.events if e["event"] == "RESUME"][1:]


def test_introspection_matches_what_is_accepted(side):
    q = side.qmp()
    schema = q.run("query-qmp-schema")
    commands = {s["name"] for s in schema if s["meta-type"] == "command"}
    assert commands == {c["name"] for c in q.run("query-commands")}
    for name in commands - {"qmp_capabilities"}:
        q.send(json.dumps({"execute": name, "arguments": {"no-such-argument": 1}}).encode())
        assert q.answer()["error"]["class"] == "GenericError"


@pytest.mark.seconds(240)  # each one is written
def test_long_list_has_pages(fake):
    q = fake.qmp()
    for i in range(280):
        q.run("vm-define", definition={"name": f"vm{i:04}-" + "x" * 150, "memory": 16,
                                       "boot": {"kernel": fake.write("k") and str(fake.tmp / "kernel")}})
    for brief in (False, True):
        page = q.run("vm-list", brief=brief)
        assert len(json.dumps(page)) < 64 * 1024 and "next" in page
        vms = page["vms"]
        while "next" in page:
            page = q.run("vm-list", after=page["next"], brief=brief)
            assert len(json.dumps(page)) < 64 * 1024
            vms += page["vms"]
        names = [v["name"] for v in vms]
        assert len(names) == 280 and names == sorted(names)
    assert vms[0] == {"id": -1, "name": names[0], "state": "shutoff", "word": "shutoff"}
    assert len(fake.cairn("list", "--all", "--name").stdout.split()) == 280
