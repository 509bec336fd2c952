"""cairn restart-process: a running VM gets a new process, and its guest continues."""

import json
import signal
import time

import pytest

from conftest import has_ended, until
from test_save import check, filled  # noqa: F401


def tomorrow():
    return (int(time.time()) + 86400) * 10**9


def job_of(fake, id):
    return [j for j in fake.qmp().jobs() if j["id"] == id][0]


def test_vm_gets_new_process(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    r = json.loads(fake.cairn("restart-process", "vm1", "--format", "json").stdout)[0]
    assert (r["name"], r["outcome"], r["way"]) == ("vm1", "done", "save") and 0 < r["pause"] < 50e9
    assert fake.info("vm1")["pid"] != pid and has_ended(pid)
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "running (restored)\n"
    out = fake.cairn("restart-process", "vm1").stdout
    assert out.startswith("Domain 'vm1' runs in a new process (saved and started, paused ")
    assert out.endswith(" ms; an older version of Cairn started the VM's process)\n")
    assert not [f for f in (fake.state / "vms/vm1").iterdir() if f.name.startswith("managed")]
    until(lambda: "restarting_process" not in fake.kept("vm1"))


def test_paused_vm_stays_paused(fake):
    fake.define("vm1")
    fake.cairn("start", "--paused", "vm1")
    assert "pause" not in json.loads(fake.cairn("restart-process", "vm1", "--format", "json").stdout)[0]
    assert fake.info("vm1")["state"] == "paused"


def test_only_running_vms_get_new_processes(fake):
    for name in "vm1", "vm2", "vm3":
        fake.define(name)
    fake.cairn("start", "vm1", "vm2")
    r = fake.cairn("restart-process", "vm3", ok=4)
    assert "VM 'vm3' is shut off; restart-process works when it is running or paused" in r.stderr
    fake.define("vm2", memory="64M")
    r = fake.cairn("restart-process", "vm2", ok=4)
    assert "VM 'vm2' was redefined while it runs, and a new process would take the new definition" in r.stderr
    assert fake.info("vm2")["memory"] == 32 << 20 and fake.info("vm2")["state"] == "running"


def test_all_running_vms_get_new_processes(fake):
    for name in "vm1", "vm2", "vm3":
        fake.define(name)
    fake.cairn("start", "vm1", "vm2")
    pids = [fake.info(name)["pid"] for name in ("vm1", "vm2")]
    out = json.loads(fake.cairn("restart-process", "--all", "--format", "json").stdout)
    assert [(x["name"], x["outcome"], x.get("way")) for x in out] == [
        ("vm1", "done", "save"), ("vm2", "done", "save"), ("vm3", "skipped", None)]
    assert not {fake.info(name)["pid"] for name in ("vm1", "vm2")} & set(pids)
    out = fake.cairn("restart-process", "--all").stdout
    assert out.count("saved and started: an older version of Cairn started the VM's process") == 2
    assert "VM 'vm3' is shut off" in out


def test_failed_save_leaves_vm_running(fake):
    fake.define("vm1", cmdline="work-fails")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    fake.cairn("restart-process", "vm1", ok=1)
    assert fake.info("vm1")["pid"] == pid and fake.info("vm1")["state"] == "running"
    until(lambda: "restarting_process" not in fake.kept("vm1"))
    fake.cairn("destroy", "vm1")  # and no start follows
    assert fake.info("vm1")["state"] == "shutoff"


def test_cancelled_save_leaves_vm_running(fake):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/go")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    id = fake.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
    q = fake.qmp()
    q.run("job-cancel", id=id)
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert fake.info("vm1")["pid"] == pid and fake.info("vm1")["state"] == "running"


def test_failed_start_leaves_vm_saved(fake):
    go = fake.tmp / "go"
    go.touch()
    fake.define("vm1", cmdline=f"boot-until={go}")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    q.run("vm-shutdown", vm="vm1", at=tomorrow())
    go.unlink()  # the new process does not get ready
    id = q.run("vm-restart-process", vm="vm1")["job"]
    q.event("VM_STATE_CHANGE", vm="vm1", state="saved")
    assert "shutdown-at" in fake.info("vm1")
    until(lambda: fake.children())
    fake.cairn("destroy", "vm1")
    q.event("JOB_STATUS_CHANGE", id=id, status="concluded")
    assert "the VM is saved; start it with: cairn start vm1" in job_of(fake, id)["error"]
    assert fake.info("vm1")["state"] == "saved" and "shutdown-at" not in fake.info("vm1")
    until(lambda: "restarting_process" not in fake.kept("vm1"))
    go.touch()
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.info("vm1")["state"] == "saved"
    fake.cairn("start", "vm1")


def test_planned_shutdown_stays_planned(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.qmp().run("vm-shutdown", vm="vm1", at=tomorrow())
    was = fake.info("vm1")["shutdown-at"]
    fake.cairn("restart-process", "vm1")
    assert fake.info("vm1")["shutdown-at"] == was


@pytest.mark.parametrize("ended", [False, True])
def test_next_daemon_goes_on(fake, ended):
    """A daemon is killed during the save. The save ends before or after the next daemon starts."""
    go = fake.tmp / "go"
    fake.define("vm1", cmdline=f"work-until={go}")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    id = fake.cairn("restart-process", "--no-wait", "vm1").stdout.strip()
    fake.qmp().event("JOB_PROGRESS", id=id)
    fake.stop(signal.SIGKILL)
    if ended:
        go.touch()
        until(lambda: has_ended(pid))
    fake.start()
    q = fake.qmp()
    if not ended:
        assert (job_of(fake, id)["type"], job_of(fake, id)["status"]) == ("restart-process", "running")
        go.touch()
    until(lambda: job_of(fake, id)["status"] == "concluded")
    assert "error" not in job_of(fake, id)
    assert fake.info("vm1")["state"] == "running" and fake.info("vm1")["pid"] != pid
    q.close()


def test_vm_that_was_not_asked_to_save_runs_on(fake):
    """A daemon is killed before the VM's process had the request."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    until(lambda: fake.kept("vm1").get("state") == "running")
    fake.stop(signal.SIGKILL)
    state = fake.state / "vms/vm1/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "restarting_process": True}))
    fake.start()
    assert fake.info("vm1")["pid"] == pid and fake.info("vm1")["state"] == "running"
    fake.cairn("managedsave", "vm1")
    assert fake.info("vm1")["state"] == "saved"  # and is not started


@pytest.mark.parametrize("runs", [True, False])
def test_torso_of_a_save_does_not_stay(fake, runs):
    """A daemon was killed before the VM's process had the request, or the host went down during the save."""
    fake.define("vm1")
    if runs:
        fake.cairn("start", "vm1")
    fake.stop(signal.SIGKILL)
    torso = fake.state / "vms/vm1/managed.save.tmp"
    torso.write_bytes(bytes(4096))
    fake.start()
    if runs:
        assert fake.info("vm1")["state"] == "running"
        fake.cairn("destroy", "vm1")
    assert not torso.exists() and fake.info("vm1")["state"] == "shutoff"


# ---- real VMs ----

def test_guest_goes_on(daemon, filled):  # noqa: F811
    pid = daemon.info("vm1")["pid"]
    daemon.cairn("restart-process", "vm1")
    assert daemon.info("vm1")["pid"] != pid
    check(daemon.qmp())
