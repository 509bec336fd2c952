"""Acts that wait for a second person: rules, requests, approval, denial, expiry, and what users try against them."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BUILD, QmpError, until
from daemonlib import NOBODY, as_nobody, audit, shared  # noqa: F401
from test_qmp import as_nobody as as_nobody_on
from test_timetable import far, history

OTHER = 4711


@pytest.fixture
def host(shared):  # noqa: F811
    """nobody and another user operate the VM `mine`, which runs, and for which destroy and undefine need approval."""
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    shared.cairn("grant", "operator", "mine", "--user", str(OTHER))
    shared.cairn("approval-rule", "mine", "--acts", "destroy,undefine")
    shared.cairn("start", "mine")
    return shared


def destroy(host, **keys):
    return as_nobody(host, ["vm-destroy", {"vm": "mine"}], **keys)[0]


def asked(answer):
    assert answer["error"]["class"] == "ApprovalRequired", answer
    return int(answer["error"]["desc"].split("request ")[1].split(".")[0])


def requests(host, *options):
    return json.loads(host.cairn("requests", "--format", "json", *options).stdout)


def request(host, number):
    return requests(host, str(number))[0]


def state(host, vm="mine"):
    return host.info(vm)["state"]


def test_act_waits_for_another_user_and_runs_with_the_askers_rights(host):
    n = asked(destroy(host))
    assert state(host) == "running"
    r = request(host, n)
    assert (r["state"], r["user"], r["vm"], r["command"], r["arguments"]) == ("waiting", NOBODY, "mine", "vm-destroy", {})
    assert "stop the VM at once" in host.cairn("requests", str(n)).stdout
    assert "waiting" in host.cairn("requests").stdout
    # Neither the asker nor a user without the right can approve; such a user does not even see the request.
    own, = as_nobody(host, ["request-approve", {"id": n}])
    assert own["error"]["class"] == "PermissionDenied" and "another user must approve" in own["error"]["desc"]
    host.cairn("grant", "viewer", "mine", "--user", "4712")
    seen, viewer = as_nobody(host, ["query-requests", {}], ["request-approve", {"id": n}], user=4712, group=4712)
    assert seen["return"]["requests"] == [] and viewer["error"]["class"] == "NotFound"
    stranger, = as_nobody(host, ["request-approve", {"id": n}], user=4713, group=4713)
    assert "error" in stranger and state(host) == "running"
    seen, yes = as_nobody(host, ["query-requests", {}], ["request-approve", {"id": n, "reason": "as agreed"}], user=OTHER, group=OTHER)
    assert [x["id"] for x in seen["return"]["requests"]] == [n] and yes["return"] == {"state": "running"}
    assert host.cairn("requests", str(n), "--wait").stdout.count("as agreed") == 1
    assert state(host) == "shutoff" and requests(host) == []
    r, = requests(host, "--all")
    assert (r["state"], r["by"], r["reason"]) == ("done", OTHER, "as agreed") and r["ended"] >= r["asked"]
    lines = [(x["command"], x["uid"], x.get("schedule"), x["outcome"]) for x in audit(host, "--vm", "mine")]
    assert [x for x in lines if x[0] in ("vm-destroy", "request-approve") and x[3] != "PermissionDenied"] == [
        ("vm-destroy", NOBODY, None, "ApprovalRequired"), ("request-approve", OTHER, None, "ok"), ("vm-destroy", NOBODY, f"request {n}", "ok")]
    told = [e["data"]["state"] for e in host.qmp().run("query-events", since=0)["events"] if e["event"] == "REQUEST_CHANGE"]
    assert told == ["waiting", "running", "done"]
    # One approval serves one call: the next one waits again.
    host.cairn("start", "mine")
    assert asked(destroy(host)) == n + 1
    assert host.cairn("approve", str(n), ok=4).stderr.count("is done") == 1


def test_act_needs_the_askers_role_also_when_it_runs(host):
    n = asked(destroy(host))
    host.cairn("revoke", "mine", "--user", "nobody")
    host.cairn("approve", str(n))
    until(lambda: request(host, n)["state"] == "failed")
    assert "requires the role operator" in request(host, n)["detail"] and state(host) == "running"
    assert host.cairn("requests", str(n), "--wait", ok=1)


def test_approval_is_used_up_only_by_an_act_that_begins(host):
    n = asked(destroy(host))
    host.cairn("destroy", "mine")
    host.cairn("approve", str(n))
    until(lambda: request(host, n)["state"] == "approved")
    assert "shutoff" in request(host, n)["detail"] or "shut off" in request(host, n)["detail"]
    assert host.cairn("requests", str(n), "--wait", ok=1)
    host.cairn("start", "mine")
    host.stop()
    host.start()
    assert request(host, n)["state"] == "approved"
    assert "return" in destroy(host) and state(host) == "shutoff"
    assert request(host, n)["state"] == "done"
    host.cairn("start", "mine")
    assert asked(destroy(host)) == n + 1


def test_only_named_acts_of_bound_users_wait(host):
    a, b = as_nobody(host, ["vm-suspend", {"vm": "mine"}], ["vm-resume", {"vm": "mine"}])
    assert "return" in a and "return" in b
    # A deadline destroys the VM.
    asked(as_nobody(host, ["vm-shutdown", {"vm": "mine", "timeout": 1, "then": "destroy"}])[0])
    # An act that the state does not allow makes no request.
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    a, = as_nobody(host, ["vm-undefine", {"vm": "mine"}])
    assert a["error"]["class"] == "WrongState" and len(requests(host)) == 1
    # Root is not bound. A rule for one user does not bind another one.
    host.cairn("destroy", "mine")
    host.cairn("start", "mine")
    host.cairn("approval-rule", "mine", "--remove")
    host.cairn("approval-rule", "--acts", "destroy", "--user", str(OTHER))
    asked(destroy(host, user=OTHER, group=OTHER))
    assert "return" in destroy(host)
    assert str(OTHER) in host.cairn("approval-rule").stdout


def test_group_rule_binds_its_members(host):
    host.cairn("approval-rule", "mine", "--remove")
    host.cairn("approval-rule", "--acts", "destroy", "--group", "4242")
    asked(destroy(host, groups=[4242]))
    assert "return" in destroy(host)


def test_only_root_changes_rules(host):
    host.cairn("grant", "admin", "--user", "nobody")
    a, rules = as_nobody(host, ["approval-rule-set", {"acts": [], "vm": "mine"}], ["query-approval-rules", {}])
    assert "only root" in a["error"]["desc"] and rules["return"]["rules"][0]["acts"] == ["destroy", "undefine"]
    asked(destroy(host))  # binds an admin, too
    for bad in (["--acts", "fly"], ["--acts", ""], ["--acts", "destroy,"], ["--acts", "destroy", "--expire", "31d"],
                ["--acts", "destroy", "--user", "0"], ["mine"], ["--acts", "destroy", "--remove"]):
        host.cairn("approval-rule", *bad, ok=2)
    host.cairn("approval-rule", "none", "--acts", "destroy", ok=3)
    host.cairn("approval-rule", "other", "--remove", ok=3)
    q = host.qmp()
    for bad in ({"acts": [1]}, {"acts": ["destroy"], "user": 2**32}, {"acts": ["destroy"], "group": -1},
                {"acts": ["destroy"], "expire": -1}, {"acts": ["destroy"], "expire": 2**62}):
        with pytest.raises(QmpError):
            q.run("approval-rule-set", **bad)


def test_requests_survive_the_daemon(host):
    n = asked(destroy(host))
    host.stop(signal.SIGKILL)
    host.start()
    assert request(host, n)["state"] == "waiting"
    host.cairn("approve", str(n), "--reason", "go")
    host.cairn("requests", str(n), "--wait")
    assert state(host) == "shutoff"
    # The next daemon does not repeat an act that ran when the daemon was killed.
    host.cairn("start", "mine")
    n = asked(destroy(host))
    host.stop()
    p = host.state / "approvals.json"
    table = json.loads(p.read_text())
    table["requests"][-1]["state"] = "running"
    p.write_text(json.dumps(table))
    host.start()
    assert request(host, n)["state"] == "failed" and "daemon ended" in request(host, n)["detail"]
    assert state(host) == "running" and asked(destroy(host)) == n + 1


def test_requests_expire(host):
    host.cairn("approval-rule", "mine", "--acts", "destroy", "--expire", "1s")
    n = asked(destroy(host))
    until(lambda: request(host, n)["state"] == "expired")
    assert "is expired" in host.cairn("approve", str(n), ok=4).stderr and state(host) == "running"
    assert [x["outcome"] for x in audit(host) if x["command"] == "(request expired)"] == ["ok"]


def test_request_of_a_clock_that_was_ahead_expires(host):
    host.cairn("approval-rule", "mine", "--acts", "destroy")
    n = asked(destroy(host))
    host.stop()
    path = host.state / "approvals.json"
    stored = json.loads(path.read_text())
    stored["requests"][0]["expires"] += 3 * 365 * 24 * 3600 * 10**9
    path.write_text(json.dumps(stored))
    host.start()
    until(lambda: request(host, n)["state"] == "expired")


def test_deny_and_withdraw(host):
    n = asked(destroy(host))
    assert asked(destroy(host)) == n  # the same again is no new request
    host.cairn("deny", str(n), "--reason", "not now")
    assert (request(host, n)["state"], request(host, n)["reason"]) == ("denied", "not now")
    n = asked(destroy(host))
    a, = as_nobody(host, ["request-deny", {"id": n}])
    assert a["return"] == {"state": "withdrawn"} and request(host, n)["state"] == "withdrawn"
    assert [(x["uid"], x["vm"], x["arguments"], x["outcome"]) for x in audit(host) if x["command"] == "request-deny"] == [
        (os.geteuid(), "mine", {"id": n - 1, "reason": "not now", "vm": "mine"}, "ok"), (NOBODY, "mine", {"id": n, "vm": "mine"}, "ok")]
    host.cairn("approve", str(n), ok=4)
    assert state(host) == "running"
    for bad in ("x", "-1", "0", "99999999999999999999", ""):
        host.cairn("approve", bad, ok=2)
    host.cairn("approve", "4000", ok=3)
    q, = as_nobody(host, ["request-approve", {"id": -2**63}])
    assert q["error"]["class"] == "NotFound"
    n = asked(destroy(host))
    host.cairn("deny", str(n), "--reason", "x" * 300, ok=2)


def test_request_waits_on_if_the_answer_is_not_stored(host):
    n = asked(destroy(host))
    block = host.state / "approvals.json.tmp"
    block.mkdir()
    for verb in ("deny", "approve"):
        assert "the answer could not be stored" in host.cairn(verb, str(n), "--reason", "now", ok=False).stderr
        assert request(host, n)["state"] == "waiting" and not {"by", "reason", "ended"} & request(host, n).keys()
    assert asked(destroy(host)) == n
    block.rmdir()
    host.cairn("deny", str(n))
    assert request(host, n)["state"] == "denied" and state(host) == "running"


def test_flood_of_one_user_leaves_room_for_others(host):
    host.cairn("grant", "operator", "other", "--user", "nobody")
    host.cairn("approval-rule", "--acts", "shutdown")
    shutdown = [["vm-shutdown", {"vm": "mine", "message": str(n)}] for n in range(25)]
    answers = as_nobody(host, *shutdown)
    assert [a["error"]["class"] for a in answers] == ["ApprovalRequired"] * 20 + ["QuotaExceeded"] * 5
    a, = as_nobody(host, ["vm-shutdown", {"vm": "mine", "message": "x" * 5000}])
    assert a["error"]["class"] in ("InvalidArgument", "QuotaExceeded")
    asked(destroy(host, user=OTHER, group=OTHER))
    # A user may make 50 requests an hour, also after denials.
    for r in [r for r in requests(host) if r["user"] == NOBODY]:
        host.cairn("deny", str(r["id"]))
    left = 0
    for n in range(40):
        answer, = as_nobody(host, ["vm-shutdown", {"vm": "mine", "message": f"again {n}"}])
        if answer["error"]["class"] == "QuotaExceeded":
            assert "within an hour" in answer["error"]["desc"]
            break
        left += 1
        as_nobody(host, ["request-deny", {"id": asked(answer)}])
    assert left == 30 and len(requests(host, "--all")) == 51


def test_vm_of_the_same_name_is_another_one(host):
    n = asked(destroy(host))
    host.cairn("destroy", "mine")
    host.cairn("undefine", "mine")
    host.define("mine")
    host.cairn("start", "mine")
    host.cairn("approve", str(n))
    until(lambda: request(host, n)["state"] == "failed")
    assert "not there any more" in request(host, n)["detail"] and state(host) == "running"
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    assert "return" in destroy(host)  # the rule was for the VM before
    # A renamed VM keeps its rule.
    host.cairn("approval-rule", "mine", "--acts", "destroy")
    host.cairn("domrename", "mine", "renamed")
    host.cairn("start", "renamed")
    n = asked(as_nobody(host, ["vm-destroy", {"vm": "renamed"}])[0])
    assert request(host, n)["vm"] == "renamed"


def test_no_way_round_by_the_vms_own_socket_or_a_schedule(host):
    host.cairn("approval-rule", "mine", "--acts", "destroy,reset,shutdown,snapshot-revert,snapshot-delete")
    path = host.cairn("qmp-path", "mine").stdout.strip()
    for answer in as_nobody_on(path, "quit", "system_reset", "system_powerdown"):
        assert answer["error"]["class"] == "GenericError" and "approval of another user" in answer["error"]["desc"]
    script = ("import json, socket, sys\ns = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\nf = s.makefile(); f.readline()\n"
              "for c, a in [('qmp_capabilities', {})] + [('human-monitor-command', {'command-line': x}) for x in sys.argv[2:]]:\n"
              "    s.sendall(json.dumps({'execute': c, 'arguments': a}).encode()); print(f.readline().strip())\n")
    lines = (" quit", "q", "\tloadvm a", "delvm a", "system_reset ", "system_powerdown")
    r = subprocess.run(["/usr/bin/python3", "-c", script, path, *lines, "info status"], user=NOBODY, group=NOBODY, extra_groups=[],
                       capture_output=True, text=True, timeout=50)
    *refused, status = [json.loads(x) for x in r.stdout.splitlines()[1:]]
    assert len(refused) == len(lines) and all("approval" in json.dumps(x) for x in refused) and "running" in status["return"]
    assert state(host) == "running" and requests(host) == []
    a, = as_nobody(host, ["schedule-add", {"vm": "mine", "action": "shutdown", "on": far(), "missed": "once"}])
    assert "return" in a
    host.stop()
    p = host.state / "vms/mine/timetable.json"
    table = json.loads(p.read_text())
    table["schedules"][0]["last_s"] = int(time.time()) - 86400
    p.write_text(json.dumps(table))
    host.start()
    until(lambda: history(host, "mine"))
    assert "cannot wait for that" in history(host, "mine")[0]["detail"] and requests(host) == []


def test_command_with_a_file_is_repeated_after_approval(host):
    host.cairn("destroy", "mine")
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    host.cairn("approval-rule", "mine", "--acts", "export")
    shutil.copy(os.path.join(BUILD, "cairn"), host.tmp)
    folder = host.tmp / "nobodys"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)

    def export():
        (folder / "out.tar.zst").unlink(missing_ok=True)
        return subprocess.run([str(host.tmp / "cairn"), "export", "mine", "out.tar.zst"], cwd=folder, user=NOBODY, group=NOBODY,
                              extra_groups=[], env={"CAIRN_SOCKET": str(host.socket), "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=50)

    r = export()
    assert r.returncode == 8 and "waits for the approval" in r.stderr, r.stderr
    assert export().returncode == 8
    one, = requests(host)
    host.cairn("approve", str(one["id"]))
    assert request(host, one["id"])["state"] == "approved"
    # Its use is stored first: else the next daemon would let it run again.
    table, aside = host.state / "approvals.json", host.tmp / "aside"
    table.rename(aside)
    (table / "x").mkdir(parents=True)
    assert "the use of the approval could not be stored" in export().stderr
    (table / "x").rmdir()
    table.rmdir()
    aside.rename(table)
    assert request(host, one["id"])["state"] == "approved"
    # An act that is refused for another reason does not use it.
    host.cairn("start", "mine")
    assert "shut it down" in export().stderr
    assert request(host, one["id"])["state"] == "approved" and "shut it down" in request(host, one["id"])["detail"]
    host.cairn("destroy", "mine")
    r = export()
    assert "approval" not in r.stderr
    assert request(host, one["id"])["state"] == "done" and json.loads(table.read_text())["requests"][0]["state"] == "done"
    assert export().returncode == 8  # once


def test_unknown_rules_let_users_do_none_of_the_acts(host):
    host.stop()
    p = host.state / "approvals.json"
    good = p.read_text()
    for text in ('{"version": 1, "rules": [{"acts": ["fly"]}], "requests": [], "last": 0}', "{", '{"version": 99}', '{"version": 1}'):
        p.write_text(text)
        host.start()
        a = destroy(host)
        assert a["error"]["class"] == "ApprovalRequired" and "approval rules could not be loaded" in a["error"]["desc"]
        assert "could not be loaded" in host.cairn("approval-rule").stderr
        host.cairn("suspend", "mine")
        host.cairn("resume", "mine")
        host.stop()
        for x in host.state.glob("approvals.json*"):
            x.unlink()
    # The daemon drops malformed requests from the file and keeps the rules.
    table = json.loads(good)
    table["requests"] = [{}, 5, {"id": 1, "command": "vm-destroy", "arguments": [], "state": "waiting"},
                         {"id": 2, "command": "no-such", "arguments": {}, "state": "waiting"}]
    p.write_text(json.dumps(table))
    host.start()
    assert requests(host, "--all") == []
    asked(destroy(host))


@pytest.fixture
def disk(host):
    """The VM `mine` with a disk, two snapshots, and a rule for acts that are jobs."""
    host.cairn("destroy", "mine")
    (host.tmp / "mine.qcow2").write_bytes(bytes(1 << 20))
    host.define("mine", disks=[{"path": "mine.qcow2", "format": "qcow2"}])
    host.cairn("start", "mine")
    for name in ("mon", "tue"):
        host.cairn("snapshot-create-as", "mine", name, "--disk-only")
    host.cairn("approval-rule", "mine", "--acts", "snapshot-delete,undefine")
    return host


def test_job_is_followed_to_its_end(disk):
    delete = ["snapshot-delete", {"vm": "mine", "name": "mon"}]
    n = asked(as_nobody(disk, delete)[0])
    assert "return" in as_nobody(disk, [delete[0], {**delete[1], "dry-run": True}])[0]
    text = disk.cairn("requests", str(n)).stdout
    assert '"name":"mon"' in text and "Dry run:" in text and text.split("Dry run:")[1].split("\n")[0].strip() != ""
    disk.cairn("approve", str(n))
    disk.cairn("requests", str(n), "--wait")
    r = request(disk, n)
    assert r["state"] == "done" and r["job"]
    assert "mon" not in disk.cairn("snapshot-list", "mine", "--name").stdout
    # A job that fails, or cannot begin, is a failed request.
    n = asked(as_nobody(disk, delete)[0])
    disk.cairn("approve", str(n))
    until(lambda: request(disk, n)["state"] == "failed")
    assert request(disk, n)["detail"]


@pytest.mark.parametrize("command", ["vm-clone", "vm-fork"])
def test_approved_clone_is_made(host, command):
    """The daemon makes the call for the asker, who has disconnected."""
    if command == "vm-clone":
        host.cairn("destroy", "mine")
    host.cairn("grant", "admin", "--user", "nobody")
    host.cairn("approval-rule", "mine", "--acts", "clone")
    n = asked(as_nobody(host, [command, {"vm": "mine", "name": "copy"}])[0])
    host.cairn("approve", str(n))
    host.cairn("requests", str(n), "--wait")
    assert request(host, n)["state"] == "done" and host.kept("copy")
    n = asked(as_nobody(host, [command, {"vm": "mine", "name": "copy2"}])[0])
    host.cairn("revoke", "--user", "nobody")
    host.cairn("approve", str(n))
    until(lambda: request(host, n)["state"] == "failed")
    assert "requires the role owner" in request(host, n)["detail"]


def test_approved_undefine_removes_the_vm(host):
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    host.cairn("grant", "owner", "mine", "--user", str(OTHER))
    host.cairn("destroy", "mine")
    a, = as_nobody(host, ["vm-undefine", {"vm": "mine"}])
    n = asked(a)
    b, = as_nobody(host, ["request-approve", {"id": n}], user=OTHER, group=OTHER)
    assert "return" in b
    until(lambda: request(host, n)["state"] != "running")
    assert (request(host, n)["state"], request(host, n).get("detail")) == ("done", None)
    assert "mine" not in host.cairn("list", "--all", "--name").stdout.split() and request(host, n)["vm"] == "mine"
    # The next change of any rule removes the rules of a VM that does not exist any more.
    host.cairn("approval-rule", "--acts", "reset")
    assert len(json.loads(host.cairn("approval-rule", "--format", "json").stdout)) == 1


def test_promotion_waits_if_a_rule_binds_the_vm_that_it_stops(host):
    host.cairn("clone", "--live", "mine", "try")
    for user in ("nobody", str(OTHER)):
        for vm in ("mine", "try"):
            host.cairn("grant", "owner", vm, "--user", user)
    host.cairn("grant", "owner", "try", "--user", "4712")
    n = asked(as_nobody(host, ["vm-promote", {"vm": "try"}])[0])
    # The approver needs the role for that VM, too.
    stranger, = as_nobody(host, ["request-approve", {"id": n}], user=4712, group=4712)
    assert stranger["error"]["class"] == "NotFound" and state(host, "try") == state(host) == "running"
    yes, = as_nobody(host, ["request-approve", {"id": n}], user=OTHER, group=OTHER)
    assert yes["return"] == {"state": "running"}
    host.cairn("requests", str(n), "--wait")
    assert state(host) == "running" and state(host, "mine-old") == "shutoff"
    asked(as_nobody(host, ["vm-promote", {"vm": "mine", "undo": True}])[0])
    assert state(host) == "running"


def test_memory_of_a_saved_vm_is_not_dropped_without_approval(host):
    host.cairn("managedsave", "mine")
    asked(as_nobody(host, ["vm-start", {"vm": "mine", "force-boot": True}])[0])
    n = asked(as_nobody(host, ["vm-managed-save-remove", {"vm": "mine"}])[0])
    assert state(host) == "saved"
    host.cairn("approve", str(n))
    host.cairn("requests", str(n), "--wait")
    assert state(host) == "shutoff"
    assert "return" in as_nobody(host, ["vm-start", {"vm": "mine"}])[0]


def test_rule_of_a_vm_that_is_not_loaded_stays(host):
    path = host.state / "vms/mine/definition.json"
    definition = path.read_text()
    host.cairn("destroy", "mine")
    host.stop()
    path.write_text("{")
    host.start()
    host.cairn("approval-rule", "other", "--acts", "reset")
    host.stop()
    path.write_text(definition)
    path.with_name("definition.json.damaged").unlink()
    host.start()
    host.cairn("start", "mine")
    asked(destroy(host))
