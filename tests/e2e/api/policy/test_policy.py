"""VMs that start and stop without a user: restarts, autostart, limits."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, FAKE_VM, Console, Daemon, has_ended, until

AT_ONCE = {"delay": 0, "tries": 3}


def ready(daemon, vm="vm1"):
    """Return the console when the interpreter listens."""
    console = Console(daemon, vm)
    while console.line() != "interp":
        pass
    return console


# ---- restarts ----

def scheduled(daemon):
    return daemon.qmp().run("query-events", event="RESTART_SCHEDULED")["events"]


def counted(daemon, n):
    """Return whether the state records that the nth restart is pending."""
    restart = daemon.kept("vm1").get("restart", {})
    return restart.get("n") == n and "due_ns" in restart


@pytest.mark.parametrize("name, word", [("vm1", "vm1"), ("'" * 100, "VM")], ids=["short", "too-long"])
def test_restarts_stop_at_the_limit_with_an_event(fake, name, word):
    """The event has a command; the name is missing in it if the quoted one is too long."""
    fake.define(name, cmdline="kill-after=5", on_crash="restart", restart=AT_ONCE)
    q = fake.qmp()
    q.run("vm-start", vm=name)
    for i in range(3):
        e = q.event("RESTART_SCHEDULED", vm=name)["data"]
        assert (e["try"], e["tries"], e["in"]) == (i + 1, 3, 0)
        q.event("VM_STATE_CHANGE", vm=name, state="running")
    e = q.event("VM_STATE_CHANGE", vm=name, reason="restart limit")["data"]
    assert e["state"] == "crashed" and "3 times within 300 s" in e["detail"] and e["detail"].endswith(f"cairn start {word}")
    q.run("vm-start", vm=name)  # a user's start resets the count
    assert q.event("RESTART_SCHEDULED", vm=name)["data"]["try"] == 1


def test_detail_of_the_limit_cuts_a_long_reason_after_a_word(fake):
    name = "n" * 240
    fake.define(name, cmdline="kill-after=5", on_crash="restart", restart=AT_ONCE)
    fake.cairn("start", name)
    until(lambda: fake.info(name)["reason"] == "restart limit")
    assert f"now stays off (killed: its process was killed ...). Next: cairn start {name}" in fake.info(name)["detail"]


@pytest.mark.parametrize("end", ["crash", "reboot"])
def test_vm_that_ends_during_a_job_starts_when_the_job_has_ended(fake, end):
    fake.define("vm1", cmdline=f"work-until={fake.tmp}/never", on_crash="restart", restart=AT_ONCE)
    fake.cairn("start", "vm1")
    q, pid = fake.qmp(), fake.info("vm1")["pid"]
    job = q.run("vm-fork", vm="vm1", name="c")["job"]
    if end == "crash":
        os.kill(pid, signal.SIGKILL)
    else:
        fake.cairn("reboot", "vm1")
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    until(lambda: fake.info("vm1")["state"] == "running" and fake.info("vm1")["pid"] != pid)


def test_pending_restart_survives_daemon_and_can_be_cancelled(fake):
    fake.define("vm1", cmdline="kill-after=5", on_crash="restart", restart={"delay": 3600, "max_delay": 3600})
    q = fake.qmp()
    q.run("vm-start", vm="vm1")
    for _ in range(2):
        q.event("RESTART_SCHEDULED", vm="vm1")
    assert 3000e9 < fake.info("vm1")["restart-in"] <= 3600e9
    assert "Restarts in:" in fake.cairn("dominfo", "vm1").stdout
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "crashed (killed, restarting)\n"
    # Kill the daemon only when state.json has the second restart; with the first, which is due, the next daemon would
    # restart at once.
    until(lambda: counted(fake, 2))
    fake.stop(signal.SIGKILL)
    fake.start()
    assert 3000e9 < fake.info("vm1")["restart-in"] <= 3600e9
    assert len(scheduled(fake)) == 2  # nor was it started meanwhile
    assert "cairn destroy vm1" in fake.cairn("shutdown", "vm1", ok=4).stderr  # a restart would follow
    fake.cairn("destroy", "vm1")
    assert "restart-in" not in fake.info("vm1") and fake.info("vm1")["state"] == "crashed"
    assert fake.cairn("destroy", "vm1", ok=4).stderr.count("crashed")
    fake.define("vm1", on_crash="restart")
    fake.cairn("start", "vm1")


def test_cancelled_restart_is_no_failed_start(fake):
    fake.define("vm1", on_crash="restart", restart={"delay": 3600, "max_delay": 3600})
    fake.cairn("start", "vm1")
    (fake.tmp / "kernel").unlink()
    os.kill(fake.info("vm1")["pid"], signal.SIGKILL)  # the first restart, which is immediate, fails
    until(lambda: fake.info("vm1")["reason"] == "failed" and "restart-in" in fake.info("vm1"))
    fake.cairn("destroy", "vm1")
    event = fake.qmp().run("query-events", event="VM_STATE_CHANGE")["events"][-1]["data"]
    assert (event["reason"], event["detail"]) == ("destroyed", "the pending restart was cancelled")


def test_next_daemon_continues_restart_count(fake):
    fake.define("vm1", cmdline="kill-after=5", on_crash="restart", restart={"delay": 60, "tries": 2})
    fake.cairn("start", "vm1")
    until(lambda: counted(fake, 2))
    fake.stop(signal.SIGKILL)
    kept = fake.kept("vm1")
    kept["restart"]["due_ns"] = 1  # long ago
    (fake.state / "vms/vm1/state.json").write_text(json.dumps(kept))
    fake.start()
    until(lambda: fake.info("vm1")["reason"] == "restart limit")
    assert len(scheduled(fake)) == 2


def test_crash_without_daemon_is_followed_by_restart(fake):
    fake.define("vm1", on_crash="restart")
    fake.define("vm2")
    fake.cairn("start", "vm1", "vm2")
    pids = [fake.info(v)["pid"] for v in ("vm1", "vm2")]
    fake.stop(signal.SIGKILL)
    for p in pids:
        os.kill(p, signal.SIGKILL)
    until(lambda: all(has_ended(p) for p in pids))
    fake.start()
    fake.wait("vm1", "running")
    assert fake.info("vm2")["state"] == "crashed"


def test_requested_shutdown_is_not_followed_by_restart(daemon, guest, kvm):
    """A shutdown by the guest itself is followed by a restart."""
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, on_poweroff="restart")
    daemon.cairn("start", "vm1")
    q = daemon.qmp()
    console = ready(daemon)
    console.sock.sendall(b"poweroff\n")
    q.event("RESET", vm="vm1", guest=True)
    while console.line() != "interp":
        pass
    console.run("button init")  # an earlier press would be lost
    console.sock.sendall(b"button wait\npoweroff\n")
    daemon.cairn("shutdown", "--wait", "vm1")
    console.close()
    assert daemon.info("vm1")["state"] == "shutoff" and not scheduled(daemon)


@pytest.mark.parametrize("how, reason", [("triple", "triple fault"), ("panic", "guest panicked"),
                                         ("emulation", "emulation failure"), ("kill", "killed")])
def test_every_kind_of_crash_is_followed_by_restart(daemon, guest, kvm, how, reason):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, on_crash="restart", restart={"delay": 60})
    daemon.cairn("start", "vm1")
    q = daemon.qmp()
    if how == "kill":
        os.kill(daemon.info("vm1")["pid"], signal.SIGKILL)
    else:
        console = ready(daemon)
        console.sock.sendall(f"crash {how}\n".encode())
        console.close()
    q.event("VM_STATE_CHANGE", vm="vm1", state="crashed", reason=reason)
    q.event("RESTART_SCHEDULED", vm="vm1")
    q.event("VM_STATE_CHANGE", vm="vm1", state="running", reason="booted")
    os.kill(daemon.info("vm1")["pid"], signal.SIGKILL)
    assert q.event("RESTART_SCHEDULED", vm="vm1")["data"]["in"] == 60e9


@pytest.mark.parametrize("command, policy, state, reason", [
    ("poweroff", {"on_poweroff": "destroy"}, "shutoff", "shutdown"),
    ("poweroff", {"on_poweroff": "preserve"}, "paused", "shutdown"),
    ("reset cf9", {"on_reboot": "destroy"}, "shutoff", "guest reset"),
    ("reset cf9", {"on_reboot": "preserve"}, "paused", "guest reset"),
    ("crash triple", {"on_crash": "destroy"}, "crashed", "triple fault"),
    ("crash panic", {"on_crash": "preserve"}, "preserved", "guest panicked")])
def test_each_kind_of_end_follows_its_policy(daemon, guest, kvm, command, policy, state, reason):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, **policy)
    daemon.cairn("start", "vm1")
    q = daemon.qmp()
    console = ready(daemon)
    console.sock.sendall(f"{command}\n".encode())
    q.event("VM_STATE_CHANGE", vm="vm1", state=state, reason=reason)
    console.close()


def test_guest_that_resets_in_a_loop_is_slowed_down(daemon, guest, kvm):
    daemon.define("vm1", boot={"kernel": guest("interp.elf"), "cmdline": "reset cf9"},
                  restart={"delay": 4, "tries": 3})
    q = daemon.qmp()
    daemon.cairn("start", "vm1")
    for _ in range(3):
        q.event("RESET", vm="vm1", guest=True)
    e = q.event("RESET_DELAYED", vm="vm1")
    assert e["data"]["resets"] == 4 and e["data"]["in"] == 4e9
    cpu = daemon.figures("vm1")["cpu-time"]
    job = q.run("vm-managed-save", vm="vm1")["job"]
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert "try again after that reset" in q.run("query-jobs", id=job)[0]["error"]
    q.run("vm-suspend", vm="vm1")
    q.run("vm-resume", vm="vm1")  # still stopped
    daemon.cairn("dump", "vm1", str(daemon.tmp / "core"))
    late = q.event("RESET", vm="vm1", guest=True)
    waited = [t["timestamp"]["seconds"] + t["timestamp"]["microseconds"] / 1e6 for t in (e, late)]
    assert 3.9 < waited[1] - waited[0]
    q.event("RESET_DELAYED", vm="vm1", **{"in": 8e9})
    assert daemon.figures("vm1")["cpu-time"] - cpu < 1e9
    q.run("vm-reset", vm="vm1")  # a user's reset is immediate and not counted
    q.event("RESET", vm="vm1", guest=False)
    assert q.event("RESET_DELAYED", vm="vm1")["data"]["resets"] == 6


# ---- autostart ----

def boot_anew(d, over=True, begun=None):
    """Pretend that the host has booted: another boot id and no VM process left. Autostart was in progress."""
    pids = [v["pid"] for v in map(d.info, [v["name"] for v in d.qmp().run("vm-list")["vms"]]) if "pid" in v]
    path = d.state / "boot.json"
    until(lambda: path.exists() and json.loads(path.read_text())["over"])
    d.stop(signal.SIGKILL)
    for p in pids:
        os.kill(p, signal.SIGKILL)
    until(lambda: all(has_ended(p) for p in pids))
    boot = json.loads(path.read_text())
    if over:
        boot["boot_id"] = "00000000-0000-4000-8000-000000000000"
    else:
        boot.update(over=False, begun_ns=begun)
    path.write_text(json.dumps(boot))


def test_autostart_starts_vms_after_boot(fake):
    for name, keys in [("a", {"order": 2}), ("b", {"order": 1, "start_delay": 1}), ("c", {}),
                       ("bad", {"cmdline": "refuse"}), ("saved", {"order": 3})]:
        fake.define(name, **keys)
    r = fake.cairn("autostart", "a")
    assert r.stdout == "Domain 'a' marked as autostarted\n"
    fake.cairn("autostart", "b", "bad", "c", "saved")
    assert fake.cairn("autostart", "--disable", "c").stdout == "Domain 'c' unmarked as autostarted\n"
    assert fake.cairn("autostart", "none", ok=3).stderr.startswith("error: ")
    assert fake.cairn("list", "--all", "--autostart", "--name").stdout.split() == ["a", "b", "bad", "saved"]
    assert fake.cairn("list", "--all", "--no-autostart", "--name").stdout.split() == ["c"]
    assert "Autostart:      enable\n" in fake.cairn("dominfo", "a").stdout
    fake.cairn("start", "c", "saved")
    fake.cairn("managedsave", "saved")
    boot_anew(fake)
    fake.start()
    q = fake.qmp()
    until(lambda: len(q.run("query-events", event="AUTOSTART")["events"]) >= 4)
    events = q.run("query-events", event="AUTOSTART")["events"]
    told = [(e["data"]["vm"], e["data"]["outcome"]) for e in events]
    assert told == [("bad", "failed"), ("b", "started"), ("a", "started"), ("saved", "started")]
    times = [e["timestamp"]["seconds"] + e["timestamp"]["microseconds"] / 1e6 for e in events]
    assert times[2] - times[1] > 0.99
    assert "locked" in events[0]["data"]["detail"]
    assert [e["event"] for e in q.run("query-events", vm="bad")["events"]] == ["VM_DEFINED", "VM_STATE_CHANGE", "AUTOSTART"]
    assert fake.info("saved")["reason"] == "restored"
    c = fake.info("c")
    assert c["state"] == "crashed" and c["detail"] == "the host went down while the VM ran"
    # Another daemon of the same boot does not start a VM that a user has shut down.
    fake.cairn("destroy", "a")
    until(lambda: json.loads((fake.state / "boot.json").read_text())["over"])
    fake.stop(signal.SIGKILL)
    fake.start()
    assert fake.info("a")["state"] == "shutoff" and fake.info("b")["state"] == "running"
    fake.cairn("undefine", "a")
    fake.define("a")
    assert not fake.info("a")["autostart"]


def test_next_daemon_completes_autostart(fake):
    """The next daemon does not start VMs that the killed daemon had handled, or that a user has stopped since."""
    for vm in ("a", "b"):
        fake.define(vm)
        fake.cairn("autostart", vm)
    fake.cairn("start", "b")
    begun = fake.info("b")["since"]
    fake.cairn("destroy", "b")
    until(lambda: fake.kept("b").get("state") == "shutoff")
    boot_anew(fake, over=False, begun=begun)
    fake.start()
    until(lambda: json.loads((fake.state / "boot.json").read_text())["over"])
    assert fake.info("a")["state"] == "running" and fake.info("b")["state"] == "shutoff"


def test_vm_that_is_renamed_meanwhile_is_autostarted(fake):
    """Another VM that takes over the name is not autostarted."""
    go = fake.tmp / "go"
    fake.define("a", cmdline=f"config-until={go}")
    fake.define("b", order=1)
    fake.define("c", order=1)
    fake.cairn("autostart", "a", "b", "c")
    boot_anew(fake)
    fake.start()
    until(lambda: fake.info("a").get("starting"))
    fake.cairn("domrename", "b", "new")
    fake.define("b")
    fake.cairn("undefine", "c")
    fake.define("c")
    go.touch()
    until(lambda: json.loads((fake.state / "boot.json").read_text())["over"])
    assert [fake.info(n)["state"] for n in ("a", "new", "b", "c")] == ["running", "running", "shutoff", "shutoff"]


def test_host_reboot_is_not_followed_by_restart(fake):
    fake.define("a", on_crash="restart")
    fake.cairn("start", "a")
    boot_anew(fake)
    fake.start()
    assert fake.info("a")["state"] == "crashed" and "restart-in" not in fake.info("a")


# ---- limits ----

class Bounded(Daemon):
    options = ()

    def command(self):
        return super().command() + list(self.options)


def bounded(*args):
    class D(Bounded):
        options = args
    return D


def test_start_beyond_limit_of_running_vms_is_refused(tmp_path):
    with contextlib.closing(bounded("--max-running", "2", "--max-memory", "100M")(tmp_path, FAKE_VM)) as d:
        for n in range(3):
            d.define(f"vm{n}")
        d.define("big", memory="80M")
        d.cairn("start", "vm0")
        assert "112 MiB, and cairnd has --max-memory 100M" in d.cairn("start", "big", ok=6).stderr
        d.cairn("start", "vm1")
        assert "2 VMs run, and cairnd has --max-running 2" in d.cairn("start", "vm2", ok=6).stderr
        assert [e["event"] for e in d.qmp().run("query-events", vm="vm2")["events"]] == ["VM_DEFINED"]
        d.cairn("destroy", "vm0")
        d.cairn("start", "vm2")


def test_starts_beyond_limit_are_queued(tmp_path):
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        d.define("bad", cmdline="refuse")
        for n in range(4):
            d.define(f"vm{n}")
        d.define("gone", cmdline="die-at-config")
        r = d.cairn("start", "--all", "--parallel", "8", ok=None)
        assert sorted(d.cairn("list", "--name").stdout.split()) == [f"vm{n}" for n in range(4)], r.stderr


def test_many_queued_starts_that_fail_at_once_fail_one_after_another(tmp_path):
    class SmallStack(bounded("--max-starting", "1")):
        def command(self):
            return ["prlimit", "--stack=1048576", *super().command()]

    with contextlib.closing(SmallStack(tmp_path, FAKE_VM)) as d:
        d.define("first", cmdline=f"config-until={tmp_path}/go")
        for n in range(60):
            d.define(f"vm{n}", interfaces=[{"type": "user", "forwards": [{"address": "192.0.2.1", "port": 1024 + n, "to": 22}]}])
        q = d.qmp()
        q.send(b'{"execute":"vm-start","arguments":{"vm":"first"}}')
        until(lambda: d.info("first").get("pid"))
        starts = [d.qmp() for _ in range(60)]
        for n, s in enumerate(starts):
            s.send(json.dumps({"execute": "vm-start", "arguments": {"vm": f"vm{n}"}}).encode())
        until(lambda: all(d.info(f"vm{n}").get("starting") for n in range(60)))
        (tmp_path / "go").touch()
        assert all("this host has no such address" in s.answer()["error"]["desc"] for s in starts)
        assert "return" in q.answer()


def test_queue_never_exceeds_the_limit(tmp_path):
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        d.define("slow", cmdline="silent-at-config")
        d.define("vm1")
        first, second, q = d.qmp(), d.qmp(), d.qmp()
        first.send(b'{"execute":"vm-start","arguments":{"vm":"slow"}}')
        until(lambda: len(d.children()) == 1)
        second.send(b'{"execute":"vm-start","arguments":{"vm":"vm1"}}')
        for _ in range(500):  # an answer could arrive meanwhile
            assert q.run("vm-info", vm="vm1")["state"] == "shutoff"
        os.kill(d.children()[0], signal.SIGKILL)
        assert "error" in first.answer() and second.answer()["return"]["id"]


def test_clones_that_wait_for_their_source_delay_no_start(tmp_path):
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        d.define("src", cmdline=f"fork-ready work-until={tmp_path}/go clone-until={tmp_path}/go:c-1")
        d.define("vm1")
        d.cairn("start", "src")
        q = d.qmp()
        job = q.run("vm-fork", vm="src", name="c", count=2)["job"]
        q.event("VM_STATE_CHANGE", vm="c-2", state="running")
        d.cairn("start", "vm1")
        assert q.run("vm-info", vm="c-1")["state"] == "shutoff"
        (tmp_path / "go").touch()
        q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        assert "error" not in q.run("query-jobs", id=job)[0]


def test_clone_beyond_the_limit_is_refused_and_removed(tmp_path):
    """The clone is refused at once, and removed once."""
    d = bounded("--max-running", "1")(tmp_path, FAKE_VM)
    try:
        d.define("vm1")
        d.cairn("start", "vm1")
        for n in range(3):
            assert "cairnd has --max-running 1" in d.cairn("clone", "--live", "vm1", "c", ok=6).stderr
        assert d.cairn("list", "--all", "--name").stdout.split() == ["vm1"]
    finally:
        d.close()


def test_vm_that_grows_while_its_start_waits_is_refused(tmp_path):
    """The start waits for the process that reads the VM's snapshots."""
    go, disks = tmp_path / "go", [{"path": "a.raw", "format": "raw"}]
    (tmp_path / "a.raw").write_bytes(bytes(1 << 20))
    with contextlib.closing(bounded("--max-memory", "100M")(tmp_path, FAKE_VM)) as d:
        d.define("vm1", cmdline=f"config-until={go}", disks=disks)
        a, b = d.qmp(), d.qmp()
        a.send(json.dumps({"execute": "snapshot-list", "arguments": {"vm": "vm1"}}).encode())
        until(d.children)
        b.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
        until(lambda: d.info("vm1").get("starting"))
        d.define("vm1", memory="200M", disks=disks)
        go.touch()
        assert "return" in a.answer()
        assert "200 MiB, and cairnd has --max-memory 100M" in b.answer()["error"]["desc"]


@pytest.mark.parametrize("args", [["--max-running", "x"], ["--max-starting", "0"], ["--max-memory", "5"],
                                  ["--max-memory", "0G"]])
def test_invalid_limits_are_refused(args, tmp_path):
    r = subprocess.run([os.path.join(BUILD, "cairnd"), "--state-dir", str(tmp_path), *args], capture_output=True,
                       text=True)
    assert r.returncode == 2 and args[0] in r.stderr
