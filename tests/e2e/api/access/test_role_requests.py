"""Requests for roles: which users may make and answer them, what they reveal about VMs, and floods of requests."""

import json
import os
import signal

import pytest

from conftest import QmpError, until
from daemonlib import NOBODY, as_nobody, audit, shared  # noqa: F401
from test_approval import request, requests

STRANGER = 4713


def ask(shared, role, vm=None, note=None, **keys):  # noqa: F811
    args = {k: v for k, v in (("role", role), ("vm", vm), ("note", note)) if v is not None}
    return as_nobody(shared, ["request-permission", args], **keys)[0]


def roles(shared):  # noqa: F811
    return [(e["user"], e["role"], e.get("vm")) for e in json.loads(shared.cairn("permissions", "--format", "json").stdout)]


def test_admin_grants_the_role_that_a_user_asked_for(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    n = ask(shared, "operator", "mine", "on call this week")["return"]["request"]
    again = ask(shared, "operator", "mine", "please")
    assert again["error"]["class"] == "AlreadyExists" and f"request {n}" in again["error"]["desc"]
    text = shared.cairn("requests", str(n)).stdout
    assert "on call this week" in text and "operator" in text and "mine" in text
    # Neither an owner of the VM nor the asker can approve the request.
    shared.cairn("grant", "owner", "mine", "--user", "4711")
    owner, = as_nobody(shared, ["request-approve", {"id": n}], user=4711, group=4711)
    own, = as_nobody(shared, ["request-approve", {"id": n}])
    assert owner["error"]["class"] == "NotFound" and "another user must approve" in own["error"]["desc"]
    shared.cairn("grant", "admin", "--user", "4712")
    yes, = as_nobody(shared, ["request-approve", {"id": n}], user=4712, group=4712)
    assert "return" in yes
    until(lambda: request(shared, n)["state"] == "done")
    assert (NOBODY, "operator", "mine") in roles(shared)
    entry, = [e for e in json.loads(shared.cairn("permissions-review", "--format", "json").stdout)
              if e.get("user") == NOBODY and e.get("vm") == "mine"]
    assert entry["by"] == 4712
    assert "return" in as_nobody(shared, ["vm-start", {"vm": "mine"}])[0]
    assert ask(shared, "viewer", "mine")["error"]["class"] == "AlreadyExists"
    lines = [(x["command"], x["uid"], x.get("schedule")) for x in audit(shared) if x["outcome"] == "ok"]
    assert [x for x in lines if x[0] in ("request-permission", "request-approve") or x[2]] == [
        ("request-permission", NOBODY, None), ("request-approve", 4712, None), ("permission-grant", 4712, f"request {n}")]


def test_approver_needs_the_right_to_grant(shared):  # noqa: F811
    """An admin's role that was revoked gives nothing, and a request for admin is answered like any other."""
    shared.cairn("grant", "viewer", "--user", "nobody")
    n = ask(shared, "admin")["return"]["request"]
    shared.cairn("grant", "operator", "--user", "4712")
    no, = as_nobody(shared, ["request-approve", {"id": n}], user=4712, group=4712)
    assert no["error"]["class"] == "NotFound" and (NOBODY, "admin", None) not in roles(shared)
    shared.cairn("deny", str(n), "--reason", "no")
    seen, = as_nobody(shared, ["query-requests", {"id": n}])
    assert (seen["return"]["requests"][0]["state"], seen["return"]["requests"][0]["reason"]) == ("denied", "no")


def test_request_tells_nothing_about_vms(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "other", "--user", "4711")  # opens the socket to all
    there = ask(shared, "viewer", "mine")["return"]["request"]
    none = ask(shared, "viewer", "none")["return"]["request"]
    seen, = as_nobody(shared, ["query-requests", {}])
    a, b = seen["return"]["requests"]
    assert set(a) == set(b) and "vm-uuid" not in a and (a["id"], b["id"]) == (there, none)
    # No VM has the name, so approval grants nothing.
    shared.cairn("approve", str(none))
    until(lambda: request(shared, none)["state"] == "failed")
    assert "no VM" in request(shared, none)["detail"] and NOBODY not in [r[0] for r in roles(shared)]
    withdrawn, = as_nobody(shared, ["request-deny", {"id": there}])
    assert withdrawn["return"]["state"] == "withdrawn"


def test_request_survives_the_daemon(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    n = ask(shared, "operator", "other")["return"]["request"]
    shared.stop(signal.SIGKILL)
    shared.start()
    shared.cairn("approve", str(n))
    until(lambda: request(shared, n)["state"] == "done")
    assert roles(shared) == [(NOBODY, "operator", "other")]


def test_bad_requests_are_refused(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    for args in (("owner", None), ("admin", "mine"), ("king", "mine"), ("viewer", "a/b"), ("viewer", ""), ("viewer", "x" * 300),
                 ("viewer", "\x1b[2J"), ("viewer", "mine", "n" * 257)):
        assert "error" in ask(shared, *args), args
    assert "error" in as_nobody(shared, ["request-permission", {"role": "viewer", "user": 0}])[0]
    assert requests(shared, "--all") == []
    assert "need no role" in shared.cairn("request-permission", "viewer", ok=4).stderr


def test_floods_are_bounded(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "other", "--user", str(NOBODY))
    known = [ask(shared, "operator", f"vm{n}") for n in range(5)]
    assert [("return" in a) for a in known] == [True] * 3 + [False] * 2
    # Users without a role share one limit, and do not use up the limits of others.
    strangers = [ask(shared, "viewer", f"vm{n}", user=5000 + n, group=5000 + n) for n in range(22)]
    assert sum("return" in a for a in strangers) == 20 and strangers[-1]["error"]["class"] == "QuotaExceeded"
    for r in requests(shared):
        shared.cairn("deny", str(r["id"]))
    assert "return" in ask(shared, "operator", "vm9")
    made = 20
    for n in range(50):
        a = ask(shared, "viewer", "vm", user=6000 + n, group=6000 + n)
        if "error" in a:
            break
        made += 1
        if n % 10 == 9:
            for r in requests(shared):
                shared.cairn("deny", str(r["id"]))
    assert made == 60 and a["error"]["class"] == "QuotaExceeded"
    assert "return" in ask(shared, "operator", "vm10")
    assert os.stat(shared.state / "approvals.json").st_size < 100000


def test_role_of_the_other_scope_is_answered_with_the_right_ones(shared):  # noqa: F811
    os.chmod(shared.socket, 0o666)
    for role, vm, right in (("admin", {"vm": "mine"}, "viewer, guest, operator or owner"), ("owner", {}, "viewer, guest, operator, admin or creator")):
        with pytest.raises(QmpError, match=right):
            shared.qmp().run("permission-grant", user=NOBODY, role=role, **vm)
        assert right in as_nobody(shared, ["request-permission", {"role": role, **vm}])[0]["error"]["desc"]
