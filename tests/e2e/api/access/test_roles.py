"""The role that each command needs, and grants of roles."""

import json
import os
import signal
import subprocess

import pytest

from daemonlib import NOBODY, allowed, as_nobody, audit, shared  # noqa: F401 (shared is a fixture)


def test_user_without_role_learns_nothing(shared):
    shared.define("secret")
    # The user can connect, but the socket's mode is not the only guard.
    os.chmod(shared.socket, 0o666)
    script = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r}); s.recv(9999)\n"
        "s.sendall(b'{\"execute\":\"qmp_capabilities\"}'); s.recv(9999)\n"
        "for c in sys.argv[1:]:\n"
        "    s.sendall(b'{\"execute\":\"' + c.encode() + b'\",\"arguments\":{\"vm\":\"secret\"}}')\n"
        "    print(s.recv(9999).decode().strip())\n")
    names = [c["name"] for c in shared.qmp().run("query-commands") if c["name"].startswith("vm-")]
    names.remove("vm-list")
    r = subprocess.run(["/usr/bin/python3", "-c", script, *names], user=65534,
                       group=65534, extra_groups=[], capture_output=True, text=True)
    lines = r.stdout.splitlines()
    assert len(lines) == len(names), r.stderr
    for name, line in zip(names, lines):
        e = json.loads(line)["error"]
        assert e["class"] == "PermissionDenied" and e["desc"].startswith(name + " requires the role ")
        # Nobody can be made an admin for one VM.
        assert name == "vm-define" or ("the role admin" in e["desc"]) <= ("for all VMs" in e["desc"])


@pytest.mark.parametrize("grant, role", [
    (["viewer"], "viewer"), (["operator"], "operator"), (["admin"], "admin"),
    (["viewer", "mine"], "viewer"), (["operator", "mine"], "operator"), (["owner", "mine"], "admin")])
def test_each_command_needs_its_role(shared, grant, role):
    """The matrix from the schema, for the VM with a permission and for another one."""
    ranks = ["nobody", "viewer", "guest", "operator", "admin"]
    schema = shared.qmp().run("query-qmp-schema")
    args = {o["name"]: [m["name"] for m in o.get("members", [])] for o in schema}
    commands = [(o["name"], o["role"], args[o["arg-type"]]) for o in schema
                if o["meta-type"] == "command" and o["name"] != "qmp_capabilities"]
    shared.cairn("grant", "--user", "nobody", *grant)
    filtered = {"vm-list", "query-events", "event-filter", "query-jobs", "query-snapshot-schedules", "query-schedules", "query-thresholds",
                "query-quotas", "net-list", "vm-stats", "query-permissions-review", "advise",
                "query-requests", "query-web-hooks", "request-approve", "request-deny", "group-snapshot"}
    asked, want = [], []
    for vm in ("mine", "other"):
        for name, needs, takes in commands:
            # An unknown argument keeps a permitted call from having an effect.
            about = {"vm": vm} if takes[:1] == ["vm"] else {"definition": {"name": vm}} if name == "vm-define" else {}
            asked.append([name, {**about, "no-such": 1}])
            here = len(grant) == 1 or (about and vm == "mine")
            want.append(ranks.index(needs) <= (ranks.index(role) if here else 0) or name in filtered)
    answers = as_nobody(shared, *asked)
    for (name, a), w, answer in zip(asked, want, answers):
        assert allowed(answer) == w, (name, a, answer)
    assert any(want) and (role == "admin" or not all(want))


def test_schedules_of_other_vms_are_hidden(shared):
    """A user with one VM learns nothing of another VM's schedule, not even whether it exists."""
    for vm in ("mine", "other"):
        shared.cairn("snapshot-schedule", vm, "--every", "1h")
    shared.cairn("grant", "--user", "nobody", "viewer", "mine")
    seen, one, none = as_nobody(shared, ["query-snapshot-schedules", {}],
                                ["query-snapshot-schedules", {"vm": "other"}],
                                ["query-snapshot-schedules", {"vm": "nothing"}])
    assert [s["vm"] for s in seen["return"]["schedules"]] == ["mine"]
    assert one["error"]["desc"].replace("other", "nothing") == none["error"]["desc"]


def test_denial_names_the_users_role(shared):
    """The role for this VM, not the one for all VMs."""
    shared.cairn("grant", "--user", "nobody", "viewer", "mine")
    for answer, has in zip(as_nobody(shared, ["vm-destroy", {"vm": "mine"}], ["vm-destroy", {"vm": "other"}]),
                           ("the role viewer", "no role")):
        assert answer["error"]["desc"] == (f"vm-destroy requires the role operator, and you have {has}; "
                                           "an admin can change your role with cairn grant")


def test_grants_survive_daemon_and_can_be_revoked(shared):
    ask = (["vm-list", {}], ["vm-info", {"vm": "mine"}], ["vm-info", {"vm": "other"}],
           ["vm-info", {"vm": "none"}])
    assert os.stat(shared.socket).st_mode & 0o777 == 0o600
    assert shared.cairn("grant", "viewer", "mine", "--group", str(NOBODY)).stdout == (
        f"group {NOBODY} is now viewer of mine\n")
    assert os.stat(shared.socket).st_mode & 0o777 == 0o666
    for restart in (False, True):
        if restart:
            shared.stop(signal.SIGKILL)
            shared.start()
        a = as_nobody(shared, *ask)
        # The user does not even learn names: an existing VM is denied like a missing one.
        assert [v["name"] for v in a[0]["return"]["vms"]] == ["mine"] and "next" not in a[0]["return"]
        assert "return" in a[1] and not allowed(a[2])
        assert a[2] == a[3]
        assert as_nobody(shared, *ask, group=7, groups=[NOBODY])[1] == a[1]
        assert not any(map(allowed, as_nobody(shared, *ask, group=7)))
    assert shared.cairn("permissions").stdout.splitlines()[2].split() == [
        "group", "nogroup", "viewer", "mine"]
    page = as_nobody(shared, ["query-events", {}])[0]["return"]["events"]
    assert {e["data"]["vm"] for e in page} == {"mine"}
    shared.cairn("revoke", "other", "--group", str(NOBODY), ok=3)
    shared.cairn("revoke", "mine", "--group", "nogroup")
    assert os.stat(shared.socket).st_mode & 0o777 == 0o600
    assert json.loads(shared.cairn("permissions", "--format", "json").stdout) == []


def test_invalid_grants_are_refused(shared):
    for args, code in ((["owner", "--user", "nobody"], 2), (["admin", "mine", "--user", "nobody"], 2),
                       (["king", "--user", "nobody"], 2), (["viewer", "none", "--user", "nobody"], 3),
                       (["viewer"], 2), (["viewer", "--user", "a", "--group", "b"], 2),
                       (["viewer", "--user", "no such user"], 2)):
        shared.cairn("grant", *args, ok=code)
    assert "use viewer, guest, operator, admin or creator; owner is for one VM" in shared.cairn("grant", "owner", "--user", "nobody", ok=2).stderr
    for role in ("viewer", "guest", "operator", "admin"):
        shared.cairn("grant", role, "--user", "nobody")
    shared.cairn("revoke", "--user", "nobody")
    # A new VM of the same name does not inherit permissions.
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    answers = as_nobody(shared, ["vm-start", {"vm": "mine"}], ["vm-destroy", {"vm": "mine"}],
                        ["vm-undefine", {"vm": "mine"}], ["vm-list", {}])
    assert ["return" in a for a in answers[:3]] == [True] * 3
    assert [r["uid"] for r in audit(shared, "--user", "nobody")] == [NOBODY] * 3
    shared.define("mine")
    os.chmod(shared.socket, 0o666)
    assert not any(map(allowed, as_nobody(shared, ["vm-info", {"vm": "mine"}], ["vm-list", {}])))
    # A damaged table denies everything.
    shared.cairn("grant", "admin", "--user", "nobody")
    shared.stop()
    p = shared.state / "permissions.json"
    p.write_text(p.read_text()[:-3])
    shared.start()
    os.chmod(shared.socket, 0o666)
    assert not any(map(allowed, as_nobody(shared, ["vm-list", {}])))


def test_user_gets_events_of_visible_vms_only(shared):
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    script = (
        "import socket\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r})\n"
        "f = s.makefile(); f.readline()\n"
        "s.sendall(b'{\"execute\":\"qmp_capabilities\"}')\n"
        "print(f.readline(), flush=True)\n"
        "print(f.readline(), flush=True)\n")
    p = subprocess.Popen(["/usr/bin/python3", "-c", script], user=NOBODY, group=NOBODY,
                         extra_groups=[], stdout=subprocess.PIPE, text=True)
    p.stdout.readline(), p.stdout.readline()
    shared.cairn("start", "other")
    shared.cairn("start", "mine")
    ev = json.loads(p.stdout.readline())
    assert ev["data"]["vm"] == "mine"
    p.stdout.close()
    p.wait()


def test_own_role_is_shown(shared):
    """So that a client, such as the page of cairn web, offers only what the user may do."""
    def shown():
        info, vms = as_nobody(shared, ["vm-info", {"vm": "mine"}], ["vm-list", {}])
        return info["return"]["role"], vms["return"]["may-define"]
    for role, want in (("viewer", "viewer"), ("operator", "operator"), ("owner", "admin")):
        shared.cairn("grant", role, "mine", "--user", "nobody")
        assert shown() == (want, False)
    shared.cairn("grant", "creator", "--user", "nobody")
    assert shown() == ("admin", True)
    shared.cairn("revoke", "--role", "creator", "--user", "nobody")
    shared.cairn("grant", "admin", "--user", "nobody")
    assert shown() == ("admin", True) and shared.qmp().run("vm-list")["may-define"]
