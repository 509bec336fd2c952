"""A user whose role is revoked or lowered loses the jobs that need the role: work must not hand out a VM's memory or
disks to somebody who may not ask for that any more."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from conftest import BUILD, Qmp, open_files, until
from daemonlib import audit, shared  # noqa: F401
from otherslib import NOBODY, as_user

GROUP = 4242


@pytest.fixture
def host(shared):  # noqa: F811
    """A daemon that others reach. The VM `mine` runs, and work on it goes on until the file `go` exists."""
    shared.define("mine", cmdline=f"work-until={shared.tmp}/go")
    shared.cairn("start", "mine")
    shutil.copy(os.path.join(BUILD, "cairn"), shared.tmp)  # the build folder may be closed to others
    return shared


def fill(fd):
    """Fill a pipe, so that a process that writes to it waits."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))
    os.set_blocking(fd, True)


@contextlib.contextmanager
def begun(d, command, groups=(), fd=None, **args):
    """Let nobody begin a job with this file. Yield the job's id. The client stays."""
    def ask(say):
        q = Qmp(d.socket)
        m = json.dumps({"execute": command, "arguments": {"vm": "mine", **args}}).encode()
        socket.send_fds(q.sock, [m], [fd] if fd is not None else [])
        say(q.answer())
        signal.pause()
    with as_user(ask, groups=groups) as lines:
        answer = json.loads(lines.readline())
        assert "return" in answer, answer
        yield answer["return"]["job"]


def job_of(d, id):
    return next(j for j in d.qmp().jobs() if j["id"] == id)


def outcome(d, id):
    """Wait for the job's end. Return its error and the error's class, or None twice."""
    def concluded():
        return job_of(d, id)["status"] == "concluded"
    until(concluded)
    j = job_of(d, id)
    return j.get("error"), j.get("error-class")


def lose(d, how, *who):
    if how == "revoke":
        d.cairn("revoke", "mine", *who)
    else:
        d.cairn("grant", "viewer", "mine", *who)


def denials(d):
    return [x for x in audit(d) if x["command"] == "(job denied)"]


@pytest.fixture
def core():
    with tempfile.TemporaryFile() as f:
        yield f


@pytest.mark.parametrize("how", ["revoke", "lower"])
@pytest.mark.parametrize("command", ["vm-dump", "vm-save", "vm-managed-save", "snapshot-create", "vm-restart-process"])
def test_job_ends_with_the_role(host, core, command, how):
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    q = host.qmp()
    with begun(host, command, fd=core.fileno() if command in ("vm-dump", "vm-save") else None) as id:
        lose(host, how, "--user", "nobody")
        q.event("JOB_STATUS_CHANGE", id=id, status="aborting")
        q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
        error, cls = outcome(host, id)
    assert error.startswith(f"user {NOBODY}, who began the job, has lost the role operator for the VM: ") and cls == "PermissionDenied"
    assert os.fstat(core.fileno()).st_size == 0 and host.info("mine")["state"] == "running"
    line, = denials(host)
    assert line["vm"] == "mine" and line["uid"] == 0 and line["outcome"] == "PermissionDenied"
    assert line["arguments"] == {"id": id, "user": NOBODY} and "lost the role operator" in line["error"]
    (host.tmp / "go").touch()
    host.cairn("dump", "mine", str(host.tmp / "core"))  # the VM is free
    until(lambda: "job_owner" not in host.kept("mine"))


def test_export_ends_with_the_role(shared):  # noqa: F811
    """A helper process of the daemon writes to a pipe that nobody reads."""
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    r, w = os.pipe()
    fill(w)
    with begun(shared, "vm-export", fd=w) as id:
        shared.cairn("grant", "operator", "mine", "--user", "nobody")
        error, cls = outcome(shared, id)
        assert "has lost the role owner for the VM" in error and cls == "PermissionDenied"
    os.close(r)
    os.close(w)
    shared.cairn("start", "mine")


def test_fork_ends_with_the_role_for_all_vms(host):
    """The role owner for the source does not permit making VMs."""
    host.cairn("grant", "admin", "--user", "nobody")
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    with begun(host, "vm-fork", name="copy") as id:
        host.cairn("grant", "operator", "--user", "nobody")
        error, cls = outcome(host, id)
    assert "has lost the role admin for all VMs" in error and cls == "PermissionDenied"
    assert [vm["name"] for vm in host.qmp().run("vm-list")["vms"]] == ["mine", "other"]


def test_job_of_a_groups_member_ends_with_the_groups_role(host, core):
    host.cairn("grant", "operator", "mine", "--group", str(GROUP))
    with begun(host, "vm-dump", groups=[GROUP], fd=core.fileno()) as id:
        host.cairn("revoke", "mine", "--group", str(GROUP))
        assert outcome(host, id)[1] == "PermissionDenied"


def test_job_goes_on_while_a_role_allows_it(host, core):
    """The job continues if its user has another sufficient role, gets a higher one or has disconnected, and if roles of
    other users change."""
    host.cairn("grant", "operator", "--user", "nobody")
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    host.cairn("grant", "operator", "mine", "--user", "4243")
    with begun(host, "vm-dump", fd=core.fileno()) as id:
        host.cairn("revoke", "mine", "--user", "nobody")
        host.cairn("grant", "owner", "mine", "--user", "nobody")
        host.cairn("revoke", "--user", "nobody")
    host.cairn("revoke", "mine", "--user", "4243")
    (host.tmp / "go").touch()
    assert outcome(host, id) == (None, None) and os.fstat(core.fileno()).st_size and not denials(host)


def test_job_of_root_goes_on(host):
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    id = host.qmp().run("vm-managed-save", vm="mine")["job"]
    host.cairn("revoke", "mine", "--user", "nobody")
    (host.tmp / "go").touch()
    assert outcome(host, id) == (None, None) and not denials(host)


def test_job_that_cannot_be_cancelled_ends_by_itself(shared):  # noqa: F811
    """The VM is saved, and its next process is not ready yet."""
    go = shared.tmp / "go"
    go.touch()
    shared.define("mine", cmdline=f"boot-until={go}")
    shared.cairn("start", "mine")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    go.unlink()
    q = shared.qmp()
    with begun(shared, "vm-restart-process") as id:
        q.event("VM_STATE_CHANGE", vm="mine", state="saved")
        until(lambda: shared.children())
        shared.cairn("revoke", "mine", "--user", "nobody")
        assert job_of(shared, id)["status"] == "running"
        go.touch()
        assert outcome(shared, id) == (None, None) and shared.info("mine")["state"] == "running"
    assert "the job cannot be cancelled and ends by itself" in denials(shared)[0]["error"]


def test_job_that_cannot_be_cancelled_at_once_ends_later(host, core):
    """The VM's process is stopped meanwhile. The job ends although its user gets the role again."""
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    with begun(host, "vm-dump", fd=core.fileno()) as id:
        pid = host.info("mine")["pid"]
        os.kill(pid, signal.SIGSTOP)
        for _ in range(2):
            host.cairn("revoke", "mine", "--user", "nobody")
            host.cairn("grant", "operator", "mine", "--user", "nobody")
        assert job_of(host, id)["status"] == "running"
        os.kill(pid, signal.SIGCONT)
        assert outcome(host, id)[1] == "PermissionDenied"
    assert len(denials(host)) == 1


def test_results_count_for_the_user_who_began_the_job(host, core):
    """Root's result is the oldest of 258. The daemon drops two results of the user nobody instead."""
    (host.tmp / "go").touch()
    oldest = host.qmp().run("vm-managed-save", vm="mine")["job"]
    assert outcome(host, oldest) == (None, None)
    host.cairn("start", "mine")
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    with begun(host, "vm-dump", fd=core.fileno()) as id:
        assert outcome(host, id) == (None, None)
    host.stop()
    path = host.state / "jobs.json"
    file = json.loads(path.read_text())
    root, other = file["jobs"]
    assert (root["id"], root["uid"], other["id"], other["uid"]) == (oldest, 0, id, NOBODY)
    file["jobs"] += [{**other, "id": f"of-nobody-{n}"} for n in range(254)]
    path.write_text(json.dumps(file))
    host.start()
    os.chmod(host.socket, 0o666)
    for _ in range(2):
        core.truncate(0)
        with begun(host, "vm-dump", fd=core.fileno()) as id:
            assert outcome(host, id) == (None, None)
    ids = [j["id"] for j in host.qmp().jobs()]
    assert len(ids) == 256 and ids[:2] == [oldest, "of-nobody-1"] and ids[-1] == id


# ---- clients that wait ----

@contextlib.contextmanager
def waiting(d, *args):
    """Run the command line as nobody. Yield the process."""
    with subprocess.Popen([d.tmp / "cairn", *args], user=NOBODY, group=NOBODY, extra_groups=[], env=d.env, cwd="/", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        try:
            yield p
        finally:
            p.kill()


def is_connected(p):
    return any(f.startswith("socket:") for f in open_files(p.pid))


@pytest.fixture
def place(host):
    """Return a folder of the user nobody."""
    (host.tmp / "place").mkdir()
    os.chown(host.tmp / "place", NOBODY, NOBODY)
    return host.tmp / "place"


@pytest.mark.parametrize("left,error", [([], "your role was revoked"), (["viewer", "other"], "your role was revoked"),
                                        (["viewer", "mine"], "has lost the role operator")])
def test_client_that_waits_for_its_job_is_told(host, place, left, error):
    """The user has no role any more, a role for another VM, or a role that may see the job."""
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    if left[1:] == ["other"]:
        host.cairn("grant", *left, "--user", "nobody")
    q = host.qmp()
    with waiting(host, "dump", "mine", str(place / "core")) as p:
        id = q.event("JOB_STATUS_CHANGE", status="running", type="dump")["data"]["id"]
        lose(host, "lower" if left[1:] == ["mine"] else "revoke", "--user", "nobody")
        assert error in p.stderr.read() and p.wait() == 5
        assert outcome(host, id)[1] == "PermissionDenied"
    assert not [f for f in place.iterdir() if f.stat().st_size]


def test_client_that_waits_for_a_state_is_told(host):
    host.cairn("grant", "viewer", "mine", "--user", "4243")  # so that nobody may connect at any time
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    with waiting(host, "wait", "mine", "--for", "shutoff") as p, waiting(host, "event", "mine", "--event", "SHUTDOWN") as other:
        until(lambda: is_connected(p) and is_connected(other))
        host.cairn("revoke", "mine", "--user", "nobody")
        assert all("requires the role viewer, and you have no role" in x.stderr.read() and x.wait() == 5 for x in (p, other))


def test_role_that_comes_back_keeps_a_client_waiting(host):
    """The client learns what happened while it had no role."""
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    with waiting(host, "wait", "mine", "--for", "shutoff") as p:
        until(lambda: is_connected(p))
        p.send_signal(signal.SIGSTOP)
        host.cairn("revoke", "mine", "--user", "nobody")
        host.cairn("destroy", "mine")
        host.cairn("grant", "viewer", "mine", "--user", "nobody")
        p.send_signal(signal.SIGCONT)
        assert p.wait() == 0


def test_only_whose_roles_change_gets_the_event(host):
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    def ask(say):
        q = Qmp(host.socket)
        say(True)
        say(q.event("ROLES_CHANGED")["data"])
        say([vm["name"] for vm in q.run("vm-list")["vms"]])
    with as_user(ask) as lines:
        assert json.loads(lines.readline()) is True
        roots = host.qmp()
        host.cairn("grant", "operator", "mine", "--user", "4243")
        host.cairn("grant", "viewer", "other", "--user", "nobody")
        assert json.loads(lines.readline()) == {} and json.loads(lines.readline()) == ["mine", "other"]
        host.cairn("undefine", "other")
        assert "ROLES_CHANGED" not in iter(lambda: roots.read()["event"], "VM_UNDEFINED")


# ---- the next daemon ----

def next_daemon(d, id, permissions=()):
    """Let the next daemon begin as if this one had ended between the revoke and the cancel."""
    until(lambda: d.kept("mine").get("job_owner", {}).get("job") == id)
    d.stop(signal.SIGKILL)
    file = d.state / "permissions.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "permissions": list(permissions)}))
    d.start()


def test_next_daemon_ends_a_save_without_a_role(host, core):
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    with begun(host, "vm-save", fd=core.fileno()) as id:
        next_daemon(host, id)
        error, _ = outcome(host, id)
        until(lambda: host.info("mine")["state"] == "running")
    assert "has lost the role operator" in error and denials(host)[0]["arguments"] == {"id": id, "user": NOBODY}
    assert os.fstat(core.fileno()).st_size == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_next_daemon_ends_a_dump_without_a_role(host, core, when):
    """The dump has no job any more, but the VM's process still writes it. The user loses the role before or after the
    next daemon starts."""
    host.cairn("grant", "operator", "mine", "--group", str(GROUP))
    entry = json.loads((host.state / "permissions.json").read_text())["permissions"]
    with begun(host, "vm-dump", groups=[GROUP], fd=core.fileno()) as id:
        next_daemon(host, id, entry if when == "after" else [])
        if when == "after":
            host.cairn("revoke", "mine", "--group", str(GROUP))
        until(lambda: os.readlink(f"/proc/self/fd/{core.fileno()}") not in open_files(host.info("mine")["pid"]))
    assert len(denials(host)) == 1 and os.fstat(core.fileno()).st_size == 0


def test_next_daemon_keeps_the_save_of_a_user_with_a_role(host, core):
    host.cairn("grant", "operator", "mine", "--user", "nobody")
    entry = json.loads((host.state / "permissions.json").read_text())["permissions"]
    with begun(host, "vm-save", fd=core.fileno()) as id:
        next_daemon(host, id, entry)
        (host.tmp / "go").touch()
        assert outcome(host, id) == (None, None)
    assert os.fstat(core.fileno()).st_size and not denials(host)
