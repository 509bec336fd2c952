"""A definition may name only files that the user who defined the VM may open."""

import json
import os
import re
import signal
import subprocess

import pytest

import pinlib
from conftest import QmpError, open_files, until
from daemonlib import NOBODY, allowed, as_nobody, shared  # noqa: F401


@pytest.fixture
def files(shared):  # noqa: F811
    """Files of nobody, of root, and of a group, in a folder of nobody's."""
    d = shared.tmp / "disks"
    d.mkdir()
    os.chown(d, NOBODY, NOBODY)
    for name, uid, gid, mode in (("mine.raw", NOBODY, NOBODY, 0o600), ("roots.raw", 0, 0, 0o600),
                                 ("readable.raw", 0, 0, 0o644), ("group.raw", 0, 4242, 0o660)):
        (d / name).write_bytes(bytes(65536))
        os.chown(d / name, uid, gid)
        os.chmod(d / name, mode)
    (d / "inner").mkdir(mode=0o700)
    (d / "inner/there.raw").write_bytes(bytes(4096))
    shared.cairn("grant", "admin", "--user", "nobody")
    return d


def definition(shared, name, *layers, kernel=None, **keys):  # noqa: F811
    disks = []
    if layers:
        first, *rest = [{"path": str(p), "format": "raw"} for p in layers]
        disks = [{**first, **({"backing": rest, "format": "qcow2"} if rest else {}), **keys}]
    return {"name": name, "memory": "32M", "boot": {"kernel": str(kernel or shared.tmp / "kernel")},
            "disks": disks}


def define(shared, *args, groups=(), **keys):  # noqa: F811
    validate = {"validate-only": True} if keys.pop("validate", False) else {}
    return as_nobody(shared, ["vm-define", {"definition": definition(shared, *args, **keys), **validate}],
                     groups=groups)[0]


def refused(answer, key):
    e = answer["error"]
    assert e["class"] == "PermissionDenied", answer
    assert e["desc"].startswith(key + ": ") and "for user 65534, who defined the VM" in e["desc"]
    return True


def test_define_fails_when_user_may_not_open_a_file(shared, files):  # noqa: F811
    f = files
    assert "return" in define(shared, "v", f / "mine.raw")
    assert refused(define(shared, "v", f / "roots.raw"), "disks[0].path")
    assert refused(define(shared, "v", f / "roots.raw", validate=True), "disks[0].path")
    assert refused(define(shared, "v", "/etc/shadow", readonly=True), "disks[0].path")
    assert refused(define(shared, "v", kernel=f / "roots.raw"), "boot.kernel")
    # Read permission is not write permission.
    assert refused(define(shared, "v", f / "readable.raw"), "disks[0].path")
    assert "return" in define(shared, "v", f / "readable.raw", readonly=True)
    # The same checks apply to backing files and data files.
    assert "return" in define(shared, "v", f / "mine.raw", f / "readable.raw")
    assert refused(define(shared, "v", f / "mine.raw", f / "roots.raw"), "disks[0].backing[0].path")
    assert refused(define(shared, "v", f / "mine.raw", format="qcow2", data_file=str(f / "roots.raw")),
                   "disks[0].data_file")
    # A file that only its group may open is refused without the group, and accepted with it.
    assert refused(define(shared, "v", f / "group.raw"), "disks[0].path")
    assert "return" in define(shared, "v", f / "group.raw", groups=[4242])
    # The error does not reveal whether a file exists in a folder that the user may not read.
    a, b = (define(shared, "v", f / "inner" / n)["error"]["desc"] for n in ("there.raw", "not.raw"))
    assert a.replace("there.raw", "not.raw") == b
    assert [v["name"] for v in shared.qmp().run("vm-list")["vms"]] == ["mine", "other", "v"]


def test_links_to_what_the_daemon_has_open_lead_nowhere(shared, files, monkeypatch):  # noqa: F811
    """The daemon's log and folder are readable, but only the daemon may enter the folder above them."""
    private = shared.tmp / "private"
    (private / "here").mkdir(parents=True)
    private.chmod(0o700)
    (private / "here/secret").write_bytes(bytes(4096))
    (private / "here/secret").chmod(0o644)
    shared.stop()
    shared.log = private / "log"
    monkeypatch.chdir(private / "here")
    shared.start()
    shared.log.chmod(0o644)
    assert refused(define(shared, "v", private / "here/secret", readonly=True), "disks[0].path")
    for path in ("/proc/self/cwd/secret", "/proc/self/cwd/../log", "/proc/self/fd/2", "/dev/stderr", "/proc/thread-self/fd/2",
                 "/proc/self/root/proc/self/cwd/secret"):
        for e in (define(shared, "v", path, readonly=True), define(shared, "v", kernel=path)):
            assert re.search("(disks.0..path|boot.kernel): .*: (Permission denied|No such file or directory)", e["error"]["desc"]), e
    shared.cairn("define", shared.write("roots", disks=[{"path": "/proc/self/root" + str(private / "here/secret"), "format": "raw"}]))


def test_start_checks_the_definers_rights_again(shared, files):  # noqa: F811
    link = files / "link.raw"
    os.symlink(files / "mine.raw", link)
    assert "return" in define(shared, "v", link)
    assert "definer" not in shared.cairn("dumpjson", "v").stdout
    for restart in (False, True):
        if restart:
            shared.stop(signal.SIGKILL)
            shared.start()
        shared.cairn("start", "v")  # root starts it; the file is nobody's
        shared.cairn("destroy", "v")
        link.unlink()
        os.symlink(files / "roots.raw", link)
        # Even if root starts the VM, its definer must be able to open the target of the link.
        r = shared.cairn("start", "v", ok=5)
        assert f"disks[0].path: {link}: Permission denied" in r.stderr
        assert shared.info("v")["state"] == "shutoff" and "Permission" in shared.info("v")["detail"]
        assert shared.cairn("snapshot-list", "v", ok=5).stderr.count("Permission denied") == 1
        link.unlink()
        os.symlink(files / "mine.raw", link)
        shared.cairn("start", "v")
        shared.cairn("destroy", "v")
    # A VM defined by root has root's rights.
    shared.cairn("define", shared.write("v", disks=[{"path": str(files / "roots.raw"), "format": "raw"}]))
    shared.cairn("start", "v")
    opened = open_files(shared.proc.pid)
    assert opened and not [x for x in opened if x.endswith(".raw")]


def test_tampered_rights_file_grants_nothing(shared, files):  # noqa: F811
    d = {**definition(shared, "v", files / "mine.raw"), "definer": {"user": 1, "group": 1, "groups": []}}
    a = as_nobody(shared, ["vm-define", {"definition": d}])[0]
    assert a["error"]["class"] == "InvalidArgument" and "definer" in a["error"]["desc"]
    # A tampered file grants no rights, least of all the daemon's.
    assert "return" in define(shared, "v", files / "mine.raw")
    shared.stop()
    p = shared.state / "vms/v/definition.json"
    kept = json.loads(p.read_text())
    assert kept["definer"]["user"] == NOBODY and kept["definer"]["group"] == NOBODY
    kept["definer"] = {"user": 0, "group": 0, "groups": []}
    p.write_text(json.dumps(kept))
    shared.start()
    assert [v["name"] for v in shared.qmp().run("vm-list")["vms"]] == ["mine", "other"]
    assert "definer: is malformed" in shared.log.read_text()


def test_restored_vm_has_rights_of_restoring_user(shared, files, tmp_path):  # noqa: F811
    """A saved state contains a definition: its files are opened with the restoring user's rights."""
    d = {**definition(shared, "w", files / "roots.raw"), "uuid": "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"}
    state = files / "state"
    state.write_bytes(b"x")
    os.chown(state, NOBODY, NOBODY)
    assert refused(restore(shared, state, d), "disks[0].path")
    with pytest.raises(QmpError, match="NotFound"):
        shared.qmp().run("vm-info", vm="w")


RESTORE = (
    "import json, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
    "f = s.makefile(); f.readline()\n"
    "s.sendall(b'{\"execute\":\"qmp_capabilities\"}'); f.readline()\n"
    "fd = open(sys.argv[2], 'rb')\n"
    "socket.send_fds(s, [json.dumps({'execute': 'vm-restore', 'arguments': {'definition':"
    " json.loads(sys.argv[3])}}).encode()], [fd.fileno()])\n"
    "while 'event' in (o := json.loads(f.readline())): pass\n"
    "print(json.dumps(o))\n")


def restore(shared, state, d):  # noqa: F811
    """Restore a state as the user nobody."""
    r = subprocess.run(["/usr/bin/python3", "-c", RESTORE, shared.socket, state, json.dumps(d)], user=NOBODY, group=NOBODY,
                       extra_groups=[], capture_output=True, text=True, timeout=50)
    return json.loads(r.stdout)


def test_restore_requires_a_role_for_the_vm(shared, files, tmp_path):  # noqa: F811
    """An operator may restore a VM; only an owner may have it run with another definition, with files of the owner."""
    shared.cairn("revoke", "--user", "nobody")
    for name in ("v", "w"):
        shared.define(name)
    state = files / "state"
    shared.cairn("start", "v")
    shared.cairn("save", "v", str(state))
    os.chown(state, NOBODY, NOBODY)
    d = json.loads(shared.cairn("dumpjson", "v").stdout)
    other = {**d, "memory": "64M"}
    shared.cairn("grant", "operator", "w", "--user", "nobody")
    a = restore(shared, state, d)["error"]
    assert a["class"] == "PermissionDenied" and "requires the role operator" in a["desc"]
    shared.cairn("grant", "operator", "v", "--user", "nobody")
    assert restore(shared, state, d)["return"]["name"] == "v"
    shared.cairn("destroy", "v")
    a = restore(shared, state, other)["error"]
    assert a["class"] == "PermissionDenied" and a["desc"].endswith(
        "to run the VM with the definition in the saved state requires the role owner; an admin can change your role with cairn grant")
    a = restore(shared, state, {**d, "uuid": "2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11"})["error"]
    assert a["class"] == "PermissionDenied" and "requires the role operator" in a["desc"]
    shared.cairn("grant", "owner", "v", "--user", "nobody")
    disks = [{"path": str(files / "roots.raw"), "format": "raw"}]
    a = restore(shared, state, {**other, "disks": disks})["error"]
    assert a["class"] == "PermissionDenied" and a["desc"].startswith("disks[0].path: ")
    assert json.loads(shared.cairn("dumpjson", "v").stdout) == d
    disks[0]["path"] = str(files / "mine.raw")
    assert "differs" in restore(shared, state, {**other, "disks": disks})["return"]
    kept = json.loads((shared.state / "vms/v/state.json").read_text())["live"]
    assert {a["of"]: a["definer"]["user"] for a in kept["authors"]} == {disks[0]["path"]: NOBODY, "memory 64": NOBODY}


def test_clone_has_rights_of_its_source(shared, files):  # noqa: F811
    link = files / "link.raw"
    os.symlink(files / "mine.raw", link)
    assert "return" in define(shared, "v", link, readonly=True)
    shared.cairn("start", "v")
    shared.cairn("clone", "--live", "v", "c")
    shared.cairn("destroy", "c")
    link.unlink()
    os.symlink(files / "roots.raw", link)
    for restart in (False, True):
        if restart:
            shared.stop()
            shared.start()
        assert f"disks[0].path: {link}: Permission denied" in shared.cairn("start", "c", ok=5).stderr


def test_clone_disks_are_created_with_rights_of_source(shared, files):  # noqa: F811
    there = sorted(os.listdir(files))
    assert "return" in define(shared, "w", files / "mine.raw")
    shared.cairn("start", "w")
    shared.cairn("clone", "--live", "w", "d", "--count", "2")
    for name in ("d-1-vda.raw", "d-2-vda.raw"):
        st = os.stat(files / name)
        assert (st.st_uid, st.st_mode & 0o777) == (NOBODY, 0o600)
    shared.cairn("destroy", "d-1", "d-2")
    shared.cairn("start", "d-2")
    shared.cairn("destroy", "d-2")
    for n in ("d-1", "d-2"):
        shared.cairn("undefine", n)
        (files / f"{n}-vda.raw").unlink()
    # The user who defined the source may not write to the folder, so the clone fails, although root may write there.
    os.chown(files, 0, 0)
    os.chmod(files, 0o755)
    r = shared.cairn("clone", "--live", "w", "d", ok=5)
    assert "Permission denied (for user 65534, who defined the VM)" in r.stderr
    assert sorted(os.listdir(files)) == there
    os.chown(files, NOBODY, NOBODY)
    # An existing file is not touched.
    (files / "d-2-vda.raw").write_text("mine")
    assert "d-2-vda.raw: exists, so it cannot become the disk of a clone" in shared.cairn(
        "clone", "--live", "w", "d", "--count", "2", ok=4).stderr
    assert (files / "d-2-vda.raw").read_text() == "mine"
    (files / "d-2-vda.raw").unlink()
    assert sorted(os.listdir(files)) == there
    assert [v["name"] for v in shared.qmp().run("vm-list")["vms"] if v["name"].startswith("d")] == []


def test_leftovers_of_killed_daemon_are_removed_with_definers_rights(shared, files):  # noqa: F811
    there = sorted(os.listdir(files))
    d = definition(shared, "w", files / "mine.raw")
    d["boot"]["cmdline"] = f"clone-until={shared.tmp}/go:d-2"
    assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
    shared.cairn("start", "w")
    q = shared.qmp()
    q.run("vm-fork", vm="w", name="d", count=3)
    q.event("VM_STATE_CHANGE", vm="d-1", state="running")
    assert (files / "d-1-vda.raw").exists()
    shared.stop(signal.SIGKILL)
    (shared.tmp / "go").touch()
    shared.start()
    client = shared.qmp()
    until(lambda: not [v for v in client.run("vm-list")["vms"] if v["name"].startswith("d-")])
    assert sorted(os.listdir(files)) == there


def test_only_clones_by_the_definer_share_an_image(shared, files):  # noqa: F811
    """A clone's process can read the image that it shares. The daemon notes a pin before it asks for one."""
    q, pins = shared.qmp(), shared.state / "pins.json"
    for name, user in (("roots", 0), ("nobodys", NOBODY)):
        (files / f"{name}.qcow2").write_bytes(bytes(65536))
        os.chown(files / f"{name}.qcow2", user, user)
        d = definition(shared, name, files / f"{name}.qcow2")
        d["disks"][0]["format"] = "qcow2"
        if user:
            assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
        else:
            q.run("vm-define", definition=d)
        shared.cairn("start", name)
    pins.unlink()  # the daemon writes the list again when it changes
    asked, = as_nobody(shared, ["vm-fork", {"vm": "roots", "name": "a"}])
    q.event("JOB_STATUS_CHANGE", id=asked["return"]["job"], status="concluded")
    assert not pins.exists()
    asked, = as_nobody(shared, ["vm-fork", {"vm": "nobodys", "name": "b"}])
    q.event("JOB_STATUS_CHANGE", id=asked["return"]["job"], status="concluded")
    assert pins.exists()


def test_lost_list_of_pins_is_read_with_the_definers_rights(shared, files):  # noqa: F811
    for name in ("a", "b", "c"):
        pinlib.header_write(files / f"{name}.qcow2", files / "source.qcow2", 32 * name)
        os.chown(files / f"{name}.qcow2", NOBODY, NOBODY)
    (files / "source.qcow2").write_bytes(bytes(65536))
    os.chown(files / "source.qcow2", NOBODY, NOBODY)
    for name in ("a", "b", "c"):
        d = definition(shared, f"clone-{name}", files / f"{name}.qcow2", files / "source.qcow2")
        d["disks"][0]["backing"][0]["format"] = "qcow2"
        assert "return" in as_nobody(shared, ["vm-define", {"definition": d}])[0]
    os.chown(files / "b.qcow2", 0, 0)
    os.chmod(files / "b.qcow2", 0o600)
    (files / "c.qcow2").write_bytes(b"QFI\xfb")
    shared.stop()
    (shared.state / "pins.json").unlink()
    shared.start()
    pins = json.loads((shared.state / "pins.json").read_text())
    row, = pins["used"]
    assert row["overlay"] == str(files / "a.qcow2") and row["pin"].replace("-", "") == 32 * "a" and row["kept"]
    assert pins["incomplete"]
    line, = [x for x in shared.qmp().run("query-audit")["lines"] if "pins.json" in x.get("error", "")]
    assert "1 added, 1 cannot be read" in line["error"]
    # An image that turns out to be no overlay completes the list.
    shared.stop()
    (files / "b.qcow2").write_bytes(b"QFI\xfb")
    os.chown(files / "b.qcow2", NOBODY, NOBODY)
    shared.start()
    pins = json.loads((shared.state / "pins.json").read_text())
    assert pins["used"] == [row] and "incomplete" not in pins


def test_owner_of_one_vm_cannot_clone_it(shared, files):  # noqa: F811
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    shared.cairn("start", "mine")
    a, = as_nobody(shared, ["vm-fork", {"vm": "mine", "name": "c"}])
    assert a["error"]["class"] == "PermissionDenied", a
    assert [v["name"] for v in shared.qmp().run("vm-list")["vms"]] == ["mine", "other"]


def test_owner_can_redefine_own_vm_only(shared, files):  # noqa: F811
    """The owner may name only files of their own, and neither redefine another user's VM (by name or uuid) nor define a
    new VM."""
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    q = shared.qmp()
    uuids = {v["name"]: v["uuid"] for v in q.run("vm-list")["vms"]}
    a = define(shared, "mine", files / "mine.raw")
    assert (a["return"]["name"], a["return"]["uuid"], a["return"]["created"]) == ("mine", uuids["mine"], False)
    assert json.loads(shared.cairn("dumpjson", "mine").stdout)["disks"][0]["path"] == str(files / "mine.raw")
    # Root stays the definer, and the file is the owner's.
    kept = json.loads((shared.state / "vms/mine/definition.json").read_text())
    assert "definer" not in kept and {a["of"]: a["definer"]["user"] for a in kept["authors"]} == {
        str(files / "mine.raw"): NOBODY}
    assert [p for p in json.loads(shared.cairn("permissions", "--format", "json").stdout)
            if (p["role"], p["vm"]) == ("owner", "mine")]
    for e in (define(shared, "mine", files / "roots.raw"), define(shared, "mine", kernel="/etc/shadow")):
        assert e["error"]["desc"].endswith("(for user 65534, who added the file)"), e
    for name in ("other", "new", uuids["mine"], uuids["other"], "", "mine ", None, ["mine"]):
        for validate in (False, True):
            e = define(shared, name, files / "mine.raw", validate=validate)["error"]
            assert e == {"class": "PermissionDenied",
                         "desc": "vm-define requires the role admin for all VMs, or creator for VMs of your own, and you have no role; "
                                 "an admin can change your role with cairn grant"}, name
    taken, = as_nobody(shared, ["vm-define", {"definition": {
        **definition(shared, "mine", files / "mine.raw"), "uuid": uuids["other"]}}])
    assert taken["error"]["class"] == "AlreadyExists" and "'other'" not in taken["error"]["desc"]
    mac = {"interfaces": [{"type": "user", "mac": "52:54:00:00:00:01"}]}
    q.run("vm-define", definition={**definition(shared, "other"), **mac})
    taken, = as_nobody(shared, ["vm-define", {"definition": {**definition(shared, "mine", files / "mine.raw"), **mac}}])
    assert "mac: is taken by another VM" in taken["error"]["desc"]
    assert {v["name"]: v["uuid"] for v in q.run("vm-list")["vms"]} == uuids
    # The role operator is not enough.
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    assert not allowed(define(shared, "mine", files / "mine.raw"))
    # A VM defined with the owner's rights starts with them.
    shared.cairn("start", "mine")


def test_clone_in_progress_cannot_be_redefined(shared):  # noqa: F811
    """When the clone fails, its own disks are removed, not those of a new definition."""
    shared.define("src", cmdline=f"clone-until={shared.tmp}/go:c-2")
    shared.cairn("start", "src")
    q = shared.qmp()
    job = q.run("vm-fork", vm="src", name="c", count=3)["job"]
    # Until the clone's process has answered, its start is named rather than the job.
    with pytest.raises(QmpError, match="is under way|is being started"):
        q.run("vm-define", definition=definition(shared, "c-1"))
    q.run("job-cancel", id=job)
    q.event("JOB_STATUS_CHANGE", id=job, status="concluded")
    assert [v["name"] for v in q.run("vm-list")["vms"]] == ["mine", "other", "src"]


def test_state_hides_names_of_other_users_vms(shared, files):  # noqa: F811
    """A user who may see only one VM does not learn from its state which other VM uses its disk."""
    for name in ("mine", "other"):
        shared.cairn("define", shared.write(name, disks=[{"path": str(files / "roots.raw"), "format": "raw"}]))
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "operator", "mine", "--user", "nobody")
    shared.cairn("start", "other")
    start, info = as_nobody(shared, ["vm-start", {"vm": "mine"}], ["vm-info", {"vm": "mine"}])
    assert start["error"]["desc"].endswith("is in use by another VM") and "other'" not in json.dumps(info)
    shared.cairn("grant", "viewer", "other", "--user", "nobody")
    start, = as_nobody(shared, ["vm-start", {"vm": "mine"}])
    assert "is in use by VM 'other'" in start["error"]["desc"]


def test_page_of_jobs_does_not_tell_other_users_jobs(shared):  # noqa: F811
    """A page that begins behind another user's job is refused like one behind a job that does not exist."""
    shared.cairn("grant", "viewer", "mine", "--user", "nobody")
    q = shared.qmp()
    q.run("snapshot-create", vm="other", name="s", **{"job-id": "theirs"})
    assert q.run("job-wait", id="theirs")["status"] == "concluded"
    theirs, none = as_nobody(shared, ["query-jobs", {"after": "theirs"}], ["query-jobs", {"after": "nobody"}])
    assert theirs["error"]["class"] == "NotFound"
    assert theirs["error"]["desc"].replace("theirs", "nobody") == none["error"]["desc"]
    assert q.run("query-jobs", after="theirs") == []


def test_every_command_is_denied_alike_without_a_role(shared):  # noqa: F811
    """Each command of the schema is denied with the same words whether the VM exists or not."""
    schema = shared.qmp().run("query-qmp-schema")
    args = {o["name"]: [m["name"] for m in o.get("members", [])] for o in schema}
    commands = [(o["name"], args[o["arg-type"]]) for o in schema
                if o["meta-type"] == "command" and o["name"] != "qmp_capabilities"]
    os.chmod(shared.socket, 0o666)
    asked = [[name, {k: vm for k in takes if k in ("vm", "id", "name")}]
             for vm in ("mine", "nothing") for name, takes in commands]
    answers = as_nobody(shared, *asked)
    assert len(commands) > 30 and len(answers) == 2 * len(commands)
    public = {"query-version", "query-commands", "query-qmp-schema", "schema-get", "query-requests", "request-permission", "request-deny"}
    for (name, _), here, there in zip(commands, answers, answers[len(commands):]):
        assert here == there
        assert name in public or not allowed(here), (name, here)


def test_opening_files_leaves_no_processes_and_fds(shared, files):  # noqa: F811
    proc = f"/proc/{shared.proc.pid}"
    before = len(os.listdir(f"{proc}/fd"))
    for i in range(5):
        assert "return" in define(shared, f"v{i}", files / "mine.raw")
        assert "error" in define(shared, f"v{i}", files / "roots.raw")
    until(lambda: open(f"{proc}/task/{shared.proc.pid}/children").read().split() == [str(shared.log_process())])
    until(lambda: len(os.listdir(f"{proc}/fd")) <= before + 1)


def test_owner_can_rename_own_vm(shared, files):  # noqa: F811
    """The VM still belongs to its definer, and the old name grants that user nothing."""
    shared.cairn("revoke", "--user", "nobody")
    shared.cairn("grant", "owner", "mine", "--user", "nobody")
    assert "return" in define(shared, "mine", files / "mine.raw")
    for vm, name, cls in (("other", "ours", "PermissionDenied"), ("mine", "other", "AlreadyExists")):
        e, = as_nobody(shared, ["vm-rename", {"vm": vm, "name": name}])
        assert e["error"]["class"] == cls, e
    a, = as_nobody(shared, ["vm-rename", {"vm": "mine", "name": "ours"}])
    assert a["return"] == {}
    a, = json.loads((shared.state / "vms/ours/definition.json").read_text())["authors"]
    assert (a["of"], a["definer"]["user"]) == (str(files / "mine.raw"), NOBODY)
    assert "return" in define(shared, "ours", files / "mine.raw")
    shared.define("mine")
    a, = as_nobody(shared, ["vm-info", {"vm": "mine"}])
    assert "error" in a, a
