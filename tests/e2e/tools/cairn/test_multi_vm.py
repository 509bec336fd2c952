"""One command for many VMs: by name, by pattern, or all."""

import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, until


def states(fake):
    return {v["name"]: v["state"] for v in fake.qmp().run("vm-list")["vms"]}


@pytest.fixture
def farm(fake):
    for n in ("db1", "web1", "web2", "web3"):
        fake.define(n)
    return fake


def rows(r):
    return [line.split(None, 4) for line in r.stdout.splitlines()[2:] if line]


def test_all_option_acts_on_every_vm(farm):
    farm.cairn("start", "web2")
    r = farm.cairn("start", "--all")
    assert r.stdout.splitlines()[0].split() == ["Name", "Outcome", "Time", "Why"]
    assert [(x[0], x[1]) for x in rows(r)] == [
        ("db1", "done"), ("web1", "done"), ("web2", "skipped"), ("web3", "done")]
    assert "VM 'web2' is running" in r.stdout and r.stderr == ""
    assert set(states(farm).values()) == {"running"}
    farm.cairn("suspend", "--all")
    assert set(states(farm).values()) == {"paused"}
    farm.cairn("resume", "--all")
    farm.cairn("reset", "--all")
    assert [x[1] for x in rows(farm.cairn("destroy", "--all"))] == ["done"] * 4
    assert [x[1] for x in rows(farm.cairn("destroy", "--all"))] == ["skipped"] * 4
    farm.cairn("undefine", "--all")
    assert states(farm) == {}
    assert rows(farm.cairn("start", "--all")) == []


def test_images_that_stay_are_told_below_the_table(fake):
    for n in ("a1", "a2"):
        for kind in "raw", "iso":
            (fake.tmp / f"{n}.{kind}").write_bytes(bytes(4096))
        fake.define(n, disks=[{"path": f"{n}.raw", "format": "raw"}, {"path": f"{n}.iso", "format": "raw", "readonly": True}])
    said = fake.cairn("undefine", "a*", "--remove-all-storage").stdout
    for n in ("a1", "a2"):
        assert f"Volume 'vda'({fake.tmp}/{n}.raw) removed." in said and f"Volume 'vdb'({fake.tmp}/{n}.iso) stays: " in said


def test_undefine_finds_the_order_of_vms_that_share_images(fake):
    """Each VM reads the image of the VM before it, and an image stays while another VM uses it."""
    names = "abcd"
    for i, n in enumerate(names):
        (fake.tmp / f"{n}.raw").write_bytes(bytes(4096))
        fake.define(n, disks=[{"path": f"{n}.raw", "format": "raw"}] + [{"path": f"{x}.raw", "format": "raw", "readonly": True} for x in names[i - 1:i]])
    assert "is used by VM 'b'" in fake.cairn("undefine", "a", "c", "--remove-all-storage", ok=6).stderr
    r = fake.cairn("undefine", *names, "--remove-all-storage", "--parallel", "1")
    assert [line for line in r.stdout.splitlines() if "undefined" in line] == [f"Domain '{n}' has been undefined" for n in names]
    assert r.stderr == "" and states(fake) == {} and not list(fake.tmp.glob("*.raw"))


def test_undefine_removes_a_template_after_its_clones(fake):
    (fake.tmp / "t.raw").write_bytes(bytes(1 << 20))
    fake.define("t", disks=[{"path": "t.raw", "format": "raw"}])
    fake.cairn("template", "t")
    fake.cairn("clone", "t", "t-1", "--linked")
    got = json.loads(fake.cairn("undefine", "t", "t-1", "nope", "--parallel", "1", "--format", "json", ok=3).stdout)
    assert [(o["name"], o["outcome"]) for o in got] == [("t", "done"), ("t-1", "done"), ("nope", "failed")]


def test_pattern_matches_vm_names(farm):
    r = farm.cairn("start", "web*", "db?", "web1")
    assert [x[0] for x in rows(r)] == ["web1", "web2", "web3", "db1"]
    r = farm.cairn("shutdown", "web[12]", "--wait")
    assert "Domain 'web1' is shut off\nDomain 'web2' is shut off\n" in r.stdout
    assert states(farm) == {"db1": "running", "web1": "shutoff", "web2": "shutoff", "web3": "running"}
    # A pattern without a match: nothing is done.
    r = farm.cairn("destroy", "db1", "mail*", ok=3)
    assert r.stderr == ("error: Failed to destroy 'mail*'\n"
                        "error: no VM matches the pattern. Next: cairn list --all\n")
    assert states(farm)["db1"] == "running"
    # An exact name takes precedence over a pattern.
    farm.define("web*")
    assert farm.cairn("start", "web*").stdout == "Domain 'web*' started\n"
    assert states(farm)["web1"] == "shutoff"


def test_exit_code_is_that_of_failed_vm(farm):
    farm.define("bad", cmdline="refuse")
    r = farm.cairn("start", "--all", ok=6)
    assert [(x[0], x[1]) for x in rows(r)] == [
        ("bad", "failed"), ("db1", "done"), ("web1", "done"), ("web2", "done"), ("web3", "done")]
    # A named VM is not skipped.
    r = farm.cairn("start", "web1", "nope", "db1", ok=4)
    assert r.stderr.count("error: Failed to start domain") == 3
    farm.cairn("start", "--all", "web1", ok=2)
    farm.cairn("start", ok=2)
    for n in ("0", "65", "x", "-1"):
        farm.cairn("start", "--all", "--parallel", n, ok=2)


def test_dry_run_changes_nothing(farm):
    farm.cairn("start", "web1")
    assert farm.cairn("start", "--all", "--dry-run").stdout == (
        "Would start domain 'db1' (shut off)\nWould skip domain 'web1' (running)\n"
        "Would start domain 'web2' (shut off)\nWould start domain 'web3' (shut off)\n")
    assert farm.cairn("undefine", "w*", "--dry-run").stdout.splitlines()[0] == (
        "Would skip domain 'web1' (running)")
    assert farm.cairn("suspend", "web1", "nope", "--dry-run", ok=3).stdout == (
        "Would suspend domain 'web1' (running)\n")
    assert states(farm) == {"db1": "shutoff", "web1": "running", "web2": "shutoff", "web3": "shutoff"}


def test_many_vms_print_in_each_format(farm):
    farm.cairn("start", "web1")
    got = json.loads(farm.cairn("start", "web*", "--format", "json").stdout)
    assert [(o["name"], o["outcome"], o["class"]) for o in got] == [
        ("web1", "skipped", "WrongState"), ("web2", "done", ""), ("web3", "done", "")]
    assert all(o["duration"] > 0 for o in got)
    assert farm.cairn("destroy", "web1", "--format", "csv").stdout.splitlines()[0] == (
        "name,outcome,duration,class,error")


def test_jobs_option_limits_parallel_vms(farm):
    """At most N VMs are worked on at a time; a VM that hangs does not block others while there is room."""
    for n in ("slow1", "slow2"):
        farm.define(n, cmdline="silent-at-config")

    def begin(parallel):
        return subprocess.Popen([os.path.join(BUILD, "cairn"), "start", "slow1", "slow2", "db1", "web1", "web2",
                                 "--parallel", parallel], env=farm.env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    p = begin("3")
    for n in ("db1", "web1", "web2"):
        farm.wait(n, "running")
    farm.cairn("destroy", "db1", "web1", "web2")
    farm.cairn("destroy", "slow1", "slow2")
    out, err = p.communicate()
    assert p.returncode == 1 and out == "".join(f"Domain '{n}' started\n" for n in ("db1", "web1", "web2"))
    assert err.count("the VM was destroyed while starting") == 2
    until(lambda: not farm.children())
    p = begin("2")
    until(lambda: len(farm.children()) == 2)
    for _ in range(200):  # a third could begin meanwhile
        assert states(farm)["db1"] == "shutoff"
    farm.cairn("destroy", "slow1", "slow2")
    out, err = p.communicate()
    assert out.count("started") == 3


def test_result_line_comes_after_job_ends(farm):
    """Saves and snapshots end before their line is printed, which has the result."""
    farm.define("slow", cmdline="work-takes=300")
    farm.cairn("start", "slow", "web1", "web2")
    r = farm.cairn("managedsave", "slow", "web1")
    assert r.stdout == "Domain 'slow' state saved by cairn\nDomain 'web1' state saved by cairn\n"
    assert [x[:2] for x in rows(farm.cairn("managedsave", "--all"))] == [
        ["db1", "skipped"], ["slow", "skipped"], ["web1", "skipped"], ["web2", "done"], ["web3", "skipped"]]
    assert set(states(farm).values()) == {"saved", "shutoff"}
    assert "Would skip domain 'db1'" in farm.cairn("managedsave", "--all", "--dry-run").stdout
    farm.cairn("managedsave", "--all", "--no-wait", ok=2)
    farm.cairn("managedsave", ok=2)
    assert farm.qmp().run("query-jobs") == []


def test_saved_states_of_many(farm):
    farm.cairn("start", "web1", "web2")
    farm.cairn("managedsave", "web*")
    assert farm.cairn("managedsave-remove", "--dry-run", "web1").stdout
    r = farm.cairn("managedsave-remove", "--all")
    assert [(x[0], x[1]) for x in rows(r)] == [
        ("db1", "skipped"), ("web1", "done"), ("web2", "done"), ("web3", "skipped")]
    assert set(states(farm).values()) == {"shutoff"}


def test_snapshots_of_many(fake):
    for n in ("a1", "a2", "b"):
        (fake.tmp / f"{n}.img").write_bytes(bytes(1 << 20))
        fake.define(n, disks=[{"path": f"{n}.img", "format": "qcow2"}])
    fake.cairn("start", "--all")

    def names(vm):
        return fake.cairn("snapshot-list", vm, "--name").stdout.split()

    assert [x[:2] for x in rows(fake.cairn("snapshot-create-as", "a*", "s1", "the first"))] == [
        ["a1", "done"], ["a2", "done"]]
    r = fake.cairn("snapshot-create-as", "--all", "s1", "--tag", "x", ok=4)
    assert [x[:2] for x in rows(r)] == [["a1", "failed"], ["a2", "failed"], ["b", "done"]]
    assert r.stdout.count("there is a snapshot 's1'") == 2
    assert [names(n) for n in ("a1", "a2", "b")] == [["s1"]] * 3
    assert "the first" in fake.cairn("snapshot-info", "a2", "s1").stdout
    got = json.loads(fake.cairn("snapshot-create-as", "--all", "--name", "s2", "--format", "json").stdout)
    assert [(o["name"], o["outcome"]) for o in got] == [("a1", "done"), ("a2", "done"), ("b", "done")]
    fake.cairn("snapshot-create", "--all")
    assert len(names("b")) == 3
    fake.cairn("snapshot-create-as", "--all", "s3", "text", "more", ok=2)
    # The output for one VM is as before.
    assert fake.cairn("snapshot-create-as", "b", "s4").stdout == "Domain snapshot s4 created\n"


def test_ctrl_c_cancels_jobs(fake):
    for i in range(4):
        fake.define(f"vm{i}", cmdline="work-takes=20000")
    fake.cairn("start", "--all")
    q = fake.qmp()
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "managedsave", "--all", "--parallel", "2"], env=fake.env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(2):
        q.event("JOB_STATUS_CHANGE", status="running")
    until(lambda: len(q.run("query-jobs")) == 2)
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate()
    assert p.returncode == -signal.SIGINT and out.count("cancel") == 2 and out.count("not started: interrupted by Ctrl-C") == 2, out
    assert set(states(fake).values()) == {"running"}


def test_command_works_for_many_vms(fake):
    for i in range(40):
        fake.define(f"vm{i:02}")
    assert [x[1] for x in rows(fake.cairn("start", "--all", "--parallel", "64"))] == ["done"] * 40
    assert [x[1] for x in rows(fake.cairn("destroy", "vm*"))] == ["done"] * 40


def test_suspend_all_pauses_every_running_vm(daemon, kvm, guest):
    """suspend --all: every running VM stops; one that is off or paused is no failure."""
    def work(name):
        """CPU time of its one vCPU, in ms."""
        return daemon.figures(name)["cpu-time"] // 1000000

    busy = ["a", "b", "c"]
    for n in (*busy, "off", "stands"):
        daemon.define(n, boot={"kernel": guest("interp.elf"), "cmdline": "crash spin"})
    daemon.cairn("start", *busy, "stands")
    daemon.cairn("suspend", "stands")
    started = {n: work(n) for n in busy}
    for n in busy:
        until(lambda: work(n) > started[n])
    assert [x[:2] for x in rows(daemon.cairn("suspend", "--all"))] == [
        ["a", "done"], ["b", "done"], ["c", "done"], ["off", "skipped"], ["stands", "skipped"]]
    still = {n: work(n) for n in busy}
    daemon.cairn("resume", "a")
    until(lambda: work("a") > still["a"] + 50)
    assert all(work(n) < still[n] + 10 for n in ("b", "c"))  # a thread falls asleep after the answer, which takes some time, too
    assert [x[:2] for x in rows(daemon.cairn("resume", "--all"))] == [
        ["a", "skipped"], ["b", "done"], ["c", "done"], ["off", "skipped"], ["stands", "done"]]
    for n in ("b", "c"):
        until(lambda: work(n) > still[n])
    daemon.cairn("destroy", "--all")
