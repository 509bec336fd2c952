"""Hooks: executables that run at events of VMs, as an unprivileged user, bounded in time, number and output. cairn-hook
alone, and under a daemon with fake_vm."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import uuid

import pytest

from conftest import BUILD, until
from test_timetable import define

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
    assert hooks.run(seconds=1) == [f"{a} did not end within 1 s and was killed", f"{b}: next"]
    assert alive(mark) == []


def test_what_a_hook_leaves_behind_is_killed(hooks):
    mark = str(uuid.uuid4())
    a = hooks.write("started", "a", f"setsid sh -c 'sleep 900; : {mark}' & echo done")
    assert hooks.run() == [f"{a}: done"]
    assert alive(mark) == []


def test_forking_hook_is_killed(hooks):
    mark = str(uuid.uuid4())
    hooks.write("started", "a", f"""f() {{ : {mark}; f & f & }}
ulimit -u 40 2>/dev/null
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
    vm.cairn("schedule", "vm1", "start", "--on", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + 2)))
    until(lambda: log_of(vm, "schedule"))
    assert json.loads(log_of(vm, "schedule")[0])["data"]["outcome"] == "done"
    until(lambda: len(log_of(vm, "started")) == 2)
    os.kill(vm.info("vm1")["pid"], 9)
    until(lambda: log_of(vm, "crashed"))
    assert len(log_of(vm, "stopped")) == 1 and len(log_of(vm, "crashed")) == 1


def test_number_of_hooks_at_once_is_bounded(vm):
    mark = str(uuid.uuid4())
    vm.hooks.write("started", "a", f"sh -c 'sleep 900; : {mark}'; :")
    for i in range(7):
        define(vm, f"v{i}")
        vm.cairn("start", f"v{i}")
    until(lambda: len(alive("cairn-hook\0" + str(vm.state))) >= 4)
    pids = {int(p) for p in alive("cairn-hook\0" + str(vm.state))}
    # Each has one process more, which waits for the hook.
    assert sum(int(re.search(r"PPid:\t(\d+)", pathlib.Path(f"/proc/{p}/status").read_text())[1]) == vm.proc.pid for p in pids) == 4
    assert vm.cairn("domstate", "v6").stdout == "running\n"
    vm.stop()
    for p in pids:
        try:
            os.kill(p, 9)
        except ProcessLookupError:
            pass
    until(lambda: alive(mark) == [])


def test_no_hook_runs_without_a_folder(vm):
    vm.cairn("start", "vm1")
    vm.cairn("destroy", "vm1")
    assert "cairn-hook" not in vm.log.read_text()


# ---- hooks that decide ----

def test_start_is_refused_with_the_hooks_reason(vm):
    no = vm.hooks.write("before-start", "a", "cat; echo; echo more; exit 1")
    vm.hooks.write("before-start", "b", "echo b ran")
    said = vm.cairn("start", "vm1", ok=5).stderr
    assert said.startswith("error: Failed to start domain 'vm1'\nerror: the host's admin does not let VM 'vm1' start: hook a: {")
    assert json.loads(said[said.index("{"):]) == {"event": "before-start", "data": {"vm": "vm1", "vm-uuid": vm.info("vm1")["uuid"]}}
    assert vm.info("vm1")["state"] == "shut off" and "b ran" not in vm.log.read_text()
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
    assert vm.info("vm1")["state"] == "shut off" and vm.info("vm2")["state"] == "running"
