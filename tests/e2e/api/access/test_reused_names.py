"""Events and jobs belong to a VM's UUID: who has a role for a VM learns nothing about an earlier VM of its name."""

import json
import os

from conftest import Qmp, until
from daemonlib import allowed, as_nobody, kept_events, shared  # noqa: F401
from otherslib import as_user


def uuid_of(shared, name):  # noqa: F811
    return json.loads(shared.cairn("dumpjson", name).stdout)["uuid"]


def managed_save(shared, name):  # noqa: F811
    """Save the VM. Return the job, whose result is not dismissed."""
    shared.cairn("start", name)
    q = shared.qmp()
    job = q.run("vm-managed-save", vm=name)["job"]
    until(lambda: [j["status"] for j in q.run("query-jobs", id=job)] == ["concluded"])
    return job


def replaced(shared, role):  # noqa: F811
    """Replace the VM `mine` by another of its name, for which nobody gets the role.
    Return the old UUID, the new one, and a job of the old VM."""
    old = uuid_of(shared, "mine")
    job = managed_save(shared, "mine")
    shared.cairn("undefine", "mine", "--managed-save")
    shared.define("mine")
    shared.cairn("grant", role, "mine", "--user", "nobody")
    return old, uuid_of(shared, "mine"), job


def seen_by_nobody(shared):  # noqa: F811
    """Return the events and jobs that the user nobody may read."""
    events, jobs = as_nobody(shared, ["query-events", {}], ["query-jobs", {}])
    return events["return"]["events"], jobs["return"]


def test_viewer_of_a_reused_name_reads_nothing_of_the_old_vm(shared):  # noqa: F811
    old, new, job = replaced(shared, "viewer")
    events, jobs = seen_by_nobody(shared)
    assert [(e["event"], e["data"]["vm-uuid"]) for e in events] == [("VM_DEFINED", new)] and jobs == []
    # Root sees both VMs, each by its UUID, also after a restart of the daemon.
    for restart in (False, True):
        if restart:
            shared.stop()
            shared.start()
        by_uuid = {u: [e["event"] for e in kept_events(shared, vm=u)] for u in (old, new)}
        assert by_uuid[new] == ["VM_DEFINED"]
        assert by_uuid[old][0] == "VM_DEFINED" and by_uuid[old][-1] == "VM_UNDEFINED" and "STOP" in by_uuid[old]
        assert [e["event"] for e in kept_events(shared, vm="mine")] == by_uuid[old] + by_uuid[new]
        lines = shared.cairn("events", old.upper(), "--since", "0", "--timeout", "0").stdout.splitlines()
        assert [line.split("'")[1] for line in lines if line.startswith("event '")] == by_uuid[old]
        assert [(j["id"], j["vm-uuid"]) for j in shared.qmp().run("query-jobs")] == [(job, old)]
        assert seen_by_nobody(shared) == (events, [])


def test_owner_of_a_reused_name_ends_no_job_of_the_old_vm(shared):  # noqa: F811
    _, _, job = replaced(shared, "owner")
    answers = as_nobody(shared, ["job-dismiss", {"id": job}], ["job-cancel", {"id": job}])
    assert not any(map(allowed, answers))
    own = managed_save(shared, "mine")
    dismissed, = as_nobody(shared, ["job-dismiss", {"id": own}])
    assert "return" in dismissed
    assert [j["id"] for j in shared.qmp().run("query-jobs")] == [job]


def test_client_of_a_reused_name_gets_no_event_of_the_old_vm(shared):  # noqa: F811
    _, new, job = replaced(shared, "viewer")

    def listen(say):
        q = Qmp(shared.socket, timeout=50)
        say("listens")
        ev = q.event("JOB_STATUS_CHANGE")
        say([ev["data"]["vm-uuid"], ev["data"]["status"]])

    with as_user(listen) as lines:
        lines.readline()
        shared.cairn("job-dismiss", job)
        managed_save(shared, "mine")
        assert json.loads(lines.readline()) == [new, "created"]


def test_renamed_vm_keeps_its_events_and_jobs(shared):  # noqa: F811
    job = managed_save(shared, "mine")
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    shared.cairn("domrename", "mine", "new")
    shared.define("mine")
    events, jobs = seen_by_nobody(shared)
    assert {e["data"]["vm-uuid"] for e in events} == {uuid_of(shared, "new")}
    assert [e["event"] for e in events if "renamed-from" in e["data"] or "renamed-to" in e["data"]] == [
        "VM_UNDEFINED", "VM_DEFINED"]
    assert [j["id"] for j in jobs] == [job]


def test_events_and_jobs_of_an_older_daemon_need_a_role_for_all_vms(shared):  # noqa: F811
    """Such events and jobs lack the UUID, and another VM may have the name now."""
    managed_save(shared, "mine")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    shared.stop()
    log = shared.state / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line]
    for line in lines:
        line.get("data", {}).pop("vm-uuid", None)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = shared.state / "jobs.json"
    jobs = json.loads(file.read_text())
    assert jobs["jobs"][0].pop("vm-uuid")
    file.write_text(json.dumps(jobs))
    shared.start()
    os.chmod(shared.socket, 0o666)
    assert seen_by_nobody(shared) == ([], [])
    assert {"VM_DEFINED", "STOP"} <= {e["event"] for e in kept_events(shared, vm="mine")}
    assert [(j["vm"], "vm-uuid" in j) for j in shared.qmp().run("query-jobs")] == [("mine", False)]
    shared.cairn("grant", "viewer", "--user", "nobody")
    events, jobs = seen_by_nobody(shared)
    assert {"VM_DEFINED", "STOP"} <= {e["event"] for e in events} and len(jobs) == 1
