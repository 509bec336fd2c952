"""Quotas of disk space and of snapshots: what Cairn makes counts for the definer, and no user gets more."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

import archivelib
from conftest import BUILD, library, until
from daemonlib import as_nobody, audit, shared  # noqa: F401
from otherslib import NOBODY, run_as_user
from test_quotas import GROUP, OTHER, ask_at_once, refusal, takes, used
from test_rights import files  # noqa: F401
from test_schedule import HOUR, LATE, miss, named, names, schedule, until_run
from test_undefine import names as vms

MIB = 1 << 20


@pytest.fixture
def host(shared, files):  # noqa: F811
    """A daemon whose VMs have images in a folder of nobody's, and on which nobody may define VMs."""
    os.chmod(shared.socket, 0o666)
    shared.disks = files
    return shared


@pytest.fixture
def maker(host):
    """A daemon as `host`, with real VM processes, which make images."""
    host.stop()
    host.vm_program = None
    host.start()
    return host


def raw(d, name, mib=3, owner=NOBODY):
    """Make an image of nobody's, or of that user, whose bytes are on the disk."""
    path = d.disks / name
    with open(path, "wb") as f:
        f.write(bytes(mib * MIB))
        os.fsync(f.fileno())
    os.chown(path, owner, owner)
    return {"path": str(path), "format": "raw"}


def define(d, name, cmdline="", disks=None, kernel=None, user=NOBODY, groups=()):
    if disks is None:
        disks = [raw(d, f"{name}.raw", 1, user)]
        os.truncate(disks[0]["path"], 0)  # the fake keeps its snapshots there
    a, = as_nobody(d, ["vm-define", {"definition": {
        "name": name, "memory": "32M", "disks": disks, "boot": {"kernel": kernel or str(d.tmp / "kernel"), "cmdline": cmdline}}}],
        user=user, groups=groups)
    assert refusal(a) == ""


def limit(d, *args):
    d.cairn("quota", "--user", "nobody", *args)


def ended(d, answers):
    """Return the error of each job, or of the call that should have begun it; "": it succeeded."""
    errors = []
    for a in answers:
        if "error" in a:
            errors.append(refusal(a))
            continue
        client = d.qmp()
        until(lambda: any(j["id"] == a["return"]["job"] and j["status"] == "concluded" for j in client.jobs()))
        job = next(j for j in d.qmp().jobs() if j["id"] == a["return"]["job"])
        assert job.get("class", "QuotaExceeded") == "QuotaExceeded", job
        errors.append(job.get("error", ""))
    return errors


# ---- snapshots ----

def test_snapshots_are_limited(host):
    define(host, "a")
    limit(host, "--snapshots", "2")
    host.cairn("snapshot-create-as", "a", "one")
    host.cairn("start", "a")
    host.cairn("snapshot-create-as", "a", "two")
    refused = host.cairn("snapshot-create-as", "a", "three", ok=6).stderr  # also root's: the VM is nobody's
    assert ("user 65534 has a quota of 2 snapshots, takes 2 and needs 1 more; delete some with cairn snapshot-delete, or root "
            "can raise it with: cairn quota --user 65534 --snapshots N") in refused
    a, = as_nobody(host, ["snapshot-create", {"vm": "a", "name": "three"}])
    assert "2 snapshots" in refusal(a) and names(host, "a") == ["one", "two"]
    assert [(x["command"], x["outcome"]) for x in audit(host)][-1] == ("snapshot-create", "QuotaExceeded")
    assert used(host) == takes(vms=1, running=1, memory=32 * MIB, vcpus=1, snapshots=2)
    host.cairn("snapshot-revert", "a", "one")  # makes none
    host.cairn("snapshot-delete", "a", "two")
    assert used(host)["snapshots"] == 1
    host.cairn("snapshot-create-as", "a", "three")
    host.cairn("undefine", "a", "--snapshots-metadata")
    assert used(host) == takes()


def test_snapshots_of_all_vms_count(host):
    define(host, "a")
    define(host, "b")
    limit(host, "--snapshots", "2")
    for name in "ab":
        host.cairn("snapshot-create-as", name, "one")
    for name in "ab":
        assert "2 snapshots" in host.cairn("snapshot-create-as", name, "two", ok=6).stderr
    host.define("roots", disks=[raw(host, "roots.raw", 1)])
    host.cairn("undefine", "a", "--snapshots-metadata")
    host.cairn("snapshot-create-as", "b", "two")


def test_group_limits_snapshots_of_all_members(host):
    host.cairn("grant", "admin", "--user", str(OTHER))
    define(host, "a", groups=[GROUP])
    define(host, "b", user=OTHER, groups=[GROUP])
    define(host, "outside")
    host.cairn("quota", "--group", str(GROUP), "--snapshots", "1")
    for first, second in ("ab", "ba"):
        host.cairn("snapshot-create-as", first, "one")
        refused = host.cairn("snapshot-create-as", second, "one", ok=6).stderr
        assert f"group {GROUP} has a quota of 1 snapshots, takes 1 and needs 1 more; delete some with cairn snapshot-delete" in refused
        host.cairn("snapshot-create-as", "outside", first)
        assert used(host, "group", GROUP) == takes(vms=2, snapshots=1)
        host.cairn("snapshot-delete", first, "one")


def test_snapshots_are_counted_by_each_daemon(host):
    define(host, "a")
    define(host, "b")
    limit(host, "--snapshots", "2")
    host.cairn("start", "a")
    for name in ("one", "two"):
        host.cairn("snapshot-create-as", "a", name)
    until(lambda: host.kept("a").get("snapshots") == 2)
    host.stop(signal.SIGKILL)
    host.start()
    assert used(host)["snapshots"] == 2
    for name in "ab":
        assert "2 snapshots" in host.cairn("snapshot-create-as", name, "three", ok=6).stderr


def test_lower_quota_deletes_nothing(host):
    define(host, "a")
    for name in ("one", "two"):
        host.cairn("snapshot-create-as", "a", name)
    limit(host, "--snapshots", "0", "--disk", "0")
    assert names(host, "a") == ["one", "two"]
    host.cairn("snapshot-revert", "a", "one")
    assert "0 snapshots, takes 2" in host.cairn("snapshot-create-as", "a", "three", ok=6).stderr
    host.cairn("snapshot-delete", "a", "one")
    assert used(host)["snapshots"] == 1


def test_snapshots_at_once_share_the_quota(host):
    for name in "abcd":
        define(host, name)
    limit(host, "--snapshots", "2")
    answers = ask_at_once(host, "snapshot-create", *({"vm": name, "name": "s"} for name in "abcd"))
    assert sorted(bool(e) for e in ended(host, answers)) == [False, False, True, True]
    assert sum(len(names(host, name)) for name in "abcd") == used(host)["snapshots"] == 2


def test_snapshots_that_the_daemon_did_not_know_count(host):
    """Another program changed the image, or an older Cairn wrote the state file."""
    define(host, "a")
    for name in ("one", "two"):
        host.cairn("snapshot-create-as", "a", name)
    until(lambda: host.kept("a").get("snapshots") == 2)
    for look in (["snapshot-create-as", "a", "three"], ["snapshot-list", "a"]):
        host.stop()
        state = host.kept("a")
        del state["snapshots"]
        (host.state / "vms/a/state.json").write_text(json.dumps(state))
        host.start()
        limit(host, "--snapshots", "2")
        assert used(host)["snapshots"] == 0
        r = host.cairn(*look, ok=None)
        assert ("2 snapshots, takes 2 and needs 1 more" in r.stderr) == (look[0] != "snapshot-list"), r
        assert used(host)["snapshots"] == 2 and names(host, "a") == ["one", "two"]


def test_failed_snapshot_keeps_no_charge(host):
    define(host, "a", cmdline="work-fails")
    limit(host, "--snapshots", "1")
    host.cairn("start", "a")
    for _ in range(3):
        assert "no space left" in host.cairn("snapshot-create-as", "a", "one", ok=False).stderr
    assert used(host)["snapshots"] == 0


def skips(d):
    return [(e["data"]["reason"], e["data"]["detail"]) for e in d.qmp().run("query-events")["events"] if e["event"] == "SNAPSHOT_SKIPPED"]


def test_schedule_reports_full_quota_once(host):
    define(host, "vm1")
    host.cairn("start", "vm1")
    host.cairn("snapshot-create-as", "vm1", "own")
    host.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "0")
    limit(host, "--snapshots", "1")
    for _ in range(2):
        miss(host, LATE)
        assert "quota of 1 snapshots" in until_run(host, "skipped")["detail"]
    assert names(host) == ["own"]
    assert skips(host) == [("quota", schedule(host)["detail"])]
    assert host.log.read_text().count("no automatic snapshot: user") == 1
    limit(host, "--snapshots", "2")
    miss(host, LATE)
    new = until_run(host, "taken")["detail"]
    assert set(names(host)) == {"own", new}


def test_schedule_makes_room_at_the_limit(host):
    define(host, "vm1")
    host.cairn("start", "vm1")
    old = [named(h * HOUR) for h in (100, 90)]
    for name in old:
        host.cairn("snapshot-create-as", "vm1", name, "--tag", "auto")
    host.cairn("snapshot-schedule", "vm1", "--every", "1w", "--keep", "2h:all", "--min-free", "0")
    limit(host, "--snapshots", "2")
    miss(host, LATE)
    new = until_run(host, "taken")["detail"]
    until(lambda: names(host) == [new])  # the newer of the old ones is deleted afterwards, as without a quota
    assert skips(host) == []


# ---- images that Cairn makes ----

def test_clones_count_with_their_images(maker):
    define(maker, "a", disks=[raw(maker, "a.raw")])
    assert used_of(maker, "a") == 0  # Cairn did not make the image
    limit(maker, "--disk", "10M")
    maker.cairn("clone", "a", "c")
    maker.cairn("clone", "a", "l", "--linked")
    assert used(maker) == takes(vms=3, disk=4 * MIB)
    before = vms(maker), sorted(os.listdir(maker.disks))
    r = maker.cairn("clone", "a", "d", "--count", "3", ok=6)
    assert ("user 65534 has a quota of 10 MiB images that Cairn made, takes 4 MiB and needs 9 MiB more; undefine a clone with "
            "--remove-all-storage, or root can raise it with: cairn quota --user 65534 --disk SIZE") in r.stderr
    assert (vms(maker), sorted(os.listdir(maker.disks))) == before and used(maker)["disk"] == 4 * MIB
    until(lambda: maker.kept("c").get("made_bytes") == 3 * MIB and maker.kept("l").get("made_bytes") == MIB)
    maker.stop(signal.SIGKILL)
    maker.start()
    assert used(maker)["disk"] == 4 * MIB
    maker.cairn("clone", "a", "d", "--count", "2")
    assert used(maker)["disk"] == 10 * MIB
    assert "takes 10 MiB and needs 1 MiB more" in maker.cairn("clone", "a", "m", "--linked", ok=6).stderr
    maker.cairn("undefine", "c", "--remove-all-storage")
    assert used(maker)["disk"] == 7 * MIB
    maker.cairn("domrename", "l", "m")
    limit(maker, "--disk", "0")
    maker.cairn("undefine", "d-1", "d-2", "--remove-all-storage")
    assert used(maker) == takes(vms=2, disk=MIB)


def test_group_limits_images_of_all_members(maker):
    maker.cairn("grant", "admin", "--user", str(OTHER))
    os.chmod(maker.disks, 0o777)
    define(maker, "a", disks=[raw(maker, "a.raw")], groups=[GROUP])
    define(maker, "b", disks=[raw(maker, "b.raw", owner=OTHER)], user=OTHER, groups=[GROUP])
    define(maker, "outside", disks=[raw(maker, "outside.raw")])
    maker.cairn("quota", "--group", str(GROUP), "--disk", "4M")
    for first, second in ("ab", "ba"):
        maker.cairn("clone", first, "c")
        refused = maker.cairn("clone", second, "d", ok=6).stderr
        assert f"group {GROUP} has a quota of 4 MiB images that Cairn made, takes 3 MiB and needs 3 MiB more" in refused
        maker.cairn("clone", "outside", f"o{first}")
        maker.cairn("clone", second, "d", "--linked")
        assert used(maker, "group", GROUP) == takes(vms=4, disk=4 * MIB)
        maker.cairn("undefine", "c", "d", "--remove-all-storage")


def used_of(d, name):
    return d.kept(name).get("made_bytes", 0)


def test_clones_at_once_share_the_quota(maker):
    for name in "abc":
        define(maker, name, disks=[raw(maker, f"{name}.raw")])
    for kind, mib in (("full", 7), ("linked", 2)):
        limit(maker, "--disk", f"{mib}M")
        answers = ask_at_once(maker, "vm-clone", *({"vm": name, "name": f"{kind}-{name}", "kind": kind} for name in "abc"))
        assert sorted(bool(e) for e in ended(maker, answers)) == [False, False, True]
        assert used(maker)["disk"] == (6 if kind == "full" else 2) * MIB
        clones = [n for n in vms(maker) if n.startswith(kind)]
        assert len(clones) == 2
        maker.cairn("undefine", *clones, "--remove-all-storage")
        assert used(maker)["disk"] == 0


def test_clones_that_are_not_made_yet_count(maker):
    """A job defines at most four clones at a time; the others count from its begin."""
    for name in "ab":
        define(maker, name, disks=[raw(maker, f"{name}.raw")])
    limit(maker, "--disk", "10M")
    answers = ask_at_once(maker, "vm-clone", *({"vm": name, "name": f"{name}-clone", "kind": "linked", "count": 6} for name in "ab"))
    assert sorted(bool(e) for e in ended(maker, answers)) == [False, True]
    assert used(maker) == takes(vms=8, disk=6 * MIB)


def test_failed_clones_keep_no_charge(maker):
    define(maker, "a", disks=[raw(maker, "a.raw")])
    limit(maker, "--disk", "9M", "--vms", "4")
    (maker.disks / "c-2.raw").touch()
    for _ in range(3):
        assert "exists" in maker.cairn("clone", "a", "c", "--count", "3", ok=False).stderr
        assert used(maker) == takes(vms=1)


def test_dry_run_claims_nothing(maker):
    define(maker, "a", disks=[raw(maker, "a.raw")])
    limit(maker, "--vms", "2")
    for _ in range(2):
        maker.cairn("clone", "a", "c", "--dry-run")
    assert "2 defined VMs" in maker.cairn("clone", "a", "c", "--count", "2", "--dry-run", ok=6).stderr
    maker.cairn("clone", "a", "c")


def test_backing_files_count_with_a_full_copy(maker):
    base, top = raw(maker, "base.raw"), maker.disks / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base["path"], "-F", "raw", top], check=True)
    os.chown(top, NOBODY, NOBODY)
    define(maker, "a", disks=[{"path": str(top), "format": "qcow2", "backing": [base]}])
    limit(maker, "--disk", "3M")
    assert "needs 4 MiB more" in maker.cairn("clone", "a", "c", ok=6).stderr  # 3 MiB and the overlay's tables
    limit(maker, "--disk", "4M")
    maker.cairn("clone", "a", "c")
    assert 3 * MIB < used(maker)["disk"] <= 4 * MIB


def test_pulled_data_counts(maker):
    define(maker, "a", disks=[raw(maker, "a.raw")])
    maker.cairn("clone", "a", "l", "--linked")
    for limited, needs in (("1M", "takes 1 MiB and needs 1 MiB more"), ("3M", "takes 1 MiB and needs 3 MiB more")):  # the call, the job
        limit(maker, "--disk", limited)
        assert needs in maker.cairn("blockpull", "l", "vda", ok=6).stderr
        assert used(maker)["disk"] == MIB and (maker.disks / "l.qcow2").stat().st_blocks * 512 < MIB
    limit(maker, "--disk", "4M")
    maker.cairn("blockpull", "l", "vda")
    assert used(maker)["disk"] == 4 * MIB


def test_clones_count_with_the_snapshots_that_they_get(maker):
    """Snapshots that the daemon finds only now count, too."""
    path = maker.disks / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    for name in ("one", "two"):
        subprocess.run(["qemu-img", "snapshot", "-c", name, path], check=True)
    os.chown(path, NOBODY, NOBODY)
    define(maker, "a", disks=[{"path": str(path), "format": "qcow2"}])
    limit(maker, "--snapshots", "5")
    assert used(maker)["snapshots"] == 0
    r = maker.cairn("clone", "a", "c", "--snapshots", "--count", "2", ok=6)
    assert "5 snapshots, takes 2 and needs 4 more" in r.stderr and vms(maker) == ["a", "mine", "other"]
    maker.cairn("clone", "a", "c", "--snapshots")
    assert used(maker)["snapshots"] == 4 and len(names(maker, "c")) == 2
    maker.cairn("clone", "a", "d", "--count", "3")  # without snapshots
    assert used(maker)["snapshots"] == 4


# ---- live clones ----

@pytest.fixture
def kernel(maker, kvm, guest):  # noqa: ARG001
    path = shutil.copy(guest("interp.elf"), maker.tmp)
    os.chmod(path, 0o644)
    return path


def qcow2(d, name):
    path = d.disks / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    os.chown(path, NOBODY, NOBODY)
    return {"path": str(path), "format": "qcow2"}


def test_live_clones_count_with_their_copies(maker, kernel):
    define(maker, "a", disks=[raw(maker, "a.raw"), qcow2(maker, "b.qcow2")], kernel=kernel)
    maker.cairn("start", "a")
    limit(maker, "--disk", "11M")
    before = vms(maker), sorted(os.listdir(maker.disks))
    for count, needs in ((3, "takes 0 MiB and needs 12 MiB more"), (6, "takes 0 MiB and needs 12 MiB more")):  # the job, the call
        assert needs in maker.cairn("clone", "--live", "a", "c", "--count", str(count), ok=6).stderr
    assert (vms(maker), sorted(os.listdir(maker.disks))) == before
    maker.cairn("clone", "--live", "a", "c", "--count", "2")
    assert used(maker)["disk"] == 8 * MIB
    maker.stop(signal.SIGKILL)  # what the clones count with is stored before the answer
    maker.start()
    assert used(maker)["disk"] == 8 * MIB


def test_overlays_of_live_clones_count(maker, kernel):
    define(maker, "a", disks=[qcow2(maker, "a.qcow2")], kernel=kernel)
    maker.cairn("start", "a")
    limit(maker, "--disk", "5M")
    assert "takes 0 MiB and needs 6 MiB more" in maker.cairn("clone", "--live", "a", "c", "--count", "6", ok=6).stderr
    maker.cairn("clone", "--live", "a", "c", "--count", "3")
    assert used(maker)["disk"] == 3 * MIB
    assert all((maker.disks / f"c-{i}-vda.qcow2").stat().st_blocks * 512 < MIB for i in (1, 2, 3))
    maker.cairn("destroy", "c-1")
    maker.cairn("undefine", "c-1", "--remove-all-storage")
    assert used(maker)["disk"] == 2 * MIB


# ---- imports ----

def take_archive(host, archive):
    """Return a function for run_as_user() that imports the archive."""
    def take(say):
        with socket.socket(socket.AF_UNIX) as s, open(archive, "rb") as f:
            s.connect(host.socket)
            lines = s.makefile()
            lines.readline()
            s.sendall(b'{"execute":"qmp_capabilities"}')
            lines.readline()
            socket.send_fds(s, [json.dumps({"execute": "vm-import", "arguments": {"folder": str(host.disks)}}).encode()], [f.fileno()])
            answer = {"event": ""}
            while "event" in answer:
                answer = json.loads(lines.readline())
            say(answer)
    return take


def test_imports_count_with_their_data(host):
    for name, bytes_ in (("k", 64 << 10), ("a", 3 * MIB)):
        (host.tmp / name).write_bytes(os.urandom(bytes_))
    definition = {"name": "vm9", "memory": "32M", "boot": {"kernel": "k"}, "disks": [{"path": "a.raw", "format": "raw"}]}
    archive = host.tmp / "x.tar"
    assert archivelib.export(archive, definition, [("k", host.tmp / "k", {}), ("a.raw", host.tmp / "a", {})]).end()[1] == 0
    archive.chmod(0o644)
    take = take_archive(host, archive)
    limit(host, "--disk", "3M")
    before = sorted(os.listdir(host.disks))
    assert "3 MiB images that Cairn made, takes 0 MiB and needs 4 MiB more" in refusal(run_as_user(take)[0])
    assert sorted(os.listdir(host.disks)) == before and vms(host) == ["mine", "other"]
    limit(host, "--disk", "4M")
    assert ended(host, run_as_user(take)) == [""]
    assert used(host) == takes(vms=1, disk=3 * MIB + (64 << 10))
    host.cairn("undefine", "vm9", "--remove-all-storage")
    assert used(host) == takes()


def test_imports_with_scattered_data_count_with_their_blocks(host):
    archive = host.tmp / "x.tar.gz"
    archivelib.scattered(archive, {"name": "vm9", "memory": "32M", "boot": {"kernel": "a.raw"}}, "a.raw", 8192)
    archive.chmod(0o644)
    limit(host, "--disk", "8M")
    before = sorted(os.listdir(host.disks))
    error, = ended(host, run_as_user(take_archive(host, archive)))
    assert "a quota of 8 MiB images that Cairn made" in error
    until(lambda: vms(host) == ["mine", "other"])
    assert sorted(os.listdir(host.disks)) == before and used(host) == takes()
    limit(host, "--disk", "40M")
    assert ended(host, run_as_user(take_archive(host, archive))) == [""]
    assert used(host)["disk"] == os.stat(host.disks / "vm9/a.raw").st_blocks * 512 >= 32 * MIB


def test_live_clones_of_a_killed_daemon_count_or_are_gone(host):
    """Their share of the quota is stored before the clones are kept, although another write holds the
    store's thread."""
    if "asan" in BUILD:
        pytest.skip("slow_sync.so has to come behind a sanitizer")
    go, syncs = host.tmp / "go", host.tmp / "syncs"

    def batches():
        return list(host.state.glob("batches/*.json"))
    go.touch()
    host.stop()
    host.env |= {"LD_PRELOAD": library("slow_sync"), "SLOW_SYNC_OF": "/vms/x", "SLOW_SYNC_UNTIL": str(go),
                 "SLOW_SYNC_COUNT": str(syncs)}
    host.start()
    define(host, "a")
    define(host, "x")
    host.cairn("start", "a")
    limit(host, "--disk", "100M")
    go.unlink()
    syncs.unlink()
    host.qmp().send(json.dumps({"execute": "vm-autostart", "arguments": {"vm": "x"}}).encode())
    until(syncs.exists)
    q = host.qmp()
    q.run("vm-fork", vm="a", name="c")
    q.event("VM_STATE_CHANGE", vm="c", state="running")
    end = time.monotonic() + 1
    while batches() and time.monotonic() < end:
        time.sleep(0.01)
    host.stop(signal.SIGKILL)
    go.touch()
    host.start()
    until(lambda: not batches())  # the daemon removes the clones of an unfinished fork after it has begun to listen
    assert "c" not in vms(host) or used(host)["disk"] > 0
