"""Run by systemd for long_scope.py: scope_checks.py BUILD RESULT writes "ok" or what is wrong."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import traceback

BUILD, RESULT = sys.argv[1:]
UNITS = os.path.join(os.path.dirname(__file__), "../../../../tools/systemd/user")
os.environ["CAIRN_SOCKET"] = "/run/cairn/cairn.sock"
SCOPE = "cairn-vms.scope"
UNTIL_SECONDS = 600


NOBODY = 65534


def run(*args, ok=True, uid=0):
    r = subprocess.run(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, user=uid, group=uid, extra_groups=[])
    assert r.returncode == 0 or not ok, (args, r.stdout)
    return r.stdout


def cairn(*args, **more):
    return run(os.path.join(BUILD, "cairn"), *args, **more)


def until(true):
    end = time.monotonic() + UNTIL_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def begin(name, **keys):
    """Define and start a VM; return what its sandbox is, and its control group."""
    path = f"/root/{name}.json"
    with open(path, "w") as f:
        json.dump({"name": name, "memory": "64M", "boot": {"kernel": f"{BUILD}/guests/idle.elf"}, **keys}, f)
    cairn("define", path)
    cairn("start", name)
    o = json.loads(cairn("dominfo", name, "--sandbox", "--format", "json"))
    group, = o["cgroups"]
    return o, group


def start(name, **keys):
    o, group = begin(name, **keys)
    assert o["lacks"] == [], o
    assert group.startswith(f"0::/machine.slice/{SCOPE}/"), o
    return o, group


def info(name):
    return json.loads(cairn("dominfo", name, "--format", "json"))


def begin_in_scope(name, **keys):
    """Start a VM with a scope of its own; return what its sandbox is, its control group and the scope."""
    o, group = begin(name, systemd_scope=True, **keys)
    unit = info(name)["systemd-scope"]["unit"]
    assert group.startswith(f"0::/machine.slice/{unit}/"), o
    assert is_active(unit)
    return o, group, unit


def check_own_scope():
    """A VM with systemd_scope is in a scope of its own, which survives the daemon and ends with the VM. There is no
    machined."""
    o, group, unit = begin_in_scope("own", cpu_quota=50)
    assert o["cgroup-limits"]["cpu.max"] == "50000 100000" and o["cgroup-limits"]["pids.max"] == "16384", o
    until(lambda: "systemd-container" in info("own")["systemd-scope"].get("lack", ""))
    kill_daemon()
    until(lambda: "running" in cairn("domstate", "own", ok=False))
    assert group_of(o["pid"]) == group and is_active(unit)
    assert info("own")["systemd-scope"]["unit"] == unit
    cairn("destroy", "own")
    until(lambda: not is_active(unit))
    cairn("undefine", "own")


def machines():
    return [line.split()[:3] for line in run("machinectl", "list", "--no-legend").splitlines() if line]


def machine(name):
    return dict(line.split("=", 1) for line in run("machinectl", "show", name).splitlines())


def check_machine():
    """machined lists a VM with systemd_scope, also with another daemon and another process, until the VM ends."""
    run("systemctl", "start", "dbus.socket")
    for _ in range(2):  # the second run begins while machined may know the first
        o, group, unit = begin_in_scope("seen")
        until(lambda unit=unit: info("seen")["systemd-scope"] == {"unit": unit, "machine": "cairn-seen"})
        assert machines() == [["cairn-seen", "vm", "cairn"]]
        shown = machine("cairn-seen")
        assert (shown["Leader"], shown["Unit"], shown["Class"], shown["State"]) == (str(o["pid"]), unit, "vm", "running"), shown
        assert shown["Id"] == info("seen")["uuid"].replace("-", ""), shown
        cairn("destroy", "seen")
        cairn("undefine", "seen")
    until(lambda: machines() == [])
    o, group, unit = begin_in_scope("seen")
    status = run("machinectl", "status", "--no-pager", "cairn-seen")
    assert f"Leader: {o['pid']} (" in status and "Service: cairn; class vm" in status and f"Unit: {unit}" in status, status
    kill_daemon()
    until(lambda: "running" in cairn("domstate", "seen", ok=False))
    until(lambda: info("seen")["systemd-scope"].get("machine") == "cairn-seen")
    assert machine("cairn-seen")["Leader"] == str(o["pid"])
    cairn("restart-process", "seen")
    pid = info("seen")["pid"]
    assert pid != o["pid"]
    until(lambda: [m[0] for m in machines()] == ["cairn-seen"] and machine("cairn-seen")["Leader"] == str(pid))
    run("machinectl", "terminate", "cairn-seen")
    until(lambda: "crashed" in cairn("domstate", "seen"))
    until(lambda: machines() == [] and not is_active(unit))
    check_journal("seen")
    cairn("undefine", "seen")


def journal(*match):
    return [json.loads(line) for line in run("journalctl", "--output=json", "--quiet", *match).splitlines()]


def check_journal(name):
    """The journal finds the VM's events, the daemon's lines and the audit lines about the VM by its name."""
    messages = [f"state: VM '{name}': running (booted)", f"sandbox: VM '{name}': machine cairn-{name}", f"state: VM '{name}' adopted: ",
                f"state: VM '{name}': crashed "]
    until(lambda: all(any(x["MESSAGE"].startswith(m) for x in journal(f"CAIRN_VM={name}")) for m in messages))
    found = journal(f"CAIRN_VM={name}")
    assert {(x["_SYSTEMD_UNIT"], x["SYSLOG_IDENTIFIER"]) for x in found} == {("cairnd.service", "cairnd"), ("cairnd.service", "cairnd-audit")}, found
    audited = [json.loads(x["MESSAGE"]) for x in found if x["SYSLOG_IDENTIFIER"] == "cairnd-audit"]
    assert {x["vm"] for x in audited} == {name} and {"vm-define", "vm-start", "vm-destroy"} <= {x["command"] for x in audited}, audited
    assert {"VM_DEFINED", "VM_STATE_CHANGE", "VM_UNDEFINED"} <= {x.get("CAIRN_EVENT") for x in found}, found
    priorities = {x["MESSAGE"]: x["PRIORITY"] for x in found}
    assert priorities[messages[0]] == "6", priorities
    # No line about a VM lacks the field, and the daemon writes none beside its entries.
    lines = journal("_SYSTEMD_UNIT=cairnd.service", "_PID=" + str(main_pid()))
    assert [x["MESSAGE"] for x in lines if "VM '" in x["MESSAGE"] and "CAIRN_VM" not in x] == []
    assert {x["_TRANSPORT"] for x in lines} == {"journal"}, lines


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


def check_users_daemon():
    """A user's daemon under a service manager of the user's own: a client starts it, its VMs outlive its restart, and
    are stopped as their definitions say before the manager ends."""
    run("useradd", "--create-home", "ann")
    os.chmod("/dev/kvm", 0o666)
    ann = pwd.getpwnam("ann")
    runtime, programs = f"/run/user/{ann.pw_uid}", "/run/programs"
    for folder in (runtime, f"{ann.pw_dir}/.config/systemd/user"):
        os.makedirs(folder)
    os.chown(runtime, ann.pw_uid, ann.pw_gid)
    os.mkdir(programs)
    run("mount", "--bind", BUILD, programs)  # the user may be unable to enter the folders above
    for unit in os.listdir(UNITS):
        with open(os.path.join(UNITS, unit)) as f, open(f"{ann.pw_dir}/.config/systemd/user/{unit}", "w") as out:
            out.write(f.read().replace("@SBINDIR@", programs).replace("@BINDIR@", programs))
    run("chown", "-R", "ann:ann", ann.pw_dir)
    env = f"XDG_RUNTIME_DIR={runtime}", f"HOME={ann.pw_dir}"

    def as_ann(*args, **more):
        return run("env", "-u", "CAIRN_SOCKET", *env, *args, uid=ann.pw_uid, **more)

    def cairn_of_ann(*args, **more):
        return as_ann(f"{programs}/cairn", *args, **more)

    def manager_begin():
        run("systemd-run", "--unit=manager", "-p", "DefaultDependencies=no", "-p", "User=ann", "-p", "Delegate=yes", "-p", "Type=notify",
            "-p", "KillMode=mixed", "-p", "TimeoutStopSec=120", *(f"--setenv={v}" for v in env), "/lib/systemd/systemd", "--user")
    manager_begin()
    as_ann("systemctl", "--user", "enable", "cairnd.service")
    as_ann("systemctl", "--user", "start", "cairnd.socket")
    cairn_of_ann("list")
    assert as_ann("systemctl", "--user", "is-active", "cairn-guests.service") == "active\n"
    with open(f"{ann.pw_dir}/vm.json", "w") as f:
        json.dump({"name": "vm", "memory": "64M", "boot": {"kernel": f"{programs}/guests/idle.elf"}, "stop_action": "save"}, f)
    cairn_of_ann("define", f"{ann.pw_dir}/vm.json")
    cairn_of_ann("start", "vm")

    def pid():
        return json.loads(cairn_of_ann("dominfo", "vm", "--format", "json"))["pid"]
    before = pid()
    as_ann("systemctl", "--user", "restart", "cairnd.service")
    assert pid() == before and cairn_of_ann("domstate", "vm") == "running\n"
    run("systemctl", "stop", "manager.service")
    assert not os.path.exists(f"/proc/{before}/exe")
    manager_begin()
    state = cairn_of_ann("domstate", "vm")
    assert state == "saved\n", (state, cairn_of_ann("list", "--all"), cairn_of_ann("event", "--since", "0", "--timeout", "1", ok=False))
    cairn_of_ann("start", "vm")
    assert cairn_of_ann("domstate", "vm") == "running\n"
    run("systemctl", "stop", "manager.service")


def start_metrics():
    run("systemctl", "restart", "cairn-metrics.service", ok=False)
    assert is_active("cairn-metrics.service"), run("journalctl", "--unit", "cairn-metrics.service", "--lines", "20")


def check_metrics():
    """Statistics are served under the protections of their unit."""
    os.mkdir("/run/libexec")  # outside of folders of users, which the unit hides
    shutil.copy(os.path.join(BUILD, "cairn-metrics"), "/run/libexec")
    run("systemd-sysusers", os.path.join(UNITS, "../sysusers.conf"))
    cairn("grant", "viewer", "--user", "cairn-metrics")
    start_metrics()
    text = run("curl", "--silent", "--show-error", "--fail", "--unix-socket", "/run/cairn-metrics/metrics.sock", "http://localhost/metrics")
    assert "\ncairn_domain_info{" in text and text.endswith("# EOF\n"), text
    # With the changes of cairn-metrics(1), without LoadCredential=, for which this kernel lacks ACLs.
    run("ip", "link", "set", "lo", "up")
    with open("/run/token", "w") as f:
        f.write("0123456789abcdef\n")
    shutil.chown("/run/token", "cairn-metrics")
    os.chmod("/run/token", 0o400)
    os.mkdir("/run/systemd/system/cairn-metrics.service.d")
    with open("/run/systemd/system/cairn-metrics.service.d/override.conf", "w") as f:
        f.write("[Service]\nExecStart=\n"
                "ExecStart=/run/libexec/cairn-metrics --tcp 127.0.0.1:9177 --token-file /run/token\n")
    run("systemctl", "daemon-reload")
    start_metrics()
    header = "Authorization: Bearer 0123456789abcdef"
    text = run("curl", "--silent", "--show-error", "--fail", "--header", header, "http://127.0.0.1:9177/metrics")
    assert "\ncairn_domain_info{" in text, text
    run("systemctl", "stop", "cairnd.service", "cairnd.socket")  # it asks whether root's daemon is another one
    run("curl", "--silent", "--show-error", "--header", header, "http://127.0.0.1:9177/metrics")
    assert is_active("cairn-metrics.service")
    run("systemctl", "stop", "cairn-metrics.service")
    run("systemctl", "start", "cairnd.service")


def check():
    check_users_daemon()
    run("systemctl", "start", "cairnd.service")
    check_folders()
    check_metrics()
    check_own_scope()
    check_machine()
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
