"""A slow disk: only a client whose request is stored there waits for it."""

import errno
import json
import os
import signal
import socket
import threading
import time

import pytest

import pinlib
from conftest import BUILD, FAKE_VM, Daemon, QmpError, library, until

SYNC_MS = 150
PRELOAD = library("slow_sync")


@pytest.fixture
def slow(tmp_path):
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    assert os.path.exists(PRELOAD), "slow_sync.so is not built: make helpers"
    d = Daemon(tmp_path, vm_program=FAKE_VM, env={
        "LD_PRELOAD": PRELOAD, "SLOW_SYNC_MS": str(SYNC_MS), "SLOW_SYNC_FIRST": str(tmp_path / "first")})
    yield d
    d.close()


def hold(slow, of):
    """Hold back all syncs below the path until the returned file exists."""
    slow.stop()
    go = slow.tmp / "go"
    slow.env |= {"SLOW_SYNC_OF": of, "SLOW_SYNC_UNTIL": str(go)}
    slow.start()
    return go


def definition(slow, name):
    return {"name": name, "memory": "32M", "boot": {"kernel": str(slow.tmp / "kernel")}}


def test_queries_do_not_wait_for_slow_disk(slow):
    """Each request waits for the disk, but the loop does not."""
    (slow.tmp / "kernel").write_bytes(b"none\n")
    q, before = slow.qmp(), loop_syncs(slow)
    assert took(q, "vm-define", definition=definition(slow, "a")) >= 2 * SYNC_MS, "it was answered before it was kept"
    assert not q.run("vm-define", definition=definition(slow, "a"))["created"]
    q.run("permission-grant", user=1234, role="owner", vm="a")
    q.run("permission-revoke", user=1234, vm="a")
    assert took(q, "vm-undefine", vm="a") >= SYNC_MS
    assert loop_syncs(slow) == before


def test_query_is_answered_before_waiting_request(slow):
    """A query that comes after a request that waits for the disk is answered first."""
    (slow.tmp / "kernel").write_bytes(b"none\n")
    go = hold(slow, "/vms")
    q, other = slow.qmp(), slow.qmp()
    q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": definition(slow, "a")}}).encode())
    until(lambda: any(p.name.startswith(".draft-") for p in (slow.state / "vms").iterdir()))
    for _ in range(10):
        assert other.run("vm-list")["vms"] == []
    q.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        q.sock.recv(1)
    go.touch()
    q.sock.setblocking(True)
    assert q.answer()["return"]["created"]


@pytest.mark.parametrize("killed", [False, True])
def test_pin_of_a_new_vm_is_stored_before_its_definition(slow, killed):
    """Otherwise a power cut might leave the VM, but not its row in the list, and the pin might be deleted."""
    d = definition(slow, "a")
    d["disks"] = [{"path": str(slow.tmp / "overlay"), "format": "qcow2",
                   "backing": [{"path": str(slow.tmp / "source"), "format": "qcow2"}]}]
    (slow.tmp / "kernel").write_bytes(b"none\n")
    (slow.tmp / "source").write_bytes(bytes(512))
    pinlib.header_write(slow.tmp / "overlay", slow.tmp / "source", 32 * "a")
    go = hold(slow, "/pins.json")
    q, other = slow.qmp(), slow.qmp()
    q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": d}}).encode())
    until(lambda: [r["overlay"] for r in json.loads((slow.state / "pins.json").read_text())["used"]] == [d["disks"][0]["path"]])
    assert other.run("vm-list")["vms"] == []
    assert list((slow.state / "vms").iterdir()) == []
    if killed:
        slow.stop(signal.SIGKILL)
        go.touch()
        slow.start()
        assert slow.qmp().run("vm-list")["vms"] == []
        assert slow.qmp().run("vm-define", definition=d)["created"]
    else:
        go.touch()
        assert q.answer()["return"]["created"]
    assert len(json.loads((slow.state / "pins.json").read_text())["used"]) == 1


def test_failed_import_does_not_block_loop(slow):
    """A failed import's files are removed behind, except its definition; the loop continues meanwhile."""
    disk = slow.tmp / "a.raw"
    disk.write_bytes(bytes(65536))
    slow.define("a", disks=[{"path": str(disk), "format": "raw"}])
    slow.cairn("export", "a", str(slow.tmp / "a.tar"))
    (slow.tmp / "b").mkdir()  # the place of its files
    go = hold(slow, "/vms/b")
    q, other, folder = slow.qmp(), slow.qmp(), slow.state / "vms/b"
    with open(slow.tmp / "a.tar", "rb") as f:
        socket.send_fds(q.sock, [json.dumps({"execute": "vm-import", "arguments": {
            "folder": str(slow.tmp), "name": "b"}}).encode()], [f.fileno()])
    q.event("JOB_STATUS_CHANGE", vm="b", status="running")
    until(lambda: not (folder / "definition.json").exists())
    try:
        assert [v["name"] for v in other.run("vm-list")["vms"]] == ["a", "b"] and folder.exists()
        with pytest.raises(QmpError, match="there is a VM 'b'"):
            other.run("vm-rename", vm="a", name="b")
    finally:
        go.touch()
    q.event("JOB_STATUS_CHANGE", vm="b", status="concluded")
    assert not folder.exists() and [v["name"] for v in other.run("vm-list")["vms"]] == ["a"]
    assert "already exists" in q.run("query-jobs")[0]["error"]


def test_undefine_and_import_do_not_block_loop(slow):
    """An undefine first records the images to remove; an import's end is stored."""
    disk = slow.tmp / "a.raw"
    disk.write_bytes(bytes(65536))
    slow.define("a", disks=[{"path": str(disk), "format": "raw"}])
    slow.cairn("export", "a", str(slow.tmp / "a.tar"))
    q, before = slow.qmp(), loop_syncs(slow)
    assert took(q, "vm-undefine", vm="a", remove_all_storage=True) >= SYNC_MS
    assert not disk.exists() and not (slow.state / "vms/a").exists()
    (slow.tmp / "in").mkdir()
    slow.cairn("import", str(slow.tmp / "a.tar"), "--folder", str(slow.tmp / "in"))
    assert loop_syncs(slow) == before
    assert not (slow.state / "vms/a/import.pending").exists() and (slow.state / "vms/a/imported.json").exists()
    slow.cairn("start", "a")


def test_overlapping_requests_act_in_sequence(slow):
    """Requests that overlap on the way to the disk give the result of a sequence. A definition whose files are still
    looked at when another request changes the VM is refused as Busy."""
    (slow.tmp / "kernel").write_bytes(b"none\n")
    clients, answers = [slow.qmp() for _ in range(6)], []

    def ask(i):
        try:
            if i % 3 == 2:
                clients[i].run("vm-undefine", vm="a")
            else:
                clients[i].run("vm-define", definition=definition(slow, "a"))
            answers.append("ok")
        except QmpError as e:
            answers.append(e.cls)

    clients[0].run("vm-define", definition=definition(slow, "a"))
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(50)
    assert len(answers) == 6 and set(answers) <= {"ok", "NotFound", "AlreadyExists", "Busy"} and "ok" in answers
    names = [v["name"] for v in slow.qmp().run("vm-list")["vms"]]
    assert names == os.listdir(slow.state / "vms")
    slow.stop()
    slow.start()
    assert [v["name"] for v in slow.qmp().run("vm-list")["vms"]] == names


def test_daemon_end_waits_for_begun_writes(slow):
    (slow.tmp / "kernel").write_bytes(b"none\n")
    q = slow.qmp()
    q.send(b'{"execute":"vm-define","arguments":{"definition":{"name":"a","memory":"32M","boot":{"kernel":"%s"}}}}'
           % str(slow.tmp / "kernel").encode())
    until(lambda: os.listdir(slow.state / "vms"))
    assert slow.stop() == 0
    assert "return" in q.answer()
    slow.start()
    assert [v["name"] for v in slow.qmp().run("vm-list")["vms"]] == ["a"]


def test_daemon_end_during_import_leaves_consistent_state(slow):
    """Data of a job is written before the job ends, so nothing is written later."""
    slow.define("a")
    slow.cairn("export", "a", str(slow.tmp / "a.tar"))
    slow.cairn("undefine", "a")
    slow.stop()
    slow.env |= {"SLOW_SYNC_OF": "imported.json", "SLOW_SYNC_MS": "4000", "MALLOC_PERTURB_": "165"}
    slow.start()
    (slow.tmp / "in").mkdir()
    who = threading.Thread(target=slow.cairn, args=("import", str(slow.tmp / "a.tar"), "--folder", str(slow.tmp / "in")),
                           kwargs={"ok": None})
    who.start()
    until(lambda: list(slow.state.glob("vms/a/imported.json*")))
    assert slow.stop() == 0
    who.join()
    slow.start()
    assert slow.info("a")["state"] == "shutoff" and (slow.state / "vms/a/imported.json").exists()
    assert not (slow.state / "vms/a/import.pending").exists()


def test_redefine_during_start_is_refused(slow):
    """The refusal also covers the time between the check of the definition and the start of the VM process."""
    slow.define("a")
    slow.cairn("start", "a")
    slow.cairn("managedsave", "a")
    go = hold(slow, "/vms/a")
    q = slow.qmp()
    q.send(b'{"execute":"vm-start","arguments":{"vm":"a"}}')
    until(lambda: (slow.state / "vms/a/managed.save.used").exists())
    try:
        with pytest.raises(QmpError, match="Busy: VM 'a' is being started; define it afterwards"):
            slow.qmp().run("vm-define", definition={**definition(slow, "a"), "title": "another"}, validate_only=True)
    finally:
        go.touch()
    assert "return" in q.answer()
    assert slow.info("a")["reason"] == "restored"


def took(q, command, **args):
    begin = time.monotonic()
    q.run(command, **args)
    return (time.monotonic() - begin) * 1e3


def loop_syncs(slow):
    """Count the daemon loop's waits for the disk; waits during its start are allowed."""
    first = slow.tmp / "first"
    return first.read_text().split().count(str(slow.proc.pid)) if first.exists() else 0


def test_other_files_are_answered_when_stored(slow):
    """Saved states, schedules, marks: each is answered when it is stored, and the loop continues."""
    slow.define("a")
    q = slow.qmp()
    before = loop_syncs(slow)
    assert took(q, "snapshot-schedule-set", vm="a", every="1h") >= SYNC_MS
    assert took(q, "snapshot-schedule-set", vm="a", keep="7d:daily") >= SYNC_MS
    assert took(q, "snapshot-schedule-remove", vm="a") >= SYNC_MS
    assert took(q, "vm-autostart", vm="a") >= SYNC_MS
    assert slow.info("a")["autostart"]
    assert took(q, "vm-autostart", vm="a", disable=True) >= SYNC_MS
    assert not slow.info("a")["autostart"]
    assert took(q, "vm-template", vm="a") >= SYNC_MS
    assert slow.info("a")["template"]
    assert took(q, "vm-template", vm="a", disable=True) >= SYNC_MS
    assert not slow.info("a")["template"]
    slow.cairn("start", "a")
    slow.cairn("managedsave", "a")
    assert took(q, "vm-start", vm="a") >= SYNC_MS
    assert slow.info("a")["reason"] == "restored"
    slow.cairn("managedsave", "a")
    assert took(q, "vm-managed-save-remove", vm="a") >= SYNC_MS
    assert slow.info("a")["state"] == "shutoff"
    assert loop_syncs(slow) == before


@pytest.mark.parametrize("command, how", [
    ("vm-shutdown", {"at": 10**9 * int(time.time() + 36000)}),
    ("vm-shutdown", {"then": "destroy", "timeout": 3600}),
    ("vm-shutdown-cancel", {})])
def test_shutdown_is_answered_when_its_deadline_is_stored(slow, command, how):
    slow.define("a", cmdline="deaf")
    slow.cairn("start", "a")
    if command == "vm-shutdown-cancel":
        slow.cairn("shutdown", "--in", "10h", "a")
    go = hold(slow, "/vms")
    q, other = slow.qmp(), slow.qmp()
    q.send(json.dumps({"execute": command, "arguments": {"vm": "a", **how}}).encode())
    try:
        until(lambda: ("shutdown-then" in other.run("vm-info", vm="a")) == (command == "vm-shutdown"))
        # When this is answered, the first command's audit line is stored, too.
        other.run("vm-suspend", vm="a")
        q.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            while b'"return"' not in q.sock.recv(65536):
                pass  # events
    finally:
        go.touch()
    q.sock.setblocking(True)
    assert q.answer()["return"] == {}


def test_start_during_removal_of_managed_save_is_refused(slow):
    slow.define("a")
    slow.cairn("start", "a")
    slow.cairn("managedsave", "a")
    go = hold(slow, "/vms/a")
    q = slow.qmp()
    q.send(b'{"execute":"vm-managed-save-remove","arguments":{"vm":"a"}}')
    until(lambda: not (slow.state / "vms/a/managed.save").exists())
    try:
        with pytest.raises(QmpError, match="managed save is being removed"):
            slow.qmp().run("vm-start", vm="a")
    finally:
        go.touch()
    assert "return" in q.answer()
    slow.qmp().run("vm-start", vm="a")
    assert slow.info("a")["reason"] == "booted"


@pytest.mark.parametrize("when", ["begun", "saved", "used"])
def test_kill_between_writes_loses_no_save(slow, when):
    """When the daemon is killed while it waits for the disk, either the save exists or the VM runs."""
    slow.define("a")
    slow.cairn("start", "a")
    pid = slow.info("a")["pid"]
    if when == "used":
        slow.cairn("managedsave", "a")
    # A saved VM stays saved, whichever write comes first.
    go = slow.tmp / "go" if when == "saved" else hold(slow, "/vms/a")
    q = slow.qmp()
    if when == "used":
        q.send(b'{"execute":"vm-start","arguments":{"vm":"a"}}')
        until(lambda: (slow.state / "vms/a/managed.save.used").exists())
    else:
        q.send(b'{"execute":"vm-managed-save","arguments":{"vm":"a"}}')
        name = "managed.save" if when == "saved" else "managed.save.tmp"
        until(lambda: (slow.state / "vms/a" / name).exists())
    slow.stop(signal.SIGKILL)
    go.touch()
    slow.start()
    if when == "begun":
        assert slow.info("a")["pid"] == pid and slow.info("a")["state"] == "running"
        slow.cairn("managedsave", "a")
    assert slow.info("a")["state"] == "saved"
    slow.cairn("start", "a")
    assert slow.info("a")["reason"] == "restored"


def test_start_waits_for_managed_save_to_be_stored(slow):
    """The managed save may not be on stable storage yet, so the start waits for it."""
    go, saves = hold(slow, "/vms/a"), slow.tmp / "saves"
    go.touch()
    slow.define("a", cmdline=f"work-until={saves}")
    slow.cairn("start", "a")
    q, other = slow.qmp(), slow.qmp()
    q.run("vm-managed-save", vm="a", job_id="j")
    q.event("VM_STATE_CHANGE", vm="a", state="paused")  # the VM's process has begun
    go.unlink()
    saves.touch()
    q.event("VM_STATE_CHANGE", vm="a", state="saved")
    q.send(b'{"execute":"vm-start","arguments":{"vm":"a"}}')
    for _ in range(2):  # the daemon has read what came before
        assert other.run("query-jobs", id="j")[0]["status"] == "running"
    assert other.run("vm-info", vm="a")["state"] == "saved"
    go.touch()
    assert "return" in q.answer()
    assert slow.info("a")["state"] == "running" and slow.info("a")["reason"] == "restored"
    assert other.run("query-jobs", id="j")[0]["status"] == "concluded"


def test_end_of_a_revert_waits_for_the_state_of_a_vm_that_is_off(slow):
    """A killed daemon's client was told that the VM is off, and the next daemon said that it has crashed."""
    (slow.tmp / "d.raw").write_bytes(bytes(1 << 20))
    slow.define("a", disks=[{"path": "d.raw", "format": "raw"}])
    slow.cairn("snapshot-create-as", "a", "one")
    slow.cairn("start", "a")
    os.kill(slow.info("a")["pid"], signal.SIGKILL)
    slow.wait("a", "crashed")
    go = hold(slow, "/vms/a")
    q = slow.qmp()
    q.run("snapshot-revert", vm="a", name="one", job_id="j")
    until(lambda: slow.info("a")["state"] == "shutoff")
    try:
        assert slow.qmp().run("query-jobs", id="j")[0]["status"] == "running"
    finally:
        go.touch()
    q.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert slow.kept("a")["state"] == "shutoff"


def test_save_that_waits_for_disk_can_be_cancelled(slow):
    slow.define("a")
    slow.cairn("start", "a")
    go = hold(slow, "/vms/a")
    q = slow.qmp()
    q.send(b'{"execute":"vm-managed-save","arguments":{"vm":"a","job-id":"j"}}')
    until(lambda: (slow.state / "vms/a/managed.save.tmp").exists())
    slow.qmp().run("job-cancel", id="j")
    go.touch()
    assert q.answer()["return"] == {"job": "j"}
    client = slow.qmp()
    until(lambda: client.run("query-jobs")[0]["status"] == "concluded")
    job = slow.qmp().run("query-jobs")[0]
    assert job["error-class"] == "Cancelled"
    assert not (slow.state / "vms/a/managed.save.tmp").exists() and slow.info("a")["state"] == "running"


@pytest.mark.parametrize("how", ["vm-clone", "vm-fork"])
def test_clones_are_stored_before_answer(slow, how):
    """Until the batch's file says that they are complete, the next daemon would remove the clones."""
    (slow.tmp / "kernel").write_bytes(b"none\n")
    slow.qmp().run("vm-define", definition=definition(slow, "a"))
    if how == "vm-fork":
        slow.qmp().run("vm-start", vm="a")
    slow.env["SLOW_SYNC_DATA"] = "1"
    go = hold(slow, "/batches")
    q = slow.qmp()
    job = q.run(how, vm="a", name="b")["job"]
    q.event("VM_DEFINED", vm="b")
    if how == "vm-fork":
        slow.wait("b", "running")
    try:
        assert len(list((slow.state / "batches").glob("*.json"))) == 1
        assert [j["status"] for j in slow.qmp().run("query-jobs") if j["id"] == job] == ["running"]
    finally:
        go.touch()
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert q.run("vm-info", vm="b")["state"] == ("running" if how == "vm-fork" else "shutoff")
    assert not list((slow.state / "batches").glob("*"))


@pytest.mark.parametrize("how", ["vm-clone", "vm-fork"])
def test_clones_are_removed_if_their_batch_may_come_back(slow, how):
    """After a power cut the next daemon would remove them with their disks, so the job must not succeed."""
    (slow.tmp / "kernel").write_bytes(b"none\n")
    slow.qmp().run("vm-define", definition=definition(slow, "a"))
    slow.stop()
    slow.env |= {"SLOW_SYNC_FAIL": str(errno.EIO), "SLOW_SYNC_OF": "/batches", "SLOW_SYNC_DATA": "1"}
    slow.start()
    q = slow.qmp()
    if how == "vm-fork":
        q.run("vm-start", vm="a")
    job = q.run(how, vm="a", name="b")["job"]
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    (job,) = [j for j in q.run("query-jobs") if j["id"] == job]
    assert job["error-class"] == "IOError" and "Input/output error" in job["error"]
    assert [v["name"] for v in q.run("vm-list")["vms"]] == ["a"] and not list((slow.state / "batches").glob("*"))


def test_killed_daemon_forgets_no_job_whose_end_it_told(slow):
    """The event is in the log at once; jobs.json is stored later."""
    for name, words in ("good", ""), ("bad", "work-fails"):
        slow.define(name, cmdline=words)
        slow.cairn("start", name)
    go = hold(slow, "jobs.json")
    q = slow.qmp()
    for n, vm in enumerate(("good", "bad", "good")):
        slow.cairn("dump", vm, str(slow.tmp / f"core{n}"), "--no-wait")
        until(lambda: all(j["status"] == "concluded" for j in q.run("query-jobs")))
    q.run("job-dismiss", id=q.run("query-jobs")[2]["id"])
    slow.stop(signal.SIGKILL)
    go.touch()
    slow.start()
    good, bad = slow.qmp().run("query-jobs")
    assert [good["vm"], bad["vm"]] == ["good", "bad"] and good["status"] == bad["status"] == "concluded"
    assert "error" not in good and bad["error"] == "vda: no space left on the device"  # from the event


@pytest.mark.parametrize("command, args", [
    ("vm-define", {"name": "b"}), ("vm-define", {"name": "a", "title": "new"}), ("vm-undefine", {"vm": "a"}), ("vm-rename", {"vm": "a", "name": "b"}),
    ("vm-autostart", {"vm": "a"}), ("vm-template", {"vm": "a"}),
    ("permission-grant", {"user": 1234, "role": "owner", "vm": "a"}), ("quota-set", {"user": os.geteuid() + 1, "vms": 1}),
    ("net-define", {"name": "n2"}), ("net-undefine", {"network": "n1"}), ("net-autostart", {"network": "n1"})],
    ids=lambda v: v if isinstance(v, str) else ",".join(v))
def test_command_fails_if_its_sync_fails_and_works_afterwards(slow, command, args):
    (slow.tmp / "kernel").write_bytes(b"none\n")
    fails = slow.tmp / "fails"
    slow.stop()
    slow.env |= {"SLOW_SYNC_MS": "0", "SLOW_SYNC_FAIL": str(errno.EIO), "SLOW_SYNC_OF": str(slow.state), "SLOW_SYNC_FAIL_IF": str(fails)}
    slow.start()
    q = slow.qmp()
    for name in ("a", "runs"):
        q.run("vm-define", definition=definition(slow, name))
    q.run("vm-start", vm="runs")
    network = {"name": "n1", "mode": "isolated"}
    q.run("net-define", definition=network)
    if command == "vm-define":
        args = {"definition": {**definition(slow, args["name"]), **args}}
    if command == "net-define":
        args = {"definition": {**network, **args}}
    fails.touch()
    q = slow.qmp()
    with pytest.raises(QmpError, match="IOError: .*Input/output error"):
        q.run(command, **args)
    assert q.run("vm-info", vm="runs")["state"] == "running"
    fails.unlink()
    if command == "vm-undefine":  # the VM is gone; without the sync, a power cut could bring it back
        assert [v["name"] for v in q.run("vm-list")["vms"]] == ["runs"]
    elif command == "net-undefine":
        assert not q.run("net-list")["networks"]
    else:
        q.run(command, **args)

    def kept():
        q = slow.qmp()
        return [q.run(c) for c in ("vm-list", "query-permissions", "query-quotas", "net-list")]
    seen = kept()
    slow.stop(signal.SIGKILL)
    slow.start()
    assert kept() == seen
