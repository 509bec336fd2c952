"""The control plane with many clients, with clients that stay connected while permissions change, and with a client
in C."""

import array
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess

import pytest

from conftest import BUILD, ROOT, Qmp, QmpError, open_files, until
from daemonlib import NOBODY, allowed, as_nobody, kept_events, shared  # noqa: F401

CLIENTS_MAX = 2000


def test_client_beyond_limit_is_refused(fake):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CLIENTS_MAX + 200:
        pytest.skip(f"needs {CLIENTS_MAX + 200} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CLIENTS_MAX + 200), hard))
    clients = [Qmp(fake.socket) for _ in range(CLIENTS_MAX)]
    try:
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(fake.socket)
            refused = json.loads(late.makefile().read())  # up to the end of the stream
        assert refused["error"]["class"] == "Busy" and "too many clients" in refused["error"]["desc"]
        # Connected clients are served, and a disconnect makes room.
        assert all("qemu" in clients[i].run("query-version") for i in (0, 1000, -1))
        clients.pop().close()
        until(lambda: greets(fake.socket))
    finally:
        for c in clients:
            c.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Many connections of one user that stay open."""

    SCRIPT = ("import json, resource, socket, sys\n"
              "resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)\n"
              "kept = []\n"
              "for _ in range(int(sys.argv[2])):\n"
              "    s = socket.socket(socket.AF_UNIX); s.settimeout(100); s.connect(sys.argv[1])\n"
              "    m = json.loads(s.makefile().readline())\n"
              "    if 'QMP' in m: kept.append(s)\n"
              "    elif m['error']['class'] != 'Busy': sys.exit(str(m))\n"
              "print(len(kept), flush=True)\n"
              "sys.stdin.read()\n")

    def __init__(self, path, uid, n):
        self.proc = subprocess.Popen(["/usr/bin/python3", "-c", self.SCRIPT, path, str(n)], user=uid, group=uid,
                                     extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.served = int(self.proc.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.communicate()


def test_user_without_a_role_reads_how_to_get_one(shared):
    program = shutil.copy(os.path.join(BUILD, "cairn"), os.path.dirname(shared.socket))  # the user may not reach the build
    r = subprocess.run([program, "-c", shared.socket, "list"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, timeout=50)
    assert r.returncode == 5 and f"no permission to connect to {shared.socket}; let root give you a role (cairn grant operator --user NAME)" in r.stderr


def test_user_limit_leaves_room_for_others(shared):
    shared.cairn("grant", "viewer", "--user", "bin")  # from now on every user may connect
    with Crowd(shared.socket, NOBODY - 1, 400) as one, Crowd(shared.socket, NOBODY, 200) as two:
        assert one.served == 400 and two.served == 100  # all without permissions
        assert "mine" in shared.cairn("list", "--all").stdout
        shared.cairn("grant", "viewer", "--user", "nobody")
        with Crowd(shared.socket, NOBODY, 600) as known:
            assert known.served == 400


def lingering(stack):
    """Create a socket whose last close() blocks for an hour, because its peer does not read."""
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    s = socket.create_connection(listening.getsockname())
    stack.enter_context(listening.accept()[0])
    s.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            s.send(bytes(65536))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return s


def waits_for_events(pid):
    """Return whether the daemon waits for events, not in close() or elsewhere."""
    with open(f"/proc/{pid}/syscall") as f:
        return f.read().startswith(("426 ", "232 ", "441 "))  # io_uring_enter, epoll_wait, epoll_pwait2


@pytest.mark.parametrize("way", ["no command takes it", "a command refuses it", "left behind", "many", "out of band"])
def test_blocking_fd_from_client_does_not_block_daemon(fake, way):
    """close() of a client's fd may block for as long as the client likes."""
    fake.define("vm1")
    pid = fake.proc.pid
    text = b'{"execute":"query-version"}'
    if way == "a command refuses it":
        text = b'{"execute":"vm-export","arguments":{"vm":"vm1"}}'
    with contextlib.ExitStack() as stack:
        sent = [lingering(stack) for _ in range(20 if way == "many" else 1)]
        links = {f"socket:[{os.fstat(s.fileno()).st_ino}]" for s in sent}
        q = Qmp(fake.socket)
        if way == "left behind":  # disconnected by the daemon for its first message
            q.send(b"[" + b" " * ((1 << 20) - 1))
            until(lambda: waits_for_events(pid))
            fake.proc.send_signal(signal.SIGSTOP)
            q.send(b"  ")
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno() for s in sent]))]
        if way == "out of band":
            q.sock.sendmsg([text[:1]], fds, socket.MSG_OOB)
            q.send(text[1:])
        else:
            q.sock.sendmsg([text], fds)
        for s in sent:
            s.close()
        fake.proc.send_signal(signal.SIGCONT)
        q.read()
        if way == "left behind":
            with contextlib.suppress(ConnectionError, EOFError):
                q.read()  # disconnected, with the fd unread
        q.close()
        until(lambda: not links & set(open_files(pid)))
        until(lambda: waits_for_events(pid))


def greets(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        return '"QMP"' in s.makefile().readline()


def test_dismissed_job_results_do_not_return(fake):
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    ids = []
    for _ in range(2):
        ids.append(q.run("vm-managed-save", vm="vm1")["job"])
        q.event("JOB_STATUS_CHANGE", id=ids[-1], status="concluded")
    q.run("job-dismiss", id=ids[0])
    fake.stop()
    fake.start()
    q = fake.qmp()
    assert [j["id"] for j in q.jobs()] == ids[1:]
    # No other job gets the id of that job.
    assert q.run("vm-managed-save", vm="vm1")["job"] not in ids


def test_page_after_a_dismissed_job_is_an_error(fake):
    """A client that pages would take an empty page for the end of the list."""
    fake.define("vm1", cmdline="work-fails")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    ids = []
    for _ in range(3):
        ids.append(q.run("vm-managed-save", vm="vm1")["job"])
        q.event("JOB_STATUS_CHANGE", id=ids[-1], status="concluded")
    assert [j["id"] for j in q.run("query-jobs", after=ids[0])] == ids[1:]
    assert q.run("query-jobs", after=ids[2]) == []
    q.run("job-dismiss", id=ids[0])
    with pytest.raises(QmpError) as e:
        q.run("query-jobs", after=ids[0])
    assert e.value.cls == "NotFound" and f"there is no job '{ids[0]}' any more" in e.value.desc


class Stranger:
    """A connected client of another user."""

    SCRIPT = ("import socket, sys\n"
              "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(100)\n"
              "f = s.makefile(); f.readline()\n"
              "for line in sys.stdin:\n"
              "    s.sendall(line.encode())\n"
              "    print(f.readline().strip(), flush=True)\n")

    def __init__(self, path):
        self.proc = subprocess.Popen(["/usr/bin/python3", "-c", self.SCRIPT, path], user=NOBODY, group=NOBODY,
                                     extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.run("qmp_capabilities") == {}

    def read(self, text=""):
        """Send something and return the next line."""
        self.proc.stdin.write(text + "\n")
        self.proc.stdin.flush()
        return json.loads(self.proc.stdout.readline())

    def run(self, command, **args):
        m = self.read(json.dumps({"execute": command, "arguments": args}))
        while "event" in m:
            m = self.read()
        return m.get("return", m.get("error", {}).get("class"))

    def close(self):
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.proc.wait()


def test_role_changes_apply_to_open_connections(shared):  # noqa: F811
    """A revoked permission ends at once, also for open connections; a new one begins at once."""
    shared.cairn("grant", "admin", "--user", "nobody")
    s = Stranger(shared.socket)
    try:
        assert [v["name"] for v in s.run("vm-list")["vms"]] == ["mine", "other"]
        assert "permissions" in s.run("query-permissions")
        shared.cairn("grant", "viewer", "--user", "nobody")
        assert s.run("query-permissions") == s.run("vm-start", vm="mine") == "PermissionDenied"
        assert [v["name"] for v in s.run("vm-list")["vms"]] == ["mine", "other"]
        shared.cairn("revoke", "--user", "nobody")
        assert s.run("vm-list") == "PermissionDenied"
        shared.cairn("grant", "operator", "--user", "nobody")
        assert s.run("vm-start", vm="mine") == {"id": 1}
    finally:
        s.close()


def test_vm_socket_reveals_nothing_without_permission(shared):  # noqa: F811
    """Everybody may connect once any user has a permission for any VM."""
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    shared.cairn("start", "mine")
    s = Stranger(shared.qmp().run("vm-qmp-path", vm="mine")["path"])
    try:
        shared.cairn("suspend", "mine")
        # No event comes before the answer.
        assert "error" in s.read('{"execute":"query-status"}')
        shared.cairn("grant", "viewer", "mine", "--user", "nobody")
        shared.cairn("resume", "mine")
        assert s.read()["event"] == "RESUME"
        assert s.run("query-status")["status"] == "running"
    finally:
        s.close()


def test_connection_gets_only_the_events_that_it_chose(shared):  # noqa: F811
    """Of one VM, of some names, none, and all again. Another connection still gets all."""
    q, all_events = shared.qmp(), shared.qmp()

    def got(vm="mine"):
        """Return the events of starting and ending both VMs, up to the answer behind them."""
        q.events.clear()
        for name in ("mine", "other"):
            shared.cairn("start", name)
            shared.cairn("destroy", name)
        q.run("query-version")
        return {(m["event"], m["data"]["vm"]) for m in q.events}

    everything = got()
    assert {vm for _, vm in everything} == {"mine", "other"} and len({event for event, _ in everything}) > 1
    q.run("event-filter", vm="mine")
    assert got() == {e for e in everything if e[1] == "mine"}
    q.run("event-filter", events=["VM_STATE_CHANGE", "SHUTDOWN"])
    assert got() == {e for e in everything if e[0] in ("VM_STATE_CHANGE", "SHUTDOWN")}
    q.run("event-filter", events=["VM_STATE_CHANGE"], vm="other")
    assert got() == {("VM_STATE_CHANGE", "other")}
    q.run("event-filter", events=[])
    assert got() == set()
    for wrong, says in (({"events": ["STOP", "stop"]}, "events[1] is no event's name. Next: cairn event --list"), ({"events": [1]}, "events[0]"),
                        ({"vm": "none"}, "there is no VM 'none'")):
        with pytest.raises(QmpError, match=re.escape(says)):
            q.run("event-filter", **wrong)
    assert got() == set()  # as before
    q.run("event-filter")
    assert got() == everything
    all_events.run("query-version")
    assert {(m["event"], m["data"]["vm"]) for m in all_events.events} == everything


def test_filter_of_events_shows_no_hidden_vm(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    answers = as_nobody(shared, ["event-filter", {"vm": "other"}], ["event-filter", {"vm": "mine"}], ["event-filter", {"events": ["STOP"]}])
    assert answers[0]["error"]["class"] == "NotFound" and [a.get("return") for a in answers[1:]] == [{}, {}]


def test_only_admins_can_fetch_denial_events(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "--user", "nobody")
    denied, page = as_nobody(shared, ["vm-start", {"vm": "mine"}], ["query-events", {}])
    assert denied["error"]["class"] == "PermissionDenied"
    assert {e["event"] for e in page["return"]["events"]} == {"VM_DEFINED"}
    assert [e["data"]["uid"] for e in kept_events(shared, event="PERMISSION_DENIED")] == [NOBODY]


def test_jobs_of_other_users_look_missing(shared):  # noqa: F811
    q = shared.qmp()
    ids = {}
    for vm in ("mine", "other"):
        shared.define(vm, cmdline="work-fails")
        q.run("vm-start", vm=vm)
        ids[vm] = q.run("vm-managed-save", vm=vm)["job"]
        q.event("JOB_STATUS_CHANGE", id=ids[vm], status="concluded")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    seen, *pairs = as_nobody(shared, ["query-jobs", {}], *[
        [command, {"id": id}] for command in ("query-jobs", "job-cancel", "job-dismiss") for id in (ids["other"], "none")])
    assert [j["id"] for j in seen["return"]] == [ids["mine"]]
    assert pairs[0::2] == pairs[1::2] and pairs[0] == {"return": []}
    assert not allowed(pairs[2]) and not allowed(pairs[4])
    assert "return" in as_nobody(shared, ["job-dismiss", {"id": ids["mine"]}])[0]


def inherited(daemon):
    """Return the daemon's fds that a child process would inherit."""
    folder = pathlib.Path(f"/proc/{daemon.proc.pid}/fdinfo")
    flags = {}
    for f in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it may be closed meanwhile
            flags[int(f.name)] = int(f.read_text().split("flags:")[1].split()[0], 8)
    assert len(flags) > 8
    return [fd for fd, f in flags.items() if fd > 2 and not f & os.O_CLOEXEC]


def test_child_processes_inherit_no_fds_of_daemon(fake):
    """Every child process gets only the fds that it is handed."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.qmp()
    assert inherited(fake) == []


PROGRAM = r"""
#include <api/client.h>

#include <json-c/json.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct json_object *v, *args = json_object_new_object(), *ev;
	struct client *c;
	struct err e;

	if (argc != 2 || client_connect(argv[1], &c, &e) < 0)
		return 1;
	printf("%s\n", json_object_get_string(json_object_object_get(client_version(c), "package")));
	json_object_object_add(args, "vm", json_object_new_string("vm1"));
	if (client_execute(c, "vm-start", json_object_get(args), &v, NULL, &e) < 0)
		return 2;
	printf("%s\n", json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN));
	json_object_put(v);
	if (client_execute(c, "vm-suspend", json_object_get(args), NULL, NULL, &e) < 0 ||
		client_execute(c, "vm-start", args, NULL, NULL, &e) == 0)
		return 3;
	printf("%s: %s\n", err_class_name(e.cls), e.msg);
	/* Events that came meanwhile are kept, in their order. */
	for (int i = 0; i < 3; i++) {
		if (client_next_event(c, UINT64_MAX, &ev, &e) < 0)
			return 4;
		printf("%s %s\n", json_object_get_string(json_object_object_get(ev, "seq")),
			json_object_get_string(json_object_object_get(ev, "event")));
		json_object_put(ev);
	}
	if (client_next_event(c, 1, &ev, &e) == 0)
		return 5;
	client_free(c);
	return 0;
}
"""


def test_installed_library_works_in_c_program(fake, tmp_path):
    """The installed library: its header compiles alone, and pkg-config has all flags."""
    if "asan" in BUILD or "tsan" in BUILD:
        pytest.skip("a program without sanitizers cannot link what has them")
    prefix = tmp_path / "prefix"
    subprocess.run(["make", "-s", f"BUILD={os.path.relpath(BUILD, ROOT)}", f"PREFIX={prefix}", "install"], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL)
    env = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "cairn"], env=env, check=True, capture_output=True,
                           text=True).stdout.split()
    (tmp_path / "program.c").write_text(PROGRAM)
    r = subprocess.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "program",
                        tmp_path / "program.c", *flags], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    fake.define("vm1")
    r = subprocess.run([tmp_path / "program", fake.socket], capture_output=True, text=True)
    assert r.returncode == 0, r
    package, answer, error, *events = r.stdout.splitlines()
    assert package.startswith("Cairn ") and answer == '{"id":1}'
    assert error.startswith("WrongState: VM 'vm1' is paused; ") and "Next: " in error
    assert events == [f"{e['seq']} {e['event']}" for e in kept_events(fake)[1:4]] and len(events) == 3
    # The library exports only the client's symbols.
    names = subprocess.run(["nm", "-g", "--defined-only", prefix / "lib/libcairn.a"], capture_output=True, text=True, check=True).stdout.split()
    assert {n.split("_")[0] for n in names[3::3]} <= {"client", "err"}, names
