"""vm-sandbox and `dominfo --sandbox`: what the kernel reports of a VM's process."""

import ctypes
import json
import os
import re
import signal

import pytest

from conftest import QmpError
from plainlib import NOBODY, PlainDaemon, plain_folder

SPACES = ("mnt", "net", "pid", "ipc", "uts", "user")
NONE = "0" * 16


def landlock():
    """Return the kernel's version of landlock; 0: it has none."""
    return max(0, ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def numbers(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return [int(n) for line in f if line.startswith(key + ":") for n in line.split()[1:]]


def interfaces(pid):
    with open(f"/proc/{pid}/net/dev") as f:
        return [line.split(":")[0].strip() for line in f.readlines()[2:]]


def run(daemon, guest, name="vm1"):
    daemon.define(name, debug_exit=True, boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", name)
    return daemon.info(name)["pid"]


def sandbox(daemon, name="vm1"):
    return daemon.qmp().run("vm-sandbox", vm=name)


@pytest.mark.usefixtures("kvm", "sandbox")
def test_running_vm_is_shown_as_kernel_reports_it(daemon, guest):
    pid = run(daemon, guest)
    o = daemon.sandbox("vm1")
    assert o["pid"] == pid and o["threads"] >= 2
    assert (o["uids"], o["gids"], o["groups"]) == tuple(numbers(pid, k) for k in ("Uid", "Gid", "Groups"))
    assert (o["cap-effective"], o["cap-permitted"], o["no-new-privs"], o["seccomp"]) == (NONE, NONE, True, "filter")
    assert [o["seccomp-filters"]] == numbers(pid, "Seccomp_filters")
    assert o["landlock"] == landlock()
    # twice the RAM, as the VM has no disk, and 1 GiB
    assert o["limit-fsize"] == [(2 << 25) + (1 << 30)] * 2
    assert o["limit-core"] == [0, 0] and 0 < o["limit-nofile"][0] <= o["limit-nofile"][1] <= 4096
    # Root's daemon gives each VM a user id of its own.
    assert os.geteuid() != 0 or 0 < o["limit-nproc"][0] <= o["limit-nproc"][1] <= 16384
    with open(f"/proc/{pid}/cgroup") as f:
        assert o["cgroups"] == f.read().splitlines()
    if os.geteuid() == 0:
        ours = {n: os.readlink(f"/proc/self/ns/{n}") for n in SPACES}
        assert o["namespaces"] == {n: "daemon" if os.readlink(f"/proc/{pid}/ns/{n}") == ours[n] else "own" for n in SPACES}
    with open(f"/proc/{pid}/mountinfo") as f:
        assert o["mounts"] == len(f.readlines())
    assert o["interfaces"] == interfaces(pid)
    assert sandbox(daemon, daemon.info("vm1")["uuid"])["pid"] == pid


def limit(numbers):
    """Return a soft and a hard limit as `cairn` prints them."""
    words = ["unlimited" if n == -1 else str(n) for n in numbers]
    return " ".join(words if len(set(words)) > 1 else words[:1])


@pytest.mark.usefixtures("kvm", "sandbox")
def test_dominfo_prints_sandbox(daemon, guest):
    pid = run(daemon, guest)
    o = json.loads(daemon.cairn("dominfo", "vm1", "--sandbox", "--format", "json").stdout)
    assert o["pid"] == pid and o["seccomp"] == "filter"
    while "Landlock:       not known" in (text := daemon.cairn("dominfo", "vm1", "--sandbox").stdout):
        pass  # the VM's process stood still
    lines = dict(re.split(": *", line, maxsplit=1) for line in text.splitlines()
                 if line and not line.startswith(("Lacks:", "Control group:", "Group limit:")))
    uids, gids = (" ".join(map(str, o[k] if len(set(o[k])) > 1 else o[k][:1])) for k in ("uids", "gids"))
    filters = o["seccomp-filters"]
    spaces = o.get("namespaces")
    assert int(lines.pop("Threads")) >= 2
    assert lines == {
        "Process": str(pid), "User": uids, "Group": gids, "Other groups": " ".join(map(str, o["groups"])) or "none",
        "CapEff": "none", "CapPrm": "none", "NoNewPrivs": "yes", "Seccomp": f"filter, {filters} filter" + "s" * (filters > 1),
        "Landlock": f"version {landlock()}" if landlock() else "none", "Core limit": "0",
        "Size limit": limit(o["limit-fsize"]), "File limit": limit(o["limit-nofile"]), "Thread limit": limit(o["limit-nproc"]),
        **{label: " ".join(n for n in SPACES if spaces.get(n) == word) or "none" if spaces else "not readable"
           for label, word in (("Own namespaces", "own"), ("Daemon's", "daemon"))},
        "Mounts": str(o["mounts"]), "Interfaces": " ".join(o["interfaces"]) or "none"}
    assert "".join(f"Lacks:          {lack}\n" for lack in o["lacks"] or ["none"]) in text
    assert text.endswith("".join(f"Control group:  {g}\n" for g in o["cgroups"]) +
                         "".join(f"Group limit:    {f} {v}\n" for f, v in o.get("cgroup-limits", {}).items()) + "\n")


@pytest.mark.usefixtures("kvm", "sandbox")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_plain_user_sees_only_the_user_namespace_of_undumpable_process(guest):
    with plain_folder() as folder:
        d = PlainDaemon(folder, folder / "denied")
        try:
            run(d, guest)
            o = sandbox(d)
            text = d.cairn("dominfo", "vm1", "--sandbox").stdout
            assert "sandbox" not in d.log_of("vm1")
        finally:
            d.close()
    assert o["namespaces"] == {"user": "own"} and o["uids"] == [NOBODY] * 4 and o["cap-effective"] == NONE
    assert o["lacks"][0] == "own user id: Operation not permitted"
    assert "Own namespaces: user\n" in text and "Daemon's:       none\n" in text
    assert f"User:           {NOBODY}\n" in text and "Seccomp:        filter" in text


def test_process_that_does_not_tell_its_landlock(fake):
    """A process of an older Cairn, and one that does not answer."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    assert "landlock" not in sandbox(fake)
    assert "Landlock:       not known\n" in fake.cairn("dominfo", "vm1", "--sandbox").stdout
    pid = fake.info("vm1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        o = sandbox(fake)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert o["pid"] == pid and "landlock" not in o and o["threads"] >= 1


def test_capabilities_and_limits_that_are_left(fake):
    """The process of this test is not confined."""
    fake.define("vm1")
    fake.cairn("start", "vm1")
    o, pid = sandbox(fake), fake.info("vm1")["pid"]
    with open(f"/proc/{pid}/status") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    assert (o["cap-effective"], o["cap-permitted"]) == (status["CapEff"], status["CapPrm"])
    assert o["no-new-privs"] == (status["NoNewPrivs"] == "1")
    assert o["seccomp"] == ("disabled", "strict", "filter")[int(status["Seccomp"])]
    with open(f"/proc/{pid}/limits") as f:
        limits = {line[:26].strip(): [-1 if n == "unlimited" else int(n) for n in line[26:].split()[:2]]
                  for line in f if line.startswith(("Max core", "Max file size", "Max open", "Max proc"))}
    assert [o["limit-core"], o["limit-fsize"], o["limit-nofile"], o["limit-nproc"]] == [
        limits[f"Max {what}"] for what in ("core file size", "file size", "open files", "processes")]


def test_vm_that_is_off_has_no_sandbox(fake):
    fake.define("vm1")
    with pytest.raises(QmpError) as e:
        sandbox(fake)
    assert "VM 'vm1' is shut off and has no process; next: cairn start vm1" in str(e.value)
    r = fake.cairn("dominfo", "vm1", "--sandbox", ok=4)
    assert r.stderr == ("error: failed to get the sandbox of domain 'vm1'\n"
                        "error: VM 'vm1' is shut off and has no process; next: cairn start vm1\n")
