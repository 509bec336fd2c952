"""Snapshots by command line and socket: words, tables and trees as in virsh; with fake_vm, whose snapshots are a
tree without disks."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import QmpError, until


def define(fake, name="vm1", cmdline=None, size=1 << 20):
    (fake.tmp / f"{name}.raw").write_bytes(bytes(size))
    fake.define(name, cmdline=cmdline, disks=[{"path": f"{name}.raw", "format": "raw"}])


@pytest.fixture
def vm(fake):
    """A running VM with the tree s1 - (s2 - s3, s4)."""
    define(fake)
    fake.cairn("start", "vm1")
    for name in ("s1", "s2", "s3"):
        fake.cairn("snapshot-create-as", "vm1", name)
    fake.cairn("snapshot-revert", "vm1", "s1")
    fake.cairn("snapshot-create-as", "vm1", "s4", "the fourth", "--tag", "a,b", "--tag", "c")
    return fake


def names(fake, *args):
    return fake.cairn("snapshot-list", "vm1", "--name", *args).stdout.split()


def test_list_by_snapshots(vm):
    vm.define("vm2")
    assert vm.cairn("list", "--all", "--with-snapshot", "--name").stdout == "vm1\n"
    assert vm.cairn("list", "--all", "--without-snapshot", "--name").stdout == "vm2\n"
    assert vm.cairn("list", "--all", "--with-snapshot", "--without-snapshot", "--name").stdout == "vm1\nvm2\n"


# ---- create ----

def test_create(fake):
    define(fake)
    fake.cairn("start", "vm1")
    before = int(time.time())
    m = re.fullmatch(r"Domain snapshot (\d+) created\n", fake.cairn("snapshot-create", "vm1").stdout)
    assert before <= int(m.group(1)) <= time.time()
    assert fake.cairn("snapshot-create-as", "vm1", "s1", "a line").stdout == (
        "Domain snapshot s1 created\n")
    for args in (["--name", "s2"], ["--snapshotname", "s3", "what for"],
                 ["s4", "--description", "what for"]):
        fake.cairn("snapshot-create-as", "vm1", *args)
    assert names(fake) == [m.group(1), "s1", "s2", "s3", "s4"]
    rows = json.loads(fake.cairn("snapshot-list", "vm1", "--format", "json").stdout)
    assert [r.get("description") for r in rows] == [None, "a line", None, "what for", "what for"]
    r = fake.cairn("snapshot-create-as", "vm1", "s1", ok=4)
    assert r.stderr == ("error: Failed to create a snapshot of domain 'vm1'\n"
                        "error: there is a snapshot 's1'\n")
    assert "paused for 1.5 ms, 20.0 ms in all; memory: 3.0 MiB written, 5.0 MiB shared" in (
        fake.cairn("snapshot-create-as", "vm1", "s5", "--verbose").stdout)
    o = json.loads(fake.cairn("snapshot-create-as", "vm1", "s6", "--format", "json").stdout)
    assert o["name"] == "s6" and o["pause"] == 1500000 and o["ram-bytes-written"] == 3 << 20
    assert "memory-tracking" not in o  # the fake is a process of an earlier version, which does not tell
    fake.cairn("snapshot-create-as", "vm1", "s7", "--halt")
    assert fake.cairn("domstate", "vm1").stdout == "shut off\n"


def test_names_count_up_within_one_second(fake):
    define(fake)
    fake.cairn("start", "vm1")
    q = fake.qmp()
    for _ in range(5):
        job = q.run("snapshot-create", vm="vm1")["job"]
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        assert "error" not in q.run("query-jobs", id=job)[0]
    made = [int(n) for n in names(fake)]
    assert len(made) == 5 and made == sorted(made)


def test_create_of_a_vm_that_is_off(fake):
    define(fake)
    fake.cairn("snapshot-create-as", "vm1", "s1")
    assert fake.cairn("domstate", "vm1").stdout == "shut off\n"
    assert " s1     2025-" in fake.cairn("snapshot-list", "vm1").stdout
    assert fake.cairn("snapshot-list", "vm1").stdout.splitlines()[2].endswith("   shutoff")
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "s2", "--disk-only")
    fake.cairn("suspend", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "s3")
    rows = json.loads(fake.cairn("snapshot-list", "vm1", "--format", "json").stdout)
    assert [r["state"] for r in rows] == ["shutoff", "disk-snapshot", "paused"]
    assert fake.cairn("snapshot-list", "vm1").stdout.splitlines()[3].endswith("   disk-snapshot")
    assert "State:          disk-snapshot\n" in fake.cairn("snapshot-info", "vm1", "s2").stdout
    assert fake.cairn("snapshot-list", "vm1", "--name", "--inactive").stdout.split() == ["s1", "s2"]
    assert fake.cairn("snapshot-list", "vm1", "--name", "--active").stdout.split() == ["s3"]
    assert fake.cairn("snapshot-list", "vm1", "--name", "--disk-only").stdout.split() == ["s2"]
    assert fake.cairn("snapshot-list", "vm1", "--name", "--disk-only", "--active").stdout.split() == ["s2", "s3"]


def test_bad_arguments(fake):
    define(fake)
    for args in ([""], ["x" * 256], ["a\nb"], ["s", "d" * 512], ["s", "--tag", "a b"],
                 ["s", "--tag", "x" * 200], ["s", "d", "more"]):
        assert fake.cairn("snapshot-create-as", "vm1", *args, ok=2).stderr.count("\n") == 2
    for args in (["snapshot-revert", "vm1"], ["snapshot-delete", "vm1"], ["snapshot-info", "vm1"],
                 ["snapshot-revert", "vm1", "s", "--running", "--paused"],
                 ["snapshot-revert", "vm1", "s", "--current"],
                 ["snapshot-delete", "vm1", "s", "--children", "--children-only"],
                 ["snapshot-list", "vm1", "--tree", "--name"]):
        fake.cairn(*args, ok=2)
    for args in (["snapshot-revert", "vm1", "none"], ["snapshot-delete", "vm1", "none"],
                 ["snapshot-info", "vm1", "none"], ["snapshot-rename", "vm1", "none", "x"],
                 ["snapshot-tag", "vm1", "none", "x"], ["snapshot-list", "vm1", "--from", "none"],
                 ["snapshot-current", "vm1"], ["snapshot-list", "nope"],
                 ["snapshot-revert", "vm1", "--current"]):
        fake.cairn(*args, ok=3)
    assert fake.cairn("jobs").stdout.count("\n") == 3


def test_snapshot_of_vm_without_disk_is_refused(fake):
    fake.define("vm1")
    assert "no disk can hold" in fake.cairn("snapshot-create-as", "vm1", "s1", ok=1).stderr
    assert names(fake) == []


def test_habits_of_virsh_change_nothing(vm):
    vm.cairn("snapshot-create-as", "vm1", "s5", "--validate")
    assert vm.cairn("snapshot-revert", "vm1", "s2", "--force").stdout == vm.cairn("snapshot-revert", "vm1", "s2").stdout
    assert vm.cairn("snapshot-current", "vm1", "--name", "--security-info").stdout == "s2\n"


# ---- list and info ----

def test_topological_list_has_parents_before_their_children(vm):
    vm.cairn("snapshot-create-as", "vm1", "a")
    assert names(vm) == ["a", "s1", "s2", "s3", "s4"]
    assert names(vm, "--topological") == ["s1", "s2", "s4", "a", "s3"]
    assert names(vm, "--topological", "--from", "s1", "--descendants") == ["s2", "s4", "a", "s3"]


def test_events(vm):
    """The events name the snapshot, the result and the job, also for later clients."""
    vm.cairn("snapshot-delete", "vm1", "s2", "--children")
    vm.cairn("snapshot-create-as", "vm1", "s4", ok=4)
    told = [(e["event"], e["data"]) for e in vm.qmp().run("query-events", vm="vm1")["events"]
            if e["event"] in ("SNAPSHOT_CREATED", "SNAPSHOT_REVERTED", "SNAPSHOT_DELETED")]
    assert [(e, d["snapshot"]) for e, d in told] == [
        ("SNAPSHOT_CREATED", "s1"), ("SNAPSHOT_CREATED", "s2"), ("SNAPSHOT_CREATED", "s3"),
        ("SNAPSHOT_REVERTED", "s1"), ("SNAPSHOT_CREATED", "s4"), ("SNAPSHOT_DELETED", "s3"),
        ("SNAPSHOT_DELETED", "s2")]
    assert told[-1][1]["job"] == told[-2][1]["job"] != told[0][1]["job"]
    assert all(set(d) == {"vm", "vm-uuid", "snapshot", "job"} for _, d in told)


def test_list(vm, monkeypatch):
    vm.env["TZ"] = "UTC"
    assert vm.cairn("snapshot-list", "vm1").stdout == (
        " Name   Creation Time               State\n"
        "---------------------------------------------\n"
        " s1     2025-11-20 06:08:17 +0000   running\n"
        " s2     2025-11-20 06:08:17 +0000   running\n"
        " s3     2025-11-20 06:08:17 +0000   running\n"
        " s4     2025-11-20 06:08:17 +0000   running\n"
        "\n")
    assert vm.cairn("snapshot-list", "vm1", "--parent").stdout.splitlines()[3:5] == [
        " s2     2025-11-20 06:08:17 +0000   running   s1",
        " s3     2025-11-20 06:08:17 +0000   running   s2"]
    assert vm.cairn("snapshot-list", "vm1", "--tree").stdout == (
        "s1\n"
        "  |\n"
        "  +- s2\n"
        "  |   |\n"
        "  |   +- s3\n"
        "  |     \n"
        "  +- s4\n"
        "    \n")
    assert vm.cairn("snapshot-list", "vm1", "--tree", "--from", "s2").stdout == (
        "s2\n  |\n  +- s3\n    \n")
    assert names(vm, "--roots") == ["s1"]
    assert names(vm, "--leaves") == ["s3", "s4"]
    assert names(vm, "--no-leaves") == ["s1", "s2"]
    assert names(vm, "--from", "s1") == ["s2", "s4"]
    assert names(vm, "--from", "s1", "--descendants") == ["s2", "s3", "s4"]
    assert names(vm, "--current") == []
    assert vm.cairn("snapshot-current", "vm1", "--name").stdout == "s4\n"
    assert json.loads(vm.cairn("snapshot-current", "vm1", "--format", "json").stdout)["tags"] == ["a", "b", "c"]
    assert vm.cairn("snapshot-parent", "vm1", "s3").stdout == "s2\n"
    assert vm.cairn("snapshot-parent", "vm1", "--current").stdout == "s1\n"
    vm.cairn("snapshot-parent", "vm1", "s1", ok=3)


def test_info(vm):
    vm.env["TZ"] = "UTC"
    assert vm.cairn("snapshot-info", "vm1", "s1").stdout == (
        "Name:           s1\n"
        "Domain:         vm1\n"
        "Current:        no\n"
        "State:          running\n"
        "Location:       internal\n"
        "Parent:         -\n"
        "Children:       2\n"
        "Descendants:    3\n"
        "Metadata:       yes\n"
        "Created:        2025-11-20 06:08:17 +0000\n"
        "Memory:         4.0 KiB\n"
        "Own size:       64.0 KiB\n"
        "\n")
    out = vm.cairn("snapshot-info", "vm1", "--current").stdout
    assert "Name:           s4\n" in out and "Current:        yes\n" in out
    assert "Description:    the fourth\n" in out and "Tags:           a, b, c\n" in out
    assert vm.cairn("snapshot-info", "vm1", "--snapshotname", "s4").stdout == out
    assert json.loads(vm.cairn("snapshot-info", "vm1", "s4", "--format", "json").stdout)["parent"]


def test_snapshot_list_is_the_same_when_vm_is_off(vm):
    vm.env["TZ"] = "UTC"
    before = [vm.cairn("snapshot-list", "vm1", *a).stdout for a in ([], ["--tree"])]
    vm.cairn("destroy", "vm1")
    assert [vm.cairn("snapshot-list", "vm1", *a).stdout for a in ([], ["--tree"])] == before
    # The offline process that listed the snapshots ends by itself, and a start waits for its end.
    vm.cairn("start", "vm1")
    assert [x for x in os.listdir(vm.state / "run") if x.startswith(".vm1")] == []


def test_snapshot_list_has_pages(fake):
    define(fake)
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for i in range(150):
        q.run("snapshot-create", vm="vm1", name=f"s{i:03}", description="ä" * 200)
        q.event("JOB_STATUS_CHANGE", status="concluded")
    page = q.run("snapshot-list", vm="vm1")
    assert len(json.dumps(page)) < 60000 and 0 < page["next"] < 150
    assert names(fake) == [f"s{i:03}" for i in range(150)]
    assert len(fake.cairn("snapshot-list", "vm1", "--tree").stdout.splitlines()) == 300
    out = fake.cairn("snapshot-delete", "vm1", "s010", "--children-only", "--verbose").stdout
    assert out.splitlines()[1] == "s149" and out.endswith("\ns130\nand 119 more\n")
    assert names(fake) == [f"s{i:03}" for i in range(11)]


# ---- change ----

def test_rename_and_tag(vm):
    assert vm.cairn("snapshot-rename", "vm1", "s2", "before upgrade").stdout == (
        "Domain snapshot s2 renamed to before upgrade\n")
    assert names(vm, "--from", "s1") == ["before", "upgrade", "s4"]
    vm.cairn("snapshot-rename", "vm1", "s1", "s3", ok=4)
    vm.cairn("snapshot-rename", "vm1", "s1", "", ok=2)
    assert vm.cairn("snapshot-tag", "vm1", "s4").stdout == "a\nb\nc\n"
    assert vm.cairn("snapshot-tag", "vm1", "s4", "keep", "a").stdout == "Domain snapshot s4 tagged\n"
    assert vm.cairn("snapshot-tag", "vm1", "s4").stdout == "b\nc\nkeep\na\n"
    r = vm.cairn("snapshot-tag", "vm1", "s4", "a", "kep", "--remove", ok=3)
    assert "snapshot 's4' has no tag 'kep'. Next: cairn snapshot-tag vm1 s4" in r.stderr
    assert "--remove needs the tags to remove" in vm.cairn("snapshot-tag", "vm1", "s4", "--remove", ok=2).stderr
    assert vm.cairn("snapshot-tag", "vm1", "s4", "a", "b", "c", "--remove").stdout == "Domain snapshot s4 untagged\n"
    assert vm.cairn("snapshot-tag", "vm1", "s4").stdout == "keep\n"
    vm.cairn("snapshot-tag", "vm1", "s4", "a b", ok=2)
    assert "Description:    the fourth\n" in vm.cairn("snapshot-info", "vm1", "s4").stdout


def test_tags_have_127_bytes_together(vm):
    for tags in (["x" * 127], ["x" * 63, "y" * 63]):
        vm.cairn("snapshot-create-as", "vm1", f"of {len(tags)}", "--tag", ",".join(tags))
        assert vm.cairn("snapshot-tag", "vm1", f"of {len(tags)}").stdout.split() == tags
    for tags in ("x" * 128, "x" * 63 + "," + "y" * 64):
        r = vm.cairn("snapshot-create-as", "vm1", "s5", "--tag", tags, ok=2)
        assert "tags: have more than 127 bytes together, with a comma between two" in r.stderr


def test_delete(vm):
    assert vm.cairn("snapshot-delete", "vm1", "s2").stdout == "Domain snapshot s2 deleted\n"
    assert names(vm, "--from", "s1") == ["s3", "s4"]
    assert vm.cairn("snapshot-delete", "vm1", "--snapshotname", "s1", "--children-only",
                    "--verbose").stdout == "Domain snapshot s1 children deleted\ns3\ns4\n"
    assert names(vm) == ["s1"]
    vm.cairn("snapshot-create-as", "vm1", "s5")
    vm.cairn("snapshot-create-as", "vm1", "s6")
    assert vm.cairn("snapshot-delete", "vm1", "--current").stdout == "Domain snapshot s6 deleted\n"
    vm.cairn("destroy", "vm1")
    assert vm.cairn("snapshot-delete", "vm1", "s1", "--children").stdout == (
        "Domain snapshot s1 deleted\n")
    assert names(vm) == []


def told_of(fake):
    return [e["event"] for e in fake.qmp().run("query-events", vm="vm1")["events"] if e["event"].startswith("SNAPSHOT_")]


def test_delete_dry_run_lists_snapshots(vm):
    before = told_of(vm)
    lines = vm.cairn("snapshot-delete", "vm1", "s1", "--children", "--dry-run").stdout.splitlines()
    assert lines[0] == "Would delete these snapshots of domain 'vm1':"
    assert sorted(lines[1:]) == ["s1", "s2", "s3", "s4"] and lines[-1] == "s1"
    one = vm.cairn("snapshot-delete", "vm1", "s2", "--dry-run").stdout.splitlines()
    assert one[1] == "s2" and one[2].startswith("That frees ")
    size = vm.qmp().run("snapshot-size", vm="vm1", name="s2")["own-size"]
    o = json.loads(vm.cairn("snapshot-delete", "vm1", "s2", "--dry-run", "--format", "json").stdout)
    assert (o["deleted"], o["count"], o["own-size"]) == (["s2"], 1, size)
    assert "s3\n" in vm.cairn("snapshot-delete", "vm1", "s2", "--children-only", "--dry-run").stdout
    # A dry run refuses the same requests as the command itself.
    vm.cairn("snapshot-delete", "vm1", "none", "--dry-run", ok=3)
    vm.cairn("snapshot-tag", "vm1", "s3", "keep")
    assert "keep" in vm.cairn("snapshot-delete", "vm1", "s1", "--children", "--dry-run", ok=4).stderr
    assert names(vm) == ["s1", "s2", "s3", "s4"] and told_of(vm) == before


def test_keep_tag_prevents_delete(vm):
    vm.cairn("snapshot-tag", "vm1", "s3", "keep")
    for args in (["s3"], ["s2", "--children"], ["s1", "--children-only"]):
        r = vm.cairn("snapshot-delete", "vm1", *args, ok=4)
        assert "snapshot 's3' has the tag \"keep\", which protects it" in r.stderr
        assert "cairn snapshot-tag vm1 s3 --remove keep" in r.stderr
    assert names(vm) == ["s1", "s2", "s3", "s4"]
    vm.cairn("snapshot-delete", "vm1", "s2")
    vm.cairn("snapshot-tag", "vm1", "s3", "--remove", "keep")
    vm.cairn("snapshot-delete", "vm1", "s1", "--children")


# ---- revert ----

def state(fake):
    return fake.cairn("domstate", "--reason", "vm1").stdout.strip()


def test_revert_in_place(vm):
    pid = vm.info("vm1")["pid"]
    assert vm.cairn("snapshot-revert", "vm1", "s3").stdout == "Domain snapshot s3 reverted\n"
    assert state(vm) == "running (from snapshot)" and vm.info("vm1")["pid"] == pid
    assert vm.cairn("snapshot-current", "vm1", "--name").stdout == "s3\n"
    vm.cairn("snapshot-revert", "vm1", "s3", "--paused")
    assert state(vm) == "paused (from snapshot)"
    vm.cairn("snapshot-revert", "vm1", "--current", "--running", "--eager", "--verify")
    assert state(vm) == "running (from snapshot)" and vm.info("vm1")["pid"] == pid


def test_revert_of_a_vm_that_is_off(vm):
    vm.cairn("destroy", "vm1")
    vm.cairn("snapshot-revert", "vm1", "s2")
    assert state(vm) == "running (from snapshot)"
    vm.cairn("destroy", "vm1")
    vm.cairn("snapshot-revert", "vm1", "s2", "--paused")
    assert state(vm) == "paused (from snapshot)"


def test_revert_to_disks_only(fake):
    define(fake)
    fake.cairn("snapshot-create-as", "vm1", "off")
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "on")
    assert fake.cairn("snapshot-revert", "vm1", "off").stdout == (
        "Domain 'vm1' was stopped: the snapshot has no memory\n"
        "Domain snapshot off reverted\n")
    assert state(fake) == "shut off (from snapshot)"
    assert fake.cairn("snapshot-revert", "vm1", "off", "--running").stdout == (
        "Domain snapshot off reverted\n")
    assert state(fake) == "running (booted)"
    assert fake.cairn("snapshot-revert", "vm1", "on", "--disks-only").stdout == (
        "Domain 'vm1' was stopped: only the disks are reverted\n"
        "Domain snapshot on reverted\n")
    assert state(fake) == "shut off (from snapshot)"
    o = json.loads(fake.cairn("snapshot-revert", "vm1", "on", "--disks-only", "--paused",
                              "--format", "json").stdout)
    assert (o["name"], o["stopped"], o["state"]) == ("on", False, "paused")


def test_revert_dry_run_reports_actions(vm):
    pid, before = vm.info("vm1")["pid"], told_of(vm)
    assert vm.cairn("snapshot-revert", "vm1", "s2", "--dry-run").stdout == (
        "Would revert domain 'vm1' to snapshot s2\n"
        "  lost: the present content of these disks: vda\n"
        "  lost: the present content of the memory\n"
        "  state afterwards: running\n")
    assert vm.cairn("snapshot-revert", "vm1", "--current", "--disks-only", "--dry-run").stdout == (
        "Would revert domain 'vm1' to snapshot s4\n"
        "  lost: the present content of these disks: vda\n"
        "  lost: the present content of the memory\n"
        "  the domain is stopped; state afterwards: off\n")
    o = json.loads(vm.cairn("snapshot-revert", "vm1", "s2", "--paused", "--dry-run", "--format", "json").stdout)
    assert (o["name"], o["stopped"], o["state"], o["memory-lost"], o["disks-lost"]) == ("s2", False, "paused", True, ["vda"])
    vm.cairn("snapshot-revert", "vm1", "none", "--dry-run", ok=3)
    assert state(vm) == "running (from snapshot)" and vm.info("vm1")["pid"] == pid
    vm.cairn("destroy", "vm1")
    assert vm.cairn("snapshot-revert", "vm1", "s2", "--dry-run").stdout.splitlines()[2:] == ["  state afterwards: running"]
    assert vm.cairn("snapshot-revert", "vm1", "s2", "--disks-only", "--dry-run").stdout.splitlines()[2:] == ["  state afterwards: off"]
    assert state(vm) == "shut off (destroyed)" and told_of(vm) == before
    assert vm.cairn("snapshot-current", "vm1", "--name").stdout == "s4\n"


def test_impossible_revert_does_not_stop_vm(vm):
    vm.cairn("destroy", "vm1")
    vm.define("vm1", cmdline="work-fails", disks=[{"path": "vm1.raw", "format": "raw"}])
    vm.cairn("start", "vm1")
    assert "no space left" in vm.cairn("snapshot-revert", "vm1", "s2", "--disks-only", ok=1).stderr
    assert "no space left" in vm.cairn("snapshot-revert", "vm1", "s2", "--disks-only", "--dry-run", ok=1).stderr
    assert state(vm) == "running (booted)"


def test_failed_revert_leaves_vm_unchanged(vm):
    vm.cairn("destroy", "vm1")
    vm.define("vm1", cmdline="work-fails", disks=[{"path": "vm1.raw", "format": "raw"}])
    assert "no space left" in vm.cairn("snapshot-revert", "vm1", "s2", ok=1).stderr
    assert vm.info("vm1")["word"] == "shutoff"
    vm.define("vm1", cmdline="refuse", disks=[{"path": "vm1.raw", "format": "raw"}])
    assert "locked by another" in vm.cairn("snapshot-revert", "vm1", "s2", ok=6).stderr
    assert "locked by another" in vm.cairn("snapshot-list", "vm1", ok=6).stderr
    vm.define("vm1", disks=[{"path": "vm1.raw", "format": "raw"}])
    vm.cairn("start", "vm1")
    q = vm.qmp()
    assert q.run("vm-info", vm="vm1")["state"] == "running"


def test_revert_of_saved_vm_is_refused(vm):
    vm.cairn("managedsave", "vm1")
    r = vm.cairn("snapshot-revert", "vm1", "s1", ok=4)
    assert "VM 'vm1' is saved" in r.stderr and "Next: cairn start vm1" in r.stderr
    assert names(vm) == ["s1", "s2", "s3", "s4"]
    vm.cairn("start", "vm1")
    assert state(vm) == "running (restored)"


# ---- jobs ----

def test_snapshot_jobs_report_progress(fake):
    go = fake.tmp / "go"
    define(fake, cmdline=f"work-until={go}")
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    id = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    # Queries are answered meanwhile, and the VM runs on.
    assert q.run("snapshot-list", vm="vm1") == {"snapshots": []}
    assert q.run("vm-info", vm="vm1")["state"] == "running"
    with pytest.raises(QmpError) as e:
        q.run("snapshot-delete", vm="vm1", name="s1")
    assert e.value.cls == "Busy" and f"job {id} (snapshot-create) is under way" in e.value.desc
    q.event("JOB_PROGRESS", id=id)
    go.touch()
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert q.run("query-jobs", id=id)[0]["result"]["name"] == "s1"
    go.unlink()
    id = q.run("snapshot-create", vm="vm1", name="s2")["job"]
    q.run("job-cancel", id=id)
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert q.run("query-jobs", id=id)[0]["error-class"] == "Cancelled"
    assert len(q.run("snapshot-list", vm="vm1")["snapshots"]) == 1
    id = fake.cairn("snapshot-create-as", "vm1", "s3", "--no-wait").stdout.strip()
    go.touch()
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    go.unlink()
    id = q.run("snapshot-delete", vm="vm1", name="s3")["job"]
    with pytest.raises(QmpError, match="cannot be cancelled"):
        q.run("job-cancel", id=id)


def test_work_on_images_refuses_start_and_undefine(fake):
    define(fake, cmdline=f"work-until={fake.tmp}/go")
    q = fake.qmp()
    id = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    for command in ("vm-start", "vm-undefine"):
        with pytest.raises(QmpError) as e:
            q.run(command, vm="vm1")
        assert e.value.cls == "Busy" and f"job {id}" in e.value.desc
    (fake.tmp / "go").touch()
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    q.run("vm-start", vm="vm1")


def child(daemon):
    """Return the process that the daemon has just started."""
    pids = []
    until(lambda: pids.extend(daemon.children()) or pids)
    return pids[0]


def is_there(pid):
    return os.path.exists(f"/proc/{pid}/exe")


def test_killed_offline_process_fails_its_job(fake):
    define(fake, cmdline=f"work-until={fake.tmp}/never")
    q = fake.qmp()
    q.run("snapshot-create", vm="vm1", name="s1", job_id="j")
    os.kill(child(fake), signal.SIGKILL)
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert "before it answered" in q.run("query-jobs", id="j")[0]["error"]
    assert q.run("vm-info", vm="vm1")["state"] == "shutoff"
    assert q.run("snapshot-list", vm="vm1") == {"snapshots": []}


def test_next_daemon_ends_offline_process_of_killed_one(fake):
    define(fake, cmdline="work-takes=20000")
    q = fake.qmp()
    q.run("snapshot-create", vm="vm1", name="s1", job_id="j")
    q.event("JOB_PROGRESS", id="j")  # the process has its files; before, it would end with the daemon
    pid = child(fake)
    fake.stop(signal.SIGKILL)
    assert is_there(pid)
    fake.start()
    while is_there(pid):
        time.sleep(0.02)
    fake.cairn("start", "vm1")


def test_malformed_snapshot_trees_are_listed(fake):
    """Parents that are missing, or form a cycle."""
    define(fake)
    fake.cairn("start", "vm1")
    for n in ("s1", "s2", "s3"):
        fake.cairn("snapshot-create-as", "vm1", n)
    disk = fake.tmp / "vm1.raw"
    data = bytearray(disk.read_bytes())
    entry = data.index(b"id1\0")
    data[entry + 24:entry + 28] = b"id3\0"  # the first snapshot's parent is the last
    disk.write_bytes(data)
    assert fake.cairn("snapshot-list", "vm1", "--tree").stdout == ""
    assert names(fake, "--from", "s1", "--descendants") == ["s1", "s2", "s3"]
    assert "Descendants:    3" in fake.cairn("snapshot-info", "vm1", "s1").stdout
    data[entry + 24:entry + 28] = b"gone"
    disk.write_bytes(data)
    assert fake.cairn("snapshot-list", "vm1", "--tree").stdout.startswith("s1\n  |\n  +- s2\n")
    data[entry + 24:entry + 28] = b"id3\0"
    disk.write_bytes(data)
    fake.cairn("snapshot-delete", "vm1", "s1", "--children")
    assert names(fake) == []


def test_tree_with_shared_ids_prints_each_snapshot_once(fake):
    """24 generations of two snapshots with the same id: a snapshot has a path to the root through each of the two."""
    define(fake)
    fake.cairn("start", "vm1")
    for n in range(1, 49):
        fake.cairn("snapshot-create-as", "vm1", f"s{n}")
    disk = fake.tmp / "vm1.raw"
    data = bytearray(disk.read_bytes())
    places = [data.index(b"id%d\0" % n) for n in range(1, 49)]
    for n, place in enumerate(places):
        data[place:place + 24] = (b"g%d" % (n // 2)).ljust(24, b"\0")
        data[place + 24:place + 48] = (b"g%d" % (n // 2 - 1) if n > 1 else b"").ljust(24, b"\0")
    disk.write_bytes(data)
    shown = re.findall(r"s\d+", fake.cairn("snapshot-list", "vm1", "--tree").stdout)
    assert sorted(shown) == sorted(f"s{n}" for n in range(1, 49))
    # A circle of all, where each has two children.
    for place in places[:2]:
        data[place + 24:place + 48] = b"g23".ljust(24, b"\0")
    disk.write_bytes(data)
    shown = re.findall(r"s\d+", fake.cairn("snapshot-list", "vm1", "--tree", "--from", "s1").stdout)
    assert sorted(shown) == sorted(names(fake, "--topological")) == sorted(f"s{n}" for n in range(1, 49))


# ---- with KVM ----

@pytest.mark.parametrize("command", ["snapshot-list", "vm-start"])
def test_requests_wait_for_earlier_daemons_offline_process(fake, command):
    define(fake, cmdline=f"work-takes=60000 quits-in=1 when={fake.tmp}/go")
    q = fake.qmp()
    job = q.run("snapshot-create", vm="vm1", name="s1")["job"]
    pid = child(fake)
    until(lambda: q.run("query-jobs", id=job)[0]["current-progress"])  # the process has got its work
    fake.stop(signal.SIGKILL)
    fake.start()
    asks, q = fake.qmp(), fake.qmp()
    asks.send(b'{"execute":"%s","arguments":{"vm":"vm1"}}' % command.encode())
    for _ in range(50):  # an answer could arrive meanwhile
        assert q.run("vm-info", vm="vm1")["state"] == "shutoff" and is_there(pid)
    (fake.tmp / "go").touch()
    assert "return" in asks.answer() and not is_there(pid)


def test_offline_process_ends_with_its_daemon(daemon, kvm, guest, tmp_path):
    disk = str(tmp_path / "vda.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": disk, "format": "qcow2"}])
    q, n = daemon.qmp(), 0
    while not (pids := daemon.children()):  # the process may end before this test sees it: then try again
        try:
            q.run("snapshot-create", vm="vm1", name=f"s{n}")
            n += 1
        except QmpError:
            pass  # the last snapshot is not complete yet
    daemon.stop(signal.SIGKILL)
    while is_there(pids[0]):
        time.sleep(0.02)
    subprocess.run(["qemu-img", "check", "-q", disk], check=True)


def test_snapshots_of_real_vm_that_is_off(daemon, kvm, guest, tmp_path):
    disk = str(tmp_path / "vda.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True,
                  disks=[{"path": disk, "format": "qcow2"}])
    daemon.cairn("snapshot-create-as", "vm1", "off")
    daemon.cairn("start", "vm1")
    daemon.cairn("snapshot-create-as", "vm1", "on", "a line")
    daemon.cairn("snapshot-create-as", "vm1", "disks", "--disk-only")
    daemon.cairn("destroy", "vm1")
    rows = json.loads(daemon.cairn("snapshot-list", "vm1", "--format", "json").stdout)
    assert [(r["name"], r["state"], r["current"]) for r in rows] == [
        ("disks", "disk-snapshot", True), ("off", "shutoff", False), ("on", "running", False)]
    daemon.cairn("snapshot-delete", "vm1", "disks")
    assert daemon.cairn("snapshot-list", "vm1", "--tree").stdout.startswith("off\n  |\n  +- on\n")
    daemon.cairn("snapshot-tag", "vm1", "off", "keep")
    daemon.cairn("snapshot-rename", "vm1", "on", "up")
    daemon.cairn("snapshot-delete", "vm1", "off", ok=4)
    assert "state afterwards: running" in daemon.cairn("snapshot-revert", "vm1", "up", "--dry-run").stdout
    assert state(daemon) == "shut off (destroyed)"
    daemon.cairn("snapshot-revert", "vm1", "up")
    for args in (["up"], ["off"]): # with memory, in its process; and without
        daemon.cairn("snapshot-revert", "vm1", *args, "--dry-run")
    assert "That frees " in daemon.cairn("snapshot-delete", "vm1", "up", "--dry-run").stdout
    assert names(daemon) == ["off", "up"]
    assert state(daemon) in ("running (from snapshot)", "idle (from snapshot)")
    daemon.cairn("snapshot-revert", "vm1", "off")
    assert state(daemon) == "shut off (from snapshot)"
    # A disk that was attached since is detached by the revert, so it needs no snapshot.
    new = str(tmp_path / "vdb.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", new, "1M"], check=True)
    daemon.cairn("attach-disk", "vm1", new, "vdb", "--subdriver", "qcow2")
    would = json.loads(daemon.cairn("snapshot-revert", "vm1", "up", "--dry-run", "--format", "json").stdout)
    assert would["disks-lost"] == ["vda"] and would["state"] == "running"
    assert "disk vdb has no snapshot 'up'" in daemon.cairn("snapshot-revert", "vm1", "up", "--disks-only", "--dry-run", ok=3).stderr
    daemon.cairn("detach-disk", "vm1", "vdb")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.cairn("snapshot-delete", "vm1", "off", "--children-only")
    assert names(daemon) == ["off"]
    # After the answer to any request, successful or not, the client can open the image.
    for args in (["snapshot-list", "vm1"], ["snapshot-tag", "vm1", "off", "x"], ["snapshot-info", "vm1", "off"],
                 ["snapshot-create-as", "vm1", "off"], ["snapshot-create-as", "vm1", "more"],
                 ["snapshot-delete", "vm1", "more"], ["snapshot-revert", "vm1", "off"]):
        daemon.cairn(*args, ok=args != ["snapshot-create-as", "vm1", "off"])
        subprocess.run(["qemu-img", "info", disk], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "check", "-q", disk], check=True)
    # A VM with only a raw disk has no place for a snapshot.
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[
        {"path": str(tmp_path / "d.raw"), "format": "raw"}])
    assert "disk vda is raw" in daemon.cairn("snapshot-create-as", "vm1", "s", ok=False).stderr


def test_read_only_disks_that_are_gone_hinder_no_work_on_images(daemon, tmp_path):
    """The medium of a CD drive, and a disk of other people, while the VM is off."""
    disk, cd, data = (str(tmp_path / name) for name in ("vda.qcow2", "cd.qcow2", "data.raw"))
    for image in (disk, cd):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    (tmp_path / "data.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", disks=[{"path": disk, "format": "qcow2"}, {"path": cd, "format": "qcow2", "device": "cdrom", "bus": "scsi"},
                                {"path": data, "format": "raw", "readonly": True}, {"id": "sdd", "device": "cdrom", "bus": "scsi"}])
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    os.remove(cd)
    os.remove(data)
    assert daemon.cairn("snapshot-create-as", "vm1", "s2").stdout == "Domain snapshot s2 created\nleft out (read-only): sdb vdc\n"
    assert daemon.cairn("-q", "snapshot-create-as", "vm1", "s3").stdout == ""
    daemon.cairn("snapshot-delete", "vm1", "s3")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", disk], check=True, stdout=subprocess.DEVNULL)
    daemon.cairn("snapshot-revert", "vm1", "s1")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -P 0 0 64k", disk], check=True, stdout=subprocess.DEVNULL)
    assert daemon.cairn("snapshot-list", "vm1", "--name").stdout.split() == ["s1", "s2"]
    daemon.cairn("clone", "vm1", "vm2")
    daemon.cairn("snapshot-diff", "vm1", "s1", "s2")
    daemon.cairn("snapshot-delete", "vm1", "s2")
    r = daemon.cairn("start", "vm1", ok=None)
    assert f"disks[1].path: {cd}: No such file or directory; without this medium, eject it first: cairn change-media VM sdb --eject" in r.stderr
    daemon.cairn("change-media", "vm1", "sdb", "--eject")
    daemon.cairn("undefine", "vm1", "--snapshots-metadata")


def test_new_name_that_looks_like_another_one_is_refused(daemon, kvm, guest, tmp_path):
    disk, old = str(tmp_path / "vda.qcow2"), "s1\u200b"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", old, disk], check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": disk, "format": "qcow2"}])
    daemon.cairn("snapshot-create-as", "vm1", "s1")
    for name in ("s2\u200b", "s\xad2", "s\xa02", "s2 ", " s2", "\ufeffs2", "s2\u202e", "s2\x85"):
        assert "a snapshot's name " in daemon.cairn("snapshot-create-as", "vm1", name, ok=False).stderr
        assert "a snapshot's name " in daemon.cairn("snapshot-rename", "vm1", "s1", name, ok=False).stderr
    # The name that is in the image already works.
    assert names(daemon) == ["s1", old]
    daemon.cairn("snapshot-tag", "vm1", old, "x")
    daemon.cairn("snapshot-revert", "vm1", old)
    daemon.cairn("snapshot-rename", "vm1", old, "s2")
    assert names(daemon) == ["s1", "s2"]


def test_snapshotname_option_works_for_every_verb(vm):
    vm.cairn("snapshot-tag", "vm1", "--snapshotname", "s1", "x", "y")
    assert vm.cairn("snapshot-tag", "vm1", "--snapshotname", "s1").stdout == "x\ny\n"
    vm.cairn("snapshot-tag", "vm1", "--snapshotname=s1", "x", "--remove")
    assert vm.cairn("snapshot-tag", "vm1", "s1").stdout == "y\n"
    assert vm.cairn("snapshot-rename", "vm1", "--snapshotname", "s3", "third").stdout == (
        "Domain snapshot s3 renamed to third\n")
    assert vm.cairn("snapshot-parent", "vm1", "--snapshotname", "third").stdout == "s2\n"
    vm.cairn("snapshot-revert", "vm1", "--snapshotname", "third")
    assert vm.cairn("snapshot-current", "vm1", "--name").stdout == "third\n"
    vm.cairn("snapshot-delete", "vm1", "--snapshotname", "third")
    assert names(vm) == ["s1", "s2", "s4"]
    for args in (["snapshot-tag", "vm1"], ["snapshot-rename", "vm1", "s1"],
                 ["snapshot-rename", "vm1", "--snapshotname", "s1"],
                 ["snapshot-rename", "vm1", "--snapshotname", "s1", "a", "b"]):
        vm.cairn(*args, ok=2)


def test_undefine_waits_for_snapshot_list(fake):
    """Another client lists the snapshots meanwhile: neither is refused, they wait."""
    define(fake, cmdline="quits-in=500")
    looker, q, other = fake.qmp(), fake.qmp(), fake.qmp()
    looker.send(json.dumps({"execute": "snapshot-list", "arguments": {"vm": "vm1"}}).encode())
    child(fake)
    message = {"execute": "vm-undefine", "arguments": {"vm": "vm1"}}
    for client in (q, other):
        client.send(json.dumps(message).encode())
    answers = [q.answer(), other.answer()]
    assert sum("return" in a for a in answers) == 1
    assert ["no VM 'vm1'" in a["error"]["desc"] for a in answers if "error" in a] == [True]
    assert "vm1" not in fake.cairn("list", "--all").stdout
