"""Hooks: executables that run at events of VMs, as an unprivileged user, bounded in time, number and output. cairn-hook
alone, and under a daemon with fake_vm."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import uuid

import pytest

from conftest import BUILD, FAKE_VM, Qmp, QmpError, until
from mountlib import tmpfs
from test_policy import bounded
from test_timetable import define, outcome, schedules, soon

PROGRAM = os.path.join(BUILD, "cairn-hook")
USER = 65534 if os.geteuid() == 0 else os.geteuid()


class Hooks:
    def __init__(self, folder):
        self.folder = folder

    def write(self, event, name, script, mode=0o755):
        (self.folder / event).mkdir(parents=True, exist_ok=True)
        path = self.folder / event / name
        path.write_text("#!/bin/sh\n" + script + "\n")
        path.chmod(mode)
        return path

    def run(self, event="started", seconds=20, data='{"a":1}\n'):
        """Run cairn-hook. Return its log, without times."""
        with tempfile.TemporaryFile() as f:
            f.write(data.encode())
            f.seek(0)
            r = subprocess.run([PROGRAM, str(self.folder), event, str(seconds)], stdin=f, text=True, capture_output=True, timeout=50)
        assert r.returncode == 0 and r.stdout == "", r
        return [line.split("cairn-hook/hook: ", 1)[1] for line in r.stderr.splitlines()]


@pytest.fixture
def hooks(tmp_path):
    return Hooks(tmp_path / "hooks")


def alive(mark):
    """Return the processes with this word in their command line."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (p / "cmdline").read_text() and "State:\tZ" not in (p / "status").read_text():
                found.append(p.name)
        except OSError:
            pass
    return found


# ---- cairn-hook ----

def test_hooks_run_in_order_with_the_event(hooks):
    b = hooks.write("started", "b", 'echo "$1 $CAIRN_EVENT $(cat)"')
    a = hooks.write("started", "a", 'cat; pwd')
    hooks.write("started", ".hidden", "echo hidden")
    hooks.write("started", "backup~", "echo backup")
    assert hooks.run() == [f'{a}: {{"a":1}}', f"{a}: /", f'{b}: started started {{"a":1}}']
    assert hooks.run("stopped") == []


def test_hook_has_no_privileges(hooks):
    hooks.write("started", "a", "id -u; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ls -l /proc/self/fd | grep -c ' -> '; env | cut -d= -f1 | sort | tr '\\n' ' '")
    said = [line.split(": ", 1)[1] for line in hooks.run()]
    assert said[0] == str(USER)
    if os.geteuid() == 0:
        assert said[1] == str(USER)
    assert re.fullmatch(r"CapEff:\t?.?0{16}", said[2].replace("\t", "\t")) or said[2].endswith("0" * 16)
    assert "NoNewPrivs" in said[4] and said[4].endswith("1")
    assert int(said[5]) <= 5  # 0 to 2, the script, and the folder that ls reads
    assert "TMPDIR" not in said[6] and "CAIRN_EVENT" in said[6]


@pytest.mark.parametrize("mode, why", [(0o775, "others may write to it"), (0o757, "others may write to it"), (0o644, "no executable file")])
def test_untrusted_hook_is_refused(hooks, mode, why):
    bad = hooks.write("started", "bad", "echo ran", mode)
    good = hooks.write("started", "good", "echo ran")
    said = hooks.run()
    assert len(said) == 2 and said[0].startswith(f"{bad} is refused: ") and why in said[0] and said[1] == f"{good}: ran"


def test_untrusted_folder_is_refused(hooks):
    hooks.write("started", "a", "echo ran")
    (hooks.folder / "started").chmod(0o777)
    assert hooks.run() == [f"{hooks.folder}/started is refused: others may write to it; next: chmod go-w {hooks.folder}/started"]
    (hooks.folder / "started").chmod(0o755)
    hooks.folder.chmod(0o777)
    assert "is refused" in hooks.run()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_hook_of_another_user_is_refused(hooks):
    path = hooks.write("started", "a", "echo ran")
    os.chown(path, 1234, -1)
    assert hooks.run() == [f"{path} is refused: it belongs to user 1234; let root own it"]


def test_failures_are_logged(hooks):
    a = hooks.write("started", "a", "echo no >&2; exit 3")
    b = hooks.write("started", "b", "")
    b.write_text("#!/no/such/interpreter\n")
    c = hooks.write("started", "c", "echo fine")
    said = hooks.run()
    assert said[:2] == [f"{a}: no", f"{a} failed with exit status 3"] and said[-1] == f"{c}: fine"
    assert any(line.startswith(f"{b}: cannot be run: ") for line in said)


def test_flood_is_cut(hooks):
    a = hooks.write("started", "a", r"i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i + 1)); done; head -c 1000000 /dev/zero | tr '\0' x; printf '\033[31mred\033[0m'")
    said = hooks.run()
    assert said[:20] == [f"{a}: line {i}" for i in range(20)]
    assert len(said) == 21 and re.fullmatch(re.escape(str(a)) + r": 1000\d+ more bytes of output are left out", said[20])
    a.write_text("#!/bin/sh\nprintf '\\033[31mred\\000\\n'\n")
    said, = hooks.run()
    assert "\033" not in said and "red" in said


def test_hanging_hook_is_killed_with_all_that_it_started(hooks):
    mark = str(uuid.uuid4())
    a = hooks.write("started", "a", f"sh -c 'sleep 900; : {mark}' & setsid sh -c 'sleep 900; : {mark}' & (setsid sh -c 'sleep 900; : {mark}' &) ; sleep 900; : {mark}")
    b = hooks.write("started", "b", "echo next")
    assert hooks.run(seconds=4) == [f"{a} did not end within 4 s and was killed", f"{b}: next"]
    assert alive(mark) == []


def test_what_a_hook_leaves_behind_is_killed(hooks):
    mark = str(uuid.uuid4())
    a = hooks.write("started", "a", f"setsid sh -c 'sleep 900; : {mark}' & echo done")
    assert hooks.run() == [f"{a}: done"]
    assert alive(mark) == []


def test_forking_hook_is_killed(hooks):
    """Its limit is near what its user has: a plain user's hook may have as many processes as the whole host."""
    mark = str(uuid.uuid4())
    hooks.write("started", "a", f"""f() {{ : {mark}; f & f & }}
most=$(($(ps -L -u "$(id -u)" | wc -l) + 40))
ulimit -p $most 2>/dev/null || ulimit -u $most  # dash's and bash's option
f >/dev/null 2>&1; sleep 900""")
    hooks.run(seconds=1)
    assert alive(mark) == []


# ---- under the daemon ----

@pytest.fixture
def vm(fake):
    define(fake)
    fake.hooks = Hooks(fake.state / "hooks")
    return fake


def log_of(d, word):
    return [line.split(": ", 2)[2] for line in d.log.read_text().splitlines() if "cairn-hook/hook: " in line and f"/hooks/{word}/" in line]


def test_events_of_a_vm(vm):
    for event in ("started", "stopped", "crashed", "snapshot", "schedule"):
        vm.hooks.write(event, "a", "cat")
    vm.cairn("start", "vm1")
    until(lambda: log_of(vm, "started"))
    ev = json.loads(log_of(vm, "started")[0])
    assert (ev["event"], ev["data"]["vm"], ev["data"]["state"]) == ("VM_STATE_CHANGE", "vm1", "running")
    vm.cairn("suspend", "vm1")
    vm.cairn("resume", "vm1")
    vm.cairn("snapshot-create-as", "vm1", "s1")
    until(lambda: log_of(vm, "snapshot"))
    assert json.loads(log_of(vm, "snapshot")[0])["data"]["snapshot"] == "s1"
    vm.cairn("destroy", "vm1")
    until(lambda: log_of(vm, "stopped"))
    vm.cairn("schedule", "vm1", "start", "--on", soon())
    until(lambda: log_of(vm, "schedule"))
    assert json.loads(log_of(vm, "schedule")[0])["data"]["outcome"] == "done"
    until(lambda: len(log_of(vm, "started")) == 2)
    os.kill(vm.info("vm1")["pid"], 9)
    until(lambda: log_of(vm, "crashed"))
    assert len(log_of(vm, "stopped")) == 1 and len(log_of(vm, "crashed")) == 1


def test_pool_that_gets_full_runs_the_disk_space_hooks(vm):
    vm.hooks.write("disk-space", "a", "cat")
    with tmpfs(vm.tmp / "full", "16M") as full:
        (full / "filler").write_bytes(bytes(15 << 20))
        vm.cairn("pool-define-as", "images", "dir", "--target", str(full))
        until(lambda: log_of(vm, "disk-space"))
        ev = json.loads(log_of(vm, "disk-space")[0])
        assert (ev["event"], ev["data"]["pool"], ev["data"]["state"]) == ("POOL_SPACE", "images", "low")


def test_number_of_hooks_at_once_is_bounded(vm):
    mark = str(uuid.uuid4())
    vm.hooks.write("started", "a", f"sh -c 'sleep 900; : {mark}'; :")
    for i in range(7):
        define(vm, f"v{i}")
        vm.cairn("start", f"v{i}")

    def of_daemon():
        """Each hook has one process more, which waits for it."""
        return [int(p) for p in alive("cairn-hook\0" + str(vm.state)) if int(re.search(r"PPid:\t(\d+)", pathlib.Path(f"/proc/{p}/status").read_text())[1]) == vm.proc.pid]
    until(lambda: len(of_daemon()) >= 4 and len(alive(mark)) >= 4)
    assert len(of_daemon()) == 4
    assert vm.cairn("domstate", "v6").stdout == "running\n"
    pids = of_daemon()
    vm.stop()
    for p in pids:
        os.kill(p, 9)
    until(lambda: alive(mark) == [])


def test_no_hook_runs_without_a_folder(vm):
    vm.cairn("start", "vm1")
    vm.cairn("destroy", "vm1")
    assert "cairn-hook" not in vm.log.read_text()


# ---- hooks that decide ----

def test_daemon_names_what_never_runs(vm):
    vm.hooks.write("started", "a", "true")
    vm.hooks.write("start", "a", "true")
    vm.hooks.write(".", "stray.sh", "true")
    vm.hooks.write(".", "README", "", mode=0o644)
    vm.hooks.write(".", ".hidden", "")
    vm.stop()
    vm.start()
    until(lambda: vm.log.read_text().count(" never runs: ") >= 2)
    named = re.findall(r"hook: (.*) never runs: a hook is an executable in the folder of its event", vm.log.read_text())
    assert sorted(named) == [f"{vm.hooks.folder}/{n}" for n in ("start", "stray.sh")]


def test_start_is_refused_with_the_hooks_reason(vm):
    no = vm.hooks.write("before-start", "a", "cat; echo; echo more; exit 1")
    vm.hooks.write("before-start", "b", "echo b ran")
    said = vm.cairn("start", "vm1", ok=5).stderr
    assert said.startswith("error: Failed to start domain 'vm1'\nerror: the host's admin does not let VM 'vm1' start: hook a: {")
    assert json.loads(said[said.index("{"):]) == {"event": "before-start", "data": {"vm": "vm1", "vm-uuid": vm.info("vm1")["uuid"]}}
    assert vm.info("vm1")["state"] == "shutoff" and "b ran" not in vm.log.read_text()
    no.write_text("#!/bin/sh\n")
    vm.cairn("start", "vm1")
    assert vm.info("vm1")["state"] == "running" and "b ran" in vm.log.read_text()


def test_untrusted_hook_lets_nothing_start(vm):
    path = vm.hooks.write("before-start", "a", "", 0o777)
    assert "hook a cannot be run" in vm.cairn("start", "vm1", ok=5).stderr
    path.unlink()
    (vm.hooks.folder / "before-start").chmod(0o777)
    assert "cannot be used" in vm.cairn("start", "vm1", ok=5).stderr
    (vm.hooks.folder / "before-start").chmod(0o755)
    vm.cairn("start", "vm1")


def test_hook_that_hangs_delays_only_that_start(vm):
    mark = str(uuid.uuid4())
    vm.hooks.write("before-start", "a", f"grep -q vm1 || exit 0; sh -c 'sleep 900; : {mark}'; :")
    q = vm.qmp()
    q.send(json.dumps({"execute": "vm-start", "arguments": {"vm": "vm1"}}).encode())
    until(lambda: alive(mark))
    define(vm, "vm2")
    vm.cairn("start", "vm2")
    vm.cairn("destroy", "vm1")
    assert "error" in q.answer()
    until(lambda: alive(mark) == [])
    assert vm.info("vm1")["state"] == "shutoff" and vm.info("vm2")["state"] == "running"


def own_socket(d):
    q = Qmp(d.qmp().run("vm-qmp-path", vm="vm1")["path"])
    d.clients.append(q)
    return q


def refuse(d, event, name="a"):
    return d.hooks.write(event, name, "echo it is busy; exit 1")


def delay(d, event, seconds=1, name="a"):
    return d.hooks.write(event, name, f"echo '{seconds} a backup runs'; exit 75")


def allow(path):
    """Replace the hook at once: the daemon may be asking it."""
    new = path.parents[1] / "new"
    new.write_text("#!/bin/sh\n")
    new.chmod(0o755)
    new.rename(path)


def ask(q, command, vm="vm1"):
    q.send(json.dumps({"execute": command, "arguments": {"vm": vm}}).encode())


def test_start_is_delayed_until_the_hook_lets_it(vm):
    hook = delay(vm, "before-start", 2)  # the sixth delay is the last one
    q, events = vm.qmp(), vm.qmp()
    ask(q, "vm-start")
    for _ in range(2):
        told = events.event("START_DELAYED", vm="vm1")["data"]
        assert told["detail"] == "hook a: a backup runs" and told["at"] > (time.time() - 60) * 1e9
    allow(hook)
    assert "id" in q.answer()["return"]
    assert vm.info("vm1")["state"] == "running" and "delayed" not in vm.info("vm1") and "start-at" not in vm.info("vm1")


def test_info_tells_of_a_delayed_start(vm):
    delay(vm, "before-start", 900)
    q = vm.qmp()
    ask(q, "vm-start")
    until(lambda: "delayed" in vm.info("vm1"))
    seen = vm.info("vm1")
    assert seen["starting"] and seen["delayed"] == "hook a: a backup runs" and 0 < seen["start-at"] / 1e9 - time.time() <= 900
    assert re.search(r"Start at: .*\nDelayed by: +hook a: a backup runs\n", vm.cairn("dominfo", "vm1").stdout)
    vm.cairn("destroy", "vm1")
    assert q.answer()["error"]["desc"] == "the VM was destroyed while starting"


def test_delayed_starts_take_no_places_of_others(tmp_path):
    with contextlib.closing(bounded("--max-starting", "1")(tmp_path, FAKE_VM)) as d:
        d.hooks = Hooks(d.state / "hooks")
        # v2 is asked for while the hook decides on v1, which has the only place until then.
        d.hooks.write("before-start", "a", "grep -q '\"free\"' || { sleep 1; echo 600; exit 75; }")
        clients = [d.qmp(), d.qmp()]
        for name in ("v1", "v2"):
            define(d, name)
        ask(clients[0], "vm-start", "v1")
        until(lambda: d.info("v1").get("waits-for-hook") == "start")
        ask(clients[1], "vm-start", "v2")
        until(lambda: all("delayed" in d.info(v) for v in ("v1", "v2")))
        assert d.info("v1")["delayed"] == "hook a: not now" and 0 < d.info("v1")["start-at"] / 1e9 - time.time() <= 600
        define(d, "free")
        d.cairn("start", "free")
        d.cairn("destroy", "v1")
        assert clients[0].answer()["error"]["desc"] == "the VM was destroyed while starting"
        assert d.info("v1")["state"] == "shutoff" and "delayed" not in d.info("v1")


def test_delayed_start_ends_with_the_daemon(vm):
    hook = delay(vm, "before-start")
    ask(vm.qmp(), "vm-start")
    until(lambda: "delayed" in vm.info("vm1"))
    vm.stop(signal.SIGKILL)
    vm.start()
    allow(hook)
    time.sleep(1.5)
    assert vm.info("vm1")["state"] == "shutoff" and "delayed" not in vm.info("vm1")


def test_start_of_a_job_cannot_wait(vm):
    vm.cairn("start", "vm1")
    vm.cairn("snapshot-create-as", "vm1", "s1")
    vm.cairn("destroy", "vm1")
    delay(vm, "before-start", 600)
    said = vm.cairn("snapshot-revert", "vm1", "s1", "--running", ok=False).stderr
    assert "does not let VM 'vm1' start: hook a: a backup runs" in said


def test_shutdown_is_refused_with_the_hooks_reason(vm):
    no = vm.hooks.write("before-shutdown", "a", "cat; exit 1")
    vm.cairn("start", "vm1")
    for verb, says, reboot in (("shutdown", "shut down", False), ("reboot", "reboot", True)):
        said = vm.cairn(verb, "vm1", ok=5).stderr
        assert f"the host's admin does not let VM 'vm1' {says}: hook a: {{" in said
        assert json.loads(said[said.index("{"):]) == {"event": "before-shutdown", "data": {"vm": "vm1", "vm-uuid": vm.info("vm1")["uuid"], "reboot": reboot}}
    assert vm.info("vm1")["state"] == "running"
    with pytest.raises(QmpError, match="hook a"):
        own_socket(vm).run("system_powerdown")
    allow(no)
    vm.cairn("shutdown", "--wait", "vm1")
    vm.cairn("start", "vm1")
    refuse(vm, "before-shutdown")
    vm.cairn("destroy", "vm1")


def test_hooks_do_not_hold_the_daemons_stop(vm):
    vm.hooks.write("before-shutdown", "a", "sleep 900")
    vm.cairn("start", "vm1")
    q = vm.qmp()
    ask(q, "vm-shutdown")
    until(lambda: alive("before-shutdown"))
    answer = vm.qmp().run("daemon-stop", **{"vms-only": True, "action": "shutdown"})
    assert answer["vms"][0]["vm"] == "vm1"
    assert "error" in q.answer() and vm.info("vm1")["state"] == "shutoff"


def plan_change(d, **keys):
    """Change the stored plan of a shutdown, whose time comes now, while no daemon runs. Return that time."""
    kept, now = d.kept("vm1"), int(time.time())
    kept["shutdown"].update(at_s=now, **keys)
    (d.state / "vms/vm1/state.json").write_text(json.dumps(kept))
    return now


def test_shutdown_is_delayed_over_a_killed_daemon(vm):
    hook = delay(vm, "before-shutdown", 600)
    vm.cairn("start", "vm1")
    q = vm.qmp()
    said = vm.cairn("shutdown", "vm1").stdout
    assert re.fullmatch(r"Domain 'vm1' waits until .*: hook a: a backup runs\n", said)
    told = q.event("SHUTDOWN_PLAN", vm="vm1", what="delayed")["data"]
    assert told["detail"] == "hook a: a backup runs" and told["at"] == vm.info("vm1")["shutdown-at"] and vm.info("vm1")["delayed"] == told["detail"]
    until(lambda: vm.kept("vm1").get("shutdown"))
    vm.stop(signal.SIGKILL)
    vm.start()
    assert vm.info("vm1")["shutdown-at"] == told["at"] and vm.info("vm1")["delayed"] == told["detail"]
    # When that time has come, the hook is asked again.
    vm.stop(signal.SIGKILL)
    now = plan_change(vm)
    delay(vm, "before-shutdown", 4)
    vm.start()
    until(lambda: vm.info("vm1").get("shutdown-at", 0) >= (now + 4) * 10**9)
    assert vm.info("vm1")["state"] == "running"
    allow(hook)
    until(lambda: vm.info("vm1")["state"] == "shutoff")
    assert "delayed" not in vm.info("vm1")


def test_delayed_shutdown_is_cancelled(vm):
    delay(vm, "before-shutdown", 8)
    vm.cairn("start", "vm1")
    assert vm.qmp().run("vm-shutdown", vm="vm1")["delayed"] == "hook a: a backup runs"
    assert own_socket(vm).run("system_powerdown") == {}
    vm.cairn("shutdown", "--cancel", "vm1")
    allow(vm.hooks.folder / "before-shutdown" / "a")
    time.sleep(8.5)
    assert vm.info("vm1")["state"] == "running" and "delayed" not in vm.info("vm1")


def test_sum_of_delays_is_bounded(vm):
    delay(vm, "before-shutdown", 600)
    vm.cairn("start", "vm1")
    vm.cairn("shutdown", "vm1")
    until(lambda: vm.kept("vm1").get("shutdown"))
    vm.stop()
    kept = vm.kept("vm1")["shutdown"]
    assert (kept["delays"], kept["delayed_s"]) == (1, 600)
    plan_change(vm, delays=6, delayed_s=3600)
    vm.start()
    q = vm.qmp()

    def failed():
        return [e["data"] for e in q.run("query-events", vm="vm1", event="SHUTDOWN_PLAN")["events"] if e["data"]["what"] == "failed"]
    until(failed)
    told, = failed()
    assert told["detail"] == "the host's admin does not let VM 'vm1' shut down: hook a: a backup runs (it was delayed 6 times, by 3600 s)"
    assert vm.info("vm1")["state"] == "running" and "shutdown-at" not in vm.info("vm1")


def test_hanging_hook_of_a_shutdown_holds_nobody_else(vm):
    mark = str(uuid.uuid4())
    vm.hooks.write("before-shutdown", "a", f"grep -q vm1 || exit 0; sh -c 'sleep 900; : {mark}'; :")
    define(vm, "vm2")
    vm.cairn("start", "vm1", "vm2")
    q = vm.qmp()
    ask(q, "vm-shutdown")
    until(lambda: alive(mark))
    vm.cairn("shutdown", "--wait", "vm2")
    assert "another request" in vm.cairn("shutdown", "vm1", ok=False).stderr
    vm.cairn("shutdown", "--cancel", "vm1")
    assert q.answer()["error"]["desc"] == "VM 'vm1' keeps running: its shutdown was cancelled"
    until(lambda: alive(mark) == [])
    ask(q, "vm-shutdown")
    until(lambda: alive(mark))
    vm.cairn("destroy", "vm1")
    assert q.answer()["error"]["desc"] == "VM 'vm1' is shut off"
    vm.cairn("undefine", "vm1")
    until(lambda: alive(mark) == [])


def test_planned_shutdown_asks_at_its_time(vm):
    hook = refuse(vm, "before-shutdown")
    vm.cairn("start", "vm1")
    q = vm.qmp()
    vm.cairn("shutdown", "--in", "1s", "vm1")
    assert "it is busy" in q.event("SHUTDOWN_PLAN", vm="vm1", what="failed")["data"]["detail"]
    assert vm.info("vm1")["state"] == "running" and "shutdown-at" not in vm.info("vm1")
    allow(hook)
    vm.cairn("shutdown", "--in", "1s", "vm1")
    until(lambda: vm.info("vm1")["state"] == "shutoff")


# ---- what users see of a delay ----

def state_shown(d, vm="vm1"):
    """Return the state that `cairn list --all` shows."""
    return next(line.split(None, 2)[2] for line in d.cairn("list", "--all").stdout.splitlines() if f" {vm} " in line)


def test_start_says_which_hook_delays_it_and_until_when(vm):
    hook = delay(vm, "before-start", 4)  # the sixth delay is the last one
    define(vm, "vm2")
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "start", "vm1"], env=vm.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        line = p.stderr.readline()
        assert re.fullmatch(r"Domain 'vm1' waits until \d{4}-.* to start: hook a: a backup runs\n", line)
        assert state_shown(vm) == "shut off (start waits for a hook)" and state_shown(vm, "vm2") == "shut off"
        # While the hook is asked again, there is no time.
        until(lambda: re.search(r"Waits for hook: start\nStart at: .*\nDelayed by: +hook a: a backup runs\n", vm.cairn("dominfo", "vm1").stdout))
        allow(hook)
        out, err = p.communicate(timeout=50)
    assert (p.returncode, out) == (0, "Domain 'vm1' started\n") and all("waits until" in more for more in err.splitlines())
    assert state_shown(vm) == "running" and "waits-for-hook" not in vm.info("vm1")


def test_list_tells_of_a_delayed_shutdown(vm):
    delay(vm, "before-shutdown", 900)
    vm.cairn("start", "vm1")
    for verb, word in (("shutdown", "shutdown"), ("reboot", "reboot")):
        vm.cairn(verb, "vm1")
        assert vm.info("vm1")["waits-for-hook"] == word and state_shown(vm) == f"running ({word} waits for a hook)"
        vm.cairn("shutdown", "--cancel", "vm1")
        assert state_shown(vm) == "running"
    vm.cairn("shutdown", "--in", "1h", "vm1")
    assert state_shown(vm) == "running"


def test_list_tells_of_a_hook_that_is_being_asked(vm):
    mark = str(uuid.uuid4())
    for event in ("before-start", "before-shutdown"):
        vm.hooks.write(event, "a", f"sh -c 'sleep 900; : {mark}'; :")
    q = vm.qmp()
    ask(q, "vm-start")
    until(lambda: vm.info("vm1").get("waits-for-hook") == "start")
    assert "delayed" not in vm.info("vm1") and state_shown(vm) == "shut off (start waits for a hook)"
    vm.cairn("destroy", "vm1")
    assert "error" in q.answer() and state_shown(vm) == "shut off"
    (vm.hooks.folder / "before-start" / "a").unlink()
    vm.cairn("start", "vm1")
    ask(q, "vm-reboot")
    until(lambda: vm.info("vm1").get("waits-for-hook") == "reboot")
    vm.cairn("shutdown", "--cancel", "vm1")
    assert "error" in q.answer() and "waits-for-hook" not in vm.info("vm1")


def test_schedule_whose_shutdown_is_delayed_is_not_done(vm):
    hook = delay(vm, "before-shutdown", 4)  # the sixth delay is the last one
    vm.cairn("start", "vm1")
    vm.cairn("schedule", "vm1", "shutdown", "--on", soon())
    assert outcome(vm) == ("delayed", "hook a: a backup runs")
    assert vm.info("vm1")["waits-for-hook"] == "shutdown" and "under-way" not in schedules(vm)[0]
    allow(hook)
    until(lambda: vm.info("vm1")["state"] == "shutoff")
    assert outcome(vm) == ("delayed", "hook a: a backup runs")
