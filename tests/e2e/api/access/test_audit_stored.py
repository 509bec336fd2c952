"""A call is answered when its audit line is on stable storage; with --audit-required, no call runs that cannot be
recorded."""

import contextlib
import errno
import json
import os
import signal

import pytest

from conftest import BUILD, FAKE_VM, Daemon, QmpError, until
from daemonlib import audit
from mountlib import tmpfs
from test_slow_disk import PRELOAD

REFUSED = r"vm-\w+ is refused: the audit log cannot be written \({}\), and cairnd runs with --audit-required. Next: make room"


class Requiring(Daemon):
    options = ["--audit-required"]

    def command(self):
        return super().command() + self.options


class Plain(Requiring):
    options = []


@contextlib.contextmanager
def preloaded(tmp_path, kind, **env):
    """A daemon whose syncs of audit.log are held, counted, or fail."""
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    assert os.path.exists(PRELOAD), "slow_sync.so is not built: make helpers"
    with contextlib.closing(kind(tmp_path, FAKE_VM, env={"LD_PRELOAD": PRELOAD, "SLOW_SYNC_OF": "/audit.log", **env})) as d:
        yield d


def log_lines(d):
    return [json.loads(x) for x in (d.state / "audit.log").read_text().splitlines()[1:]]


def ask(q, command, **args):
    q.send(json.dumps({"execute": command, "arguments": args}).encode())


def silent(q):
    """Return whether no answer has come."""
    q.sock.setblocking(False)
    try:
        with pytest.raises(BlockingIOError):
            q.sock.recv(1)
    finally:
        q.sock.settimeout(50)
    return True


def test_answer_waits_for_stored_line_and_queries_do_not(tmp_path):
    """All calls that come during a sync share the next sync."""
    go, count, n = tmp_path / "go", tmp_path / "count", 20
    with preloaded(tmp_path, Plain, SLOW_SYNC_UNTIL=str(go), SLOW_SYNC_COUNT=str(count)) as d:
        first, others, q = d.qmp(), [d.qmp() for _ in range(n)], d.qmp()
        ask(first, "vm-start", vm="first")
        until(count.exists)  # its sync runs
        for other in others:
            ask(other, "vm-start", vm="other")
        until(lambda: len(log_lines(d)) == 1 + n)
        assert q.run("vm-list")["vms"] == [] and len(q.run("query-audit")["lines"]) == 1 + n
        assert all(silent(x) for x in [first, *others])
        go.touch()
        assert all(x.answer()["error"]["class"] == "NotFound" for x in [first, *others])
        assert len(count.read_text().split()) == 2


def test_answer_with_fd_waits_for_stored_line(tmp_path):
    hold = tmp_path / "go"
    hold.touch()
    with preloaded(tmp_path, Plain, SLOW_SYNC_UNTIL=str(hold)) as d:
        d.define("a")
        d.cairn("start", "a")
        hold.unlink()
        q = d.qmp()
        ask(q, "vm-console", vm="a")
        until(lambda: log_lines(d)[-1]["command"] == "vm-console")
        assert silent(q)
        d.qmp().run("query-version")
        hold.touch()
        assert "return" in q.answer() and len(q.fds) == 1
        os.close(q.fds.pop())


def test_later_events_do_not_overtake_the_answer(tmp_path):
    hold = tmp_path / "go"
    hold.touch()
    with preloaded(tmp_path, Plain, SLOW_SYNC_UNTIL=str(hold)) as d:
        d.define("a")
        hold.unlink()
        q, other = d.qmp(), d.qmp()
        ask(q, "vm-start", vm="a")
        until(lambda: log_lines(d)[-1]["command"] == "vm-start")
        ask(other, "vm-destroy", vm="a")
        client = d.qmp()
        until(lambda: client.run("vm-info", vm="a")["state"] == "shutoff")
        hold.touch()
        assert "return" in q.answer()
        assert "shutoff" not in [e["data"].get("state") for e in q.events]
        q.event("VM_STATE_CHANGE", vm="a", state="shutoff")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_daemon_loses_no_line(tmp_path, sig):
    """The daemon answers the client even after SIGTERM."""
    go, count = tmp_path / "go", tmp_path / "count"
    with preloaded(tmp_path, Plain, SLOW_SYNC_UNTIL=str(go), SLOW_SYNC_COUNT=str(count)) as d:
        q = d.qmp()
        ask(q, "vm-start", vm="none")
        until(count.exists)
        if sig == signal.SIGKILL:
            d.proc.send_signal(sig)
            with pytest.raises(EOFError):
                q.answer()
            go.touch()
        else:  # the signal and the end of the sync come together
            d.proc.send_signal(signal.SIGSTOP)
            go.touch()
            d.proc.send_signal(sig)
            d.proc.send_signal(signal.SIGCONT)
            assert "error" in q.answer()
        d.proc.wait(50)
        d.start()
        assert [x["vm"] for x in audit(d)] == ["none"]


def test_failed_sync_is_counted_and_fails_no_command(tmp_path):
    fails = tmp_path / "fails"
    with preloaded(tmp_path, Plain, SLOW_SYNC_FAIL=str(errno.EIO), SLOW_SYNC_FAIL_IF=str(fails)) as d:
        d.define("a")
        fails.touch()
        d.define("b")
        d.cairn("start", "b")
        assert "audit.log cannot be written: Input/output error" in d.log.read_text()
        fails.unlink()
        until(lambda: "audit.log can be written again" in d.log.read_text())
        d.define("c")
        counts = [x for x in log_lines(d) if "left-out" in x]
        assert counts[-1]["left-out"] == 2 and counts[-1]["outcome"] == "IOError" and "uid" not in counts[-1]
        assert log_lines(d)[-1]["vm"] == "c"


def test_required_audit_refuses_changes_after_failed_sync(tmp_path):
    """The first call that cannot be recorded has run already: its client learns that."""
    fails = tmp_path / "fails"
    with preloaded(tmp_path, Requiring, SLOW_SYNC_FAIL=str(errno.EIO), SLOW_SYNC_FAIL_IF=str(fails)) as d:
        d.define("a")
        q = d.qmp()
        q.run("vm-start", vm="a")
        fails.touch()
        with pytest.raises(QmpError, match=r"IOError: vm-console was carried out, but the audit log could not record it \(Input/output"):
            q.run("vm-console", vm="a")
        assert not q.fds
        with pytest.raises(QmpError, match=REFUSED.format("Input/output error")):
            q.run("vm-destroy", vm="a")
        assert q.run("vm-info", vm="a")["state"] == "running"
        fails.unlink()
        until(lambda: "audit.log can be written again" in d.log.read_text())
        q.run("vm-destroy", vm="a")
        assert [x["outcome"] for x in audit(d) if "left-out" in x][-1:] == ["IOError"]


def fill(path):
    with open(path, "wb", buffering=0) as f, pytest.raises(OSError, match="No space left"):
        while True:
            f.write(bytes(4096))


def test_required_audit_on_full_disk(tmp_path):
    """A daemon that started before the disk was full still records calls. A daemon that starts on the full disk refuses
    changes until there is room."""
    with tmpfs(tmp_path / "disk", "64M") as disk, contextlib.closing(Requiring(disk, FAKE_VM)) as d:
        d.define("a")
        fill(disk / "rest")
        q = d.qmp()
        for _ in range(50):
            with pytest.raises(QmpError, match="NotFound"):
                q.run("vm-start", vm="x" * 250)
        assert len(log_lines(d)) == 51
        d.stop()
        (d.state / "audit.log").rename(d.state / "audit.log.1")
        fill(disk / "more")
        d.start()
        q = d.qmp()
        for _ in range(2):
            with pytest.raises(QmpError, match="NoSpace: " + REFUSED.format("No space left on device")):
                q.run("vm-start", vm="a")
        assert q.run("vm-info", vm="a")["state"] == "shutoff" and q.run("query-audit")["lines"]
        (disk / "rest").unlink()
        until(lambda: "audit.log can be written again" in d.log.read_text())
        q.run("vm-start", vm="a")
        assert log_lines(d)[-1]["command"] == "vm-start"
        assert [x["left-out"] for x in log_lines(d) if "left-out" in x] == [2]


@pytest.mark.parametrize("kind", [Plain, Requiring])
def test_removed_log_begins_anew(tmp_path, kind):
    with contextlib.closing(kind(tmp_path, FAKE_VM)) as d:
        d.define("a")
        (d.state / "audit.log").unlink()
        d.define("b")
        assert [x["vm"] for x in audit(d)] == ["b"]
        (d.state / "audit.log").unlink()
        (d.state / "audit.log").mkdir()  # no file can be opened there
        q = d.qmp()
        if kind is Requiring:
            with pytest.raises(QmpError, match=REFUSED.format("Is a directory")):
                q.run("vm-start", vm="a")
        else:
            q.run("vm-start", vm="a")
        assert q.run("vm-info", vm="a")["state"] == ("shutoff" if kind is Requiring else "running")
        (d.state / "audit.log").rmdir()
        until(lambda: "audit.log can be written again" in d.log.read_text())
        q.run("vm-start", vm="b")
        assert [x.get("left-out") for x in log_lines(d)] == [1, None]
