"""Admins get events about denied requests with the user's name; other users do not, and nobody can flood these
events."""

import json
import os
import socket
import time

import pytest

from daemonlib import NOBODY, as_nobody, audit, kept_events, shared  # noqa: F401


@pytest.fixture
def open_socket(shared):  # noqa: F811
    os.chmod(shared.socket, 0o666)
    return shared


def test_admin_gets_event_when_request_is_denied(open_socket):
    d = open_socket
    q = d.qmp()
    as_nobody(d, ["vm-start", {"vm": "mine"}], ["vm-info", {"vm": "x" * 3000}], ["vm-define", {}])
    got = [q.event("PERMISSION_DENIED")["data"] for _ in range(3)]
    assert [(e["command"], e.get("vm"), e["uid"]) for e in got] == [
        ("vm-start", "mine", NOBODY), ("vm-info", "x" * 255, NOBODY), ("vm-define", None, NOBODY)]
    assert all(e["pid"] > 0 and "left-out" not in e for e in got)
    # A missed event can be fetched later.
    assert [e["data"]["command"] for e in kept_events(d, event="PERMISSION_DENIED")] == [
        "vm-start", "vm-info", "vm-define"]
    assert [e["data"]["command"] for e in kept_events(d, event="PERMISSION_DENIED", vm="mine")] == ["vm-start"]
    # A viewer of all VMs gets neither the events nor, later, the missed ones.
    d.cairn("grant", "viewer", "--user", "nobody")
    page, _ = as_nobody(d, ["query-events", {}], ["vm-start", {"vm": "mine"}])
    names = {e["event"] for e in page["return"]["events"]}
    assert "VM_DEFINED" in names and "PERMISSION_DENIED" not in names
    d.cairn("grant", "admin", "--user", "nobody")
    page, = as_nobody(d, ["query-events", {}])
    assert "PERMISSION_DENIED" in {e["event"] for e in page["return"]["events"]}


def test_viewer_gets_no_denial_events(open_socket):
    d = open_socket
    d.cairn("grant", "viewer", "--group", "4242")
    q = d.qmp()  # before the viewer's first denial
    s = socket.socket(socket.AF_UNIX)
    pid = os.fork()
    if pid == 0:  # the viewer prints events until it sees vm3
        code = 1
        try:
            os.setgroups([4242])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            s.connect(d.socket)
            s.settimeout(100)
            f = s.makefile()
            f.readline()
            s.sendall(b'{"execute":"qmp_capabilities"}')
            f.readline()
            s.sendall(b'{"execute":"vm-start","arguments":{"vm":"mine"}}')
            seen = []
            while not seen or seen[-1].get("event") != "VM_DEFINED":
                seen.append(json.loads(f.readline()))
            code = 0 if [("error" in m) for m in seen] == [True, False] else 2
        finally:
            os._exit(code)
    assert q.event("PERMISSION_DENIED")["data"]["command"] == "vm-start"
    d.define("vm3")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_denial_events_are_rate_limited_per_user(open_socket):
    """Each request is denied; some denials are reported, then only a count; another user's denials are still
    reported."""
    d = open_socket
    begin = time.time_ns()
    q = d.qmp(timeout=40)
    many = [["vm-destroy", {"vm": "mine"}]] * 300 + [["vm-info", {"vm": "mine"}]] * 5
    answers = as_nobody(d, *many)
    end = time.time_ns()
    assert [a["error"]["class"] for a in answers] == ["PermissionDenied"] * 305
    assert len(kept_events(d, event="PERMISSION_DENIED")) == 20
    assert len(audit(d, "--user", str(NOBODY))) == 20
    # Root's denials are counted separately.
    d.cairn("destroy", "nothing", ok=3)
    assert audit(d)[-1]["outcome"] == "NotFound"
    # After the ten seconds. Denied queries do not go into the audit log.
    left = q.event("REFUSALS_LEFT_OUT")["data"]
    line = audit(d, "--user", str(NOBODY))[-1]
    assert (left["uid"], left["left-out"]) == (NOBODY, 285)
    assert {k: line[k] for k in ("uid", "left-out", "outcome", "since")} == {
        "uid": NOBODY, "left-out": 280, "outcome": "PermissionDenied", "since": left["since"]}
    assert begin < left["since"] < end < line["time"]
    rows = [row for row in d.cairn("audit", "--user", str(NOBODY)).stdout.splitlines() if "PermissionDenied" in row]
    assert len(rows) == 21 and "(280 more)" in rows[-1]
    # Further denials are reported again.
    as_nobody(d, many[0])
    assert "left-out" not in audit(d, "--user", str(NOBODY))[-1]


def test_daemon_reports_suppressed_denials_when_it_ends(open_socket):
    d = open_socket
    as_nobody(d, *[["vm-destroy", {"vm": "mine"}]] * 21)
    d.stop()
    d.start()
    assert audit(d, "--user", str(NOBODY))[-1]["left-out"] == 1
    assert kept_events(d, event="REFUSALS_LEFT_OUT")[-1]["data"]["left-out"] == 1


def test_slow_admin_is_dropped_and_can_fetch_missed_denials(fake):
    q = fake.qmp()
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(fake.socket)
    deaf.sendall(b'{"execute":"qmp_capabilities"}')
    fake.define("vm1")
    q.run("vm-start", vm="vm1")
    for _ in range(4000):
        q.run("vm-suspend", vm="vm1")
        q.run("vm-resume", vm="vm1")
        if [e for e in q.events if e["event"] == "CLIENT_DROPPED"]:
            break
        q.events.clear()
    ev = q.event("CLIENT_DROPPED")
    assert ev["data"]["uid"] == os.getuid() and ev["data"]["pid"] == os.getpid()
    assert ev["data"]["unread"] > 900000
    assert q.run("vm-info", vm="vm1")["state"] == "running"
