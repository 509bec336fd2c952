"""Snapshot schedules by command line and socket, over restarts; with fake_vm, whose automatic snapshots are as old
as their names say. A run is due at once when the daemon finds that an interval has passed, so no test waits for
a clock."""

import json
import re
import time

import pytest

from conftest import QmpError, until

HOUR = 3600
WEEK = 7 * 24 * HOUR
MONDAY = 4 * 24 * HOUR  # the first Monday of 1970
# One run is due, and the clock has not leapt so far that it is distrusted. A weekly schedule comes next on Monday;
# an hourly one could come during a test, on one day of many.
LATE = WEEK + 12 * HOUR
NAME = re.compile(r"auto-\d{4}-\d\d-\d\dT\d\d:\d\dZ(-\d+)?")


def define(fake, name="vm1", cmdline=None):
    (fake.tmp / f"{name}.raw").write_bytes(bytes(1 << 20))
    fake.define(name, cmdline=cmdline, disks=[{"path": f"{name}.raw", "format": "raw"}])


@pytest.fixture
def vm(fake):
    define(fake)
    fake.cairn("start", "vm1")
    return fake


def schedule(fake, name="vm1"):
    return json.loads(fake.cairn("snapshot-schedule", name, "--format", "json").stdout)


def names(fake, name="vm1"):
    return fake.cairn("snapshot-list", name, "--name").stdout.split()


def named(ago):
    return time.strftime("auto-%Y-%m-%dT%H:%MZ", time.gmtime(time.time() - ago))


def miss(fake, seconds):
    """Stop the daemon, let the schedule's last run be this long ago, and start the daemon again."""
    fake.stop()
    path = fake.state / "vms" / "vm1" / "state.json"
    state = json.loads(path.read_text())
    state["schedule"].update(last_s=int(time.time()) - seconds, outcome="")
    path.write_text(json.dumps(state))
    fake.start()


def until_run(fake, outcome):
    until(lambda: schedule(fake).get("outcome") == outcome)
    return schedule(fake)


# ---- setting a schedule ----

def test_set_show_remove(vm):
    assert vm.cairn("snapshot-schedule", "vm1", ok=3).stderr == (
        "error: Failed to get the snapshot schedule of domain 'vm1'\n"
        "error: VM 'vm1' has no schedule. Next: cairn snapshot-schedule vm1 --every 1h\n")
    assert vm.cairn("snapshot-schedule", "vm1", "--every", "1w").stdout == (
        "Domain 'vm1' snapshot schedule set\n")
    s = schedule(vm)
    assert (s["every"], s["keep"], s["min-free"]) == ("1w", "1d:all,1w:daily,4w:weekly", "10%")
    assert (s["next-run"] // 10**9 - MONDAY) % WEEK == 0
    assert 0 <= s["next-run"] / 1e9 - time.time() + 5 <= WEEK + 10
    assert "outcome" not in s
    vm.cairn("snapshot-schedule", "vm1", "--keep", "2d:all", "--min-free", "5G")
    s = schedule(vm)
    assert (s["every"], s["keep"], s["min-free"]) == ("1w", "2d:all", "5G")
    vm.env["TZ"] = "UTC"
    out = vm.cairn("snapshot-schedule", "vm1").stdout
    assert re.fullmatch(
        "Domain:         vm1\nEvery:          1w\nKeep:           2d:all\nMin free:       5G\n"
        r"Next:           20\d\d-\d\d-\d\d \d\d:00:00 \+0000" "\nLast:           -\n\n", out), out
    define(vm, "vm2")
    rows = vm.cairn("snapshot-schedule").stdout.splitlines()
    assert rows[0].split() == ["Domain", "Every", "Keep", "Next", "Last"]
    assert [r.split()[0] for r in rows[2:-1]] == ["vm1"]
    assert vm.cairn("snapshot-schedule", "vm1", "--remove").stdout == (
        "Domain 'vm1' snapshot schedule removed\n")
    vm.cairn("snapshot-schedule", "vm1", "--remove", ok=3)
    assert not (vm.state / "vms/vm1/schedule.json").exists()
    assert names(vm) == []


def test_bad_arguments(vm):
    for args in (["--keep", "1d:all"], ["--every", "5s"], ["--every", "1w", "--keep", "1d"],
                 ["--every", "1w", "--keep", ""], ["--every", "1w", "--min-free", "lots"],
                 ["--every", "1w", "--remove"]):
        assert vm.cairn("snapshot-schedule", "vm1", *args, ok=2).stderr.count("\n") == 2
    vm.cairn("snapshot-schedule", "--every", "1w", ok=2)
    vm.cairn("snapshot-schedule", "nope", "--every", "1w", ok=3)
    vm.cairn("snapshot-schedule", "nope", ok=3)
    vm.cairn("snapshot-schedule", "vm1", ok=3)
    assert not (vm.state / "vms/vm1/schedule.json").exists()


def test_schedule_survives_daemon_and_is_removed_with_vm(vm):
    define(vm, "vm2")
    vm.cairn("snapshot-schedule", "vm1", "--every", "2w", "--keep", "1h:all", "--min-free", "0")
    vm.cairn("snapshot-schedule", "vm2", "--every", "1d")
    before = [schedule(vm), schedule(vm, "vm2")]
    vm.stop(9)
    vm.start()
    assert [schedule(vm), schedule(vm, "vm2")] == before
    vm.cairn("undefine", "vm2")
    define(vm, "vm2")
    vm.cairn("snapshot-schedule", "vm2", ok=3)
    # A damaged schedule is quarantined and does no other harm.
    vm.stop()
    (vm.state / "vms/vm1/schedule.json").write_text('{"version":1,"every":"1h","keep":')
    vm.start()
    vm.cairn("snapshot-schedule", "vm1", ok=3)
    assert (vm.state / "vms/vm1/schedule.json.damaged").exists()
    vm.stop()
    (vm.state / "vms/vm1/schedule.json").write_text(
        '{"version":1,"every":"0h","keep":"1d:all","min-free":"0"}')
    vm.start()
    vm.cairn("snapshot-schedule", "vm1", ok=3)
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w")


def test_audit_and_schema(vm):
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w")
    vm.cairn("snapshot-schedule", "vm1", "--remove")
    q = vm.qmp()
    lines = q.run("query-audit")["lines"]
    assert [line["command"] for line in lines if line["vm"] == "vm1"][-2:] == [
        "snapshot-schedule-set", "snapshot-schedule-remove"]
    with pytest.raises(QmpError, match="type for 'every'"):
        q.run("snapshot-schedule-set", vm="vm1", every=5)
    assert q.run("query-snapshot-schedules") == {"schedules": []}


@pytest.mark.seconds(240)  # each one is written
def test_long_list_of_schedules_has_pages(fake):
    q = fake.qmp()
    names = [f"vm{i:03}" + 200 * "x" for i in range(150)]
    for name in names:
        q.run("vm-define", folder=str(fake.tmp), definition=json.loads(open(fake.write(name, disks=[])).read()))
        q.run("snapshot-schedule-set", vm=name, every="1w")
    first = q.run("query-snapshot-schedules")
    assert 0 < len(first["schedules"]) < 150
    rows = json.loads(fake.cairn("snapshot-schedule", "--format", "json").stdout)
    assert [r["vm"] for r in rows] == names


# ---- runs ----

def test_missed_run_is_caught_up_once(vm):
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w", "--min-free", "0")
    miss(vm, 5 * WEEK)
    s = until_run(vm, "taken")
    assert names(vm) == [s["detail"]] and NAME.fullmatch(s["detail"])
    assert abs(s["last-run"] / 1e9 - time.time()) < 30
    assert s["next-run"] / 1e9 > time.time() - 30
    row = json.loads(vm.cairn("snapshot-list", "vm1", "--format", "json").stdout)[0]
    assert row["tags"] == ["auto"] and row["state"] == "running"
    # A restart of the daemon does not repeat the run, even after a kill.
    for sig in (15, 9):
        vm.stop(sig)
        vm.start()
    time.sleep(0.2)
    assert len(names(vm)) == 1
    # A second one in the same minute gets another name.
    miss(vm, LATE)
    until(lambda: len(names(vm)) == 2)
    assert len(set(names(vm))) == 2 and all(NAME.fullmatch(n) for n in names(vm))


def test_expired_automatic_snapshots_are_deleted(vm):
    """Automatic snapshots that no rule keeps are deleted; never those that a user made, tagged keep or renamed."""
    old = [named(h * HOUR) for h in (100, 90, 80, 70)]
    for name in old:
        vm.cairn("snapshot-create-as", "vm1", name, "--tag", "auto")
    vm.cairn("snapshot-tag", "vm1", old[1], "keep")
    vm.cairn("snapshot-rename", "vm1", old[2], "mine")
    vm.cairn("snapshot-create-as", "vm1", "by-hand")
    too = named(60 * HOUR)
    vm.cairn("snapshot-create-as", "vm1", too)  # by a user, whatever its name
    rules = ["snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "0"]
    would = vm.cairn(*rules, "--dry-run").stdout.splitlines()
    assert would[0] == "Would delete 2 existing snapshots of domain 'vm1'" and sorted(would[1:]) == sorted([old[0], old[3]])
    o = json.loads(vm.cairn(*rules, "--dry-run", "--format", "json").stdout)
    assert (sorted(o["would-delete"]), o["count"]) == (sorted([old[0], old[3]]), 2)
    assert len(names(vm)) == 6 and "no schedule" in vm.cairn("snapshot-schedule", "vm1", ok=3).stderr
    vm.cairn("snapshot-revert", "vm1", old[0])  # current now, and no longer when the next one is taken
    assert old[0] in vm.cairn(*rules, "--dry-run").stdout
    vm.cairn(*rules)
    assert "1w" in vm.cairn("snapshot-schedule", "vm1").stdout
    assert vm.cairn("snapshot-schedule", "vm1", "--keep", "1y:all", "--dry-run").stdout.count("\n") == 1
    assert schedule(vm)["keep"] == "2h:all"
    miss(vm, LATE)
    s = until_run(vm, "taken")
    until(lambda: not {old[0], old[3]} & set(names(vm)))
    assert sorted(names(vm)) == sorted([old[1], "mine", "by-hand", too, s["detail"]])
    # Another run deletes nothing more; the jobs of a run leave nothing behind.
    miss(vm, LATE)
    until(lambda: len(names(vm)) == 6)
    until_run(vm, "taken")
    assert len(names(vm)) == 6
    assert json.loads(vm.cairn("jobs", "--format", "json").stdout) == []


def test_current_snapshot_is_not_deleted(vm):
    old = [named(h * HOUR) for h in (100, 90, 80)]
    for name in old:
        vm.cairn("snapshot-create-as", "vm1", name, "--tag", "auto")
    vm.cairn("snapshot-revert", "vm1", old[0])
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "100%")
    miss(vm, LATE)
    until(lambda: old[1] not in names(vm))
    assert names(vm) == [old[0], old[2]]


def test_no_snapshot_is_taken_when_space_is_short(vm):
    """An event reports the skipped snapshot; old snapshots are still deleted."""
    old = [named(h * HOUR) for h in (100, 90, 80)]
    for name in old:
        vm.cairn("snapshot-create-as", "vm1", name, "--tag", "auto")
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "100%")
    miss(vm, LATE)
    s = until_run(vm, "skipped")
    assert re.fullmatch(r"\d+ MiB of \d+ MiB are free where .*/vm1.raw is", s["detail"])
    events = [e["data"] for e in vm.qmp().run("query-events")["events"]
              if e["event"] == "SNAPSHOT_SKIPPED"]
    assert events == [{"vm": "vm1", "vm-uuid": vm.info("vm1")["uuid"], "reason": "space", "detail": s["detail"]}]
    until(lambda: names(vm) == [old[2]])


def test_hanging_file_system_does_not_block_daemon(fake):
    """Only the VM's process waits for it: the daemon continues, and the run ends with the VM."""
    define(fake, cmdline="space-hangs")
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-schedule", "vm1", "--every", "1w", "--min-free", "1%")
    miss(fake, LATE)
    assert names(fake) == []
    fake.cairn("destroy", "vm1")
    assert "cannot read the free space" in until_run(fake, "failed")["detail"]


def test_run_skips_vm_that_is_off(fake):
    define(fake)
    fake.cairn("snapshot-schedule", "vm1", "--every", "1w", "--min-free", "0")
    for _ in range(2):
        miss(fake, LATE)
        assert until_run(fake, "skipped")["detail"] == "the VM is shut off"
    assert names(fake) == []
    events = [e for e in fake.qmp().run("query-events")["events"] if e["event"] == "SNAPSHOT_SKIPPED"]
    assert [e["data"]["reason"] for e in events] == ["off"]


def test_failed_run_sends_event(fake):
    define(fake, cmdline="work-fails")
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-schedule", "vm1", "--every", "1w", "--min-free", "0")
    miss(fake, LATE)
    e = fake.qmp()
    until(lambda: schedule(fake).get("outcome") == "failed")
    events = [m for m in e.run("query-events")["events"] if m["event"] == "SNAPSHOT_SKIPPED"]
    assert [m["data"]["reason"] for m in events] == ["failed"]
    assert events[0]["data"]["detail"] == schedule(fake)["detail"]
    assert fake.cairn("domstate", "vm1").stdout == "running\n"
    # The failed job stays in the list, so that a user can read its error.
    assert [j["type"] for j in json.loads(fake.cairn("jobs", "--format", "json").stdout)] == [
        "snapshot-create"]


def test_schedule_restarts_when_clock_goes_back(vm):
    """When the clock goes back by years, the schedule restarts, and snapshots dated in the future stay."""
    future = named(-50000 * HOUR)
    vm.cairn("snapshot-create-as", "vm1", future, "--tag", "auto")
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "0")
    miss(vm, -50000 * HOUR)
    assert 0 <= schedule(vm)["next-run"] / 1e9 - time.time() + 5 <= WEEK + 10
    assert "restarting its schedule" in vm.log.read_text()
    miss(vm, LATE)
    s = until_run(vm, "taken")
    assert sorted(names(vm)) == sorted([s["detail"], future])


def test_leap_of_clock_deletes_nothing(vm):
    """The next run takes a snapshot, but deletes none for an hour."""
    old = [named(h * HOUR) for h in (100, 90)]
    for name in old:
        vm.cairn("snapshot-create-as", "vm1", name, "--tag", "auto")
    vm.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "0")
    miss(vm, 24 * 365 * HOUR)
    s = until_run(vm, "taken")
    time.sleep(0.3)
    assert sorted(names(vm)) == sorted([*old, s["detail"]])
    assert "deleting no automatic snapshot for an hour" in vm.log.read_text()
    # The hour lasts over a restart of the daemon, and begins anew with a boot of the host.
    clock = vm.state / "clock.json"
    for boot, until_s in (None, 1 << 40), ("00000000-0000-4000-8000-000000000000", 0):
        stored = json.loads(clock.read_text())
        vm.stop()
        clock.write_text(json.dumps({**stored, "boot_id": boot or stored["boot_id"], "hold_until_s": until_s}))
        vm.start()
        miss(vm, LATE)
        until_run(vm, "taken")
        assert set(old) < set(names(vm))
        assert json.loads(clock.read_text())["boot_id"] == stored["boot_id"]
    # Then the old ones go.
    vm.stop()
    clock.write_text(json.dumps({**stored, "hold_until_s": 1}))
    vm.start()
    miss(vm, LATE)
    until_run(vm, "taken")
    until(lambda: not set(old) & set(names(vm)) and not clock.exists())
