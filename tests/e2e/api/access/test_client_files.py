"""Files that clients send: the daemon neither receives nor closes them, so a file system that hangs delays only its
user."""

import array
import contextlib
import json
import os
import signal
import socket

import pytest

from conftest import Qmp, open_files, until
from daemonlib import shared  # noqa: F401
from fuselib import Op, fuse
from otherslib import as_user


@pytest.fixture
def hostile(shared):  # noqa: F811
    """A daemon whose VM 'mine' runs, and a file system with an empty file. All that hangs is released at the end."""
    shared.cairn("start", "mine")
    until(lambda: not processes(shared))
    with fuse(shared.tmp / "fuse", file=b"") as f:
        yield shared, f
        f.release()


def command(name, **args):
    return json.dumps({"execute": name, "arguments": args}).encode()


NO_COMMAND = b" "
IMPORT = command("vm-import", folder="/none")
UNANSWERED = [NO_COMMAND, IMPORT]  # the answer to an import comes after the process that hangs
COMMANDS = {
    "export": command("vm-export", vm="other"),
    "export of an unknown VM": command("vm-export", vm="none"),
    "save": command("vm-save", vm="mine"),
    "dump": command("vm-dump", vm="mine"),
    "restore": command("vm-restore", definition={"name": "mine"}),
    "import": IMPORT,
    "command without a file": command("vm-list"),
    "no command": NO_COMMAND,
    "nonsense": b"}",
}


@contextlib.contextmanager
def sender(d, f, *texts, out_of_band=False):
    """A user who opens the file and, when the block calls the function, sends each text on a connection of its own,
    with two copies of the file, and hangs up after the answers, which the function returns. The user keeps the file
    open until the block ends. out_of_band: send the files with a first, out-of-band byte."""
    r, w = os.pipe()

    def run(say):
        fd = os.open(f["file"], os.O_RDWR)
        clients = [Qmp(d.socket) for _ in texts]
        say("ready")
        os.read(r, 1)
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd, fd]))]
        for q, text in zip(clients, texts):
            if out_of_band:
                q.sock.sendmsg([text[:1]], fds, socket.MSG_OOB)
                q.send(text[1:])
            else:
                q.sock.sendmsg([text], fds)
        say([None if text in UNANSWERED else q.answer() for q, text in zip(clients, texts)])
        for q in clients:
            q.close()
        say("hung up")
        signal.pause()

    def send():
        os.write(w, b"x")
        answers = json.loads(lines.readline())
        assert json.loads(lines.readline()) == "hung up"
        return answers
    with as_user(run) as lines:
        assert json.loads(lines.readline()) == "ready"
        try:
            yield send
        finally:
            f.release()
            os.close(r)
            os.close(w)


def threads(d):
    return len(os.listdir(f"/proc/{d.proc.pid}/task"))


def serves(d):
    """Check that the daemon serves a new client and has no file of the file system open."""
    q = d.qmp()
    q.run("vm-list")
    q.close()
    return not [t for t in open_files(d.proc.pid) if t.startswith(str(d.tmp / "fuse"))]


def is_replaced(d):
    """Check that the next daemon starts although processes of this one hang."""
    d.stop(signal.SIGKILL)
    d.start()
    return serves(d)


@pytest.mark.parametrize("text", COMMANDS.values(), ids=COMMANDS)
def test_hung_close_of_a_clients_file_does_not_block_the_daemon(hostile, text):
    d, f = hostile
    d.cairn("grant", "admin", "--user", "nobody")
    assert serves(d)  # the list of VMs starts a thread, which stays
    before = threads(d)
    with sender(d, f, text) as send:
        f.hang(Op.FLUSH)
        send()
        until(lambda: Op.FLUSH in f.hanging())
        assert serves(d) and threads(d) <= before
        assert is_replaced(d)
        assert Op.FLUSH in f.hanging()


def test_file_with_an_out_of_band_byte_does_not_enter_the_daemon(hostile):
    d, f = hostile
    d.cairn("grant", "admin", "--user", "nobody")
    with sender(d, f, COMMANDS["export"], out_of_band=True) as send:
        f.hang(Op.FLUSH)
        [answer] = send()
        assert "return" in answer
        until(lambda: Op.FLUSH in f.hanging())
        assert serves(d) and is_replaced(d)


def test_file_system_that_does_not_describe_the_file_delays_only_its_user(hostile):
    d, f = hostile
    d.cairn("grant", "admin", "--user", "nobody")
    with sender(d, f, COMMANDS["export"]) as send:
        f.hang(Op.GETATTR)
        [answer] = send()
        assert Op.GETATTR in f.hanging() and serves(d)
        assert answer["error"]["class"] == "Timeout" and "a file system does not answer" in answer["error"]["desc"]
        assert is_replaced(d)


def test_files_of_strangers_keep_no_threads(hostile):
    d, f = hostile
    d.cairn("grant", "viewer", "--group", "4242")  # so that everybody may connect
    assert serves(d)
    before = threads(d)
    with sender(d, f, *[COMMANDS["export"]] * 20) as send:
        f.hang(Op.FLUSH)
        assert [a["error"]["class"] for a in send()] == ["PermissionDenied"] * 20
        assert serves(d) and threads(d) <= before
        assert is_replaced(d)


def test_files_of_a_user_that_no_command_takes_are_limited(hostile):
    """A process holds each file until its client disconnects."""
    d, f = hostile
    d.cairn("grant", "viewer", "mine", "--user", "nobody")

    def run(say):
        clients, errors = [], set()
        with open(f["file"], "r+b") as file:
            while len(clients) < 200:
                clients.append(Qmp(d.socket))
                socket.send_fds(clients[-1].sock, [COMMANDS["command without a file"]], [file.fileno()])
                errors.add(clients[-1].answer().get("error", {}).get("class"))
        say(sorted(map(str, errors)))
        signal.pause()
    with as_user(run) as lines:
        assert json.loads(lines.readline()) == ["Busy", "None"]
        assert len(processes(d)) <= 130
        d.cairn("export", "other", str(d.tmp / "archive.tar"))
    until(lambda: len(processes(d)) <= 1)  # the one that closes the sockets of refused clients stays


def processes(d):
    """Return the daemon's processes that hold files."""
    return set(d.all_children()) - set(d.children()) - {d.log_process()}


def store_file(d, f):
    """Store the file in VM mine, as root. Returns the client."""
    q = Qmp(d.cairn("qmp-path", "mine").stdout.rstrip("\n"))
    with open(f["file"], "r+b") as file:
        socket.send_fds(q.sock, [command("getfd", fdname="x")], [file.fileno()])
        assert "return" in q.answer()
    return q


def test_stopped_process_sends_no_file_later(hostile):
    """A user cannot stop the process that holds a file, so that a dump begins after the role is gone: the dump fails at
    once."""
    d, f = hostile
    q = store_file(d, f)
    [pid] = processes(d)
    os.kill(pid, signal.SIGSTOP)
    q.send(command("dump-guest-memory", paging=False, protocol="fd:x"))
    assert "cannot send to the VM's process" in q.answer()["error"]["desc"]
    until(lambda: not processes(d))
    assert q.run("query-dump")["status"] == "failed"


def has_stopped(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def client_with_file(d):
    """Yield a client whose file a process holds for its next command, and this process's pid."""
    until(lambda: not processes(d))
    q = d.qmp()
    with open(d.tmp / f"file{len(os.listdir(d.tmp))}", "x+b") as file:
        socket.send_fds(q.sock, [command("query-version")], [file.fileno()])
    q.answer()
    [pid] = processes(d)
    yield q, pid
    q.close()


@pytest.mark.parametrize("when", ["before it is asked", "while it is asked"])
@pytest.mark.parametrize("name", ["vm-save", "vm-dump"])
def test_job_whose_process_is_killed_ends(hostile, name, when):
    """A user may kill the process that holds the file. The VM runs on, and the next job can begin."""
    d, _ = hostile
    with client_with_file(d) as (q, pid):
        if when == "before it is asked":
            os.kill(pid, signal.SIGKILL)
            until(lambda: not processes(d))
            job = q.run(name, vm="mine")["job"]
        else:
            os.kill(pid, signal.SIGSTOP)
            until(lambda: has_stopped(pid))
            job = q.run(name, vm="mine")["job"]
            os.kill(pid, signal.SIGKILL)
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        [ended] = [j for j in q.jobs() if j["id"] == job]
        assert "cannot send to the VM's process" in ended["error"]
    assert d.cairn("domstate", "mine").stdout == "running\n"
    until(lambda: not processes(d))
    with client_with_file(d) as (q, _):
        job = q.run(name, vm="mine")["job"]
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        [ended] = [j for j in q.jobs() if j["id"] == job]
        assert "error" not in ended


def test_cancel_does_not_overtake_a_save(hostile):
    """The save comes from another process than the cancel. Meanwhile, the VM is still asked what it does."""
    d, _ = hostile
    d.define("long", cmdline="work-takes=600000")
    d.cairn("start", "long")
    with client_with_file(d) as (q, pid):
        os.kill(pid, signal.SIGSTOP)
        until(lambda: has_stopped(pid))
        job = q.run("vm-save", vm="long")["job"]
        q.run("job-cancel", id=job)
        assert "state" in q.run("vm-info", vm="long")
        os.kill(pid, signal.SIGCONT)
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        [ended] = [j for j in q.jobs() if j["id"] == job]
        # A machine that stands still for 10 s lets the save time out first.
        assert "cancelled" in ended["error"] or "cannot send" in ended["error"]
    assert d.cairn("domstate", "long").stdout == "running\n"


def test_process_ends_with_its_stored_file(hostile):
    d, f = hostile
    store_file(d, f).run("closefd", fdname="x")
    until(lambda: not processes(d))
    q = store_file(d, f)
    assert processes(d)
    q.close()
    until(lambda: not processes(d))
    q = store_file(d, f)  # stays connected
    d.cairn("destroy", "mine")
    d.cairn("undefine", "mine")
    until(lambda: not processes(d))


def test_dump_into_a_path_does_not_block_the_daemon(hostile):
    d, f = hostile
    q = Qmp(d.cairn("qmp-path", "mine").stdout.rstrip("\n"))
    f.hang(Op.FLUSH)
    q.send(command("dump-guest-memory", paging=False, protocol=f"file:{f['file']}", detach=True))
    until(lambda: Op.FLUSH in f.hanging())
    assert serves(d) and is_replaced(d)
