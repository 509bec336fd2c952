"""The daemon is killed before a call that writes, while a client changes a schedule and while a run is due, begins,
ends and is made up for, and the next daemon once more while it starts. Each schedule is as before or as after, and each
run is done once. CAIRN_KILL_STEP and CAIRN_KILL_SEED as in test_kill_points.py."""

import json
import os
import subprocess
import time

import pytest

from conftest import BUILD, Qmp, until
from test_kill_points import STEP, Killer, has_no_job, killer, real, vms_are_stored  # noqa: F401
from test_timetable import DAY, define, table

LONG = "CAIRN_KILL_STEP" in os.environ


def put(d, *entries):
    """Store the VM's schedules, with an empty history, while no daemon runs."""
    row = {"name": "s", "action": "start", "on": "yearly", "zone": "", "missed": "once", "paused": False, "uid": os.getuid(),
           "last_s": int(time.time())}
    table(d).write_text(json.dumps({"version": 1, "schedules": [{**row, **e} for e in entries], "history": []}))


def ask(d, command, **args):
    """Ask a daemon that may be killed meanwhile, so not by the command line."""
    q = Qmp(d.socket)
    try:
        return q.run(command, **args)
    finally:
        q.close()


def schedules(d):
    return ask(d, "query-schedules")["schedules"]


def history(d):
    return ask(d, "query-schedule-history", vm="vm1")["runs"]


def settled(d):
    return has_no_job(d) and vms_are_stored(d) and not any(r.get("under-way") for r in schedules(d))


# ---- changes by clients ----

@pytest.mark.seconds(600)
@pytest.mark.parametrize("verb, before, after", [
    ("schedule", [], [("s", False)]), ("schedule-remove", [("s", False)], []),
    ("schedule-pause", [("s", False)], [("s", True)]), ("schedule-resume", [("s", True)], [("s", False)])])
def test_change(killer, verb, before, after):  # noqa: F811
    d = killer.daemon
    define(d)
    args = ["schedule", "vm1", "start", "--on", "yearly", "--name", "s"] if verb == "schedule" else [verb, "vm1", "s"]

    def rows():
        return [(r["name"], bool(r.get("paused"))) for r in schedules(d)]

    def reset():
        d.stop()
        put(d, {"name": "other"}, *[{"name": name, "paused": paused} for name, paused in before])
        d.start()
        assert rows() == [("other", False), *before]

    def look(done):
        other, *there = rows()
        assert other == ("other", False) and there in (before, after) and (there == after or not done)
        assert not table(d).with_suffix(".json.damaged").exists() and history(d) == []
    killer.sweep(reset, lambda: d.cairn(*args, ok=None).returncode == 0, look, lambda: settled(d), step=min(STEP, 5))


# ---- runs ----

class Runs:
    """A VM with one schedule, of which a new daemon has n runs to do."""

    def __init__(self, d, action, n=1, **keys):
        self.d, self.n = d, n
        self.entry = {"action": action, "missed": "all", **keys}
        self.dues, self.run = [], 0

    def due(self, *verbs):
        """Bring the VM into the state before the runs, and stop the daemon."""
        self.d.cairn("destroy", "vm1", ok=None)
        for verb in verbs:
            self.d.cairn(verb, "vm1")
        until(lambda: settled(self.d))
        self.d.stop()
        self.run = self.d.kept("vm1").get("run", 0)
        last = int(time.time()) // 60 * 60 - 300
        self.dues = [last - i * DAY for i in reversed(range(self.n))]
        put(self.d, {**self.entry, "on": time.strftime("%H:%M UTC", time.gmtime(last)), "last_s": self.dues[0] - 1})

    def begin(self):
        try:
            self.d.start()
        except AssertionError:
            pass  # it was killed before it listened

    def are_over(self):
        return settled(self.d) and len(history(self.d)) >= self.n

    def look(self):
        runs = [(r["due"] // 10**9, r["outcome"], r.get("detail")) for r in history(self.d)]
        assert runs == [(due, "done", None) for due in self.dues]
        row, = schedules(self.d)
        assert row["next-run"] == (self.dues[-1] + DAY) * 10**9 and not table(self.d).with_suffix(".json.damaged").exists()

    def snapshots(self):
        return sorted(self.d.cairn("snapshot-list", "vm1", "--name").stdout.split())

    def names(self):
        return [time.strftime("s-%Y-%m-%dT%H:%M:%SZ", time.gmtime(due)) for due in self.dues]


STATES = {"start": ([], "running", 1), "shutdown": (["start"], "shutoff", 0), "reboot": (["start"], "running", 1),
          "suspend": (["start"], "paused", 0), "resume": (["start", "suspend"], "running", 0), "save": (["start"], "saved", 0)}
IN_CHECK = ("start", "save")


@pytest.mark.seconds(900)
@pytest.mark.parametrize("action", STATES)
def test_run(killer, action):  # noqa: F811
    if not LONG and action not in IN_CHECK:
        pytest.skip("part of make check-long: CAIRN_KILL_STEP is not set")
    d, (verbs, after, starts) = killer.daemon, STATES[action]
    define(d)
    runs = Runs(d, action)

    def look(done):
        del done
        runs.look()
        # A start whose guest has not run, because the daemon ended, has a number, too; the next daemon begins another.
        until(lambda: d.info("vm1")["state"] == after and starts <= d.kept("vm1")["run"] - runs.run <= 3 * starts)
    killer.sweep(lambda: runs.due(*verbs), runs.begin, look, runs.are_over)


@pytest.mark.seconds(900)
@pytest.mark.parametrize("n", [1, 3])
def test_snapshots(killer, n):  # noqa: F811
    d = killer.daemon
    define(d)
    runs = Runs(d, "snapshot", n)

    def look(done):
        del done
        runs.look()
        assert runs.snapshots() == runs.names()
        for name in runs.names():
            d.cairn("snapshot-delete", "vm1", name)
    killer.sweep(lambda: runs.due("start"), runs.begin, look, runs.are_over)


def look_at_archives(runs, done):
    del done
    runs.look()
    d, to = runs.d, runs.d.tmp / "to"
    assert sorted(p.name for p in to.iterdir()) == [f"vm1-{name}.tar.zst" for name in runs.names()] and runs.snapshots() == []
    for path in to.iterdir():
        d.cairn("import", "--dry-run", str(path))
        path.unlink()


def image(d):
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", d.tmp / "a.qcow2", "16M"], check=True, stdout=subprocess.DEVNULL)
    (d.tmp / "to").mkdir()
    return [{"path": "a.qcow2", "format": "qcow2"}]


@pytest.fixture
def writer(tmp_path):
    k = Killer(tmp_path)
    yield k
    k.point.unlink(missing_ok=True)
    k.daemon.close()


@pytest.mark.seconds(900)
def test_export_of_vm_that_is_off(writer):
    writer.daemon.define("vm1", disks=image(writer.daemon))
    runs = Runs(writer.daemon, "export", folder=str(writer.daemon.tmp / "to"))
    writer.sweep(runs.due, runs.begin, lambda done: look_at_archives(runs, done), runs.are_over)


@pytest.mark.seconds(900)
def test_export_of_running_vm(real, guest):  # noqa: F811
    if not LONG:
        pytest.skip("part of make check-long: CAIRN_KILL_STEP is not set")
    d = real.daemon
    d.define("vm1", disks=image(d), boot={"kernel": guest("idle.elf")})
    runs = Runs(d, "export", folder=str(d.tmp / "to"))
    real.sweep(lambda: runs.due("start"), runs.begin, lambda done: look_at_archives(runs, done), runs.are_over)
