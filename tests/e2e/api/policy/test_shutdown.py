"""Shutdowns with a deadline, at a time, of all VMs."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import BUILD, FAKE_VM, Console, Daemon, QmpError, has_ended, library, until
from guestlib import SANITIZED, SLOW
from plainlib import qcow2
from test_policy import bounded, ready, scheduled

DEAF = {"cmdline": "deaf"}
LONG = 8  # s: requests come before this deadline, even on a machine that stands still


def plan_event(q, what, **more):
    return q.event("SHUTDOWN_PLAN", what=what, **more)["data"]


# ---- deadlines ----

def test_deadline_runs_its_action(fake):
    fake.define("vm1", shutdown={"deadline": 1, "then": "save"}, **DEAF)
    fake.cairn("start", "vm1")
    q = fake.qmp()
    fake.cairn("shutdown", "vm1")
    assert plan_event(q, "overdue", vm="vm1")["then"] == "save"
    until(lambda: fake.info("vm1")["state"] == "saved")


def test_vm_that_is_left_running_at_its_deadline_is_reported(fake):
    fake.define("vm1", shutdown={"deadline": LONG}, **DEAF)
    fake.cairn("start", "vm1")
    q = fake.qmp()
    fake.cairn("shutdown", "vm1")
    assert fake.info("vm1")["shutdown-then"] == "leave" and "shutdown-deadline" in fake.info("vm1")
    assert plan_event(q, "overdue", vm="vm1")["then"] == "leave"
    until(lambda: fake.info("vm1").get("shutdown-overdue"))
    assert fake.info("vm1")["state"] == "in-shutdown" and "shutdown-deadline" not in fake.info("vm1")
    assert re.search(r"^Deadline: +passed; .* cairn destroy vm1\)$", fake.cairn("dominfo", "vm1").stdout, re.M)
    fake.cairn("reset", "vm1")
    assert "shutdown-overdue" not in fake.info("vm1")


def test_wait_for_shutdown_ends_at_the_deadline(fake):
    """The deadline of the second VM passes while the verb waits for the first one."""
    fake.define("vm1", shutdown={"deadline": 2}, **DEAF)
    fake.define("vm2", shutdown={"deadline": 1}, **DEAF)
    fake.define("vm3")
    fake.cairn("start", "vm1", "vm2", "vm3")
    r = fake.cairn("shutdown", "--wait", "vm1", "vm2", "vm3", ok=1)
    for vm in "vm1", "vm2":
        assert (f"Domain '{vm}' is still running\nerror: the guest has not shut down by the deadline (shutdown.deadline), and shutdown.then leaves "
                f"the VM running; stop it with cairn destroy {vm}, or with cairn shutdown --then destroy {vm}\n") in r.stderr
    assert r.stdout.endswith("Domain 'vm3' is shut off\n") and "note:" not in r.stderr
    # A limit of the wait does not depend on the deadline.
    begin = time.time()
    assert "timeout: the VM is not shutoff" in fake.cairn("shutdown", "--wait", "--timeout", "3", "vm2", ok=1).stderr
    assert time.time() - begin >= 3


def test_wait_for_shutdown_ends_when_it_is_cancelled(fake):
    fake.define("vm1", **DEAF)
    fake.cairn("start", "vm1")
    waiter = subprocess.Popen([os.path.join(BUILD, "cairn"), "shutdown", "--wait", "vm1"], env=fake.env, stderr=subprocess.PIPE, text=True)

    def cancelled():  # again and again, because the verb may not wait yet
        fake.cairn("shutdown", "vm1")
        fake.cairn("shutdown", "--cancel", "vm1")
        return waiter.poll() is not None
    until(cancelled)
    # The second sentence: the verb had not begun to wait when the shutdown was cancelled.
    said = waiter.communicate()[1]
    assert "the shutdown was cancelled meanwhile" in said or "the shutdown was cancelled or has failed meanwhile" in said
    assert waiter.returncode == 1


def test_wait_for_two_vms_notices_the_cancel_of_the_second(fake):
    for vm in "vm1", "vm2":
        fake.define(vm, **DEAF)
    fake.cairn("start", "vm1", "vm2")
    waiter = subprocess.Popen([os.path.join(BUILD, "cairn"), "shutdown", "--wait", "vm1", "vm2"], env=fake.env, stderr=subprocess.PIPE, text=True)
    until(lambda: all("shutdown-deadline" in fake.info(vm) for vm in ("vm1", "vm2")))
    fake.cairn("shutdown", "--cancel", "vm2")
    fake.cairn("destroy", "vm1")
    assert "Domain 'vm2' is still running\nerror: the shutdown was cancelled" in waiter.communicate()[1] and waiter.returncode == 1


def test_wait_for_a_planned_shutdown_ends_when_that_fails(fake):
    """The agent does not answer. With another action than leave, the deadline still runs, and ends the VM."""
    fake.define("vm1", guest_agent=True, cmdline="deaf no-agent")
    fake.cairn("start", "vm1")
    plan = ["shutdown", "--in", "1s", "--mode", "agent", "--wait", "vm1"]
    assert "the shutdown has failed: " in fake.cairn(*plan, ok=False).stderr
    assert "Domain 'vm1' is shut off\n" in fake.cairn(*plan, "--then", "destroy", "--timeout", "1").stdout


def test_shutdown_verb_sets_deadline(fake):
    fake.define("vm1", **DEAF)
    fake.cairn("start", "vm1")
    r = fake.cairn("shutdown", "--then", "destroy", "--timeout", "1", "--wait", "vm1")
    assert r.stdout.split("\n")[0] == "Domain 'vm1' is being shutdown" and "Domain 'vm1' is shut off\n" in r.stdout
    assert fake.info("vm1")["reason"] == "destroyed"


def test_deadline_never_fires_early(fake):
    fake.define("vm1", **DEAF)
    fake.cairn("start", "vm1")
    q = fake.qmp()
    asked = time.time()
    q.run("vm-shutdown", vm="vm1", then="destroy", timeout=1)
    at = q.event("SHUTDOWN_PLAN", what="overdue")["timestamp"]
    assert at["seconds"] + at["microseconds"] / 1e6 >= asked + 1


@pytest.mark.parametrize("step", [-10**8, 10**8])
def test_set_clock_moves_no_deadline(tmp_path, step):
    """The clock is set while the guest shuts down, and again while no daemon runs."""
    if SANITIZED:
        pytest.skip("set_clock.so has to come behind a sanitizer")
    clock = {"LD_PRELOAD": library("set_clock"), "SET_CLOCK": str(tmp_path / "clock")}
    with contextlib.closing(Daemon(tmp_path, FAKE_VM, clock)) as d:
        for vm, timeout in ("soon", 2), ("late", 3600):
            d.define(vm, **DEAF)
            d.cairn("start", vm)
            d.cairn("shutdown", "--then", "destroy", "--timeout", str(timeout), vm)
        (tmp_path / "clock").write_text(str(step))
        d.wait("soon", "shutoff")
        assert abs(d.info("late")["shutdown-deadline"] / 1e9 - time.time() - step - 3600) < 60 * SLOW
        until(lambda: "shutdown" in d.kept("late"))
        d.stop(signal.SIGKILL)
        kept = d.kept("late")
        kept["shutdown"].update(due_s=int(time.time()) + step + 10**8, deadline_s=1)
        (d.state / "vms/late/state.json").write_text(json.dumps(kept))
        d.start()
        d.wait("late", "shutoff")


def test_deadline_survives_the_daemon_and_a_reset_ends_it(fake):
    for vm in ("vm1", "vm2"):
        fake.define(vm, **DEAF)
    fake.cairn("start", "vm1", "vm2")
    fake.cairn("shutdown", "--then", "destroy", "--timeout", "3600", "vm1", "vm2")
    fake.cairn("reset", "vm2")
    assert "shutdown-deadline" not in fake.info("vm2") and fake.info("vm2")["state"] == "running"
    # The state is "running" before the shutdown, and may be while the guest is asked.
    until(lambda: "shutdown" in fake.kept("vm1") and "shutdown" not in fake.kept("vm2"))
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.info("vm1")["shutdown-then"] == "destroy" and "shutdown-deadline" in fake.info("vm1")
    assert "shutdown-deadline" not in fake.info("vm2")
    fake.stop(signal.SIGKILL)
    kept = fake.kept("vm1")
    kept["shutdown"]["due_s"] = int(time.time())  # while no daemon ran
    (fake.state / "vms/vm1/state.json").write_text(json.dumps(kept))
    fake.start()
    fake.wait("vm1", "shutoff")
    assert fake.info("vm1")["reason"] == "destroyed" and fake.info("vm2")["state"] == "running"


def test_revert_ends_a_deadline(fake, tmp_path):
    fake.define("vm1", disks=[qcow2(tmp_path / "vda.qcow2", "1M")], **DEAF)
    fake.cairn("start", "vm1")
    fake.cairn("snapshot-create-as", "vm1", "s")
    fake.cairn("shutdown", "--then", "destroy", "--timeout", "3600", "vm1")
    assert "shutdown-deadline" in fake.info("vm1")
    fake.cairn("snapshot-revert", "vm1", "s")
    assert "shutdown-deadline" not in fake.info("vm1") and fake.info("vm1")["state"] == "running"


# ---- scheduled actions ----

def test_scheduled_shutdown_warns_and_happens(fake):
    fake.define("vm1", guest_agent=True)
    fake.define("vm2", guest_agent=True)
    fake.cairn("start", "vm1", "vm2")
    q = fake.qmp()
    r = fake.cairn("shutdown", "--in", "1s", "--message", 'Work on "power".', "vm1")
    assert r.stdout.startswith("Domain 'vm1' will be shut down at 20")
    assert plan_event(q, "planned")["reboot"] is False
    fake.cairn("reboot", "--in", "1s", "vm2")
    fake.wait("vm1", "shutoff")
    log = fake.log_of("vm1")
    assert 'agent 0: Work on "power". This machine shuts down in ' in log
    q.event("VM_STATE_CHANGE", vm="vm2", state="shutoff")
    q.event("VM_STATE_CHANGE", vm="vm2", state="running")
    assert fake.info("vm1")["reason"] == "shutdown"
    assert "agent 0: This machine reboots in " in fake.log_of("vm2")


def test_scheduled_shutdown_warns_again_a_minute_before(fake):
    """The second warning comes a minute before a shutdown that was scheduled earlier."""
    fake.define("vm1", guest_agent=True)
    fake.cairn("start", "vm1")
    fake.cairn("shutdown", "--in", "63s", "vm1")
    log = fake.state / "vms/vm1/log"
    until(lambda: log.read_text().count("agent 0: This machine shuts down in ") == 2)
    fake.cairn("shutdown", "--cancel", "vm1")


def test_scheduled_shutdown_warns_on_console(kvm, daemon, guest):
    """The warning appears on the console even if the guest has no agent."""
    daemon.define("vm1", boot={"kernel": guest("idle.elf")})
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    until(lambda: console.line() == "idle")  # before that the guest ignores the power button
    daemon.cairn("shutdown", "--in", "1s", "--message", "Work on power.", "vm1")
    until(lambda: console.line().startswith("[Work on power. This machine shuts down in "))
    daemon.wait("vm1", "shutoff")
    console.close()


def test_time_of_tomorrow_is_right_when_the_clocks_change(fake):
    """In 12 hours, this time zone goes from UTC to an hour more."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    now = int(time.time())
    change, back = time.gmtime(now + 12 * 3600), time.gmtime(now + 90 * 24 * 3600)
    fake.env["TZ"] = time.strftime(f"AAA0BBB-1,{change.tm_yday - 1}/%H:%M:%S,{back.tm_yday - 1}/2", change)
    passed = now // 60 * 60 - 120
    fake.cairn("shutdown", "--at", time.strftime("%H:%M", time.gmtime(passed)), "vm1")
    assert fake.info("vm1")["shutdown-at"] == (passed + 23 * 3600) * 10**9
    fake.cairn("shutdown", "--cancel", "vm1")


def test_scheduled_shutdown_survives_daemon_and_can_be_cancelled(fake):
    fake.define("vm1", guest_agent=True)
    fake.cairn("start", "vm1")
    later = time.strftime("%H:%M", time.localtime(time.time() + 12 * 3600))  # never immediately
    fake.cairn("shutdown", "--at", later, "--then", "save", "vm1")
    assert "Shutdown at:" in fake.cairn("dominfo", "vm1").stdout
    at = fake.info("vm1")["shutdown-at"]
    assert 0 < at / 1e9 - time.time() <= 24 * 3600 and fake.info("vm1")["state"] == "running"
    until(lambda: fake.kept("vm1").get("shutdown"))
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.info("vm1")["shutdown-at"] == at and fake.info("vm1")["shutdown-then"] == "save"
    fake.cairn("suspend", "vm1")
    assert fake.cairn("shutdown", "--cancel", "vm1").stdout == "Domain 'vm1' keeps running: its shutdown is cancelled\n"
    assert "shutdown-at" not in fake.info("vm1")
    assert "no shutdown planned" in fake.cairn("shutdown", "--cancel", "vm1", ok=3).stderr


def test_scheduled_shutdown_ends_with_vm(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    fake.cairn("shutdown", "--in", "1h", "vm1")
    fake.cairn("destroy", "vm1")
    fake.cairn("start", "vm1")
    assert "shutdown-at" not in fake.info("vm1")


def test_shutdown_by_agent(fake):
    fake.define("vm1", guest_agent=True, **DEAF)
    fake.define("vm2", guest_agent=True, cmdline="no-agent")
    fake.define("vm3")
    fake.cairn("start", "vm1", "vm2", "vm3")
    fake.cairn("shutdown", "--mode", "agent", "--wait", "vm1")
    assert "did not answer" in fake.cairn("shutdown", "--mode", "agent", "vm2", ok=False).stderr
    assert fake.info("vm2")["state"] == "running"
    assert "VM 'vm3' has no port for a guest agent; set \"guest_agent\": true with cairn edit vm3" in fake.cairn("shutdown", "--mode", "agent", "vm3", ok=False).stderr
    for wrong in ("agent,initctl", "agent,", ",", ""):
        assert "--mode must be acpi, agent, or both" in fake.cairn("shutdown", "--mode", wrong, "vm3", ok=2).stderr
    assert "--mode must be a single word with" in fake.cairn("shutdown", "--mode", "agent,acpi", "--in", "1h", "vm3", ok=2).stderr
    assert fake.info("vm3")["state"] == "running"
    fake.cairn("shutdown", "--mode", "agent,acpi", "--wait", "vm2", "vm3")  # one mode after the other, until one works
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    q.run("vm-reboot", vm="vm1", mode="agent")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    q.event("VM_STATE_CHANGE", vm="vm1", state="running")


def test_first_working_shutdown_mode_is_used(fake):
    fake.define("vm1", guest_agent=True, **DEAF)  # its agent would work
    fake.define("vm2", guest_agent=True, **DEAF)
    fake.cairn("start", "vm1", "vm2")
    fake.cairn("shutdown", "--mode", "acpi,agent", "vm1")
    fake.cairn("shutdown", "--mode", "agent,acpi", "--wait", "vm2")
    asked = ["agent 1" in fake.log_of(vm) for vm in ("vm1", "vm2")]
    assert asked == [False, True] and fake.info("vm1")["state"] == "in-shutdown"


def test_guest_reboot_cancels_pending_reboot(daemon, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "vm1")
    q = daemon.qmp()
    console = ready(daemon)
    console.run("button init")  # an earlier press would be lost
    console.sock.sendall(b"button wait\nreset cf9\n")
    q.run("vm-reboot", vm="vm1")
    q.event("RESET", vm="vm1", guest=True)
    while console.line() != "interp":
        pass
    assert daemon.info("vm1")["state"] in ("running", "idle")
    console.sock.sendall(b"poweroff\n")
    q.event("VM_STATE_CHANGE", vm="vm1", state="shutoff")
    console.close()
    q.run("vm-undefine", vm="vm1")  # which a starting VM refuses


def test_reboot_is_completed_by_next_daemon(fake):
    fake.define("vm1", cmdline=f"deaf off-after=1 when={fake.tmp}/go")
    fake.cairn("start", "vm1")
    pid = fake.info("vm1")["pid"]
    fake.cairn("reboot", "vm1")
    until(lambda: fake.kept("vm1").get("rebooting"))
    fake.stop(signal.SIGKILL)
    (fake.tmp / "go").touch()
    until(lambda: has_ended(pid))
    fake.start()
    q = fake.qmp()
    until(lambda: [e for e in q.run("query-events", vm="vm1")["events"]
                   if e["data"].get("state") == "running" and e["data"]["from"] == "shutoff"][1:])


def test_invalid_schedules_of_shutdown_are_refused(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    q = fake.qmp()
    for args, words in [({"at": 5}, "at: is past"), ({"at": 2**62}, "at: is too far away"),
                        ({"then": "kill"}, "use leave, destroy or save"), ({"timeout": 0}, "timeout: 0 is out"),
                        ({"mode": "nmi"}, "use acpi or agent"), ({"message": "a\nb"}, "one line"),
                        ({"message": "x" * 161}, "161 bytes long")]:
        with pytest.raises(QmpError, match=words):
            q.run("vm-shutdown", vm="vm1", **args)
    for args in (["--at", "noon"], ["--at", "2047-02-31 10:00"], ["--in", "5"], ["--in", "1m", "--at", "12:00"]):
        assert fake.cairn("shutdown", *args, "vm1", ok=2).stderr.startswith("error: ")
    assert fake.info("vm1")["state"] == "running" and "shutdown-at" not in fake.info("vm1")


# ---- all VMs ----

def test_daemon_stop_says_how_many_vms_have_no_room_in_its_line(fake):
    names = [f"{n:02}" + "\u00e9" * 126 for n in range(90)]
    for name in names:
        fake.define(name)
    fake.cairn("start", *names)
    q = fake.qmp()
    plan = q.run("daemon-stop", dry_run=True)
    assert 40 < len(plan["vms"]) < 90 and plan["omitted"] == 90 - len(plan["vms"])
    r = fake.cairn("daemon-stop", "--dry-run")
    assert f"Not listed: {plan['omitted']} more VMs\n" in r.stderr and r.stdout.count("\n") == len(plan["vms"]) + 4
    answer = q.run("daemon-stop", action="shutdown", vms_only=True)
    assert 40 < len(answer["vms"]) < 90 and answer["omitted"] == 90 - len(answer["vms"])


def test_daemon_stop_shuts_vms_down_in_order(fake):
    """VMs with the highest order stop first; a VM that ignores the button does not block the others forever."""
    for name, keys in [("left", {}), ("off", {"order": 1, "stop_action": "shutdown"}),
                       ("kept", {"order": 2, "stop_action": "save"}), ("sleeps", {"stop_action": "shutdown"}),
                       ("deaf", {"stop_action": "shutdown", "shutdown": {"deadline": 1}, **DEAF}),
                       ("hard", {"order": 3, "stop_action": "shutdown",
                                 "shutdown": {"deadline": 1, "then": "destroy"}, **DEAF})]:
        fake.define(name, **keys)
    fake.cairn("start", "left", "off", "kept", "deaf", "hard")
    pid = fake.info("left")["pid"]
    would = fake.cairn("daemon-stop", "--dry-run").stdout
    assert would.splitlines()[2:] == [
        " hard   shutdown   would be shut down; after 1 s, destroyed",
        " kept   save       would be saved",
        " off    shutdown   would be shut down; after 30 s, left running",
        " deaf   shutdown   would be shut down; after 1 s, left running",
        " left   leave      would be left running",
        "", "The daemon would stop then"]
    assert "The daemon would keep running" in fake.cairn("daemon-stop", "--dry-run", "--vms-only", "--save").stdout
    # The host's shutdown leaves none running.
    ends = fake.cairn("daemon-stop", "--dry-run", "--host-ends").stdout
    assert " left   shutdown   would be shut down; after 300 s, left running\n" in ends and " kept   save " in ends
    assert "exclude each other" in fake.cairn("daemon-stop", "--leave", "--host-ends", ok=2).stderr
    assert len(fake.cairn("list", "--state-running", "--name").stdout.split()) == 5
    vms = [tuple(v.values()) for v in json.loads(fake.cairn("daemon-stop", "--format", "json").stdout)]
    assert fake.proc.wait(50) == 0
    assert vms[:3] == [("hard", "shutdown", "destroyed"), ("kept", "save", "saved"), ("off", "shutdown", "shutdown")]
    assert sorted(vms[3:]) == [("deaf", "shutdown", "did not shut down in time"), ("left", "leave", "left running")]
    fake.start()
    states = {n: fake.info(n)["state"] for n in ("left", "off", "kept", "deaf", "hard", "sleeps")}
    assert states == {"left": "running", "off": "shutoff", "kept": "saved", "deaf": "in-shutdown",
                      "hard": "shutoff", "sleeps": "shutoff"}
    assert fake.info("left")["pid"] == pid


def test_daemon_stop_leaves_preserved_crash(fake):
    """A preserved crash stays; a VM that crashes now stays off until the next daemon."""
    fake.define("kept", cmdline="crash-after=1", on_crash="preserve", stop_action="shutdown")
    fake.define("deaf", order=2, stop_action="shutdown", shutdown={"deadline": LONG}, **DEAF)
    fake.define("crashes", on_crash="restart", order=1, stop_action="shutdown")
    fake.cairn("start", "kept", "deaf", "crashes")
    q = fake.qmp()
    until(lambda: fake.info("kept")["reason"] == "triple fault")
    pid = fake.info("crashes")["pid"]
    q.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: fake.info("deaf")["state"] == "in-shutdown")
    os.kill(pid, signal.SIGKILL)
    outcomes = {v["vm"]: v["outcome"] for v in q.answer()["return"]["vms"]}
    assert outcomes == {"deaf": "did not shut down in time", "crashes": "is off", "kept": "left running"}
    assert fake.info("crashes")["state"] == "crashed" and not scheduled(fake)
    assert "pid" in fake.info("kept")


def test_daemon_stop_restarts_a_crashed_vm_that_it_leaves(fake):
    """A VM with the action `leave` that crashes while others are stopped starts again afterwards."""
    fake.define("left", on_crash="restart", restart={"delay": 0})
    fake.define("deaf", stop_action="shutdown", shutdown={"deadline": 600}, **DEAF)
    fake.cairn("start", "left", "deaf")
    pid, q = fake.info("left")["pid"], fake.qmp()
    q.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: fake.info("deaf")["state"] == "in-shutdown")
    os.kill(pid, signal.SIGKILL)
    until(lambda: fake.info("left")["state"] == "crashed")
    assert "restart-in" in fake.info("left")
    fake.cairn("destroy", "deaf")
    assert "return" in q.answer()
    until(lambda: fake.info("left")["state"] == "running")


def test_daemon_stop_stops_or_refuses_starts_under_way(fake):
    """That includes starts whose process begins after the stop has ended."""
    fake.define("vm1", stop_action="shutdown")
    start, stop = fake.qmp(), fake.qmp()
    for _ in range(20):
        start.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
        until(lambda: fake.info("vm1").get("starting") or fake.info("vm1")["state"] == "running")
        stopped = [v["vm"] for v in stop.run("daemon-stop", vms_only=True)["vms"]]
        assert stopped == ([] if "error" in start.answer() else ["vm1"])
        fake.wait("vm1", "shutoff")


def test_daemon_stop_refuses_queued_starts(tmp_path):
    """A start in progress continues, and then the VM is stopped; a queued start is refused; a pending restart is
    called off, unless the VM is to be left as it is."""
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        for vm, action in (("again", "shutdown"), ("left", "leave")):
            d.define(vm, cmdline="kill-after=5", on_crash="restart", restart={"delay": 60}, stop_action=action)
            d.cairn("start", vm)
            until(lambda: d.info(vm).get("restart-in", 0) > 10**9)  # the first restart comes at once
        assert re.search(r" again +shutdown +its restart would be cancelled\n\n", d.cairn("daemon-stop", "--vms-only", "--dry-run").stdout)
        assert "restart-in" in d.info("again")
        d.define("begins", cmdline=f"config-until={tmp_path}/go", stop_action="shutdown")
        d.define("waits", stop_action="shutdown")
        starts, q = (d.qmp(), d.qmp()), d.qmp()
        starts[0].send(b'{"execute":"vm-start","arguments":{"vm":"begins"}}')
        until(lambda: d.info("begins").get("pid"))
        starts[1].send(b'{"execute":"vm-start","arguments":{"vm":"waits"}}')
        q.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
        until(lambda: "restart-in" not in d.info("again"))
        (tmp_path / "go").touch()
        assert "return" in starts[0].answer()
        assert "are being stopped" in starts[1].answer()["error"]["desc"]
        outcomes = [(v["vm"], v["outcome"]) for v in q.answer()["return"]["vms"]]
        assert outcomes == [("again", "its restart is cancelled"), ("begins", "shutdown")]
        assert "restart-in" in d.info("left") and {d.info(n)["state"] for n in ("begins", "waits")} == {"shutoff"}


def test_daemon_stop_respects_parallel_limit(tmp_path):
    """Among VMs of equal order, no more are stopped at once than may be started at once."""
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        for vm in ("vm1", "vm2"):
            d.define(vm, stop_action="shutdown", shutdown={"deadline": 1, "then": "destroy"}, **DEAF)
        d.cairn("start", "vm1", "vm2")
        d.cairn("daemon-stop", "--vms-only")
        changes = [e["data"] for e in d.qmp().run("query-events", event="VM_STATE_CHANGE")["events"]]
        assert [(e["vm"], e["state"]) for e in changes if e["state"] in ("in-shutdown", "shutoff")] == [
            ("vm1", "in-shutdown"), ("vm1", "shutoff"), ("vm2", "in-shutdown"), ("vm2", "shutoff")]


def test_daemon_stop_can_save_or_leave_all_vms(fake):
    for n in range(3):
        fake.define(f"vm{n}", stop_action="shutdown")
    fake.cairn("start", "--all")
    assert fake.cairn("daemon-stop", "--save", "--leave", ok=2).stderr.startswith("error: ")
    r = fake.cairn("daemon-stop", "--save", "--vms-only")
    assert r.stdout.count("saved") == 3
    assert fake.cairn("list", "--all", "--state-shutoff", "--name").stdout.split() == ["vm0", "vm1", "vm2"]
    fake.cairn("start", "--all")
    fake.cairn("daemon-stop", "--leave")
    assert fake.proc.wait(50) == 0
    fake.start()
    assert len(fake.cairn("list", "--name").stdout.split()) == 3


def test_second_daemon_stop_is_refused(fake):
    fake.define("vm1", stop_action="shutdown", shutdown={"deadline": LONG}, **DEAF)
    fake.define("vm2")
    fake.cairn("start", "vm1")
    q, other = fake.qmp(), fake.qmp()
    q.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: fake.info("vm1")["state"] == "in-shutdown")
    with pytest.raises(QmpError, match="is already stopping the VMs"):
        other.run("daemon-stop")
    with pytest.raises(QmpError, match="are being stopped"):
        other.run("vm-start", vm="vm2")
    assert q.answer()["return"]["vms"][0]["outcome"] == "did not shut down in time"
    other.run("vm-start", vm="vm2")


def test_clients_cannot_delay_daemon_stop(fake):
    """A cancelled deadline, a longer deadline, a reboot and a later time are refused; a reset does not end the
    deadline."""
    fake.define("vm1", stop_action="shutdown", shutdown={"deadline": LONG}, **DEAF)
    fake.cairn("start", "vm1")
    q, other = fake.qmp(), fake.qmp()
    q.send(b'{"execute":"daemon-stop","arguments":{"vms-only":true}}')
    until(lambda: fake.info("vm1")["state"] == "in-shutdown")
    for command, args in [("vm-shutdown-cancel", {}), ("vm-shutdown", {"timeout": 3600}), ("vm-reboot", {}),
                          ("vm-shutdown", {"at": (int(time.time()) + 3600) * 10**9})]:
        with pytest.raises(QmpError, match="is being stopped by cairn daemon-stop"):
            other.run(command, vm="vm1", **args)
    other.run("vm-reset", vm="vm1")
    assert q.answer()["return"]["vms"][0]["outcome"] == "did not shut down in time"
