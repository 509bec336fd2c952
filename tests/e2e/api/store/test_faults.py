"""Faults of the host: docs/faults.md has the outcome of each."""

import contextlib
import os
import pathlib
import re
import resource
import signal

import pytest

from conftest import FAKE_VM, ROOT, Daemon, QmpError
from mountlib import tmpfs
from test_daemon import audit, pid_of


@pytest.mark.parametrize("page", ["faults.md", "threat-model.md"])
def test_each_test_of_the_page_exists(page):
    names = re.findall(r"`(tests/[\w/.]+)`[^|`]*?((?:`\w+`(?:, )?)+)", pathlib.Path(ROOT, "docs", page).read_text())
    assert len(names) > 20
    for path, tests in names:
        text = pathlib.Path(ROOT, path).read_text()
        for test in re.findall(r"\w+", tests):
            assert re.search(rf"\b{test}\b\(", text), (path, test)


def test_daemon_without_free_fds_answers_and_recovers(fake):
    fake.define("runs")
    fake.define("a")
    fake.cairn("start", "runs")
    q = fake.qmp()
    pid = fake.proc.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    with pytest.raises(QmpError, match="Too many open files"):
        for _ in range(used):  # there may be free numbers below the highest
            q.run("vm-start", vm="a")
            q.run("vm-destroy", vm="a")
    assert q.run("vm-info", vm="runs")["state"] == "running"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    q.run("vm-start", vm="a")
    assert fake.info("a")["state"] == fake.info("runs")["state"] == "running"


def test_full_state_folder_refuses_changes_and_recovers(tmp_path):
    with tmpfs(tmp_path / "disk", "4M") as disk, contextlib.closing(Daemon(disk, vm_program=FAKE_VM)) as d:
        d.define("runs")
        d.cairn("start", "runs")
        rest = disk / "rest"
        fd = os.open(rest, os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(fd, bytes(4096))
        os.close(fd)
        q = d.qmp()
        with pytest.raises(QmpError, match="NoSpace"):
            q.run("vm-define", definition={"name": "b", "memory": "32M", "boot": {"kernel": str(disk / "kernel")}})
        assert q.run("vm-info", vm="runs")["state"] == "running"
        assert [v["name"] for v in q.run("vm-list")["vms"]] == ["runs"]
        rest.unlink()
        d.define("c")
        d.stop()
        d.start()
        assert [v["name"] for v in d.qmp().run("vm-list")["vms"]] == ["c", "runs"]
        assert [x["vm"] for x in audit(d) if x["outcome"] == "ok"] == ["runs", "runs", "c"]


def test_stopped_vm_process_delays_nobody_else(fake):
    for n in ("stopped", "other"):
        fake.define(n)
        fake.cairn("start", n)
    pid = pid_of(fake, "stopped")
    os.kill(pid, signal.SIGSTOP)
    asks, q = fake.qmp(), fake.qmp()
    asks.send(b'{"execute":"vm-suspend","arguments":{"vm":"stopped"}}')
    q.run("vm-suspend", vm="other")
    q.run("vm-resume", vm="other")
    q.run("vm-destroy", vm="stopped")
    assert "error" in asks.answer()
    assert fake.info("stopped")["state"] == "shut off" and fake.info("other")["state"] == "running"
