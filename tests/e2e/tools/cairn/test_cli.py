"""The command line: words, tables and exit codes that scripts and habits rely on."""

import csv
import io
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile

import pytest

from clilib import cairn
from conftest import BUILD
from daemonlib import open_folder

VERBS = ["define", "create", "validate", "dumpjson", "dumpxml", "edit", "domrename", "desc", "setvcpus", "setmem", "setmaxmem",
         "set-lifecycle-action", "attach-disk", "detach-disk", "change-media", "attach-interface", "detach-interface",
         "attach-device", "detach-device", "update-device", "domiftune", "blkdeviotune", "blockresize", "domif-setlink", "domif-egress", "new", "seed", "forward-add", "forward-remove", "forward-list", "undefine", "start",
         "shutdown", "reboot", "reset", "suspend", "resume", "destroy", "reclaim", "restart-process", "autostart", "schedule", "schedule-list", "schedule-history",
         "schedule-pause", "schedule-resume", "schedule-remove", "run", "dump",
         "clone", "group-clone", "promote", "template", "backup-begin", "blockcopy", "blockjob", "blockcommit", "blockpull", "export", "import", "save", "restore", "save-image-dumpjson", "save-image-dumpxml", "save-image-define",
         "save-image-edit", "managedsave", "managedsave-remove",
         "snapshot-create", "snapshot-create-as", "group-snapshot", "group-revert", "snapshot-list", "snapshot-info", "snapshot-dumpxml", "snapshot-current",
         "snapshot-parent", "snapshot-diff", "snapshot-revert", "snapshot-delete", "snapshot-rename", "snapshot-tag",
         "snapshot-schedule", "list", "dominfo", "domstate", "domid", "domuuid", "domname", "domblklist",
         "domblkinfo", "domblkstat", "domiflist", "domifstat", "domif-getlink", "domifaddr", "domblkerror", "vcpuinfo", "vcpucount", "nodeinfo",
         "nodecpustats", "domstats", "domdirtyrate-calc", "metrics", "trend", "advise", "threshold", "threshold-list", "threshold-remove", "web-hook", "web-hook-list", "web-hook-remove", "web-hook-test", "dommemstat", "send-key", "inject-nmi", "screenshot", "vncdisplay", "domdisplay", "top",
         "qmp-path", "console", "log", "vsock", "ssh", "wait", "event", "events", "pool-list", "pool-info", "pool-define-as", "pool-undefine", "vol-list", "vol-info", "vol-dumpxml", "vol-path",
         "vol-create-as", "vol-clone", "vol-download", "vol-upload", "vol-delete", "vol-resize", "image-list", "image-remove", "net-list", "net-info", "net-start",
         "net-destroy", "net-autostart", "net-define", "net-create", "net-dumpjson", "net-dumpxml", "net-update", "net-edit",
         "net-dhcp-leases",
         "net-undefine", "net-name", "net-uuid", "jobs", "domjobinfo", "domjobabort", "job-cancel", "job-dismiss", "exec", "exec-output",
         "cp", "guestinfo",
         "guestvcpus", "domhostname", "domfsinfo", "domfstrim", "domfsfreeze", "domfsthaw", "set-user-password", "domtime",
         "qemu-agent-command", "grant", "revoke", "permissions", "permissions-review", "request-permission", "requests", "approve", "deny", "approval-rule", "quota", "audit", "daemon-stop", "web", "doctor",
         "cpu-models", "version", "shell", "complete", "help"]


def test_messages_match_virsh(fake):
    path = fake.write("vm1")
    assert fake.cairn("define", path).stdout == f"Domain 'vm1' defined from {path}\n"
    for verb, words in (("start", "started"), ("suspend", "suspended"), ("resume", "resumed"),
                        ("reset", "was reset"), ("destroy", "destroyed"), ("start", "started"),
                        ("shutdown", "is being shutdown")):
        assert fake.cairn(verb, "vm1").stdout == f"Domain 'vm1' {words}\n"
    fake.wait("vm1", "shutoff")
    assert fake.cairn("undefine", "vm1").stdout == "Domain 'vm1' has been undefined\n"


def test_list_shows_states(fake):
    fake.define("web", title="the web")
    fake.define("database")
    fake.cairn("start", "web")
    assert fake.cairn("list").stdout == (
        " Id   Name   State\n"
        "----------------------\n"
        " 1    web    running\n"
        "\n")
    assert fake.cairn("list", "--all").stdout == (
        " Id   Name       State\n"
        "---------------------------\n"
        " 1    web        running\n"
        " -    database   shut off\n"
        "\n")
    assert fake.cairn("list", "--inactive", "--name").stdout == "database\n"
    assert fake.cairn("list", "--state-shutoff", "--name").stdout == "database\n"
    assert fake.cairn("list", "--state-running", "--name").stdout == "web\n"
    assert fake.cairn("list", "--state-paused", "--name").stdout == ""
    fake.cairn("suspend", "web")
    assert fake.cairn("list", "--state-paused", "--state-shutoff", "--name").stdout == "web\ndatabase\n"
    assert "the web" in fake.cairn("list", "--title").stdout
    uuid = fake.info("web")["uuid"]
    assert fake.cairn("list", "--uuid").stdout == f"{uuid}\n"
    assert fake.cairn("list", "--name", "--uuid").stdout == f"{uuid} web\n"
    assert fake.cairn("list", "--name", "--id", "--uuid").stdout == f"{uuid} {fake.info('web')['id']} web\n"
    assert fake.cairn("list", "--all", "--managed-save").stdout == fake.cairn("list", "--all").stdout


def test_kinds_of_events():
    """As in virsh; needs no daemon."""
    kinds = cairn("event", "--list").stdout.splitlines()
    assert "VM_STATE_CHANGE" in kinds and "SHUTDOWN" in kinds and len(kinds) == len(set(kinds)) > 25
    told = json.loads(cairn("event", "--list", "--format", "json").stdout)
    assert [k["event"] for k in told] == kinds and all(k["doc"] for k in told)
    assert cairn("events", "--list", "--format", "csv").stdout.splitlines()[0] == "event,doc"


@pytest.mark.parametrize("words, heads", [
    (["list", "--all"], "id,name,uuid,"), (["net-list", "--all"], "name,uuid,state,"), (["jobs"], "id,"), (["pool-list", "--all"], "name,target"),
    (["vol-list", "p"], "name,path,type,format,"), (["snapshot-list", "vm1"], "id,"), (["permissions"], "user,"),
    (["snapshot-schedule"], "vm,"), (["schedule-list"], "vm,"), (["threshold-list"], "vm,"), (["web-hook-list"], "name,"),
    (["quota"], "user,"), (["requests"], "id,"), (["advise"], "vm,")])
def test_csv_of_an_empty_list_has_heads(fake, tmp_path, words, heads):
    if words[0] == "vol-list":
        (tmp_path / "pool").mkdir()
        fake.cairn("pool-define-as", "p", "dir", "--target", str(tmp_path / "pool"))
    if words[0] == "snapshot-list":
        fake.define("vm1")
    out = fake.cairn(*words, "--format", "csv").stdout
    assert out.startswith(heads) and out.count("\n") == 1


def test_events_print_as_csv(fake):
    fake.define("a,b", title="x")
    fake.cairn("start", "a,b")
    fake.cairn("suspend", "a,b")
    fake.cairn("domrename", "a,b", "c", ok=4)
    r = fake.cairn("events", "--since", "999999", "--timeout", "0", ok=1)
    newest = fake.qmp().run("query-events")["last"]
    assert r.stderr == f"warning: there is no event with the number 999999 yet; the newest one has the number {newest}\n"
    rows = list(csv.DictReader(io.StringIO(fake.cairn("events", "--since", "0", "--timeout", "0", "--format", "csv").stdout)))
    json_rows = [json.loads(line) for line in
                 fake.cairn("events", "--since", "0", "--timeout", "0", "--format", "json").stdout.splitlines()]
    assert list(rows[0]) == ["seq", "time", "event", "vm", "data"]
    assert [(int(r["seq"]), r["event"], r["vm"]) for r in rows] == [(e["seq"], e["event"], e["data"]["vm"]) for e in json_rows]
    assert all({"vm": r["vm"], **json.loads(r["data"])} == e["data"] for r, e in zip(rows, json_rows))
    assert [r["vm"] for r in rows if r["event"] == "STOP"] == ["a,b"]
    t = json_rows[0]["timestamp"]
    assert rows[0]["time"] == f"{t['seconds']}.{t['microseconds']:06d}"
    # No rows: still a table.
    assert fake.cairn("event", "--event", "RESET", "--timeout", "0", "--format", "csv", ok=1).stdout == "seq,time,event,vm,data\n"


def test_list_is_sorted_as_in_virsh(fake):
    """Running VMs by number; then the others, by name."""
    for name in ("B", "c", "a", "d"):
        fake.define(name)
    for name in ("d", "c"):
        fake.cairn("start", name)
    assert fake.cairn("list", "--all", "--name").stdout.split() == ["d", "c", "a", "B"]
    assert [vm["name"] for vm in json.loads(fake.cairn("list", "--all", "--format", "json").stdout)] == ["d", "c", "a", "B"]


def test_verbs_and_options_of_virsh_are_accepted(fake):
    """Options of virsh without an effect here are accepted where virsh's promise holds."""
    fake.define("vm1")
    fake.define("vm2")
    uuid = fake.info("vm1")["uuid"]
    assert fake.cairn("domid", "vm1").stdout == "-\n" and fake.cairn("list", "--all", "--id").stdout == "-\n-\n"
    fake.cairn("start", "--domain", "vm1", "--bypass-cache")
    assert fake.cairn("domid", "--domain", "vm1").stdout == "1\n"
    assert fake.cairn("domuuid", "vm1").stdout == uuid + "\n" and fake.cairn("domname", uuid).stdout == "vm1\n"
    assert "there is no VM" in fake.cairn("domuuid", "none", ok=3).stderr
    assert fake.cairn("destroy", "vm1", "--graceful").stdout == "Domain 'vm1' destroyed\n"
    fake.cairn("start", "vm1")
    fake.cairn("managedsave", "vm1", "--verbose", "--bypass-cache")
    assert fake.cairn("list", "--all", "--without-managed-save", "--name").stdout == "vm2\n"
    assert fake.cairn("list", "--all", "--persistent", "--name").stdout == "vm1\nvm2\n"
    assert fake.cairn("list", "--all", "--transient", "--name").stdout == ""
    assert fake.cairn("list", "--all", "--table").stdout == fake.cairn("list", "--all").stdout
    fake.cairn("undefine", "vm1", "--managed-save", "--nvram", "--tpm", "--checkpoints-metadata")
    assert fake.cairn("set-lifecycle-action", "vm2", "poweroff", "restart", "--config").stdout == ""
    fake.cairn("set-lifecycle-action", "--domain", "vm2", "--type", "crash", "--action", "coredump-restart")
    d = json.loads(fake.cairn("dumpjson", "vm2").stdout)
    assert (d["on_poweroff"], d["on_reboot"], d["on_crash"]) == ("restart", "restart", "coredump-restart")
    for args, words in ((["crash", "explode"], '"explode" is not'), (["sleep", "restart"], "on_sleep")):
        assert words in fake.cairn("set-lifecycle-action", "vm2", *args, ok=2).stderr
    assert json.loads(fake.cairn("dumpjson", "vm2").stdout) == d


def test_positionals_have_the_names_of_virshs_options(fake):
    """A positional argument may come as the option of virsh's name for it, in any order."""
    fake.define("vm1")
    for verb, names in (("blkdeviotune", "--device"), ("blkdeviotune", "--path"), ("domblkinfo", "--device"), ("domblkstat", "--device"),
                        ("blockjob", "--path"), ("blockpull", "--path"), ("blockcopy", "--path"), ("blockcommit", "--path")):
        more = {"blockjob": ["--abort"], "blockcopy": ["/none/file"]}.get(verb, [])
        want, got = (fake.cairn(verb, *words, *more, ok=None) for words in (["vm1", "vdx"], [names, "vdx", "--domain", "vm1"]))
        assert (got.returncode, got.stdout, got.stderr) == (want.returncode, want.stdout, want.stderr), verb
    want, got = (fake.cairn("blockcopy", "vm1", "vdx", *dest, ok=None).stderr for dest in (["--dest", "/none/file"], ["/none/file"]))
    assert want == got and "give the file" not in got
    assert "give the file of the copy once" in fake.cairn("blockcopy", "vm1", "vdx", "/none/file", "--dest", "/none/other", ok=None).stderr
    for verb in "net-info", "net-start", "net-destroy", "net-dumpxml", "net-undefine", "net-uuid", "net-autostart", "net-dhcp-leases":
        assert "lan" in fake.cairn(verb, "--network", "lan", ok=3).stderr, verb
    words = ["net-update", "lan", "add", "ip-dhcp-host", "<host mac='52:54:00:00:00:01' ip='10.0.0.9'/>"]
    named = [w for pair in zip(("--xml", "--section", "--command", "--network"), reversed(words)) for w in pair]
    assert fake.cairn(words[0], *named, ok=3).stderr == fake.cairn(*words, ok=3).stderr
    for verb in "pool-info", "pool-undefine", "vol-list":
        assert "'none'" in fake.cairn(verb, "--pool", "none", ok=3).stderr, verb
    for verb, args in (("vol-info", []), ("vol-path", []), ("vol-delete", []), ("vol-resize", ["9M"]), ("vol-clone", ["--newname", "c"])):
        r = fake.cairn(verb, *args, "--vol", "/none/v", ok=None)
        assert r.returncode not in (0, 2) and "/none" in r.stderr, (verb, r)
    assert "has no option --device" in fake.cairn("domstate", "vm1", "--device", "vda", ok=2).stderr


@pytest.mark.parametrize("text, ok", [("0.1s", 1), ("0.002m", 1), ("0.00002h", 1), ("1w", 2), ("m", 2), ("1mm", 2), ("-1s", 2), ("1e9d", 2)])
def test_times_have_units(fake, text, ok):
    fake.define("vm1")
    got = fake.cairn("wait", "vm1", "--timeout", text, ok=None)
    assert got.returncode != 0 and ("must be a number of seconds" in got.stderr) == (ok == 2), got


def test_output_formats_are_valid(fake):
    fake.define("vm1")
    rows = json.loads(fake.cairn("list", "--all", "--format", "json").stdout)
    assert rows[0]["name"] == "vm1" and rows[0]["state"] == "shutoff"
    table = list(csv.DictReader(io.StringIO(fake.cairn("list", "--all", "--format=csv").stdout)))
    assert table[0]["name"] == "vm1" and table[0]["persistent"] == "true"
    assert '- id: -1\n  name: "vm1"\n' in fake.cairn("list", "--all", "--format", "yaml").stdout
    assert json.loads(fake.cairn("dominfo", "vm1", "--format", "json").stdout)["vcpus"] == 1
    assert json.loads(fake.cairn("domstate", "vm1", "--format", "json").stdout) == {
        "state": "shutoff", "reason": "defined"}
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["memory"] == "32M"
    version = json.loads(fake.cairn("version", "--format", "json").stdout)
    assert set(version) == {"cairn", "cairnd", "socket"} and version["socket"] == fake.socket
    assert fake.cairn("list", "--format", "xml", ok=2).stderr.startswith("error: --format must be table")


@pytest.mark.parametrize("args", [["snapshot-schedule", "vm1", "--every", "1h", "--keep", "24h:all"], ["approval-rule", "vm1", "--acts", "undefine"],
                                  ["quota", "--user", "nobody", "--vms", "9"]])
def test_setting_prints_no_sentence_beside_json(fake, args):
    fake.define("vm1")
    if os.getuid() and args[0] != "snapshot-schedule":
        pytest.skip("only root sets rules and quotas")
    assert fake.cairn(*args, "--format", "json").stdout == ""
    assert " set\n" in fake.cairn(*args).stdout


def test_daemon_stop_without_vms_prints_no_empty_table(fake):
    fake.define("vm1")
    assert fake.cairn("daemon-stop", "--vms-only").stdout == "No VM runs\n"


def test_dominfo_shows_definition_and_state(fake):
    fake.define("vm1", cmdline="idle", vcpus=2)
    assert fake.cairn("dominfo", "vm1").stdout == (
        "Id:             -\n"
        "Name:           vm1\n"
        f"UUID:           {fake.info('vm1')['uuid']}\n"
        "OS Type:        hvm\n"
        "State:          shut off\n"
        "CPU(s):         2\n"
        "Max memory:     32768 KiB\n"
        "Used memory:    32768 KiB\n"
        "Persistent:     yes\n"
        "Autostart:      disable\n"
        "Managed save:   no\n"
        "Machine type:   cairn-7\n"
        "\n")
    fake.cairn("start", "vm1")
    while "CPU time:" not in (out := fake.cairn("dominfo", "vm1").stdout):
        pass  # a process that stands still gives no figures of its own
    assert "Id:             1\n" in out and "State:          running\n" in out and fake.figures("vm1")["idle"] is True
    assert "CPU time:       3.0s\n" in out and "Used memory:    32768 KiB\n" in out


def test_dominfo_shows_why_a_start_failed(fake):
    disk = fake.tmp / "a.raw"
    disk.write_bytes(bytes(1 << 20))
    fake.define("vm1", disks=[{"path": str(disk), "format": "raw"}])
    disk.unlink()
    fake.cairn("start", "vm1", ok=False)
    assert (f"\nState:          shut off\nReason:         failed\nDetail:         disks[0].path: {disk}: No such file or directory\n"
            in fake.cairn("dominfo", "vm1").stdout)


def test_errors_have_exit_code_and_two_lines(fake):
    fake.define("vm1")
    r = fake.cairn("start", "nope", ok=3)
    assert r.stderr == ("error: Failed to start domain 'nope'\n"
                        "error: there is no VM 'nope'. Next: cairn list --all\n")
    r = fake.cairn("suspend", "vm1", ok=4)
    assert r.stderr == ("error: Failed to suspend domain 'vm1'\n"
                        "error: VM 'vm1' is shut off; suspend works when it is running or in "
                        "shutdown. Next: cairn start vm1\n")
    fake.cairn("start", "vm1")
    assert "Next: cairn shutdown vm1" in fake.cairn("undefine", "vm1", ok=4).stderr
    assert fake.cairn("start", "vm1", ok=4).stderr == ("error: Failed to start domain 'vm1'\n"
                                                       "error: VM 'vm1' is running already, and nothing was done\n")
    fake.define("busy", cmdline="refuse")
    fake.cairn("start", "busy", ok=6)
    for args in (["start"], ["start", "--pasued", "vm1"], ["list", "x"], ["nonsense"],
                 ["shutdown", "--mode", "initctl", "vm1"], ["wait", "vm1", "--for", "ready"], ["-x", "list"],
                 ["shutdown", "vm1", "--timeout", "soon"], ["start", "-v", "vm1"]):
        r = fake.cairn(*args, ok=2)
        assert r.stderr.count("\n") == 2 and r.stderr.startswith("error: "), args


def test_definitions_that_are_wrong_change_nothing(fake):
    fake.define("vm1")
    before = fake.cairn("dumpjson", "vm1").stdout
    for keys, words in (
            ({"memory": 0}, "memory: 0 is too little; give at least 1 MiB"),
            ({"memory": "10T"}, "memory: 10T is too much; at most 1 TiB"),
            ({"memory": "much"}, 'memory: "much" is not a size'),
            ({"vcpus": 0}, "vcpus: 0 is out of range; give 1 to 64"),
            ({"vcpus": 10000}, "vcpus: 10000 is out of range; give 1 to 64"),
            ({"colour": "red"}, '"colour" is not a key of a definition; known here: version, name'),
            ({"memroy": "64M"}, '"memroy" is not a key of a definition (did you mean "memory"?); known here: version, name'),
            ({"disks": [{"path": "no.raw", "format": "raw"}]}, "disks[0].path: "),
            ({"disks": [{"path": ".", "format": "raw"}]}, "is a folder; give a file or a block device"),
            ({"disks": [{"path": "kernel", "format": "vmdk"}]},
             'disks[0].format: "vmdk" is not a disk format; use raw or qcow2'),
            ({"boot": {"kernel": "nowhere"}}, "boot.kernel: ")):
        r = fake.cairn("define", fake.write("vm1", **keys), ok=None)
        assert r.returncode in (2, 3) and words in r.stderr
        assert r.stderr.startswith("error: Failed to define domain from ")
        assert fake.cairn("dumpjson", "vm1").stdout == before
    bad = fake.tmp / "bad.json"
    bad.write_text('{"name": "x",\n "memory" 5}')
    assert "not JSON" in fake.cairn("define", str(bad), ok=2).stderr
    for name in ("", "x" * 300, "a/b"):
        assert "name: " in fake.cairn("define", fake.write(name), ok=2).stderr
    fake.cairn("define", str(fake.tmp / "missing.json"), ok=3)
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\n"


def test_define_reads_file_or_standard_input(fake, tmp_path):
    sub = tmp_path / "sub"
    sub.mkdir()
    (sub / "k").write_text("x")
    (sub / "d.json").write_text('{"name":"vm1","memory":32,"boot":{"kernel":"k"}}')
    fake.cairn("define", "sub/d.json", cwd=tmp_path)
    d = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    assert d["boot"]["kernel"] == str(sub / "k")
    # define accepts dumpjson's output.
    copy = fake.cairn("dumpjson", "vm1").stdout
    fake.cairn("define", "--dry-run", "-", stdin=None, input=copy)
    fake.cairn("define", "-", stdin=None, input=copy)
    assert fake.cairn("dumpjson", "vm1").stdout == copy


def test_number_beside_a_word_that_names_no_vm_is_no_id(fake):
    """`destroy Windows 10`, without quotes, does not destroy the VM with the id 10."""
    for name in "vm1", "Windows 10":
        fake.define(name)
        fake.cairn("start", name)
    id = str(fake.info("vm1")["id"])
    r = fake.cairn("destroy", "Windows", id, ok=False)
    assert "there is no VM 'Windows'" in r.stderr + r.stdout and fake.info("vm1")["state"] == "running"
    fake.cairn("destroy", "Windows 10", id)
    assert fake.info("vm1")["state"] == "shutoff"


def test_define_with_validate_defines(fake):
    r = fake.cairn("define", "--validate", fake.write("vm1"))
    assert r.stdout == f"Domain 'vm1' defined from {fake.tmp}/vm1.json\n"
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\n"
    # A person at a terminal is told that the definition replaces another one.
    def told(**keys):
        screen, terminal = os.openpty()
        with os.fdopen(screen, "rb") as seen, os.fdopen(terminal, "wb") as err:
            subprocess.run([os.path.join(BUILD, "cairn"), "define", fake.write("vm1", **keys)], env=fake.env, stderr=err, stdout=subprocess.DEVNULL,
                           check=True)
            return seen.read1().decode()
    assert told(title="other") == "note: this replaces the definition that domain 'vm1' had\r\n"
    fake.cairn("start", "vm1")
    assert told(memory="128M").endswith("; the running VM keeps that until its next start\r\n")
    fake.cairn("destroy", "vm1")
    assert fake.cairn("define", "--dry-run", fake.write("vm2")).stdout == f"{fake.tmp}/vm2.json validates\n"
    assert fake.cairn("list", "-a", "--name", "--without-checkpoint").stdout == "vm1\n"
    assert fake.cairn("list", "-a", "--name", "--with-checkpoint").stdout == ""


def test_options_of_virsh_that_change_nothing_are_accepted(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", max_vcpus=4, disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("setvcpus", "vm1", "2", "--config", "--hotpluggable")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["vcpus"] == 2
    assert "exclude each other" in fake.cairn("domblkinfo", "vm1", "vda", "--all", ok=2).stderr
    assert "a VM has one screen" in fake.cairn("screenshot", "vm1", "x.png", "--screen", "1", ok=2).stderr
    fake.cairn("undefine", "vm1", "--remove-all-storage", "--delete-storage-volume-snapshots")
    assert not (fake.tmp / "d.raw").exists()


def test_start_paused_does_not_run(fake):
    fake.define("vm1")
    fake.cairn("start", "--paused", "vm1")
    assert fake.cairn("domstate", "--reason", "vm1").stdout == "paused (user)\n"
    fake.cairn("resume", "vm1")


def test_exit_code_is_worst_of_several_vms(fake):
    fake.define("vm1")
    fake.define("vm2")
    r = fake.cairn("start", "vm1", "nope", "vm2", ok=3)
    assert r.stdout == "Domain 'vm1' started\nDomain 'vm2' started\n"
    assert r.stderr.count("error: ") == 2
    assert fake.cairn("destroy", "--dry-run", "vm1", "vm2").stdout == (
        "Would destroy domain 'vm1' (running)\nWould destroy domain 'vm2' (running)\n")
    assert len(fake.cairn("list", "--name").stdout.split()) == 2


def test_event_verb_prints_events(fake):
    fake.define("vm1")
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "event", "--loop", "--timeout", "50",
                          "--format", "json", "vm1"], env=fake.env, stdout=subprocess.PIPE, text=True)
    while not select.select([p.stdout], [], [], 0.1)[0]:
        fake.define("vm1")  # it listens once it has printed one
    fake.define("other")
    fake.cairn("start", "vm1")
    fake.cairn("suspend", "vm1")
    fake.cairn("destroy", "vm1")
    told = (x for x in map(json.loads, p.stdout) if x["event"] != "VM_DEFINED" or x["data"]["vm"] != "vm1")
    lines = list(itertools.islice(told, 5))
    assert [x["event"] for x in lines] == ["VM_STATE_CHANGE", "STOP", "VM_STATE_CHANGE", "SHUTDOWN",
                                           "VM_STATE_CHANGE"]
    assert lines[3]["data"] == {"guest": False, "reason": "host-qmp-quit", "vm": "vm1", "vm-uuid": fake.info("vm1")["uuid"]}
    p.terminate()
    p.wait()
    timed_out = "event loop timed out\nevents received: 0\n"
    assert fake.cairn("event", "--timeout", "0.2", ok=1).stdout == timed_out
    assert not fake.cairn("event", "--timeout", "0.2", "--format", "json", ok=1).stdout
    # virsh's words for kinds of events, after the VM or as the option.
    states = fake.cairn("events", "vm1", "lifecycle", "--since", "0", "--timeout", "0").stdout.splitlines()
    assert {line.split("'")[1] for line in states if "event '" in line} == {"VM_DEFINED", "VM_STATE_CHANGE", "SHUTDOWN"}
    assert "give the event once" in fake.cairn("event", "vm1", "lifecycle", "--event", "STOP", ok=2).stderr
    # Events can be selected by uuid. Past events of an undefined VM can be read; waiting for new ones fails.
    since = ["event", "--since", "0", "--event", "SHUTDOWN", "--format", "json"]
    shutdown = fake.cairn(*since, "vm1").stdout
    assert json.loads(shutdown)["data"]["vm"] == "vm1"
    uuid = fake.info("vm1")["uuid"]
    assert fake.cairn(*since, uuid).stdout == shutdown
    fake.cairn("undefine", "vm1")
    assert fake.cairn(*since, "vm1").stdout == fake.cairn(*since, uuid).stdout == shutdown
    assert "there is no VM 'vm1'" in fake.cairn("event", "--timeout", "0", "vm1", ok=3).stderr
    assert 'unknown event "SHUTDWON"; did you mean SHUTDOWN?' in fake.cairn("event", "--event", "SHUTDWON", ok=2).stderr
    assert 'unknown event "BANANA"; cairn event --list lists them' in fake.cairn("event", "--event", "BANANA", ok=2).stderr


def test_missing_daemon_is_reported(tmp_path):
    r = cairn("-c", str(tmp_path / "none.sock"), "list")
    assert r.returncode == 7
    assert r.stderr == ("error: Failed to list domains\n"
                        f"error: no daemon listens on {tmp_path}/none.sock; start one with: "
                        "cairnd & (see cairnd --help)\n")
    r = cairn("-c", str(tmp_path / "none.sock"), "version")
    assert r.returncode == 0 and "no daemon listens" in r.stdout and f"\nsocket {tmp_path}/none.sock\n" in r.stdout
    assert cairn("-c", str(tmp_path / "none.sock"), "version", "--daemon").returncode == 7
    assert cairn("-c").stderr.startswith("error: -c needs a socket\n")


@pytest.mark.parametrize("user, told", [(65534, True), (0, False)])
def test_user_without_a_daemon_is_told_of_roots_daemon(tmp_path, user, told):
    if os.geteuid():
        pytest.skip("needs root, for a /run of its own and to act for another user")
    listen = ('import os, socket, subprocess, sys; s = socket.socket(socket.AF_UNIX); s.bind("/run/cairn/cairn.sock"); '
              'os.chmod("/run/cairn/cairn.sock", 0o666); s.listen(); sys.exit(subprocess.call(sys.argv[1:]))')
    script = f"mount -t tmpfs none /run && mkdir /run/cairn && exec /usr/bin/python3 -c '{listen}' \"$@\""
    r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                        "--inh-caps=+dac_override", "--ambient-caps=+dac_override", f"{BUILD}/cairn", "-c", f"{tmp_path}/none.sock", "list"],
                       capture_output=True, text=True, timeout=50)
    assert r.returncode == 7 and f"no daemon listens on {tmp_path}/none.sock" in r.stderr, r.stderr
    assert (", or use root's daemon: export CAIRN_SOCKET=/run/cairn/cairn.sock\n" in r.stderr) == told


@pytest.mark.parametrize("args, package", [(["new", "vm1", "--image", "/dev/null"], "cairn-img"), (["web"], "cairn-web")])
def test_missing_program_is_named_with_its_package(fake, tmp_path, args, package):
    lone = shutil.copy(os.path.join(BUILD, "cairn"), tmp_path / "cairn")
    r = subprocess.run([lone, *args], env=fake.env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50)
    assert r.returncode == 3 and r.stderr.endswith(f"/libexec/cairn; install it, on Debian with the package {package}\n")


@pytest.mark.parametrize("verb,file", [("save", "file"), ("dump", "file"), ("export", "file.tar"), ("screenshot", "file.png")])
def test_verb_without_an_answer_leaves_no_file(fake, tmp_path, verb, file):
    """Without a daemon, and with -r, which holds before the daemon is asked."""
    fake.define("vm1")
    folder = tmp_path / "files"
    folder.mkdir()
    r = cairn("-c", str(tmp_path / "none.sock"), verb, "vm1", str(folder / file))
    assert r.returncode == 7 and len(r.stderr.splitlines()) == 2 and "no daemon listens" in r.stderr, r.stderr
    r = fake.cairn("-r", verb, "vm1", str(folder / file), ok=False)
    assert len(r.stderr.splitlines()) == 2, r.stderr
    assert os.listdir(folder) == []


def test_peer_that_is_no_daemon_is_reported(tmp_path):
    import socket
    import threading
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(tmp_path / "s"))
    s.listen()

    def serve(data):
        c, _ = s.accept()
        c.sendall(data)
        c.close()

    for data in (b"", b"hello\r\n", b'{"QMP":', b"{}\r\n", b'{"QMP":{}}\r\n', b"\xff" * 1000):
        t = threading.Thread(target=serve, args=(data,))
        t.start()
        r = cairn("-c", str(tmp_path / "s"), "list")
        t.join()
        assert r.returncode == 1 and r.stderr.count("\n") == 2


def test_help_lists_verbs():
    whole = cairn("help").stdout
    assert cairn().stdout == whole == cairn("--help").stdout
    groups = [line for line in whole.splitlines()[1:-1] if line and not line.startswith(" ")]
    assert groups[:2] == ["Definitions", "Lifecycle"] and len(set(groups)) == len(groups)
    for i, verb in enumerate(VERBS):
        assert f"\n  {verb} " in whole
        r = cairn("help", verb)
        assert r.returncode == 0 and r.stdout.startswith(f"cairn {verb}")
        assert i % 10 or cairn(verb, "--help").stdout == r.stdout
    assert [x.split()[0] for x in cairn("complete").stdout.splitlines()] == VERBS


def test_unwritable_output_is_an_error(fake):
    with open("/dev/full", "w") as full:
        r = subprocess.run([os.path.join(BUILD, "cairn"), "list"], env=fake.env, stdout=full,
                           stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and "cannot write the output" in r.stderr


@pytest.mark.parametrize("program", ["cairn --help", "cairnd --help", "cairnd --version", "cairn-img --help", "cairn-metrics --help",
                                     "cairn-root --help", "cairn-vm --version", "cairn-web --help", "cairn-xml elements"])
def test_program_says_that_its_output_is_not_written(tmp_path, program):
    name, argument = program.split()
    for path, why in (("/dev/full", "No space left on device"), (tmp_path / "out", "File too large; the limit of file sizes may be reached: ")):
        with open(path, "w") as out:
            r = subprocess.run(["prlimit", "--fsize=0", os.path.join(BUILD, name), argument], stdout=out, stderr=subprocess.PIPE, text=True)
        assert r.returncode == 1 and f": cannot write the output: {why}" in r.stderr, r


def test_limit_of_file_sizes_ends_no_program(tmp_path):
    with open(tmp_path / "err", "w") as err:
        assert subprocess.run(["prlimit", "--fsize=0", os.path.join(BUILD, "cairn-vnc"), "vm"], stderr=err).returncode == 1
    (tmp_path / "user-data").write_text("#cloud-config\n")
    r = subprocess.run(["prlimit", "--fsize=4096", os.path.join(BUILD, "cairn"), "seed", "seed.img", "--user-data", "user-data"], cwd=tmp_path,
                       capture_output=True, text=True)
    assert r.returncode == 1 and "File too large; the limit of file sizes may be reached: raise it" in r.stderr, r
    assert sorted(os.listdir(tmp_path)) == ["err", "user-data"]


def test_editor_gets_the_signal_of_the_limit_of_file_sizes(fake):
    fake.define("a")
    fake.env["EDITOR"] = "grep SigIgn /proc/self/status; true"
    ignored = fake.cairn("edit", "a").stdout.split("SigIgn:")[1].split()[0]
    assert not int(ignored, 16) >> (signal.SIGXFSZ - 1) & 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_unusable_runtime_folder_names_the_next_step():
    with tempfile.TemporaryDirectory(prefix="cairn-test-", dir=open_folder()) as path:
        os.chmod(path, 0o755)
        os.mkdir(f"{path}/foreign", 0o700)
        for name, argument in (("cairn", "list"), ("cairnd", "--foreground")):
            shutil.copy(os.path.join(BUILD, name), path)
            shutil.copy(os.path.join(BUILD, "cairn-vm"), path)
            r = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", f"{path}/{name}", argument],
                               env={"XDG_RUNTIME_DIR": f"{path}/foreign", "XDG_STATE_HOME": path}, capture_output=True, text=True, timeout=50)
            assert r.returncode == 5 and (f"XDG_RUNTIME_DIR is {path}/foreign, where you may not use a folder cairn; unset the variable, or set it to "
                                          "a folder of yours") in r.stderr, r


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_root_of_a_user_namespace_is_told_to_name_folders():
    with tempfile.TemporaryDirectory(prefix="cairn-test-", dir=open_folder()) as path:
        os.chmod(path, 0o755)
        for name in "cairnd", "cairn-vm":
            shutil.copy(os.path.join(BUILD, name), path)
        user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "unshare", "-Ur"]
        if subprocess.run([*user, "true"], capture_output=True).returncode:
            pytest.skip("this host refuses user namespaces")
        r = subprocess.run([*user, f"{path}/cairnd"], capture_output=True, text=True, timeout=50)
        assert r.returncode == 5 and "/var/lib/cairn: Permission denied; this root" in r.stderr and "--state-dir and --socket" in r.stderr, r


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to hide /proc")
def test_host_without_proc_names_the_next_step(tmp_path):
    def without_proc(*args):
        return subprocess.run(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh", os.path.join(BUILD, "cairn"), *args],
                              cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    (tmp_path / "user-data").write_text("#cloud-config\n")
    for args in (["shell"], ["seed", "seed.img", "--user-data", "user-data"]):
        r = without_proc(*args)
        assert r.returncode == 7 and "/proc is not mounted; as root: mount -t proc proc /proc" in r.stderr, r


def test_number_names_running_vm(fake):
    """As in virsh; but names take precedence."""
    for name in ("web", "off", "7"):
        fake.define(name)
    fake.cairn("start", "web")
    id = fake.cairn("domid", "web").stdout.strip()
    assert fake.cairn("domname", id).stdout == "web\n" and fake.cairn("dominfo", "--domain", id).stdout.startswith(f"Id:             {id}\n")
    assert fake.cairn("suspend", id).stdout == "Domain 'web' suspended\n"
    assert fake.cairn("domstate", "7").stdout == "shut off\n"
    fake.define(id)
    assert fake.cairn("domstate", id).stdout == "shut off\n"
    fake.cairn("undefine", id)
    assert fake.cairn("resume", "0" + id).returncode == 0  # virsh reads it so
    # A VM that is off has no number, and other text is no number.
    for wrong in ("99", "-1", "1x", "", "99999999999999999999"):
        fake.cairn("domstate", "--", wrong, ok=3)
        assert fake.info("web")["state"] == "running"
    fake.cairn("desc", "off", id)
    assert fake.cairn("desc", "off").stdout == id + "\n"
    fake.cairn("grant", "viewer", id, "--user", "12345", ok=3)
    assert fake.cairn("destroy", id, "off", ok=4).stdout == "Domain 'web' destroyed\n"
    fake.cairn("domstate", id, ok=3)


def test_quiet_leaves_out_heads_and_sentences(fake):
    path = fake.write("web1")
    assert fake.cairn("-q", "define", path).stdout == fake.cairn("-q", "start", "web1").stdout == ""
    assert fake.cairn("--quiet", "list").stdout.split() == ["1", "web1", "running"]
    assert fake.cairn("-q", "domstate", "web1").stdout == "running\n"
    said = fake.cairn("-q", "web-hook", "a", "--url", "https://127.0.0.1/", "--private").stdout
    assert said.startswith("Its secret") and fake.cairn("-q", "web-hook-remove", "a").stdout == ""
    assert fake.cairn("-q", "shutdown", "web1", "--wait").stdout == ""
    assert fake.cairn("-q", "grant", "--user", "nobody", "viewer", "web1").stdout == fake.cairn("-q", "revoke", "--user", "nobody", "web1").stdout == ""
    assert fake.cairn("-q", "clone", "web1", "web3").stdout == ""  # a job
    r = fake.cairn("-q", "undefine", "web2", ok=3)
    assert not r.stdout and "error: " in r.stderr


def test_readonly_refuses_what_changes_something(fake):
    path = fake.write("web1")
    fake.cairn("define", path)
    for verb in ("start", "undefine", "define"):
        r = fake.cairn("-r", verb, "web1" if verb != "define" else path, ok=5)
        assert "-r allows only what changes nothing; leave it out to run vm-" in r.stderr
    for args in (["run", path], ["seed", str(fake.tmp / "seed.iso")], ["image-remove", "--all"]):  # they need no daemon
        assert f"leave it out to run {args[0]}" in fake.cairn("-r", *args, ok=5).stderr
    assert not (fake.tmp / "seed.iso").exists()
    assert "web1" in fake.cairn("-r", "list", "--all").stdout and fake.cairn("--readonly", "domstate", "web1").stdout == "shut off\n"


# ---- run ----

def test_run_refuses_invalid_definition(tmp_path):
    p = tmp_path / "vm.json"
    p.write_text('{"name":"vm1","memory":0}')
    r = cairn("run", str(p))
    assert r.returncode == 2
    assert r.stderr == (f"error: Failed to run {p}\n"
                        "error: memory: 0 is too little; give at least 1 MiB\n")
    (tmp_path / "k").write_text("x")
    p.write_text('{"name":"vm1","memory":16,"boot":{"kernel":"k"},'
                 '"disks":[{"path":"no.raw","format":"raw"}]}')
    r = cairn("run", str(p))
    assert r.returncode == 2 and f"disks[0].path: {tmp_path}/no.raw: No such file" in r.stderr


def test_run_passes_all_files_to_vm(tmp_path):
    (tmp_path / "k").write_text("x")
    p = tmp_path / "vm.json"
    p.write_text('{"name":"vm1","memory":16,"boot":{"kernel":"k","cmdline":"exit-after=10:7"}}')
    r = cairn("run", "--vm-program", os.path.join(BUILD, "helpers", "fake_vm"), str(p))
    assert r.stderr == "fake_vm vm1: 1 files\n"


def test_run_starts_real_guest(tmp_path, kvm, guest):
    p = tmp_path / "vm.json"
    p.write_text(json.dumps({"name": "vm1", "memory": "32M", "debug_exit": True,
                             "boot": {"kernel": guest("interp.elf"), "cmdline": "echo hi; exit 21"}}))
    r = cairn("run", str(p))
    assert "hi" in r.stdout and r.returncode == 21
