"""Schedules by command line and socket, over restarts and kills of the daemon; with fake_vm. A calendar names a second
that comes soon, or a stopped daemon's file is changed so that a run is due, so no test waits for a clock."""

import json
import os
import subprocess
import time

import pytest

from conftest import BUILD, QmpError, library, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from otherslib import NOBODY

MINUTE = 60
DAY = 24 * 3600


def define(fake, name="vm1", cmdline=None):
    (fake.tmp / f"{name}.raw").write_bytes(bytes(1 << 20))
    fake.define(name, cmdline=cmdline, disks=[{"path": f"{name}.raw", "format": "raw"}])


@pytest.fixture
def vm(fake):
    define(fake)
    return fake


def schedules(fake, *vm):
    return json.loads(fake.cairn("schedule-list", *vm, "--format", "json").stdout)


def history(fake, name="vm1"):
    return json.loads(fake.cairn("schedule-history", name, "--format", "json").stdout)


def soon(seconds=4):
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + 1 + seconds))


def far():
    """Return a calendar with a run each hour, the next one in half an hour, so that none comes during a test."""
    return time.strftime("*:%M", time.localtime(time.time() + 1800))


def table(fake, name="vm1"):
    return fake.state / "vms" / name / "timetable.json"


def change(fake, sig=15, **keys):
    """Stop the daemon, change the first schedule in its file, and start the daemon."""
    fake.stop(sig)
    o = json.loads(table(fake).read_text())
    o["schedules"][0].update(keys)
    table(fake).write_text(json.dumps(o))
    fake.start()


def outcome(fake, n=1):
    until(lambda: len(history(fake)) >= n)
    runs = history(fake)
    assert len(runs) == n, runs
    return runs[-1]["outcome"], runs[-1].get("detail")


# ---- the table ----

def test_add_list_pause_remove(vm):
    vm.env["TZ"] = "UTC"
    vm.stop()
    vm.start()
    out = vm.cairn("schedule", "vm1", "start", "--on", "Mon..Fri *-*-* 02:30", "--zone", "Europe/Berlin", "--name", "workdays").stdout
    assert out.startswith("Schedule 'workdays' of domain 'vm1' added; it runs next at 20")
    vm.cairn("schedule", "vm1", "shutdown", "--on", "daily")
    vm.cairn("schedule", "vm1", "shutdown", "--on", "22:00 UTC", "--missed", "once")
    rows = schedules(vm, "vm1")
    assert [(r["name"], r["action"], r["on"], r["missed"], r.get("zone")) for r in rows] == [
        ("shutdown", "shutdown", "daily", "skip", None), ("shutdown-2", "shutdown", "22:00 UTC", "once", "UTC"),
        ("workdays", "start", "Mon..Fri *-*-* 02:30", "skip", "Europe/Berlin")]
    assert all(time.time() < r["next-run"] / 1e9 < time.time() + 4 * DAY for r in rows)
    assert rows[1]["next-run"] // 10**9 % DAY == 22 * 3600
    vm.cairn("schedule-pause", "vm1", "workdays")
    assert schedules(vm)[2]["paused"] and "next-run" not in schedules(vm)[2]
    vm.stop(9)
    vm.start()
    assert schedules(vm)[2]["paused"] and schedules(vm)[:2] == rows[:2]
    vm.cairn("schedule-resume", "vm1", "workdays")
    assert schedules(vm) == rows
    vm.cairn("schedule-remove", "vm1", "shutdown")
    assert [r["name"] for r in schedules(vm)] == ["shutdown-2", "workdays"]
    lines = vm.cairn("schedule-list").stdout.splitlines()
    assert lines[0].split() == ["Domain", "Name", "Action", "On", "Next", "Last", "Outcome"] and "Mon..Fri *-*-* 02:30" in lines[3]
    assert vm.cairn("schedule-remove", "vm1", "shutdown", ok=3).stderr == (
        "error: Failed to remove schedule 'shutdown' of domain 'vm1'\n"
        "error: VM 'vm1' has no schedule 'shutdown'. Next: cairn schedule-list vm1\n")


def test_list_mentions_snapshot_schedules(vm):
    assert vm.cairn("schedule-list").stderr == ""
    vm.cairn("snapshot-schedule", "vm1", "--every", "1d")
    assert vm.cairn("schedule-list").stderr == "Not listed: snapshot schedules; see cairn snapshot-schedule\n"
    assert vm.cairn("schedule-list", "vm1").stderr == "Not listed: snapshot schedules; see cairn snapshot-schedule vm1\n"
    assert vm.cairn("schedule-list", "--format", "json").stderr == ""
    define(vm, "vm2")
    assert vm.cairn("schedule-list", "vm2").stderr == ""


@pytest.mark.parametrize("args, says", [
    (["--on", "soon"], '"soon" is no list of weekdays; give for example'),
    (["--on", "25:00"], 'hour "25" is out of range 0 to 23; give for example'),
    (["--on", "*:*:*"], "more than once a minute"),
    (["--on", "2001-01-01"], "never comes again"),
    (["--on", "2026-02-30"], "never comes again"),
    (["--on", "daily No/Where"], "no time zone 'No/Where'"),
    (["--on", "daily", "--zone", "../../etc/passwd"], "no time zone"),
    (["--on", "daily UTC", "--zone", "UTC"], "already names the zone"),
    (["--on", "daily", "--name", "a b"], "is no name of a schedule"),
    (["--on", "daily", "--missed", "twice"], "skip"),
])
def test_nonsense_is_refused_in_one_sentence(vm, args, says):
    r = vm.cairn("schedule", "vm1", "start", *args, ok=2)
    assert says in r.stderr and r.stderr.count("\n") == 2
    assert schedules(vm) == [] and not table(vm).exists()


def test_unknown_action_and_taken_name(vm):
    assert "snapshot" in vm.cairn("schedule", "vm1", "explode", "--on", "daily", ok=2).stderr
    vm.cairn("schedule", "vm1", "start", ok=2)
    vm.cairn("schedule", "vm1", "start", "--on", "daily", "--name", "a")
    assert "has a schedule 'a'" in vm.cairn("schedule", "vm1", "start", "--on", "daily", "--name", "a", ok=False).stderr
    vm.cairn("schedule", "vm2", "start", "--on", "daily", ok=3)


def test_number_of_schedules_is_limited(vm):
    q = vm.qmp()
    for i in range(32):
        q.run("schedule-add", vm="vm1", action="start", on="daily")
    with pytest.raises(QmpError, match="32 schedules, which is the most"):
        q.run("schedule-add", vm="vm1", action="start", on="daily")
    assert len(schedules(vm)) == 32


def test_rename_keeps_clone_has_none_undefine_removes(vm):
    vm.cairn("schedule", "vm1", "start", "--on", "daily")
    vm.cairn("domrename", "vm1", "vm3")
    assert [r["vm"] for r in schedules(vm)] == ["vm3"]
    vm.cairn("clone", "vm3", "vm4")
    assert schedules(vm, "vm4") == []
    vm.stop()
    vm.start()
    assert [r["vm"] for r in schedules(vm)] == ["vm3"]
    vm.cairn("undefine", "vm3")
    define(vm, "vm3")
    assert schedules(vm) == []


def test_damaged_file_is_quarantined(vm):
    vm.cairn("schedule", "vm1", "start", "--on", "daily")
    vm.stop()
    table(vm).write_text('{"version":1,"schedules":[{"na')
    vm.start()
    assert schedules(vm) == [] and table(vm).with_suffix(".json.damaged").exists()
    vm.cairn("schedule", "vm1", "start", "--on", "daily")
    vm.cairn("schedule", "vm1", "save", "--on", "daily")
    change(vm, on="nonsense")
    assert [r["name"] for r in schedules(vm)] == ["save"] and "1 of its schedules are invalid" in vm.log.read_text()


# ---- runs ----

def test_run_at_its_time(vm):
    q = vm.qmp()
    vm.cairn("schedule", "vm1", "start", "--on", soon(), "--name", "now")
    e = q.event("SCHEDULE_RUN")["data"]
    assert (e["vm"], e["schedule"], e["action"], e["outcome"]) == ("vm1", "now", "start", "done")
    assert vm.cairn("domstate", "vm1").stdout == "running\n"
    assert outcome(vm) == ("done", None)
    row, = schedules(vm)
    assert row["outcome"] == "done" and "next-run" not in row and row["last-run"] >= e["due"] == history(vm)[0]["due"]
    line = [a for a in q.run("query-audit")["lines"] if a["command"] == "vm-start"][-1]
    assert line["schedule"] == "now" and line["uid"] == row["uid"] and line["vm"] == "vm1" and line["outcome"] == "ok"


@pytest.mark.parametrize("action, before, after", [
    ("start", "shutoff", "running"), ("shutdown", "running", "shutoff"), ("suspend", "running", "paused"),
    ("resume", "paused", "running"), ("save", "running", "saved"), ("reboot", "running", "running"), ("snapshot", "running", "running")])
def test_missed_run_is_made_up_for(vm, action, before, after):
    if before != "shutoff":
        vm.cairn("start", "vm1")
    if before == "paused":
        vm.cairn("suspend", "vm1")
    vm.cairn("schedule", "vm1", action, "--on", far(), "--missed", "once")
    change(vm, last_s=int(time.time()) - 3 * DAY)
    assert outcome(vm) == ("done", None)
    until(lambda: vm.info("vm1")["state"] == after and (action != "reboot" or vm.info("vm1")["reason"] == "booted"))
    if action == "snapshot":
        names = vm.cairn("snapshot-list", "vm1", "--name").stdout.split()
        due = history(vm)[0]["due"] // 10**9
        assert names == [time.strftime("snapshot-%Y-%m-%dT%H:%M:%SZ", time.gmtime(due))]
    assert json.loads(vm.cairn("jobs", "--format", "json").stdout) == []


def test_state_that_does_not_fit_is_skipped(vm):
    vm.cairn("schedule", "vm1", "suspend", "--on", far(), "--missed", "once")
    change(vm, last_s=int(time.time()) - DAY)
    what, why = outcome(vm)
    assert what == "skipped" and "shut off" in why


def test_missed_runs_are_skipped_by_default(vm):
    vm.cairn("schedule", "vm1", "start", "--on", "*-*-* 00:00 UTC")
    change(vm, last_s=int(time.time()) - 30 * DAY)
    what, why = outcome(vm)
    midnight = time.time() // DAY * DAY
    if time.time() - midnight > 2 * MINUTE:
        assert what == "missed" and history(vm)[0]["due"] == midnight * 10**9
        assert vm.info("vm1")["state"] == "shutoff" and schedules(vm)[0]["next-run"] == (midnight + DAY) * 10**9


def test_all_missed_runs_are_bounded(vm):
    vm.cairn("start", "vm1")
    vm.cairn("schedule", "vm1", "snapshot", "--on", far(), "--missed", "all", "--name", "s")
    change(vm, last_s=int(time.time()) - 30 * DAY)
    until(lambda: len(history(vm)) == 11)
    assert [r["outcome"] for r in history(vm)] == ["missed"] + 10 * ["done"]
    dues = [r["due"] for r in history(vm)]
    assert all(b - a == 3600 * 10**9 for a, b in zip(dues, dues[1:]))
    assert len(vm.cairn("snapshot-list", "vm1", "--name").stdout.split()) == 10


def test_paused_schedule_does_not_run(vm):
    vm.cairn("schedule", "vm1", "start", "--on", far(), "--missed", "once")
    vm.cairn("schedule-pause", "vm1", "start")
    change(vm, last_s=int(time.time()) - DAY)
    vm.cairn("schedule-resume", "vm1", "start")
    time.sleep(0.3)
    assert history(vm) == [] and vm.info("vm1")["state"] == "shutoff"


def test_run_waits_for_busy_vm(fake):
    done = fake.tmp / "done"
    define(fake, cmdline=f"work-until={done}")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    q.run("snapshot-create", vm="vm1", name="long")
    fake.cairn("schedule", "vm1", "save", "--on", soon())
    until(lambda: schedules(fake)[0].get("under-way"))
    time.sleep(0.2)
    assert history(fake) == []
    done.touch()
    assert outcome(fake) == ("done", None)
    assert fake.info("vm1")["state"] == "saved"


def test_history_is_bounded(vm):
    vm.cairn("schedule", "vm1", "start", "--on", "daily")
    vm.stop()
    o = json.loads(table(vm).read_text())
    run = {"schedule": "start", "action": "start", "due": 10**9, "time": 10**9, "outcome": "done"}
    o["history"] = [{**run, "due": i * 10**9} for i in range(100)]
    table(vm).write_text(json.dumps(o))
    vm.start()
    assert [r["due"] // 10**9 for r in history(vm)] == list(range(36, 100))


@pytest.mark.parametrize("ahead", [1000 * DAY, 7200])
def test_clock_that_went_back_begins_anew(vm, ahead):
    vm.cairn("schedule", "vm1", "start", "--on", "hourly")
    change(vm, last_s=int(time.time()) + ahead)
    until(lambda: schedules(vm)[0]["next-run"] / 1e9 < time.time() + 3600)
    assert "the clock was set back" in vm.log.read_text()


# ---- exports ----

@pytest.fixture
def archives(daemon, tmp_path):
    """A daemon with real VM processes, and a VM that is off."""
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", tmp_path / "a.qcow2", "16M"], check=True, stdout=subprocess.DEVNULL)
    daemon.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}])
    (tmp_path / "to").mkdir()
    return daemon


def exported(d, due):
    assert sorted(p.name for p in (d.tmp / "to").iterdir()) == [time.strftime("vm1-x-%Y-%m-%dT%H:%M:%SZ.tar.zst", time.gmtime(due))]
    d.cairn("import", str(next((d.tmp / "to").iterdir())), "--name", "again", "--folder", str(d.tmp))
    d.cairn("undefine", "again", "--remove-all-storage", "--snapshots-metadata")
    return True


@pytest.mark.parametrize("preload", ["", library("no_replace")], ids=["", "nfs"])
def test_export_of_vm_that_is_off(archives, preload):
    archives.env["LD_PRELOAD"] = os.path.abspath(preload) if preload else ""
    archives.cairn("schedule", "vm1", "export", "--on", far(), "--missed", "once", "--name", "x", "--to", str(archives.tmp / "to"))
    change(archives, last_s=int(time.time()) - DAY)
    assert outcome(archives) == ("done", None)
    assert exported(archives, history(archives)[0]["due"] // 10**9)
    # A second archive of the same time replaces none.
    due = history(archives)[0]["due"] // 10**9
    change(archives, last_s=due - 1)
    what, why = outcome(archives, 2)
    assert what == "failed" and "exists in" in why


@pytest.mark.parametrize("stage", ["begun", "snapshot", "archive", "all"])
def test_export_of_a_killed_daemon_is_done_once(archives, stage):
    """The daemon was killed before the snapshot, after it, while it wrote, or after all but the snapshot's end."""
    archives.cairn("schedule", "vm1", "export", "--on", "yearly", "--name", "x", "--to", str(archives.tmp / "to"))
    due = int(time.time()) - 5
    name = time.strftime("vm1-x-%Y-%m-%dT%H:%M:%SZ.tar.zst", time.gmtime(due))
    if stage != "begun":
        archives.cairn("snapshot-create-as", "vm1", name[4:-8])
    if stage == "archive":
        (archives.tmp / "to" / f".{archives.info('vm1')['uuid']}-{name[4:-8]}.part").write_bytes(b"half")
    if stage == "all":
        archives.cairn("export", "vm1", str(archives.tmp / "to" / name))
    change(archives, 9, last_s=due, begun_s=due, begun_run=0)
    assert outcome(archives) == ("done", None)
    assert exported(archives, due)
    assert archives.cairn("snapshot-list", "vm1", "--name").stdout == ""


def test_exports_to_the_same_name_do_not_touch_each_others_file(archives):
    """VM vm1 with the schedule x-y, and VM vm1-x with the schedule y."""
    to, due = archives.tmp / "to", int(time.time()) - 5
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", archives.tmp / "b.qcow2", "16M"], check=True, stdout=subprocess.DEVNULL)
    archives.define("vm1-x", disks=[{"path": "b.qcow2", "format": "qcow2"}])
    for name, schedule in (("vm1", "x-y"), ("vm1-x", "y")):
        archives.cairn("schedule", name, "export", "--on", "yearly", "--name", schedule, "--to", str(to))
    archives.stop()
    for name in ("vm1", "vm1-x"):
        o = json.loads(table(archives, name).read_text())
        o["schedules"][0].update(last_s=due, begun_s=due, begun_run=0)
        table(archives, name).write_text(json.dumps(o))
    archives.start()
    until(lambda: len(history(archives)) == len(history(archives, "vm1-x")) == 1)
    runs = sorted(((r["outcome"], r.get("detail", "")) for name in ("vm1", "vm1-x") for r in history(archives, name)), reverse=True)
    assert runs[0][0] == "failed" and "exists" in runs[0][1] and runs[1] == ("done", "")
    archive, = to.iterdir()
    archives.cairn("import", archive, "--name", "again", "--folder", archives.tmp)


def test_schedule_is_not_removed_while_it_exports(fake):
    """Nobody would complete the archive's file, or delete the snapshot."""
    go = fake.tmp / "go"
    define(fake, cmdline=f"work-until={go}")
    fake.cairn("start", "vm1")
    fake.cairn("schedule", "vm1", "export", "--on", soon(1), "--name", "x", "--to", str(fake.tmp))
    until(lambda: fake.qmp().run("query-jobs"))
    says = fake.cairn("schedule-remove", "vm1", "x", ok=6).stderr
    while "wait for its end, or" not in says:  # the schedule does not know its job yet
        assert "schedule x of VM 'vm1' exports the VM just now; wait for its end\n" in says
        says = fake.cairn("schedule-remove", "vm1", "x", ok=6).stderr
    assert "schedule x of VM 'vm1' exports the VM just now; wait for its end, or cancel it first: cairn job-cancel " in says
    fake.cairn("job-cancel", says.split()[-1])
    go.touch()
    until(lambda: history(fake))
    fake.cairn("schedule-remove", "vm1", "x")


def test_export_of_running_vm(archives, guest, kvm):
    archives.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}], boot={"kernel": guest("idle.elf")})
    archives.cairn("start", "vm1")
    archives.cairn("schedule", "vm1", "export", "--on", soon(), "--name", "x", "--to", str(archives.tmp / "to"))
    assert outcome(archives) == ("done", None)
    assert archives.cairn("snapshot-list", "vm1", "--name").stdout == "" and archives.info("vm1")["state"] == "running"
    assert exported(archives, history(archives)[0]["due"] // 10**9)
    assert json.loads(archives.cairn("jobs", "--format", "json").stdout) == []


def test_export_that_fails_leaves_nothing(archives):
    archives.cairn("schedule", "vm1", "export", "--on", far(), "--missed", "once", "--name", "x", "--to", str(archives.tmp / "to"))
    (archives.tmp / "a.qcow2").rename(archives.tmp / "b.qcow2")
    change(archives, last_s=int(time.time()) - DAY)
    what, why = outcome(archives)
    assert what == "failed" and "a.qcow2" in why
    assert list((archives.tmp / "to").iterdir()) == []
    (archives.tmp / "to").rmdir()
    change(archives, last_s=int(time.time()) - DAY)
    what, why = outcome(archives, 2)
    assert what == "failed" and "/to: No such file or directory" in why


def test_export_needs_names_that_fit_into_its_archives_name(vm):
    """The name of an archive has 30 bytes more, and a file's name at most 255."""
    vm.cairn("domrename", "vm1", "v" * 219)
    ask = ["export", "--on", "daily", "--to", str(vm.tmp)]
    says = vm.cairn("schedule", "v" * 219, *ask, "--name", "longer1", ok=2).stderr
    assert "the names of the VM and of its schedule longer1 have 226 bytes together, but may have 225, because" in says
    vm.cairn("schedule", "v" * 219, *ask, "--name", "longer")
    assert "have 226 bytes together" in vm.cairn("domrename", "v" * 219, "v" * 220, ok=2).stderr
    vm.cairn("domrename", "v" * 219, "w" * 219)
    vm.cairn("schedule-remove", "w" * 219, "longer")
    vm.cairn("domrename", "w" * 219, "v" * 220)
    vm.cairn("schedule", "v" * 220, "start", "--on", "daily")


def test_export_needs_a_folder(vm):
    assert "folder: is missing" in vm.cairn("schedule", "vm1", "export", "--on", "daily", ok=2).stderr
    assert "folder: is only for export" in vm.cairn("schedule", "vm1", "save", "--on", "daily", "--to", str(vm.tmp), ok=2).stderr
    assert "No such file" in vm.cairn("schedule", "vm1", "export", "--on", "daily", "--to", "/no/where", ok=2).stderr
    if not os.geteuid():
        (vm.tmp / "closed").mkdir(0o500)
        r = subprocess.run(["setpriv", "--bounding-set=-dac_override,-dac_read_search", os.path.join(BUILD, "cairn"),
                            "schedule", "vm1", "export", "--on", "daily", "--to", str(vm.tmp / "closed")], env=vm.env, capture_output=True, text=True)
        assert r.returncode == 2 and "closed: Permission denied" in r.stderr
    with pytest.raises(QmpError, match="absolute path"):
        vm.qmp().run("schedule-add", vm="vm1", action="export", on="daily", folder="to")


# ---- the maker's rights ----

@pytest.fixture
def host(shared):  # noqa: F811
    """A daemon that others reach, with a VM that nobody may operate."""
    shared.define("mine")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    return shared


def add_as_nobody(d, **args):
    answer, = as_nobody(d, ["schedule-add", {"vm": "mine", **args}])
    return answer


def test_run_has_the_rights_of_its_maker(host):
    assert "return" in add_as_nobody(host, action="start", on=far(), missed="once")
    assert schedules(host)[0]["uid"] == NOBODY
    path = table(host, "mine")

    def miss():
        host.stop()
        o = json.loads(path.read_text())
        o["schedules"][0]["last_s"] = int(time.time()) - DAY
        path.write_text(json.dumps(o))
        host.start()
    miss()
    until(lambda: len(history(host, "mine")) == 1)
    assert history(host, "mine")[0]["outcome"] == "done" and host.info("mine")["state"] == "running"
    line = [x for x in audit(host) if x["command"] == "vm-start"][-1]
    assert (line["uid"], line["schedule"], line["outcome"]) == (NOBODY, "start", "ok")
    host.cairn("destroy", "mine")
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    miss()
    until(lambda: len(history(host, "mine")) == 2)
    last = history(host, "mine")[1]
    assert last["outcome"] == "refused" and "vm-start requires the role operator" in last["detail"]
    assert host.info("mine")["state"] == "shutoff"
    line = [x for x in audit(host) if x["command"] == "vm-start"][-1]
    assert (line["uid"], line["outcome"]) == (NOBODY, "PermissionDenied")


def test_export_has_the_rights_of_its_maker(host):
    """An owner's export opens no folder that only root may write to; an operator's is refused at once."""
    (host.tmp / "to").mkdir(mode=0o700)
    ask = {"action": "export", "on": far(), "missed": "once", "folder": str(host.tmp / "to")}
    assert add_as_nobody(host, **ask)["error"]["desc"] == ("schedule-add with these arguments requires the role owner; an admin can change your "
                                                           "role with cairn grant")
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    assert "return" in add_as_nobody(host, **ask)
    host.stop()
    o = json.loads(table(host, "mine").read_text())
    o["schedules"][0]["last_s"] = int(time.time()) - DAY
    table(host, "mine").write_text(json.dumps(o))
    host.start()
    until(lambda: len(history(host, "mine")) == 1)
    assert history(host, "mine")[0]["outcome"] == "failed"
    assert history(host, "mine")[0]["detail"].endswith(f"to: Permission denied (for user {NOBODY}, who made the schedule)")
    assert list((host.tmp / "to").iterdir()) == []


def test_viewer_cannot_change_schedules(host):
    host.cairn("schedule", "mine", "start", "--on", "daily")
    host.cairn("grant", "viewer", "mine", "--user", "nobody")
    rows, *refused = as_nobody(host, ["query-schedules", {}], ["schedule-add", {"vm": "mine", "action": "start", "on": "daily"}],
                               ["schedule-remove", {"vm": "mine", "name": "start"}], ["schedule-pause", {"vm": "mine", "name": "start"}])
    assert [r["name"] for r in rows["return"]["schedules"]] == ["start"]
    assert [a["error"]["class"] for a in refused] == 3 * ["PermissionDenied"]
    host.cairn("revoke", "mine", "--user", "nobody")
    host.define("other")
    host.cairn("grant", "viewer", "other", "--user", "nobody")
    rows, = as_nobody(host, ["query-schedules", {}])
    assert rows["return"]["schedules"] == []


def test_number_of_a_users_schedules_is_limited(host):
    host.stop()
    one = {"name": "a", "action": "start", "on": "daily", "zone": "", "missed": "skip", "paused": True, "uid": NOBODY, "last_s": int(time.time()),
           "maker": {"user": NOBODY, "group": NOBODY, "groups": []}}
    host.start()
    for i in range(8):
        host.define(f"vm{i}")
    host.stop()
    for i in range(8):
        table(host, f"vm{i}").write_text(json.dumps({"version": 1, "schedules": [{**one, "name": f"n{k}"} for k in range(32)], "history": []}))
    host.start()
    assert "user 65534 has 256 schedules" in add_as_nobody(host, action="start", on="daily")["error"]["desc"]
    host.cairn("schedule-remove", "vm0", "n0")
    assert "return" in add_as_nobody(host, action="start", on="daily")


# ---- a killed daemon ----

@pytest.mark.parametrize("action", ["start", "shutdown", "suspend", "resume", "save", "reboot", "snapshot"])
@pytest.mark.parametrize("acted", [False, True], ids=["not-done", "done"])
def test_run_of_a_killed_daemon_is_done_once(vm, action, acted):
    """The daemon was killed before the act, or after it and before the note of the outcome."""
    if action != "start":
        vm.cairn("start", "vm1")
    if action == "resume":
        vm.cairn("suspend", "vm1")
    vm.cairn("schedule", "vm1", action, "--on", "yearly", "--name", "s")
    due = int(time.time()) - 5
    name = time.strftime("s-%Y-%m-%dT%H:%M:%SZ", time.gmtime(due))
    vm.stop()
    run = json.loads((vm.state / "vms/vm1/state.json").read_text()).get("run", 0)
    vm.start()
    if acted:
        vm.cairn(*{"save": ["managedsave", "vm1"], "snapshot": ["snapshot-create-as", "vm1", name]}.get(action, [action, "vm1"]))
        if action in ("shutdown", "reboot"):
            until(lambda: vm.info("vm1")["state"] == ("shutoff" if action == "shutdown" else "running"))
    if acted and action == "start":
        vm.cairn("destroy", "vm1")  # it was done, and then the user stopped the VM
    change(vm, 9, last_s=due, begun_s=due, begun_run=run)
    assert outcome(vm) == ("done", None)
    after = {"start": "shutoff" if acted else "running", "shutdown": "shutoff", "suspend": "paused", "save": "saved"}
    until(lambda: vm.info("vm1")["state"] == after.get(action, "running"))
    if action == "snapshot":
        assert vm.cairn("snapshot-list", "vm1", "--name").stdout.split() == [name]
    vm.stop()
    if action in ("start", "reboot"):
        assert json.loads((vm.state / "vms/vm1/state.json").read_text())["run"] == run + 1


def test_daemon_killed_around_runs(vm):
    """The next daemon does each run once, whenever the daemon is killed."""
    vm.cairn("start", "vm1")
    vm.cairn("schedule", "vm1", "snapshot", "--on", "minutely", "--missed", "all", "--name", "s")
    now = int(time.time())
    change(vm, last_s=now - 9 * MINUTE)
    for i in range(12):
        time.sleep(0.02 * i)
        vm.stop(9)
        vm.start()
    until(lambda: sum(r["outcome"] == "done" for r in history(vm)) >= 8)
    vm.cairn("schedule-pause", "vm1", "s")  # the next one may come between two looks
    until(lambda: not schedules(vm)[0].get("under-way"))
    names = vm.cairn("snapshot-list", "vm1", "--name").stdout.split()
    dues = [time.strftime("s-%Y-%m-%dT%H:%M:%SZ", time.gmtime(r["due"] // 10**9)) for r in history(vm)]
    assert all(r["outcome"] == "done" for r in history(vm)), history(vm)
    assert len(set(names)) == len(names) and set(dues) == set(names) and len(dues) == len(set(dues))
    minutes = sorted(r["due"] // 10**9 // 60 for r in history(vm))
    assert minutes == list(range(minutes[0], minutes[-1] + 1)) and minutes[0] * 60 <= now - 8 * MINUTE + 60
