"""The role creator: a user defines VMs and owns them, and learns nothing of the VMs of others."""

import json
import os
import shutil
import signal
import socket
import uuid

import pytest

import archivelib
import guestlib
from conftest import BUILD, FAKE_VM, Qmp, library, until
from daemonlib import NOBODY, allowed, as_nobody, audit, shared  # noqa: F401
from otherslib import as_user, run_as_user
from test_disk_quotas import maker, raw  # noqa: F401
from test_permission_writes import blocked, stored
from test_rights import restore
from test_undefine import names

OTHER = 4242  # another creator
GROUP = 4711


@pytest.fixture
def host(shared):  # noqa: F811
    """A daemon on which nobody is a creator. The VMs `mine` and `other` are root's."""
    shared.cairn("grant", "creator", "--user", "nobody")
    shared.disks = shared.tmp / "disks"
    shared.disks.mkdir()
    os.chown(shared.disks, NOBODY, NOBODY)
    return shared


def wanted(d, name, **keys):
    return {"name": name, "memory": "32M", "boot": {"kernel": str(d.tmp / "kernel")}, **keys}


def define(d, name, user=NOBODY, groups=(), validate=False, **keys):
    """Let a creator define a VM. Return the answer."""
    args = {"definition": wanted(d, name, **keys), **({"validate-only": True} if validate else {})}
    a, = as_nobody(d, ["vm-define", args], user=user, groups=groups)
    return a


def ask(d, command, user=NOBODY, **args):
    a, = as_nobody(d, [command, args], user=user)
    return a


def refusal(answer):
    return answer["error"]["class"], answer["error"]["desc"]


def seen(d, user=NOBODY):
    return [v["name"] for v in ask(d, "vm-list", user)["return"]["vms"]]


def owned(d, user=NOBODY):
    """Return the names of the VMs that the user owns."""
    return sorted(p["vm"] for p in json.loads(d.cairn("permissions", "--format", "json").stdout)
                  if p.get("user") == user and p["role"] == "owner")


def ended(d, answer, user=NOBODY):
    """Wait as the user for a job's end. Return its error; "": it succeeded."""
    assert "return" in answer, answer
    job = ask(d, "job-wait", user, id=answer["return"]["job"])["return"]
    return job.get("error", "")


# ---- the right ----

def test_creator_defines_a_vm_and_owns_it(host):
    assert seen(host) == []
    a = define(host, "web")["return"]
    assert a["created"]
    assert seen(host) == ["web"] and owned(host) == ["web"]
    # The creator does all with it that an owner may, and nothing with others.
    for command, args in (("vm-start", {}), ("vm-destroy", {}), ("vm-undefine", {})):
        assert "return" in ask(host, command, vm="web", **args), command
        assert refusal(ask(host, command, vm="mine"))[0] == "PermissionDenied"
    assert owned(host) == [] and stored(host) == [("creator", None, None)]
    assert [(r["command"], r["vm"], r["outcome"]) for r in audit(host, "--user", "nobody")][0] == ("vm-define", "web", "ok")


def test_new_owner_is_kept_by_the_next_daemon(host):
    define(host, "web")
    for sig in signal.SIGKILL, signal.SIGTERM:
        host.stop(sig)
        host.start()
        assert seen(host) == ["web"] and owned(host) == ["web"]
        assert "return" in ask(host, "vm-start", vm="web")
        assert "return" in ask(host, "vm-destroy", vm="web")
        assert "return" in define(host, "web", title="new")
    assert json.loads(host.cairn("dumpjson", "web").stdout)["title"] == "new"


def test_creator_gets_events_and_jobs_of_own_vms_only(host):
    def watch(say):
        q = Qmp(host.socket)
        say("ready")
        while True:
            m = q.read()
            if "event" in m:
                say([m["event"], m["data"].get("vm")])
    with as_user(watch) as lines:
        assert json.loads(lines.readline()) == "ready"
        host.cairn("start", "other")
        define(host, "web")
        assert json.loads(lines.readline()) == ["VM_DEFINED", "web"]
    host.cairn("managedsave", "other")
    assert ask(host, "query-jobs")["return"] == []
    assert {e["data"].get("vm") for e in ask(host, "query-events")["return"]["events"]} == {"web"}


def test_right_comes_with_a_group_and_beside_another_role(host):
    assert allowed(define(host, "web"))
    host.cairn("revoke", "--user", "nobody")
    host.cairn("grant", "creator", "--group", str(GROUP))
    os.chmod(host.socket, 0o666)
    assert not allowed(define(host, "db")) and allowed(define(host, "db", groups=[GROUP]))
    assert owned(host) == ["db", "web"]  # the user, not the group
    host.cairn("grant", "viewer", "--user", "nobody")
    assert seen(host) == ["db", "mine", "other", "web"]
    assert not allowed(define(host, "a"))
    host.cairn("grant", "creator", "--user", "nobody")
    assert "return" in define(host, "a")
    assert {r for r, vm, _ in stored(host) if not vm} == {"viewer", "creator"}
    host.cairn("revoke", "--role", "creator", "--user", "nobody")
    assert not allowed(define(host, "b")) and "mine" in seen(host)
    host.cairn("grant", "creator", "--user", "nobody")
    host.cairn("revoke", "--role", "viewer", "--user", "nobody")
    assert "return" in define(host, "b") and seen(host) == ["a", "b", "db", "web"]
    host.cairn("grant", "viewer", "--user", "nobody")
    host.cairn("revoke", "--role", "admin", "--user", "nobody", ok=3)
    host.cairn("revoke", "--user", "nobody")
    assert not allowed(define(host, "c")) and "mine" not in seen(host)
    host.cairn("revoke", "--user", "nobody", ok=3)


def test_revoke_leaves_the_vms_to_their_owner(host):
    define(host, "web")
    host.cairn("revoke", "--user", "nobody")
    for restart in (False, True):
        if restart:
            host.stop()
            host.start()
        cls, text = refusal(define(host, "db"))
        assert cls == "PermissionDenied" and text == (
            "vm-define requires the role admin for all VMs, or creator for VMs of your own, and you have no role; an admin can change your "
            "role with cairn grant")
        assert seen(host) == ["web"] and "return" in define(host, "web", title=str(restart))
        assert refusal(ask(host, "vm-create", definition=wanted(host, "x")))[0] == "PermissionDenied"


def test_right_that_is_not_stored_is_not_in_force(shared):  # noqa: F811
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    block = blocked(shared)
    shared.cairn("grant", "creator", "--user", "nobody", ok=False)
    assert not allowed(define(shared, "web"))
    block.rmdir()


def test_creator_is_no_role_for_one_vm(shared):  # noqa: F811
    r = shared.cairn("grant", "creator", "mine", "--user", "nobody", ok=2)
    assert "creator is a role for all VMs" in r.stderr
    shared.cairn("revoke", "mine", "--role", "creator", "--user", "nobody", ok=2)


def test_role_is_asked_for(shared):  # noqa: F811
    os.chmod(shared.socket, 0o666)
    a = ask(shared, "request-permission", role="creator")
    shared.cairn("approve", str(a["return"]["request"]))
    assert "return" in define(shared, "web")
    cls, text = refusal(ask(shared, "request-permission", role="creator"))
    assert cls == "AlreadyExists" and "you have the role creator" in text
    assert "return" in ask(shared, "request-permission", role="viewer")


def test_review_shows_the_use(host):
    def used(d):
        return [p["role"] for p in json.loads(d.cairn("permissions-review", "--format", "json").stdout) if "last-used" in p]
    assert used(host) == []
    define(host, "web")
    assert used(host) == ["creator"]


# ---- what others have stays closed ----

def test_taken_names_and_uuids_reveal_no_more(host):
    host.cairn("start", "mine")
    taken = json.loads(host.cairn("dumpjson", "other").stdout)["uuid"]
    for answer in (define(host, "mine"), ask(host, "vm-create", definition=wanted(host, "mine")), define(host, "mine", validate=True)):
        assert refusal(answer) == ("AlreadyExists", "name: 'mine' is taken; choose another name")
    for text in (taken, str(uuid.uuid4())):  # events and jobs of an earlier VM belong to its UUID
        for answer in (define(host, "web", uuid=text), ask(host, "vm-create", definition=wanted(host, "web", uuid=text)),
                       define(host, "web", uuid=text, validate=True)):
            assert refusal(answer) == ("InvalidArgument", "uuid: a creator cannot choose the UUID of a new VM; omit it")
    mac = "52:54:00:11:22:33"
    host.define("third", interfaces=[{"type": "user", "mac": mac}])
    for validate in (False, True):
        cls, text = refusal(define(host, "web", interfaces=[{"type": "user", "mac": mac}], validate=validate))
        assert cls == "AlreadyExists" and "taken by another VM" in text
    assert owned(host) == [] and seen(host) == []
    assert names(host) == ["mine", "other", "third"]
    assert host.info("mine")["state"] == "running"


@pytest.mark.parametrize("command", ["vm-define", "vm-create", "vm-clone"])
def test_name_of_a_vm_that_is_not_loaded_is_taken(host, command):
    """Its process still runs, and its folder has its state and log."""
    host.cairn("start", "other")
    define(host, "web")
    host.stop()
    p = host.state / "vms/other/definition.json"
    good = p.read_text()
    p.write_text(good[:-3])
    host.start()
    args = {"vm": "web", "name": "other"} if command == "vm-clone" else {"definition": wanted(host, "other")}
    assert refusal(ask(host, command, **args)) == ("AlreadyExists", "name: 'other' is taken; choose another name")
    assert "the folder of a VM that was not loaded" in refusal(ask(host, "vm-rename", vm="web", name="other"))[1]
    assert owned(host) == ["web"] == seen(host)
    host.stop()
    (host.state / "vms/other/definition.json.damaged").unlink()
    p.write_text(good)
    host.start()
    assert host.info("other")["state"] == "running" and not allowed(ask(host, "vm-log", vm="other"))


def test_image_of_another_vm_is_not_named(host):
    image = host.tmp / "image.raw"
    image.write_bytes(bytes(4096))
    host.define("secret", disks=[{"path": str(image), "format": "raw"}])
    link = host.disks / "link"
    link.symlink_to(image)
    disks = [{"path": str(link), "format": "raw", "readonly": True}]
    texts = [refusal(define(host, "web", disks=disks))[1]]
    define(host, "web")
    texts.append(refusal(define(host, "web", disks=disks))[1])  # its UUID is not in the new definition
    assert all("is an image of another VM" in text and "secret" not in text for text in texts)
    assert "secret" in host.cairn("define", "-", input=json.dumps(wanted(host, "new", disks=disks)), stdin=None, ok=False).stderr


def test_files_are_opened_with_the_creators_rights(host):
    roots = host.tmp / "roots.raw"
    roots.write_bytes(bytes(4096))
    roots.chmod(0o600)
    cls, text = refusal(define(host, "web", disks=[{"path": str(roots), "format": "raw"}]))
    assert cls == "PermissionDenied" and "disks[0].path" in text
    assert owned(host) == []
    assert "return" in define(host, "web", interfaces=[{"type": "network", "source": "default"}, {"type": "bridge", "source": "br0"}])
    assert "may not use" in refusal(ask(host, "vm-start", vm="web"))[1]


def test_missing_networks_are_not_named(host):
    a = define(host, "web", interfaces=[{"type": "network", "source": "nothing"}])
    assert a["return"]["warnings"] == []


def test_creators_do_not_see_each_other(host):
    host.cairn("grant", "creator", "--user", str(OTHER))
    define(host, "web")
    define(host, "db", user=OTHER)
    assert seen(host) == ["web"] and seen(host, OTHER) == ["db"]
    assert refusal(define(host, "web", user=OTHER))[0] == "AlreadyExists"
    assert refusal(ask(host, "vm-start", OTHER, vm="web"))[0] == "PermissionDenied"
    assert refusal(ask(host, "vm-clone", OTHER, vm="web", name="x"))[0] == "PermissionDenied"


# ---- limits ----

def test_creator_makes_no_more_than_the_limit(host):
    def make(say):
        q = Qmp(host.socket)
        for i in range(257):
            q.send(json.dumps({"execute": "vm-define", "arguments": {"definition": wanted(host, f"v{i}")}}).encode())
            while "event" in (a := q.read()):
                pass
            say(a)

    *made, refused = run_as_user(make)
    assert all("return" in a for a in made) and len(owned(host)) == 256
    cls, text = refusal(refused)
    assert cls == "QuotaExceeded" and text.startswith("you have made 256 VMs, and a creator may have no more")
    assert refusal(ask(host, "vm-clone", vm="v0", name="more"))[0] == "QuotaExceeded"
    assert "more" not in names(host)
    host.cairn("grant", "creator", "--user", str(OTHER))
    assert "return" in define(host, "others", user=OTHER)
    assert "return" in ask(host, "vm-undefine", vm="v7") and "return" in define(host, "more")


def test_quota_binds_creators(host):
    host.cairn("quota", "--user", "nobody", "--vms", "1")
    assert "return" in define(host, "a")
    assert refusal(define(host, "b"))[0] == "QuotaExceeded"
    assert owned(host) == ["a"] and [vm for _, vm, _ in stored(host)] == [None, "a"]


# ---- failures ----

def test_vm_whose_owner_is_not_stored_is_not_made(host):
    block = blocked(host)
    assert "error" in define(host, "web")
    assert names(host) == ["mine", "other"] and owned(host) == []
    block.rmdir()
    until(lambda: "tries again" not in host.log.read_text() or "return" in define(host, "web"))
    until(lambda: "return" in define(host, "web"))
    assert owned(host) == ["web"]


def answers(d):
    try:
        d.qmp().run("query-version")
        return True
    except (OSError, EOFError):
        return False


@pytest.mark.parametrize("command", ["vm-define", "vm-create", "vm-clone"])
def test_killed_daemon_leaves_a_vm_with_its_owner_or_neither(maker, command):  # noqa: F811
    """The daemon is killed before each of its calls that change something."""
    d = maker
    if "asan" in BUILD:
        pytest.skip("kill_point.so has to come behind a sanitizer")
    point = d.tmp / "point"
    d.stop()
    d.vm_program = FAKE_VM if command != "vm-clone" else None
    d.env |= {"LD_PRELOAD": library("kill_point"), "KILL_POINT": str(point), "CAIRN_LOOP": "epoll"}
    d.start()
    assert "return" in define(d, "source", disks=[raw(d, "source.raw", 1)])
    args = {"vm": "source", "name": "web"} if command == "vm-clone" else {"definition": wanted(d, "web")}

    def request(say):
        try:
            q = Qmp(d.socket)
            q.send(json.dumps({"execute": command, "arguments": args}).encode())
            a = q.answer()
            say("return" in a)
            if "job" in a.get("return", {}):
                q.send(json.dumps({"execute": "job-wait", "arguments": {"id": a["return"]["job"]}}).encode())
                q.answer()
                say("waited")
        except (OSError, EOFError):
            say("killed")

    for at in range(1, 400, 1 if guestlib.WHOLE else 4):
        new = point.with_suffix(".new")
        new.write_text(f"{at} {at}")
        new.rename(point)
        said = run_as_user(request)
        point.unlink()
        if "killed" not in said and answers(d):
            break
        assert d.proc.wait(50) == -signal.SIGKILL
        d.start()
        until(lambda: not list(d.state.glob("batches/*.json")))
        here = [n for n in names(d) if n == "web"]
        assert [n for n in owned(d) if n == "web"] == here, at
        assert (True in said and command != "vm-clone") <= bool(here)
        # The file has no other entries, which a VM with that UUID would get.
        until(lambda here=here: sorted(vm for _, vm, _ in stored(d) if vm) == sorted(["source", *here]))
        if here and d.info("web")["state"] != "shutoff":
            d.cairn("destroy", "web")
        if "web" in names(d):
            d.cairn("undefine", "web", "--remove-all-storage")
    assert at > 10
    assert owned(d) == ["source", "web"]


# ---- other ways to make a VM ----

def test_created_vm_is_the_creators_until_it_ends(host):
    assert "return" in ask(host, "vm-create", definition=wanted(host, "web"))
    assert seen(host) == ["web"] and owned(host) == ["web"]
    assert refusal(ask(host, "vm-create", definition=wanted(host, "web"))) == ("AlreadyExists", "VM 'web' exists already and is running")
    assert "return" in ask(host, "vm-destroy", vm="web")
    until(lambda: names(host) == ["mine", "other"])
    until(lambda: [vm for _, vm, _ in stored(host)] == [None])


@pytest.mark.parametrize("kind", ["full", "linked"])
def test_creator_clones_own_vms(maker, kind):  # noqa: F811
    define(maker, "a", disks=[raw(maker, "a.raw", 1)])
    assert ended(maker, ask(maker, "vm-clone", vm="a", name="b", kind=kind, count=3)) == ""
    assert owned(maker) == ["a", "b-1", "b-2", "b-3"] == seen(maker)
    for n in seen(maker):
        assert json.loads((maker.state / "vms" / n / "definition.json").read_text())["definer"]["user"] == NOBODY
    taken = json.loads(maker.cairn("dumpjson", "other").stdout)["uuid"]
    assert refusal(ask(maker, "vm-clone", vm="a", name="c", uuid=taken))[1].startswith("uuid: a creator cannot choose")
    assert refusal(ask(maker, "vm-clone", vm="a", name="other"))[0] == "AlreadyExists"
    assert "return" in ask(maker, "vm-clone", vm="a", name="c", **{"dry-run": True})
    maker.cairn("revoke", "--user", "nobody")
    assert refusal(ask(maker, "vm-clone", vm="a", name="c"))[0] == "PermissionDenied"
    maker.cairn("undefine", "b-1", "b-2", "b-3", "--remove-all-storage")
    assert owned(maker) == ["a"]


def test_creator_copies_no_parts_of_others(host):
    """A copy would have root's disks, networks and quota."""
    host.cairn("grant", "owner", "mine", "--user", "nobody")
    define(host, "web")
    define(host, "web2")
    host.cairn("start", "web2")
    for name in ("web", "web2"):
        host.define(name, interfaces=[{"type": "bridge", "source": "br0"}])
    for name in ("mine", "web"):
        cls, text = refusal(ask(host, "vm-clone", vm=name, name="x"))
        assert cls == "PermissionDenied" and "parts that another user has defined" in text
    cls, text = refusal(ask(host, "vm-fork", vm="web2", name="x"))
    assert cls == "PermissionDenied" and "parts that another user has defined" in text


def test_creator_forks_own_vms(maker, guest, kvm):  # noqa: F811
    shutil.copy(guest("interp.elf"), maker.disks)
    define(maker, "a", boot={"kernel": str(maker.disks / "interp.elf")}, disks=[raw(maker, "a.raw", 1)])
    assert "return" in ask(maker, "vm-start", vm="a")
    assert ended(maker, ask(maker, "vm-fork", vm="a", name="b", count=2)) == ""
    assert owned(maker) == ["a", "b-1", "b-2"] == seen(maker)
    assert "return" in ask(maker, "vm-destroy", vm="b-1")
    maker.cairn("revoke", "--user", "nobody")
    assert refusal(ask(maker, "vm-fork", vm="a", name="c"))[0] == "PermissionDenied"


def test_creator_imports_an_archive(host):
    (host.tmp / "k").write_bytes(bytes(4096))
    definition = {"name": "vm9", "memory": "32M", "boot": {"kernel": "k"}, "interfaces": [{"type": "network", "source": "nothing"}]}
    archive = host.tmp / "x.tar"
    assert archivelib.export(archive, definition, [("k", host.tmp / "k", {})]).end()[1] == 0
    archive.chmod(0o644)

    def take(say):
        q = Qmp(host.socket)
        with open(archive, "rb") as f:
            socket.send_fds(q.sock, [json.dumps({"execute": "vm-import", "arguments": {"folder": str(host.disks)}}).encode()], [f.fileno()])
            say(q.answer())

    a, = run_as_user(take)
    assert ended(host, a) == ""
    assert owned(host) == ["vm9"] == seen(host)
    job, = [j for j in ask(host, "query-jobs")["return"] if j["type"] == "import"]
    assert not any("nothing" in w for w in job.get("result", {}).get("warnings", []))
    assert refusal(run_as_user(take)[0])[0] == "AlreadyExists"
    host.cairn("revoke", "--user", "nobody")
    assert refusal(run_as_user(take)[0])[0] == "PermissionDenied"


def test_creator_restores_states_of_vms_that_exist(host):
    """A state names the UUID of its VM."""
    define(host, "web")
    ask(host, "vm-start", vm="web")
    state = host.disks / "state"
    host.cairn("save", "web", str(state))
    os.chown(state, NOBODY, NOBODY)
    d = json.loads(host.cairn("dumpjson", "web").stdout)
    assert "return" in restore(host, state, d) and host.info("web")["state"] == "running"
    host.cairn("destroy", "web")
    assert "return" in ask(host, "vm-undefine", vm="web")
    assert refusal(restore(host, state, d))[0] == "PermissionDenied"
    assert owned(host) == [] and names(host) == ["mine", "other"]


def test_daemon_ends_while_a_creator_clones(maker):  # noqa: F811
    """The rest of the clones is not made, and the next daemon removes their entries."""
    define(maker, "a", disks=[raw(maker, "a.raw", 64)])
    assert "return" in ask(maker, "vm-clone", vm="a", name="b", count=12)
    maker.env["MALLOC_PERTURB_"] = "165"
    maker.stop()
    maker.start()
    until(lambda: sorted(vm for _, vm, _ in stored(maker) if vm) == [n for n in names(maker) if n not in ("mine", "other")] == owned(maker))


def test_promotions_count_as_vms_of_a_creator(maker, guest, kvm):  # noqa: F811
    shutil.copy(guest("interp.elf"), maker.disks)
    define(maker, "a", boot={"kernel": str(maker.disks / "interp.elf")})
    assert "return" in ask(maker, "vm-start", vm="a")
    assert ended(maker, ask(maker, "vm-fork", vm="a", name="b")) == ""
    assert "return" in ask(maker, "vm-promote", vm="b")
    assert owned(maker) == ["a", "a-old"] == seen(maker)
    until(lambda: len(stored(maker)) == 3)
    table = json.loads((maker.state / "permissions.json").read_text())["permissions"]
    assert [e.get("made") for e in table if e.get("vm")] == [True, True]


@pytest.mark.parametrize("lost", [["--user", "nobody"], ["web", "--user", "nobody"]])
def test_job_ends_with_the_right_or_the_role_for_its_vm(host, lost):
    """The fork waits until the file exists, and goes on while only another role changes."""
    define(host, "web", boot={"kernel": str(host.tmp / "kernel"), "cmdline": f"work-until={host.tmp}/go"})
    ask(host, "vm-start", vm="web")
    job = ask(host, "vm-fork", vm="web", name="b")["return"]["job"]
    host.cairn("grant", "viewer", "other", "--user", "nobody")
    assert next(j for j in host.qmp().jobs() if j["id"] == job)["status"] == "running"
    host.cairn("revoke", *lost)
    until(lambda: next(j for j in host.qmp().jobs() if j["id"] == job)["status"] == "concluded")
    assert "has lost the role" in next(j for j in host.qmp().jobs() if j["id"] == job)["error"]
    until(lambda: "b" not in names(host))
    assert owned(host) == ["web"] * (lost[0] != "web")
    until(lambda: {vm for _, vm, _ in stored(host)} <= {None, "web", "other"})
