"""Programs in the guest as jobs: the real cairn-agent runs as a process of this machine, behind a fake VM."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import types

import pytest

from conftest import Qmp, QmpError, until
from daemonlib import NOBODY, as_nobody, audit, shared  # noqa: F401
from test_exec import AGENT, host_pid, vm  # noqa: F401

HOUR = "sleep 3600"


@pytest.fixture
def q(vm):  # noqa: F811
    q = Qmp(vm.socket)
    yield q
    q.close()


def begin(q, *words, **more):
    return q.run("agent-exec", vm="web1", arg=list(words), **more)["job"]


def job(q, name):
    found, = q.run("query-jobs", id=name)
    return found


def over(q, name):
    until(lambda: job(q, name)["status"] == "concluded")
    return job(q, name)


def output(q, name):
    """Return all pages of the output as one."""
    o = q.run("agent-exec-output", id=name)
    text = {"out": "stdout", "err": "stderr"}
    while o.pop("more"):
        more = q.run("agent-exec-output", id=name, **{f"{s}-from": o[f"{s}-next"] for s in text.values()})
        for s in text.values():
            raw = [base64.b64decode(x[f"{s}-base64"]) if f"{s}-base64" in x else x[s].encode() for x in (o, more)]
            more.pop(f"{s}-base64", None)
            more[s] = b"".join(raw).decode()
        o = more
    return {k: v for k, v in o.items() if not k.endswith("-next")}


def runs(mark):
    """Return whether a process of this machine has the mark in its arguments."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
            if mark.encode() in f.read():
                return True
    return False


def test_result_has_the_exit_status_and_the_output_is_kept_apart(vm, q):  # noqa: F811
    name = begin(q, "sh", "-c", 'cat; echo "$A" $PWD >&2; exit 7', env=["A=b c"], folder="/usr",
                 **{"input-data": base64.b64encode(b"text").decode(), "job-id": "mine"})
    assert name == "mine"
    j = over(q, name)
    assert (j["type"], j["result"]) == ("exec", {"exit-status": 7, "truncated": False})
    assert "text" not in json.dumps(j)  # viewers see jobs
    assert output(q, name) == {"ended": True, "exit-status": 7, "stdout": "text", "stderr": "b c /usr\n", "truncated": False}
    q.run("job-dismiss", id=name)
    with pytest.raises(QmpError, match="no job 'mine'"):
        output(q, name)
    killed = begin(q, "sh", "-c", "printf 'a\\377'; kill -15 $$")
    assert over(q, killed)["result"]["signal"] == 15
    assert output(q, killed)["stdout-base64"] == "Yf8="


def test_input_as_long_as_possible_and_output_that_is_dropped(q):
    data = os.urandom(128 << 10)
    name = begin(q, "sh", "-c", "sha256sum; head -c 5000000 /dev/zero; echo end >&2",
                 **{"input-data": base64.b64encode(data).decode()})
    assert over(q, name)["result"] == {"exit-status": 0, "truncated": True}
    o = output(q, name)
    assert o["stdout"].startswith(hashlib.sha256(data).hexdigest()) and len(o["stdout"]) == 65536
    assert (o["stderr"], o["truncated"]) == ("end\n", True)
    assert job(q, name)["current-progress"] > 5000000
    with pytest.raises(QmpError, match="cairn cp"):
        begin(q, "true", **{"input-data": base64.b64encode(data + b"x").decode()})


def test_job_is_listed_while_it_runs_and_its_output_so_far_is_there(vm, q):  # noqa: F811
    name = begin(q, "sh", "-c", f"echo one; {HOUR}")
    until(lambda: output(q, name) == {"ended": False, "stdout": "one\n", "stderr": "", "truncated": False})
    assert job(q, name)["status"] == "running" and name in vm.cairn("jobs").stdout
    vm.cairn("suspend", "web1")  # the job does not own the VM
    vm.cairn("resume", "web1")


def test_cancel_kills_the_program(vm, q):  # noqa: F811
    name = begin(q, "sh", "-c", f"echo $$; {HOUR}")
    until(lambda: output(q, name)["stdout"])
    pid = int(output(q, name)["stdout"])
    assert host_pid(vm, pid)
    q.run("job-cancel", id=name)
    j = over(q, name)
    assert j["error-class"] == "Cancelled" and "killed" in j["error"]
    until(lambda: not host_pid(vm, pid))


def test_time_limit_kills_the_program(vm, q):  # noqa: F811
    mark = f"mark-{os.urandom(8).hex()}"
    name = begin(q, "sh", "-c", f"{HOUR}; : {mark}", timeout=5)
    until(lambda: runs(mark) or job(q, name)["status"] == "concluded")  # concluded: the machine stood still
    assert "time limit" in over(q, name)["error"]
    until(lambda: not runs(mark))


def test_end_of_the_daemon_ends_the_program(vm, q):  # noqa: F811
    name = begin(q, "sh", "-c", f"echo $$; {HOUR}")
    until(lambda: output(q, name)["stdout"])
    pid = int(output(q, name)["stdout"])
    vm.stop(signal.SIGKILL)
    vm.start()
    until(lambda: not host_pid(vm, pid))
    q2 = Qmp(vm.socket)
    assert "the daemon ended" in job(q2, name)["error"]
    with pytest.raises(QmpError, match="no output"):
        output(q2, name)
    q2.close()


def test_wrong_requests(vm, q):  # noqa: F811
    for args, why in (({"arg": []}, "arg"), ({"arg": [1]}, "strings"), ({"arg": ["a\0b"]}, "NUL"), ({"arg": [""]}, "arg"),
                      ({"arg": ["true"], "env": ["A"]}, "NAME=VALUE"), ({"arg": ["true"], "timeout": -1}, "timeout"),
                      ({"arg": ["true"], "input-data": "?"}, "base64"), ({"arg": ["x" * 70000]}, "bytes"),
                      ({"arg": ["x"] * 5000}, "words"), ({"arg": ["true"], "job-id": "a b"}, "job-id")):
        with pytest.raises(QmpError, match=why):
            q.run("agent-exec", vm="web1", **args)
    assert "No such file" in over(q, begin(q, "/missing"))["error"]
    names = [begin(q, "sleep", "3600") for _ in range(8)]
    with pytest.raises(QmpError, match="8 programs under way"):
        begin(q, "true")
    for name in names:
        q.run("job-cancel", id=name)
        over(q, name)
    assert over(q, begin(q, "true"))["result"]["exit-status"] == 0
    vm.define("web2")
    vm.cairn("start", "web2")
    with pytest.raises(QmpError, match="no vsock device"):
        q.run("agent-exec", vm="web2", arg=["true"])


def test_program_that_is_no_agent_harms_nobody(fake):
    for i, script in enumerate(("exec head -c 100000 /dev/urandom", "exec sleep 3600", "exit 0")):
        program = fake.tmp / f"agent{i}"
        program.write_text(f"#!/bin/sh\n{script} >&$2\n")
        program.chmod(0o755)
        name = f"web{i}"
        fake.define(name, cmdline=f'cairn-agent="{program}"', vsock=True)
        fake.cairn("start", name)
        q = Qmp(fake.socket)
        j = q.run("agent-exec", vm=name, arg=["true"])["job"]
        if "sleep" in script:
            q.run("job-cancel", id=j)
        assert over(q, j)["error"]
        q.close()


def frame(kind, data):
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "little") + data


def test_agent_that_floods_without_output_does_not_keep_the_daemon_busy(fake):
    """A frame that takes no input is allowed, and no output is dropped for it. The daemon reads 64 KiB at once."""
    size = 4 << 20
    taken = frame(8, bytes(4))
    (fake.tmp / "frames").write_bytes(frame(1, b"cairn-agent 1\n") + frame(3, bytes(4)) + taken * (size // len(taken)) + frame(11, bytes(8)))
    program = fake.tmp / "agent"
    program.write_text(f"#!/bin/sh\nexec cat {fake.tmp}/frames >&$2\n")
    program.chmod(0o755)
    fake.define("web1", cmdline=f'cairn-agent="{program}"', vsock=True)
    fake.cairn("start", "web1")
    q = Qmp(fake.socket)
    j = over(q, q.run("agent-exec", vm="web1", arg=["true"])["job"])
    assert j["result"] == {"exit-status": 0, "truncated": False}
    assert j["duration"] > (size - (512 << 10)) // (65536 + 8) * 10_000_000, j  # it rests for 10 ms after each read
    q.close()


def test_programs_of_a_user_are_limited(shared):  # noqa: F811
    vm = shared
    vm.cairn("grant", "guest", "--user", "nobody")
    for i in range(9):
        vm.define(f"web{i}", cmdline=f'cairn-agent="{AGENT}"', vsock=True)
        vm.cairn("start", f"web{i}")
    more = ["agent-exec", {"vm": "web8", "arg": ["sleep", "3600"]}]
    *begun, refused = as_nobody(vm, *(["agent-exec", {"vm": f"web{i % 8}", "arg": ["sleep", "3600"]}] for i in range(64)), more)
    assert all("return" in b for b in begun), begun
    assert f"user {NOBODY} has 64 programs under way" in refused["error"]["desc"]
    q = Qmp(vm.socket)
    q.run("agent-exec", vm="web8", arg=["true"])  # root has no limit
    q.run("job-cancel", id=begun[0]["return"]["job"])
    over(q, begun[0]["return"]["job"])
    assert "return" in as_nobody(vm, more)[0]
    q.close()


def test_role_guest_runs_and_cancels_and_a_viewer_sees_no_output(shared):  # noqa: F811
    vm = shared
    vm.define("web1", cmdline=f'cairn-agent="{AGENT}"', vsock=True)
    vm.cairn("start", "web1")
    q = Qmp(vm.socket)

    def nobody(command, **args):
        answer, = as_nobody(vm, [command, args])
        if "error" in answer:
            raise QmpError(answer["error"])
        return answer["return"]
    name = begin(q, "sh", "-c", f"echo secret; {HOUR}")
    until(lambda: output(q, name)["stdout"])
    vm.cairn("grant", "viewer", "other", "--user", "nobody")
    unknown, known = (a["error"]["desc"] for a in as_nobody(vm, ["job-cancel", {"id": "none"}], ["job-cancel", {"id": name}]))
    assert unknown == known  # without a role, a user does not learn which jobs there are
    vm.cairn("grant", "viewer", "web1", "--user", "nobody")
    assert nobody("query-jobs", id=name)[0]["type"] == "exec"
    for command, args in ("agent-exec", {"vm": "web1", "arg": ["true"]}), ("agent-exec-output", {"id": name}), ("job-cancel", {"id": name}):
        with pytest.raises(QmpError, match="requires the role guest"):
            nobody(command, **args)
    vm.cairn("grant", "guest", "web1", "--user", "nobody")
    assert nobody("agent-exec-output", id=name)["stdout"] == "secret\n"
    own = nobody("agent-exec", vm="web1", arg=["sleep", "3600"], env=["PASSWORD=x"])["job"]
    nobody("job-cancel", id=name)
    over(q, name)
    vm.cairn("revoke", "web1", "--user", "nobody")
    assert "lost the role" in over(q, own)["error"]
    denied, = (x for x in audit(vm) if x["command"] == "(job denied)")
    assert denied["arguments"] == {"id": own, "user": NOBODY} and denied["vm"] == "web1"
    line = next(x for x in audit(vm) if x["command"] == "agent-exec" and x["uid"] == NOBODY and x["outcome"] == "ok")
    assert line["arguments"]["arg"] == ["sleep", "3600"] and line["arguments"]["env"] == "..."
    q.close()


def test_job_on_the_vms_own_socket(shared):  # noqa: F811
    """With QEMU's job commands and events. The role guest suffices there, too, and only for such jobs."""
    vm = shared
    vm.define("web1", cmdline=f'cairn-agent="{AGENT}"', vsock=True)
    vm.cairn("start", "web1")
    path = vm.cairn("qmp-path", "web1").stdout.strip()
    q = Qmp(path)
    assert q.run("agent-exec", **{"job-id": "j1", "arg": ["sh", "-c", "cat; exit 3"], "input-data": base64.b64encode(b"in").decode()}) == {}
    q.event("JOB_STATUS_CHANGE", id="j1", status="concluded")
    o = q.run("agent-exec-output", id="j1")
    assert (o["stdout"], o["exit-status"], o["ended"]) == ("in", 3, True)
    assert [(j["id"], j["type"]) for j in q.run("query-jobs")] == [("j1", "exec")]
    with pytest.raises(QmpError, match="j1"):
        q.run("agent-exec", **{"job-id": "j1", "arg": ["true"]})
    q.run("job-dismiss", id="j1")
    with pytest.raises(QmpError, match="no job"):
        q.run("agent-exec-output", id="j1")
    for args, sentence in (({"job-id": "", "arg": ["true"]}, "must not be empty"), ({"job-id": "j2", "arg": []}, "arg: the program")):
        with pytest.raises(QmpError, match=sentence):
            q.run("agent-exec", **args)
    own = types.SimpleNamespace(socket=path)
    vm.cairn("grant", "viewer", "web1", "--user", "nobody")
    a, = as_nobody(own, ["agent-exec", {"job-id": "j3", "arg": ["true"]}])
    assert "requires the role guest" in a["error"]["desc"]
    vm.cairn("grant", "guest", "web1", "--user", "nobody")
    a, b, c = as_nobody(own, ["agent-exec", {"job-id": "j3", "arg": ["sleep", "3600"], "env": ["PASSWORD=x"]}], ["job-cancel", {"id": "j3"}],
                        ["quit", {"id": "j3"}])
    assert "return" in a and "return" in b and "requires the role operator" in c["error"]["desc"]
    q.event("JOB_STATUS_CHANGE", id="j3", status="concluded")
    line = next(x for x in audit(vm) if x["command"] == "agent-exec" and x["uid"] == NOBODY and x["outcome"] == "ok")
    assert line["arguments"]["arg"] == ["sleep", "3600"] and line["arguments"]["env"] == "..."
    q.close()


def test_verbs(vm):  # noqa: F811
    name = vm.cairn("exec", "--no-wait", "-i", "-e", "A=1", "-w", "/usr", "--timeout", "100", "web1", "--", "sh", "-c",
                    "cat; echo $A $PWD >&2; exit 3", input="in", stdin=None).stdout.strip()
    until(lambda: "concluded" in vm.cairn("jobs").stdout)
    r = vm.cairn("exec-output", name, ok=3)
    assert (r.stdout, r.stderr) == ("in", "1 /usr\n")
    assert json.loads(vm.cairn("exec-output", "--format", "json", name).stdout)["exit-status"] == 3
    assert "no terminal" in vm.cairn("exec", "--no-wait", "-t", "web1", "--", "sh", ok=False).stderr
    assert "no job" in vm.cairn("exec-output", "missing", ok=False).stderr
