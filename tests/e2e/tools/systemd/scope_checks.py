"""Run by systemd for long_scope.py: scope_checks.py BUILD RESULT writes "ok" or what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback

BUILD, RESULT = sys.argv[1:]
os.environ["CAIRN_SOCKET"] = "/run/cairn/cairn.sock"
SCOPE = "cairn-vms.scope"


def run(*args, ok=True):
    r = subprocess.run(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert r.returncode == 0 or not ok, (args, r.stdout)
    return r.stdout


def cairn(*args, **more):
    return run(os.path.join(BUILD, "cairn"), *args, **more)


def until(true):
    while not true():
        time.sleep(0.1)


def start(name, **keys):
    path = f"/root/{name}.json"
    with open(path, "w") as f:
        json.dump({"name": name, "memory": "64M", "boot": {"kernel": f"{BUILD}/guests/idle.elf"}, **keys}, f)
    cairn("define", path)
    cairn("start", name)
    o = json.loads(cairn("dominfo", name, "--sandbox", "--format", "json"))
    assert o["lacks"] == [], o
    group, = o["cgroups"]
    assert group.startswith(f"0::/machine.slice/{SCOPE}/"), o
    return o, group


def group_of(pid):
    with open(f"/proc/{pid}/cgroup") as f:
        return f.read().strip()


def is_active(unit):
    return run("systemctl", "is-active", unit, ok=False).strip() == "active"


def main_pid():
    return int(run("systemctl", "show", "--property=MainPID", "--value", "cairnd.service"))


def kill_daemon():
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: main_pid() not in (0, pid))


def check():
    run("systemctl", "start", "cairnd.service")
    o, group = start("a", cpu_quota=50)
    assert o["cgroup-limits"]["cpu.max"] == "50000 100000" and o["cgroup-limits"]["pids.max"] == "16384", o
    for act in (lambda: run("systemctl", "restart", "cairnd.service"), lambda: run("systemctl", "daemon-reload"),
                lambda: run("systemctl", "daemon-reexec"), kill_daemon):
        act()
        until(lambda: "running" in cairn("domstate", "a", ok=False))
        assert group_of(o["pid"]) == group and is_active(SCOPE) and is_active("cairnd.service")
    other, _ = start("b")
    # The VMs outlive the service, and end with the scope.
    run("systemctl", "stop", "cairnd.service", "cairnd.socket")
    assert not is_active("cairnd.service") and is_active(SCOPE) and group_of(o["pid"]) == group
    run("systemctl", "stop", SCOPE)
    for pid in (o["pid"], other["pid"]):
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}/exe"))
    assert not is_active(SCOPE)


try:
    check()
    text = "ok\n"
except BaseException:  # the file is all that the test sees
    text = traceback.format_exc()
with open(RESULT, "w") as out:
    out.write(text)
