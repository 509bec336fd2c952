"""Every answer fits the schema: a tour of the daemon's commands. The tests' client compares (schemalib.py)."""

import fcntl
import json
import os
import socket
import subprocess
import termios

import pytest

import schemalib
from conftest import Qmp, QmpError, until
from daemonlib import NOBODY, shared  # noqa: F401
from otherslib import as_user

# Arguments of queries, besides `vm`. None: it needs a guest, a job or an active network, which other tests have.
QUERIES = {
    "schema-get": {"page": 0}, "advise": {"verbose": True}, "snapshot-size": {"name": "s1"}, "query-requests": {"all": True},
    "net-info": {"network": "lan"}, "net-dump-definition": {"network": "lan"}, "net-dhcp-leases": None, "vm-addresses": None,
    "query-volumes": {"pool": "p"}, "vm-agent-query": None, "agent-exec-output": None, "job-wait": None,
}
# Their answers must have a list with an entry.
FILLED = ["vm-list", "vm-stats", "vm-trend", "snapshot-list", "query-snapshot-schedules", "query-schedules", "query-thresholds",
          "query-events", "query-audit", "query-permissions", "query-permissions-review", "query-approval-rules", "query-quotas",
          "query-pools", "query-volumes", "query-jobs", "net-list"]


def job(q, command, **args):
    """Run a job and return its entry in query-jobs, which is not dismissed."""
    id = q.run(command, **args)["job"]
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    entry, = q.run("query-jobs", id=id)
    assert "error" not in entry, entry
    return entry


def with_file(q, path, command, **args):
    """Run a job whose command takes a file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    m = json.dumps({"execute": command, "arguments": args}).encode()
    socket.send_fds(q.sock, [m], [fd])
    os.close(fd)
    id = q.answer()["return"]["job"]
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    entry, = q.run("query-jobs", id=id)
    return entry


@pytest.fixture
def world(fake):
    """A daemon that has one of each."""
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    q = fake.qmp()
    definition = {"name": "vm1", "title": "first", "memory": "32M", "boot": {"kernel": str(fake.tmp / "kernel")},
                  "disks": [{"path": "disk", "format": "qcow2"}], "interfaces": [{"type": "user"}]}
    (fake.tmp / "kernel").write_bytes(b"not a kernel\n")
    assert q.run("vm-define", definition=definition, folder=str(fake.tmp))["created"]
    q.run("vm-start", vm="vm1")
    assert job(q, "snapshot-create", vm="vm1", name="s1", tags=["keep"])["result"]["name"] == "s1"
    q.run("snapshot-schedule-set", vm="vm1", every="1h")
    q.run("schedule-add", vm="vm1", action="suspend", on="daily")
    q.run("threshold-set", vm="vm1", measure="cpu", above="90")
    q.run("pool-define", name="p", target=str(fake.tmp))
    q.run("net-define", definition={"name": "lan", "mode": "isolated", "ipv4": {"address": "192.0.2.1", "prefix": 24}})
    q.run("permission-grant", user=12345, role="viewer", vm="vm1")
    q.run("quota-set", user=12345, vms=3)
    q.run("approval-rule-set", acts=["undefine"], vm="vm1", user=12345)
    return fake, q


def filled(answer):
    """Return whether a list in the answer has an entry."""
    return bool(answer) if isinstance(answer, list) else any(v for v in answer.values() if isinstance(v, list))


def test_every_query_answers_as_the_schema_says(world):
    fake, q = world
    schema = schemalib.schemas()[0]
    queries = {n: e for n, e in schema.by_name.items() if e["meta-type"] == "command" and not e["mutates"] and n != "qmp_capabilities"}
    assert queries.keys() >= {*QUERIES, *FILLED}
    for name in queries:
        args = QUERIES.get(name, {})
        if args is None:
            continue
        members = [m["name"] for m in schema.by_name[queries[name]["arg-type"]]["members"]]
        about = {"vm": "vm1"} if members[:1] == ["vm"] and "after" not in members and name != "query-events" else {}
        answer = q.run(name, **about, **args)
        assert filled(answer) or name not in FILLED, (name, answer)


def test_query_for_an_unknown_event_is_refused(fake):
    """Else a client with a slip in the name would wait for ever."""
    with pytest.raises(QmpError, match='event: "VM_STATE" is no event\'s name. Next: cairn event --list'):
        fake.qmp().run("query-events", event="VM_STATE")


def test_pages_of_the_schema_are_the_whole(world):
    """A client that follows `next` gets the schema that the build prints."""
    _, q = world
    page = q.run("schema-get")
    entries = page["schema"]
    while "next" in page:
        page = q.run("schema-get", page=page["next"])
        entries += page["schema"]
    assert entries == list(schemalib.schemas()[0].by_name.values())
    with pytest.raises(QmpError, match="page: -1 is no page"):
        q.run("schema-get", page=-1)


def test_results_of_jobs_are_as_the_schema_says(world):
    fake, q = world
    types = set()
    types.add(job(q, "snapshot-create", vm="vm1", name="s2")["type"])
    for args in ({"dry-run": True}, {}):
        types.add(job(q, "snapshot-revert", vm="vm1", name="s1", **args)["type"])
        types.add(job(q, "snapshot-delete", vm="vm1", name="s2", **args)["type"])
    types.add(with_file(q, fake.tmp / "core", "vm-dump", vm="vm1")["type"])
    types.add(job(q, "vm-fork", vm="vm1", name="fork")["type"])
    types.add(job(q, "vm-restart-process", vm="vm1")["type"])
    types.add(job(q, "vm-managed-save", vm="vm1")["type"])
    assert len(types) == 7 and types <= schemalib.schemas()[0].jobs.keys()


def test_job_wait_answers_at_the_end_or_at_its_time_limit(fake):
    go = fake.tmp / "go"
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={go}", disks=[{"path": "disk", "format": "qcow2"}])
    q, waiter, gone = fake.qmp(), fake.qmp(), fake.qmp()
    q.run("vm-start", vm="vm1")
    id = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    assert q.run("job-wait", id=id, timeout=1)["status"] == "running"
    for client in (waiter, gone):
        client.send(json.dumps({"execute": "job-wait", "arguments": {"id": id}}).encode())
    gone.close()
    go.touch()
    answer = waiter.answer()["return"]
    assert answer["status"] == "concluded" and answer["result"]["name"] == "s1"
    schemalib.check_answer("job-wait", answer)
    assert q.run("job-wait", id=id) == answer
    for wrong in ({"id": "none"}, {"id": id, "timeout": 0}):
        with pytest.raises(QmpError, match="there is no job 'none'|timeout: 0 is out of range; give 1 to 86400 seconds"):
            q.run("job-wait", **wrong)


def test_waiting_for_jobs_locks_no_user_out(shared):  # noqa: F811
    """More clients of a user than he may have open commands wait for a job; his other clients go on."""
    go = shared.tmp / "go"
    shared.define("vm1", cmdline=f"work-until={go}")
    shared.cairn("grant", "operator", "--user", "nobody")
    q = shared.qmp()
    q.run("vm-start", vm="vm1")
    id = q.run("vm-managed-save", vm="vm1")["job"]
    wait = ("import json, socket, sys\n"
            f"text = json.dumps({{'execute': 'job-wait', 'arguments': {{'id': {id!r}}}}}).encode()\n"
            "clients = []\n"
            "for n in range(257):\n"
            f"    s = socket.socket(socket.AF_UNIX); s.connect({shared.socket!r})\n"
            "    f = s.makefile(); f.readline()\n"
            "    s.sendall(b'{\"execute\": \"qmp_capabilities\"}'); f.readline()\n"
            "    s.sendall(text)\n"
            "    clients.append((s, f))\n"
            "answer = json.loads(clients[-1][1].readline())\n"
            "s.sendall(b'{\"execute\": \"vm-list\"}')\n"
            "print(json.dumps([answer, json.loads(f.readline())]))\n"
            "sys.stdin.read()\n"
            "ends = [json.loads(next(line for line in f if 'event' not in line)) for s, f in clients[:-1]]\n"
            "print(json.dumps([e['return']['status'] for e in ends]))\n")
    with subprocess.Popen(["/usr/bin/python3", "-c", wait], user=NOBODY, group=NOBODY, extra_groups=[], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        refused, listed = json.loads(p.stdout.readline())
        assert refused["error"]["class"] == "Busy" and "256 of your clients wait for jobs" in refused["error"]["desc"]
        assert "vm1" in [v["name"] for v in listed["return"]["vms"]]
        go.touch()
        p.stdin.close()
        assert json.loads(p.stdout.readline()) == ["concluded"] * 256


def test_job_wait_ends_with_the_role(shared):  # noqa: F811
    """The user does not learn when the job of a VM ends that he may not see any more."""
    q = shared.qmp()
    shared.define("vm1", cmdline=f"work-until={shared.tmp}/go")
    shared.cairn("grant", "viewer", "vm1", "--user", "nobody")
    q.run("vm-start", vm="vm1")
    id = q.run("vm-managed-save", vm="vm1")["job"]

    def wait(say):
        c = Qmp(shared.socket)
        c.send(json.dumps({"execute": "job-wait", "arguments": {"id": id}}).encode())
        until(lambda: not any(fcntl.ioctl(c.sock, termios.TIOCOUTQ, bytes(4))))  # the daemon has read it
        say("waits")
        say(c.answer()["error"])

    with as_user(wait) as says:
        says.readline()
        shared.cairn("revoke", "vm1", "--user", "nobody")
        assert json.loads(says.readline()) == {"class": "PermissionDenied", "desc": f"you have lost the role for the VM of job {id}"}
    assert q.run("query-jobs", id=id)[0]["status"] == "running"
    (shared.tmp / "go").touch()


def test_job_wait_ends_with_the_daemon(fake):
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go", disks=[{"path": "disk", "format": "qcow2"}])
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    id = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    q.send(json.dumps({"execute": "job-wait", "arguments": {"id": id}}).encode())
    fake.qmp().run("query-version")
    fake.stop()
    (fake.tmp / "go").touch()
    fake.start()
    assert fake.qmp().run("job-wait", id=id)["status"] == "concluded"


def test_a_member_that_the_schema_lacks_is_found():
    schema = schemalib.schemas()[0]
    assert schema.answer_fault("vm-start", {"id": 1}) is None
    assert schema.answer_fault("vm-start", {"id": True}) == "vm-start.id: True is no int"
    assert schema.answer_fault("vm-start", {"idd": 1}) == "vm-start.idd: is not in the schema"
    assert schema.answer_fault("vm-set-vcpus", []) == "vm-set-vcpus: [] is no object"
    assert schema.answer_fault("forward-add", {}) == "forward-add.port: is missing"
    assert schema.answer_fault("advise", {"advice": [{"kind": "waste", "rule": "r", "text": "t", "figures": {"a": "b"}}]}) == (
        "advise.advice[0].figures.a: 'b' is no number")
