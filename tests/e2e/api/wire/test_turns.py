"""Commands of several users take turns: one who sends many delays nobody else. The daemon's trace shows the order."""

import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import tempfile

import pytest

import guestlib
from conftest import BUILD, FAKE_VM, Daemon, Qmp, until
from otherslib import NOBODY, as_user

MANY = 500  # commands that fit into one read of the daemon


class Traced(Daemon):
    def command(self):
        return super().command() + ["--log-level", "trace"]


@pytest.fixture
def traced():
    """A daemon that traces commands, and that other users reach. Group 4242 may look at all VMs."""
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory(prefix="cairn-test-") as folder:
        os.chmod(folder, 0o711)
        shutil.copy(os.path.join(BUILD, "cairn-archive"), folder)
        d = Traced(pathlib.Path(folder), vm_program=FAKE_VM, env={"CAIRN_LIBEXEC": folder})
        d.cairn("grant", "viewer", "--group", "4242")
        yield d
        d.close()


def order(daemon, command="query-version"):
    """Return the users of these commands in the order in which they ran."""
    return [int(uid) for uid in re.findall(rf"command {command} uid=(\d+) .* begins", daemon.log.read_text())]


def burst(daemon, *users):
    """Connect each (uid, groups, commands), stop the daemon, send all commands in this order, and let it continue.
    Return the order in which they ran."""
    def client(n):
        def run(say):
            q = Qmp(daemon.socket)
            q.run("query-version")
            say("ready")
            os.read(go[n][0], 1)
            q.send(b'{"execute":"query-version"}' * users[n][2])
            say("sent")
            for _ in range(users[n][2]):
                q.answer()
            say("answered")
        return run
    go = [os.pipe() for _ in users]
    before = len(order(daemon))
    with as_user(client(0), users[0][0], users[0][1]) as first, as_user(client(1), users[1][0], users[1][1]) as second:
        clients = first, second
        assert [f.readline() for f in clients] == ['"ready"\n'] * 2
        daemon.proc.send_signal(signal.SIGSTOP)
        for (_, w), f in zip(go, clients):
            os.write(w, b"x")
            assert f.readline() == '"sent"\n'
        daemon.proc.send_signal(signal.SIGCONT)
        assert [f.readline() for f in clients] == ['"answered"\n'] * 2
    for pair in go:
        for fd in pair:
            os.close(fd)
    return order(daemon)[before + 2:]


def ready(clients):
    """Wait until some clients have something to read. Return them."""
    socks = select.select([q.sock for q in clients], [], [])[0]
    return [q for q in clients if q.sock in socks]


@pytest.mark.parametrize("first, second", [
    ((NOBODY, [4242], MANY), (0, [], 5)), ((NOBODY, [], MANY), (0, [], 5)), ((NOBODY, [], MANY), (4343, [4242], 5)),
    ((NOBODY, [4242], MANY), (4343, [4242], 5)), ((NOBODY, [4242], MANY), (4343, [], 5))],
    ids=["viewer-root", "stranger-root", "stranger-viewer", "viewer-viewer", "viewer-stranger"])
def test_few_commands_overtake_many(traced, first, second):
    ran = burst(traced, first, second)
    assert len(ran) == MANY + 5
    last = max(i for i, uid in enumerate(ran) if uid == second[0])
    assert last < MANY * 3 // 4, f"{last} commands ran before the last of the other user"


def test_unfinished_commands_of_one_user_are_bounded(traced):
    """The user's clients share 16 MiB. A client that exceeds them is told so; small commands go on."""
    root = traced.qmp()
    status = pathlib.Path(f"/proc/{traced.proc.pid}/status")

    def client(say):
        small, waiting = Qmp(traced.socket), []
        for _ in range(40):
            q = Qmp(traced.socket)
            with contextlib.suppress(OSError):  # refused already
                q.sock.sendall(b'{"execute":"' + b"x" * 1000000)
            waiting.append(q)
        while len(waiting) > 17:
            for q in ready(waiting):
                m = q.read()
                assert m["error"]["class"] == "Busy" and "16777216 bytes" in m["error"]["desc"]
                waiting.remove(q)
        small.run("query-version")
        say("answered")
    with as_user(client, groups=[4242]) as lines:
        assert lines.readline() == '"answered"\n'
        root.run("query-version")
    if not guestlib.SANITIZED:
        assert int(status.read_text().split("VmHWM:")[1].split()[0]) < 64 << 10


def test_client_that_reads_late_gets_all_answers(traced):
    """The client's commands wait until it reads, instead of filling the daemon's memory until it is disconnected."""
    def client(say):
        q = Qmp(traced.socket)
        q.send(b'{"execute":"query-qmp-schema"}' * 300)
        say("sent")
        os.read(go, 1)
        for _ in range(300):
            assert "return" in q.answer()
        say("answered")
    go, w = os.pipe()
    with as_user(client) as stranger:
        assert stranger.readline() == '"sent"\n'
        until(lambda: len(order(traced, "query-qmp-schema")) > 3)
        os.write(w, b"x")
        assert stranger.readline() == '"answered"\n'
    os.close(go)
    os.close(w)
