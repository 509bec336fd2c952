"""State folders of other Cairn versions: files of older versions are read, files of newer ones are left alone."""

import json
import os
import pathlib
import shutil
import signal
import struct
import time

import pytest

from conftest import FAKE_VM, ROOT, Daemon, QmpError, has_ended, until
from daemonlib import audit, kept_events, pid_of
from test_slow_disk import PRELOAD

DATA = pathlib.Path(ROOT) / "tests/data"
NAMES = ["clocked", "plain", "planned", "ran"]
NEWER = "a newer Cairn wrote the file: it has version 9"


def unpack(tmp, folder):
    """Unpack a golden state folder, as if this boot of this host had left it."""
    (tmp / "kernel").write_bytes(b"not a kernel\n")
    boot = open("/proc/sys/kernel/random/boot_id").read().strip()
    was = json.loads((DATA / folder / "events.jsonl").read_text().split("\n", 1)[0])["boot"]
    for path in (DATA / folder).rglob("*.*"):
        if path.is_file():
            to = tmp / "state" / path.relative_to(DATA / folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(path.read_text().replace("@TMP@", str(tmp)).replace(was, boot))
    jobs = json.loads((tmp / "state/jobs.json").read_text())
    for j in jobs["jobs"]:
        j["started"] = time.time_ns()  # results expire
    (tmp / "state/jobs.json").write_text(json.dumps(jobs))


def version(path):
    return json.loads(path.read_text())["version"]


@pytest.fixture
def old(tmp_path):
    begun = []

    def start(folder, **kwargs):
        unpack(tmp_path, folder)
        begun.append(Daemon(tmp_path, FAKE_VM, **kwargs))
        return begun[0]

    yield start
    for d in begun:
        d.close()


@pytest.mark.parametrize("folder", sorted(p.name for p in DATA.glob("state-*")))
def test_state_of_each_older_version_loads(old, folder):
    d = old(folder)
    q, late = d.qmp(), folder != "state-1-early"  # the earliest versions had no autostart, templates or plans
    list_ = {v["name"]: v for v in q.run("vm-list")["vms"]}
    assert sorted(list_) == NAMES and "unloaded" not in q.run("vm-list")
    assert [(n, v["autostart"], v["template"]) for n, v in sorted(list_.items())] == [
        ("clocked", late, False), ("plain", False, late), ("planned", False, False), ("ran", False, False)]
    # It ran, and its process ended while no daemon ran.
    assert (list_["planned"]["state"], list_["planned"]["reason"]) == ("crashed", "killed")
    assert {list_[n]["state"] for n in NAMES if n != "planned"} == {"shutoff"} and list_["ran"]["reason"] == "saved"
    assert q.run("vm-dump-definition", vm="ran")["definition"]["boot"]["kernel"] == str(d.tmp / "kernel")
    schedule, = q.run("query-snapshot-schedules")["schedules"]
    assert (schedule["vm"], schedule["every"], schedule["keep"]) == ("clocked", "1h", "1w:daily")
    table = q.run("query-permissions")["permissions"]
    uuid = list_["plain"]["uuid"]
    assert table == [{"user": 1234, "role": "operator", "vm": "plain", "vm-uuid": uuid},
                     {"group": 4242, "role": "viewer"}]
    job, = q.run("query-jobs")
    assert (job["id"], job["type"], job["status"], job["vm"]) == ("job1", "save", "concluded", "ran")
    # Event numbers continue.
    golden = [json.loads(x) for x in (DATA / folder / "events.jsonl").read_text().splitlines()]
    last = max(ev.get("seq", 0) for ev in golden)
    events = kept_events(d)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1)) and len(events) > last
    assert [e["event"] for e in events[:last]] == [e["event"] for e in golden if "seq" in e]
    assert [a["vm"] for a in audit(d) if a["command"] == "vm-define"] == ["plain", "ran", "clocked", "planned"]
    d.cairn("start", "ran")


@pytest.mark.parametrize("folder", ["state-1-early", "state-1"])
def test_old_state_is_converted_once(old, folder):
    """The states of all VMs, and the permissions."""
    d = old(folder)
    before = (d.state / "vms/ran/state.json.v1").read_text()
    until(lambda: {version(d.state / f"vms/{n}/state.json") for n in NAMES} == {2})
    until(lambda: version(d.state / "permissions.json") == 2)
    assert before == (DATA / folder / "vms/ran/state.json").read_text()
    assert d.log.read_text().count("from version 1 to 2") == len(NAMES) + 1
    d.stop()
    whole = {n: d.kept(n) for n in NAMES}
    d.start()
    assert d.log.read_text().count("from version 1 to 2") == len(NAMES) + 1
    d.stop()
    assert {n: d.kept(n) for n in NAMES} == whole
    d.start()
    d.cairn("undefine", "ran")
    assert not (d.state / "vms/ran").exists()


@pytest.mark.parametrize("number, word", [(1, "destroy"), (2, "save")])
def test_scheduled_action_of_version_1_is_kept(fake, number, word):
    """Of a running VM: the action at the deadline."""
    fake.define("vm1", cmdline="deaf")
    fake.cairn("start", "vm1")
    pid = pid_of(fake, "vm1")
    fake.cairn("shutdown", "--then", word, "--timeout", "3600", "vm1")
    until(lambda: "shutdown" in fake.kept("vm1"))
    fake.stop(signal.SIGKILL)
    path = fake.state / "vms/vm1/state.json"
    o = json.loads(path.read_text())
    assert o["version"] == 2 and o["shutdown"]["then"] == word
    path.write_text(json.dumps({**o, "version": 1, "shutdown": {**o["shutdown"], "then": number}}))
    fake.start()
    assert fake.info("vm1")["shutdown-then"] == word and pid_of(fake, "vm1") == pid
    until(lambda: version(path) == 2)
    # A file that no Cairn wrote counts as damage of the state only.
    fake.stop(signal.SIGKILL)
    path.write_text(json.dumps({**o, "version": 1, "shutdown": {**o["shutdown"], "then": 3}}))
    fake.start()
    assert path.with_name("state.json.damaged").exists() and pid_of(fake, "vm1") == pid


@pytest.mark.seconds(120)
def test_kill_during_conversion_loses_nothing(old):
    """Whichever file is being converted at the kill, it is the old or the new one, and the next daemon continues."""
    assert os.path.exists(PRELOAD), "slow_sync.so is not built: make helpers"
    d = old("state-1")
    d.stop()
    shutil.rmtree(d.state)
    unpack(d.tmp, "state-1")
    files = [d.state / f"vms/{n}/state.json" for n in NAMES]
    kills = 0
    while any(version(p) == 1 for p in files):
        left = sum(version(p) == 1 for p in files)
        assert kills < 20
        d.env.update(LD_PRELOAD=PRELOAD, SLOW_SYNC_MS="200")
        d.start()
        # The first file is complete, and the second, if it exists, is not.
        until(lambda: sum(version(p) == 1 for p in files) < left)
        d.stop(signal.SIGKILL)
        kills += 1
        for p in files:
            json.loads(p.read_text())
            if version(p) == 2:
                assert json.loads(p.with_name("state.json.v1").read_text())["version"] == 1
    assert kills > 1
    del d.env["LD_PRELOAD"]
    d.start()
    assert sorted(v["name"] for v in d.qmp().run("vm-list")["vms"]) == NAMES
    assert [e["seq"] for e in kept_events(d)] == sorted({e["seq"] for e in kept_events(d)})
    assert d.info("ran")["reason"] == "saved" and not list(d.state.glob("vms/*/*.damaged"))


@pytest.mark.parametrize("version, reason", [(None, "shutdown"), (1, "shutdown"), (2, "shutdown"), (3, "killed")])
def test_end_file_of_unknown_version_is_ignored(fake, version, reason):
    """An end file of an unknown version is unreadable, and no end is invented."""
    fake.define("vm1")
    fake.define("vm2", cmdline="off-after=1")
    fake.cairn("start", "vm1", "vm2")
    fake.wait("vm2", "shutoff")
    said = (fake.state / "vms/vm2/end").read_bytes()[:4096]
    pid, path = pid_of(fake, "vm1"), fake.state / "vms/vm1/end"
    assert path.read_bytes()[4096:] == struct.pack("<QQQ", 1, 2, 1)
    until(lambda: fake.kept("vm1").get("state") == "running")
    fake.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(pid))
    path.write_bytes(said + struct.pack("<Q", 1) + (struct.pack("<Q", version) if version else b""))
    fake.start()
    assert fake.info("vm1")["reason"] == reason


# ---- a newer Cairn's files ----

@pytest.mark.parametrize("file", ["definition", "state", "schedule", "autostart", "template", "undefine", "renamed"])
def test_vm_of_newer_cairn_is_listed_and_untouched(fake, file):
    """Its files do not change, its name is taken, and the other VMs load."""
    fake.define("good")
    fake.define("vm1")
    fake.cairn("snapshot-schedule", "vm1", "--every", "1h")
    fake.cairn("autostart", "vm1")
    fake.stop()
    folder = fake.state / "vms/vm1"
    path = folder / f"{file}.json"
    o = json.loads(path.read_text()) if path.exists() else {"name": "vm1", "volumes": []}
    was = path.read_text() if path.exists() else None
    path.write_text(json.dumps({**o, "version": 9, "later": [1]}))
    before = {p.name: p.read_text() for p in folder.iterdir()}
    fake.start()
    r = fake.cairn("list", "--all")
    assert "good" in r.stdout and "vm1" not in r.stdout
    assert "domain 'vm1' is not loaded: " in r.stderr and NEWER in r.stderr and f"vms/vm1/{file}.json" in r.stderr
    q = fake.qmp()
    row, = q.run("vm-list")["unloaded"]
    assert row["name"] == "vm1" and NEWER in row["why"] and "Next: " in row["why"]
    for refused in ("start", "undefine"):
        assert NEWER in fake.cairn(refused, "vm1", ok=False).stderr
    assert NEWER in fake.cairn("define", fake.write("vm1"), ok=False).stderr
    assert NEWER in fake.cairn("domrename", "good", "vm1", ok=False).stderr
    assert NEWER in fake.cairn("clone", "good", "vm1", ok=False).stderr
    fake.cairn("start", "good")
    fake.stop()
    assert {p.name: p.read_text() for p in folder.iterdir()} == before
    if was:  # the newer daemon runs again, or its file is back
        path.write_text(was)
    else:
        path.unlink()
    fake.start()
    assert sorted(v["name"] for v in fake.qmp().run("vm-list")["vms"]) == ["good", "vm1"]
    fake.cairn("start", "vm1")


def test_unfinished_clones_of_newer_cairn_stay(fake):
    """The clones are not VMs yet: the daemon starts and removes none of them, whether off or running."""
    for vm in ("c-1", "c-2", "other"):
        fake.define(vm)
    fake.cairn("start", "c-2")
    pid, uuids = pid_of(fake, "c-2"), {vm: fake.info(vm)["uuid"] for vm in ("c-1", "c-2", "other")}
    until(lambda: fake.kept("c-2").get("state") == "running")
    fake.stop(signal.SIGKILL)
    batch = fake.state / "batches/x.json"
    batch.parent.mkdir(exist_ok=True)
    planned = [{"name": n, "uuid": uuids[u]} for n, u in (("c-1", "c-1"), ("c-2", "c-2"), ("other", "c-1"))]
    batch.write_text(json.dumps({"version": 9, "vms": [*planned, {"name": "c-3"}, 4], "later": [1]}))
    before = {p: p.read_text() for p in (batch, *fake.state.glob("vms/c-*/*.json"))}
    fake.start()
    q = fake.qmp()
    assert [v["name"] for v in q.run("vm-list")["vms"]] == ["other"]
    left = q.run("vm-list")["unloaded"]
    assert sorted(v["name"] for v in left) == ["c-1", "c-2"] and all(f"batches/x.json: {NEWER}" in v["why"] for v in left)
    assert "VM 'c-2' runs unmanaged: " in fake.log.read_text() and not has_ended(pid)
    for verb in ("start", "undefine"):
        assert NEWER in fake.cairn(verb, "c-1", ok=False).stderr
    assert NEWER in fake.cairn("define", fake.write("c-1"), ok=False).stderr
    fake.stop()
    assert {p: p.read_text() for p in before} == before and not has_ended(pid)
    batch.unlink()  # as the newer daemon does when they are complete
    fake.start()
    assert [v["name"] for v in fake.qmp().run("vm-list")["vms"]] == ["c-1", "c-2", "other"] and pid_of(fake, "c-2") == pid


def test_running_vm_of_newer_cairn_is_left_alone(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid, path = pid_of(fake, "vm1"), fake.state / "vms/vm1/state.json"
    until(lambda: fake.kept("vm1").get("state") == "running")
    fake.stop(signal.SIGKILL)
    was = path.read_text()
    path.write_text(json.dumps({**json.loads(was), "version": 9}))
    fake.start()
    assert "VM 'vm1' runs unmanaged: " in fake.log.read_text() and not has_ended(pid)
    fake.stop()
    path.write_text(was)
    fake.start()
    assert pid_of(fake, "vm1") == pid and fake.info("vm1")["state"] == "running"


@pytest.mark.parametrize("part", ["live", "disk_change"])
def test_vm_that_runs_with_keys_of_a_newer_cairn_is_left_alone(fake, part):
    """As after the return to an earlier release. Else this daemon would forget what the VM runs with."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    d = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    fake.stop(signal.SIGKILL)
    path = fake.state / "vms/vm1/state.json"
    was = json.loads(path.read_text())
    later = {**d, "later": 1}
    path.write_text(json.dumps({**was, part: later if part == "live" else {"id": "vda", "dev": 1, "ino": 1, "more": [], "before": later}}))
    before = path.read_text()
    fake.start()
    r = fake.cairn("list", "--all")
    assert "domain 'vm1' is not loaded: " in r.stderr and '"later" is not a key' in r.stderr and "Next: use the newer Cairn" in r.stderr
    assert "VM 'vm1' runs unmanaged" in fake.log.read_text()
    fake.stop()
    assert path.read_text() == before
    path.write_text(json.dumps(was))
    fake.start()
    assert fake.info("vm1")["state"] == "running"
    fake.cairn("destroy", "vm1")


@pytest.mark.parametrize("change", [{"version": 9}, {"definition": {"name": "lan", "mode": "isolated", "later": 1}}], ids=["version", "key"])
def test_network_of_newer_cairn_is_left_alone(fake, change):
    for name in ("lan", "other"):
        fake.qmp().run("net-define", definition={"name": name, "mode": "isolated"})
    fake.stop()
    path = fake.state / "networks/net-lan.json"
    was = path.read_text()
    o = json.loads(was)
    path.write_text(json.dumps({**o, **change, "definition": {**o["definition"], **change.get("definition", {})}}))
    before = path.read_text()
    fake.start()
    q = fake.qmp()
    assert [n["name"] for n in q.run("net-list")["networks"]] == ["other"]
    with pytest.raises(QmpError, match="net-lan.json: .*Next: use the newer Cairn"):
        q.run("net-define", definition={"name": "lan", "mode": "isolated"})
    assert [n["name"] for n in q.run("net-list")["networks"]] == ["other"]
    fake.stop()
    assert path.read_text() == before
    path.write_text(was)
    fake.start()
    assert [n["name"] for n in fake.qmp().run("net-list")["networks"]] == ["lan", "other"]


@pytest.mark.parametrize("entry,newer", [({"user": 1, "role": "operatr"}, True), ({"user": 1, "role": 7}, False), (5, False)])
def test_permissions_with_an_invalid_entry_are_not_lost(fake, entry, newer):
    """Nobody but root has a role, and no change erases an entry. An unknown word may be of a newer Cairn."""
    fake.cairn("grant", "viewer", "--user", "12345")
    fake.stop()
    path = fake.state / "permissions.json"
    o = json.loads(path.read_text())
    text = json.dumps({**o, "permissions": [*o["permissions"], entry]})
    path.write_text(text)
    fake.start()
    assert fake.qmp().run("query-permissions")["permissions"] == []
    said = fake.cairn("grant", "viewer", "--user", "54321", ok=not newer).stderr
    fake.stop()
    kept = path if newer else path.with_name("permissions.json.damaged")
    assert kept.read_text() == text
    assert ('"operatr" is no role that this Cairn knows' in said) == newer, said
    assert ("permissions.json is damaged (an entry has no valid " in fake.log.read_text()) != newer


def test_newer_permissions_and_jobs_are_left_alone(fake):
    """Permissions deny, completed work is not repeated, and nothing is overwritten."""
    fake.define("vm1")
    fake.cairn("autostart", "vm1")
    fake.cairn("grant", "viewer", "--user", "12345")
    fake.stop()
    for name in ("permissions", "jobs", "boot"):
        path = fake.state / f"{name}.json"
        path.write_text(json.dumps({"version": 9, "later": {}}))
    before = {n: (fake.state / f"{n}.json").read_text() for n in ("permissions", "jobs", "boot")}
    fake.start()
    q = fake.qmp()
    assert q.run("query-permissions")["permissions"] == []
    with pytest.raises(QmpError, match="permissions.json: a newer Cairn wrote the file"):
        q.run("permission-grant", user=12345, role="viewer")
    fake.cairn("save", "--no-wait", "vm1", str(fake.tmp / "x"), ok=False)
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1")
    fake.stop()
    assert {n: (fake.state / f"{n}.json").read_text() for n in before} == before
    log = fake.log.read_text()
    assert log.count("a newer Cairn wrote the file") >= 3 and "VMs are started" not in log.rsplit("listens", 1)[1]
    fake.start()
