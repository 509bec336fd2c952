"""Run by systemd for long_scope.py: scope_checks.py BUILD RESULT writes "ok" or what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback

BUILD, RESULT = sys.argv[1:]
os.environ["CAIRN_SOCKET"] = "/run/cairn/cairn.sock"
SCOPE = "cairn-vms.scope"


NOBODY = 65534


def run(*args, ok=True, uid=0):
    r = subprocess.run(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, user=uid, group=uid, extra_groups=[])
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


def check_own_scope():
    """A VM with systemd_scope is in a scope of its own, which survives the daemon and ends with the VM. There is no
    machined."""
    path = "/root/own.json"
    with open(path, "w") as f:
        json.dump({"name": "own", "memory": "64M", "boot": {"kernel": f"{BUILD}/guests/idle.elf"}, "cpu_quota": 50, "systemd_scope": True}, f)
    cairn("define", path)
    cairn("start", "own")
    o = json.loads(cairn("dominfo", "own", "--sandbox", "--format", "json"))
    shown = json.loads(cairn("dominfo", "own", "--format", "json"))["systemd-scope"]
    group, = o["cgroups"]
    assert group.startswith(f"0::/machine.slice/{shown['unit']}/"), o
    assert o["cgroup-limits"]["cpu.max"] == "50000 100000" and o["cgroup-limits"]["pids.max"] == "16384", o
    assert is_active(shown["unit"])
    until(lambda: "systemd-container" in json.loads(cairn("dominfo", "own", "--format", "json"))["systemd-scope"].get("lack", ""))
    kill_daemon()
    until(lambda: "running" in cairn("domstate", "own", ok=False))
    assert group_of(o["pid"]) == group and is_active(shown["unit"])
    assert json.loads(cairn("dominfo", "own", "--format", "json"))["systemd-scope"]["unit"] == shown["unit"]
    cairn("destroy", "own")
    until(lambda: not is_active(shown["unit"]))
    cairn("undefine", "own")


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


def check_folders():
    """The unit's protections leave users' folders alone: guests of root and of another user write to disks there."""
    cairn("grant", "admin", "--user", "nobody")
    for uid in (0, NOBODY):
        for parent in ("/home", "/tmp", "/srv"):
            name = f"{parent[1:]}-{uid}"
            folder = os.path.join(parent, name)
            os.makedirs(folder, mode=0o700)
            for program in ("cairn", "guests/interp.elf"):
                shutil.copy(os.path.join(BUILD, program), folder)
            image = os.path.join(folder, "disk.raw")
            with open(image, "wb") as f:
                f.truncate(1 << 20)
            with open(os.path.join(folder, "vm.json"), "w") as f:
                json.dump({"name": name, "memory": "64M", "disks": [{"path": image, "format": "raw"}], "boot": {
                    "kernel": os.path.join(folder, "interp.elf"), "cmdline": "open 0;write 0 8 1;flush;poweroff"}}, f)
            for path in (folder, *(os.path.join(folder, n) for n in os.listdir(folder))):
                os.chown(path, uid, uid)
            for args in (["define", os.path.join(folder, "vm.json")], ["start", name], ["wait", name, "--for", "shutoff"]):
                run(os.path.join(folder, "cairn"), *args, uid=uid)
            with open(image, "rb") as f:
                assert f.read(4096).strip(b"\0"), f"the guest's data are not in {image}"


def check():
    run("systemctl", "start", "cairnd.service")
    check_folders()
    check_own_scope()
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
