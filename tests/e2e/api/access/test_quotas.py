"""Quotas limit what the VMs of a user or of a group take together, and no user can exceed them."""

import json
import os
import signal
import socket

import pytest

from conftest import until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from otherslib import NOBODY, run_as_user

GROUP = 4711
OTHER = 4242  # another user
ITEMS = ["vms", "running", "memory", "vcpus", "disk", "snapshots"]


@pytest.fixture
def host(shared):  # noqa: F811
    """A daemon on which nobody may define VMs."""
    shared.cairn("grant", "admin", "--user", "nobody")
    os.chmod(shared.socket, 0o666)
    return shared


def wanted(d, name, cmdline="", **keys):
    return {"name": name, "memory": "32M", "boot": {"kernel": str(d.tmp / "kernel"), "cmdline": cmdline}, **keys}


def define(d, name, user=NOBODY, groups=(), **keys):
    """Let nobody, or that user, define a VM. Return the error's text; "": it is defined."""
    a, = as_nobody(d, ["vm-define", {"definition": wanted(d, name, **keys)}], user=user, groups=groups)
    return refusal(a)


def refusal(answer):
    if "return" in answer:
        return ""
    assert answer["error"]["class"] == "QuotaExceeded", answer
    return answer["error"]["desc"]


def quotas(d, *args):
    return json.loads(d.cairn("quota", "--format", "json", *args).stdout)


def takes(**some):
    """Return what `used` is if the VMs take only these."""
    return {**dict.fromkeys(ITEMS, 0), **some}


def used(d, kind="user", number=NOBODY):
    return next(q["used"] for q in quotas(d) if q.get(kind) == number)


# ---- the table ----

def test_quotas_are_set_listed_and_removed(host):
    assert host.cairn("quota", "--user", "nobody", "--vms", "3", "--memory", "1G").stdout == "Quota of user nobody set\n"
    host.cairn("quota", "--group", str(GROUP), "--vcpus", "8")
    assert host.cairn("quota", "--default", "--running", "2").stdout == "Quota of users without a quota set\n"
    host.cairn("quota", "--user", "nobody", "--vms", "4", "--running", "1")
    host.cairn("quota", "--user", "nobody", "--running", "none")
    define(host, "a")
    nothing = dict.fromkeys(ITEMS, 0)
    table = [{"user": NOBODY, "limits": {"vms": 4, "memory": 1 << 30}, "used": {**nothing, "vms": 1}},
             {"group": GROUP, "limits": {"vcpus": 8}, "used": nothing}, {"default": True, "limits": {"running": 2}}]
    assert quotas(host) == table and quotas(host, "--user", "nobody") == table[:1] and quotas(host, "--default") == table[2:]
    assert host.cairn("quota").stdout == (
        " Kind      Name     Quota     VMs      Running   Memory           vCPUs    Disk         Snapshots\n"
        "---------------------------------------------------------------------------------------------------\n"
        " user      nobody   own       1 of 4   0 of -    0 MiB of 1 GiB   0 of -   0 MiB of -   0 of -\n"
        " group     4711     own       0 of -   0 of -    0 MiB of -       0 of 8   0 MiB of -   0 of -\n"
        " default   -        default   -        2         -                -        -            -\n\n")
    host.stop(signal.SIGKILL)
    host.start()
    assert quotas(host) == table
    assert host.cairn("quota", "--user", "nobody", "--remove").stdout == "Quota of user nobody removed\n"
    assert quotas(host, "--user", "nobody") == [{"user": NOBODY, "default": True, "limits": {"running": 2},
                                                 "used": {**nothing, "vms": 1}}]
    assert "there is no such quota" in host.cairn("quota", "--user", "nobody", "--remove", ok=3).stderr
    assert [(x["command"], x["outcome"]) for x in audit(host)][-3:] == [
        ("vm-define", "ok"), ("quota-remove", "ok"), ("quota-remove", "NotFound")]


@pytest.mark.parametrize("args", [["--user", "nobody", "--group", "4"], ["--vms", "3"], ["--user", "nobody", "--vms", "-2"],
                                  ["--user", "nobody", "--memory", "5"], ["--user", "nobody", "--disk", "5"],
                                  ["--user", "nobody", "--snapshots", "1M"], ["--user", "root", "--vms", "3"], ["--remove"],
                                  ["--default", "--remove", "--vms", "1"]])
def test_wrong_arguments_are_refused(host, args):
    host.cairn("quota", *args, ok=2)
    assert quotas(host) == []


def test_only_root_changes_quotas(host):
    host.cairn("quota", "--user", "nobody", "--vms", "1")
    for command in (["quota-set", {"user": NOBODY, "vms": 9}], ["quota-remove", {"user": NOBODY}], ["quota-set", {"default": True, "vms": 9}]):
        a, = as_nobody(host, command)
        assert a["error"]["class"] == "PermissionDenied" and "only root" in a["error"]["desc"]
    assert [q["limits"] for q in quotas(host)] == [{"vms": 1}]


def test_user_sees_only_own_quotas(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    for who in (["--user", "nobody"], ["--user", "4242"], ["--group", "4242"], ["--group", str(GROUP)], ["--default"]):
        shared.cairn("quota", *who, "--vms", "1")
    a, = as_nobody(shared, ["query-quotas", {}], groups=[GROUP])
    assert [q.get("user", q.get("group")) for q in a["return"]["quotas"]] == [NOBODY, GROUP, None]


def test_quota_that_is_not_stored_is_not_in_force(host):
    block = host.state / "quotas.json.tmp"
    block.mkdir()
    host.cairn("quota", "--user", "nobody", "--vms", "0", ok=False)
    assert quotas(host) == [] and define(host, "a") == ""
    block.rmdir()
    host.cairn("quota", "--user", "nobody", "--vms", "0")
    assert define(host, "b")


def test_quotas_of_newer_cairn_refuse_new_vms_of_users(host):
    host.cairn("quota", "--user", "nobody", "--vms", "9")
    host.stop()
    (host.state / "quotas.json").write_text('{"version":99}')
    host.start()
    assert "the quotas could not be loaded" in define(host, "a")
    host.define("roots")
    assert "newer Cairn" in host.cairn("quota", "--default", "--vms", "1", ok=False).stderr


DAMAGED = ["", '{"version":1', "[]", '{"version":1}', '{"version":1,"quotas":{}}', '{"version":1,"quotas":[{"user":65534}]}',
           '{"version":1,"quotas":[{"user":"nobody","limits":{}}]}',
           *('{"version":1,"quotas":[{"user":1,"limits":{"vms":9}},{"default":true,"limits":{"vms":%s}}]}' % limit
             for limit in ('-1', '"9"', '1.5', 'null'))]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_quotas_refuse_new_vms_and_starts_of_users(host, text):
    assert define(host, "old") == ""
    host.stop()
    (host.state / "quotas.json").write_text(text)
    for _ in range(2):  # the second daemon finds only the file that the first one has put aside
        host.start()
        assert "the quotas could not be loaded: quotas.json was damaged" in define(host, "a")
        assert "the quotas could not be loaded" in host.cairn("start", "old", ok=6).stderr
        assert not any(q["limits"] for q in quotas(host))
        host.stop()
    host.start()
    host.define("roots")
    host.cairn("quota", "--default", "--vms", "2")
    assert define(host, "a") == ""
    host.stop()
    host.start()
    assert "2 defined VMs" in define(host, "b")
    assert (host.state / "quotas.json.damaged").read_text() == text


def test_unreadable_quotas_refuse_users_and_changes(host):
    host.cairn("quota", "--user", "nobody", "--vms", "1")
    host.stop()
    kept = host.state / "kept.json"
    (host.state / "quotas.json").rename(kept)
    (host.state / "quotas.json").symlink_to("quotas.json")
    host.start()
    assert "the quotas could not be loaded: quotas.json cannot be read" in define(host, "a")
    host.define("roots")
    for change in (["--vms", "1"], ["--remove"]):
        assert "quotas.json cannot be read" in host.cairn("quota", "--user", "nobody", *change, ok=False).stderr
    host.stop()
    kept.rename(host.state / "quotas.json")
    host.start()
    assert define(host, "a") == "" and "1 defined VMs" in define(host, "b")


def test_many_quotas_are_listed_in_pages(host):
    q = host.qmp()
    for i in range(1, 121):
        q.run("quota-set", user=i, vms=i)
    assert [(x["user"], x["limits"]["vms"]) for x in quotas(host)] == [(i, i) for i in range(1, 121)]


# ---- limits ----

def test_vms_are_limited(host):
    host.cairn("quota", "--user", "nobody", "--vms", "2")
    assert define(host, "a") == define(host, "b") == ""
    assert define(host, "c") == ("user 65534 has a quota of 2 defined VMs, takes 2 and needs 1 more; root can raise it with: "
                                 "cairn quota --user 65534 --vms N")
    assert define(host, "a", memory="64M") == ""  # nothing new
    host.define("roots")
    host.cairn("undefine", "b")
    assert define(host, "c") == ""


def test_running_vms_and_their_sizes_are_limited(host):
    for name in "abc":
        define(host, name, vcpus=2)
    for limit, text in ((["--running", "2"], "2 running VMs, takes 2 and needs 1 more"),
                        (["--memory", "95M"], "95 MiB memory of running VMs, takes 64 MiB and needs 32 MiB more"),
                        (["--vcpus", "5"], "5 vCPUs of running VMs, takes 4 and needs 2 more")):
        host.cairn("quota", "--user", "nobody", *limit)
        host.cairn("start", "a")
        host.cairn("start", "b", "--paused")
        assert text in host.cairn("start", "c", ok=6).stderr  # also root's start: the VM is nobody's
        host.cairn("start", "mine")
        assert used(host) == takes(vms=3, running=2, memory=64 << 20, vcpus=4)
        host.cairn("destroy", "a")
        host.cairn("start", "c")
        host.cairn("destroy", "--all")
        assert used(host) == takes(vms=3)
        host.cairn("quota", "--user", "nobody", "--remove")


def test_lower_quota_stops_nothing(host):
    for name in "ab":
        define(host, name)
        host.cairn("start", name)
    pid = host.info("a")["pid"]
    host.cairn("quota", "--user", "nobody", "--running", "0", "--vms", "1", "--memory", "1M")
    host.stop()
    host.start()
    assert host.info("a")["pid"] == pid and host.info("b")["state"] == "running"
    host.cairn("restart-process", "a")  # in two processes, one after the other
    assert host.info("a")["pid"] != pid and host.info("a")["state"] == "running"
    assert define(host, "a", title="changed") == ""
    host.cairn("destroy", "a")
    assert "0 running VMs, takes 1" in host.cairn("start", "a", ok=6).stderr


def test_default_is_for_users_without_quota(host):
    host.cairn("quota", "--default", "--vms", "1")
    assert define(host, "a") == ""
    assert "user 65534 has the default quota of 1 defined VMs, takes 1" in define(host, "b")
    host.cairn("quota", "--user", "nobody", "--running", "1")  # replaces the default, also its limit of VMs
    assert define(host, "b") == ""


def test_group_counts_vms_of_all_members(host):
    """Each quota that applies to the definer must have room."""
    host.cairn("quota", "--group", str(GROUP), "--vms", "2")
    host.cairn("quota", "--group", str(GROUP + 1), "--vms", "1")
    assert define(host, "a", groups=[GROUP]) == define(host, "b", groups=[GROUP]) == ""
    assert f"group {GROUP} has a quota of 2 defined VMs, takes 2 and needs 1 more; root can raise it with: " \
           f"cairn quota --group {GROUP} --vms N" == define(host, "c", groups=[GROUP + 1, GROUP])
    assert define(host, "c", groups=[GROUP + 1]) == ""
    assert f"group {GROUP + 1}" in define(host, "d", groups=[GROUP + 1])


@pytest.mark.parametrize("limit, text", [
    (["--running", "1"], "1 running VMs, takes 1 and needs 1 more"),
    (["--memory", "63M"], "63 MiB memory of running VMs, takes 32 MiB and needs 32 MiB more"),
    (["--vcpus", "3"], "3 vCPUs of running VMs, takes 2 and needs 2 more")])
def test_group_limits_runs_of_all_members(host, limit, text):
    host.cairn("grant", "admin", "--user", str(OTHER))
    assert define(host, "a", groups=[GROUP], vcpus=2) == define(host, "b", user=OTHER, groups=[GROUP], vcpus=2) == ""
    assert define(host, "outside", vcpus=2) == ""
    host.cairn("quota", "--group", str(GROUP), *limit)
    for first, second in ("ab", "ba"):
        host.cairn("start", first)
        host.cairn("start", "outside")
        assert f"group {GROUP} has a quota of {text}; root can raise it with: cairn quota --group {GROUP} {limit[0]}" in \
            host.cairn("start", second, ok=6).stderr
        assert used(host, "group", GROUP) == takes(vms=2, running=1, memory=32 << 20, vcpus=2)
        host.cairn("destroy", "--all")
        assert used(host, "group", GROUP) == takes(vms=2)


# ---- attempts to exceed a quota ----

def ask_at_once(d, command, *arguments):
    """Let nobody send one command on each of several connections before reading any answer."""
    def client(say):
        socks = []
        for _ in arguments:
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            f = s.makefile("rw")
            f.readline()
            f.write('{"execute":"qmp_capabilities"}')
            f.flush()
            f.readline()
            socks.append(f)
        for f, a in zip(socks, arguments):
            f.write(json.dumps({"execute": command, "arguments": a}))
            f.flush()
        for f in socks:
            line = json.loads(f.readline())
            while "event" in line:
                line = json.loads(f.readline())
            say(line)

    return run_as_user(client)


def test_vms_defined_at_once_share_the_quota(host):
    host.cairn("quota", "--user", "nobody", "--vms", "3")
    answers = ask_at_once(host, "vm-define", *({"definition": wanted(host, f"vm{i}")} for i in range(8)))
    assert sorted(bool(refusal(a)) for a in answers) == [False] * 3 + [True] * 5
    assert used(host)["vms"] == 3


def test_vms_started_at_once_share_the_quota(host):
    for i in range(6):
        define(host, f"vm{i}")
    host.cairn("quota", "--user", "nobody", "--running", "2")
    answers = ask_at_once(host, "vm-start", *({"vm": f"vm{i}"} for i in range(6)))
    assert sorted(bool(refusal(a)) for a in answers) == [False] * 2 + [True] * 4
    assert used(host)["running"] == 2


def test_larger_definition_counts_from_the_next_start(host):
    define(host, "a")
    host.cairn("quota", "--user", "nobody", "--memory", "32M")
    host.cairn("start", "a")
    assert define(host, "a", memory="64M") == ""
    assert used(host)["memory"] == 32 << 20
    host.cairn("destroy", "a")
    assert "needs 64 MiB more" in host.cairn("start", "a", ok=6).stderr


@pytest.mark.parametrize("limit, change, kept", [("--memory", {"memory": "64M"}, "memory"), ("--vcpus", {"vcpus": 3}, "vcpus")])
def test_owner_of_roots_vm_raises_it_within_his_own_quota(host, limit, change, kept):
    """The quota holds after a restart of the daemon, too. Values that root has chosen count for nobody."""
    for name in "ab":
        host.define(name, memory="32M")
    host.cairn("quota", "--user", "nobody", limit, {"memory": "100M", "vcpus": "5"}[kept])
    assert define(host, "a", **change) == define(host, "b", **change) == ""
    host.cairn("start", "a")
    assert used(host) == takes(**{kept: {"memory": 64 << 20, "vcpus": 3}[kept]})
    assert "user 65534 has a quota of" in host.cairn("start", "b", ok=6).stderr
    host.stop()
    host.start()
    assert "user 65534 has a quota of" in host.cairn("start", "b", ok=6).stderr
    host.define("b", memory="96M", vcpus=4)
    host.cairn("start", "b")


def test_smaller_definition_frees_no_memory_of_the_run(host):
    """The next daemon, which lacks the definition of the run's start, frees none either."""
    define(host, "a", memory="64M")
    define(host, "b")
    host.cairn("quota", "--user", "nobody", "--memory", "64M")
    host.cairn("start", "a")
    define(host, "a", memory="32M")
    until(lambda: host.kept("a").get("run_memory") == 64 << 20)
    for _ in range(2):
        assert used(host)["memory"] == 64 << 20
        assert "takes 64 MiB" in host.cairn("start", "b", ok=6).stderr
        host.stop(signal.SIGKILL)
        host.start()


def test_vm_that_grows_while_its_start_waits_is_refused(host):
    plain = type(host).command(host)
    host.stop()
    host.command = lambda: plain + ["--max-starting", "1"]
    host.start()
    host.define("first", cmdline=f"config-until={host.tmp}/go")
    define(host, "a")
    host.cairn("quota", "--user", "nobody", "--memory", "32M")
    first, second = host.qmp(), host.qmp()
    first.send(b'{"execute":"vm-start","arguments":{"vm":"first"}}')
    until(lambda: host.children())
    second.send(b'{"execute":"vm-start","arguments":{"vm":"a"}}')
    until(lambda: used(host)["running"] == 1)
    assert define(host, "a", memory="64M") == ""
    (host.tmp / "go").touch()
    assert "return" in first.answer()
    assert "32 MiB memory of running VMs, takes 0 MiB and needs 64 MiB more" in refusal(second.answer())
    assert used(host)["running"] == 0


def test_clones_beyond_the_quota_are_not_begun(host):
    define(host, "a")
    host.cairn("start", "a")
    host.cairn("quota", "--user", "nobody", "--vms", "3", "--running", "9")
    before = sorted(p.name for p in host.state.iterdir())
    for args in (["--live"], ["--full"]):
        if args == ["--full"]:
            host.cairn("destroy", "a")
        r = host.cairn("clone", *args, "a", "n", "--count", "3", ok=6)
        assert "3 defined VMs, takes 1 and needs 3 more" in r.stderr
        assert sorted(p.name for p in host.state.iterdir()) == before and host.qmp().jobs() == []
    host.cairn("clone", "a", "n", "--count", "2")
    assert used(host) == takes(vms=3)
    host.cairn("quota", "--user", "nobody", "--vms", "9", "--running", "2")
    host.cairn("start", "a")
    assert "2 running VMs, takes 1 and needs 2 more" in host.cairn("clone", "--live", "a", "m", "--count", "2", ok=6).stderr


def test_failed_work_keeps_no_charge(host):
    """After a failed start, failed clones and a killed daemon, the quota has as much room as before."""
    define(host, "a", cmdline="refuse")
    define(host, "b")
    host.cairn("quota", "--user", "nobody", "--vms", "4", "--running", "3")
    for _ in range(5):
        host.cairn("start", "a", ok=False)
    host.cairn("start", "b")
    # No clone starts: the source's process answers with a state that is not theirs.
    define(host, "b", cmdline="refuse")
    host.cairn("destroy", "b")
    for _ in range(3):
        host.cairn("clone", "--live", "b", "n", "--count", "2", ok=False)
    assert used(host) == takes(vms=2)
    host.stop(signal.SIGKILL)
    host.start()
    assert used(host) == takes(vms=2)
