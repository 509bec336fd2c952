"""The command line: words, tables and exit codes that scripts and habits rely on."""

import csv
import fcntl
import io
import itertools
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

from conftest import BUILD, ROOT, Console
from terminallib import read_until, terminal

VERBS = ["define", "create", "validate", "dumpjson", "dumpxml", "edit", "domrename", "desc", "setvcpus", "setmem", "setmaxmem",
         "set-lifecycle-action", "attach-disk", "detach-disk", "change-media", "attach-interface", "detach-interface",
         "attach-device", "detach-device", "update-device", "domiftune", "blkdeviotune", "blockresize", "domif-setlink", "domif-egress", "new", "seed", "forward-add", "forward-remove", "forward-list", "undefine", "start",
         "shutdown", "reboot", "reset", "suspend", "resume", "destroy", "reclaim", "restart-process", "autostart", "schedule", "schedule-list", "schedule-history",
         "schedule-pause", "schedule-resume", "schedule-remove", "run", "dump",
         "clone", "group-clone", "promote", "template", "backup-begin", "blockcopy", "blockjob", "blockcommit", "blockpull", "export", "import", "save", "restore", "save-image-dumpjson", "save-image-dumpxml", "save-image-define",
         "save-image-edit", "managedsave", "managedsave-remove",
         "snapshot-create", "snapshot-create-as", "group-snapshot", "group-revert", "snapshot-list", "snapshot-info", "snapshot-current",
         "snapshot-parent", "snapshot-diff", "snapshot-revert", "snapshot-delete", "snapshot-rename", "snapshot-tag",
         "snapshot-schedule", "list", "dominfo", "domstate", "domid", "domuuid", "domname", "domblklist",
         "domblkinfo", "domblkstat", "domiflist", "domifstat", "domif-getlink", "domifaddr", "domblkerror", "vcpuinfo", "vcpucount", "nodeinfo",
         "nodecpustats", "domstats", "domdirtyrate-calc", "metrics", "trend", "advise", "threshold", "threshold-list", "threshold-remove", "web-hook", "web-hook-list", "web-hook-remove", "web-hook-test", "dommemstat", "send-key", "screenshot", "vncdisplay", "top",
         "qmp-path", "console", "log", "vsock", "ssh", "wait", "event", "events", "pool-list", "pool-info", "pool-define-as", "pool-undefine", "vol-list", "vol-info", "vol-path",
         "vol-create-as", "vol-clone", "vol-delete", "vol-resize", "image-list", "image-remove", "net-list", "net-info", "net-start",
         "net-destroy", "net-autostart", "net-define", "net-create", "net-dumpjson", "net-dumpxml", "net-update", "net-edit",
         "net-dhcp-leases",
         "net-undefine", "net-name", "net-uuid", "jobs", "domjobinfo", "domjobabort", "job-cancel", "job-dismiss", "exec", "exec-output",
         "cp", "guestinfo",
         "guestvcpus", "domhostname", "domfsinfo", "domfstrim", "domfsfreeze", "domfsthaw", "set-user-password", "domtime",
         "qemu-agent-command", "grant", "revoke", "permissions", "permissions-review", "request-permission", "requests", "approve", "deny", "approval-rule", "quota", "audit", "daemon-stop", "web", "doctor",
         "cpu-models", "version", "shell", "complete", "help"]


def cairn(*args, **kwargs):
    return subprocess.run([os.path.join(BUILD, "cairn"), *args], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, **kwargs)


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
    """Verbs and options of habit; those without an effect are accepted where virsh's promise holds."""
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
    """Each --NAME of virsh for a positional gives it, in any order; the value is the same as without the name."""
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
        "Used memory:    0 KiB\n"
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


def domstats(daemon, name):
    """Return all statistics of a VM; a process that stands still gives none of its own."""
    while "cpu.time" not in (stats := json.loads(daemon.cairn("domstats", name, "--format", "json").stdout)[0]):
        pass
    return stats


def test_domstats_prints_statistics(fake, tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", cmdline="idle", vcpus=2, disks=[{"id": "vda", "format": "raw", "path": str(tmp_path / "d.raw")}])
    fake.define("vm2")
    fake.cairn("start", "vm1")
    out = fake.cairn("domstats", "--state", "--balloon").stdout
    rss = int(out.split("balloon.rss=")[1].split()[0])
    assert 0 < rss < 1 << 20
    assert out == (
        "Domain: 'vm1'\n  state.state=1\n  state.reason=1\n"
        f"  balloon.current=32768\n  balloon.maximum=32768\n  balloon.rss={rss}\n\n"
        "Domain: 'vm2'\n  state.state=5\n  state.reason=0\n"
        "  balloon.current=0\n  balloon.maximum=32768\n\n")
    assert "Domain: 'vm1'" not in fake.cairn("domstats", "vm[2-9]").stdout
    info, stats = fake.figures("vm1"), domstats(fake, "vm1")
    assert (stats["name"], stats["cpu.time"]) == ("vm1", info["cpu-time"])
    assert [stats[f"vcpu.{i}.time"] for i in range(2)] == info["vcpu-times"]
    assert stats["vcpu.maximum"] == 2
    assert stats["block.count"] == len(info["disks"])
    fake.cairn("destroy", "vm1")
    out = fake.cairn("domstats", "vm1").stdout
    assert "state.reason=2\n" in out and "cpu.time" not in out
    assert fake.cairn("domstats", "none", ok=3).stdout == ""


def test_domstats_prints_disk_statistics(daemon, kvm, guest, tmp_path):
    (tmp_path / "d.raw").write_bytes(bytes(1 << 20))
    daemon.define("vm1", boot={"kernel": guest("interp.elf")},
                  disks=[{"id": "vda", "format": "raw", "path": str(tmp_path / "d.raw")}])
    daemon.cairn("start", "vm1")
    console = Console(daemon, "vm1")
    while console.line() != "interp":
        pass
    console.run("open 0")
    console.run("write 0 8 1")
    console.close()
    d, = daemon.figures("vm1")["disks"]
    stats = domstats(daemon, "vm1")
    assert stats["block.count"] == 1 and d["wr-bytes"] == 4096
    assert stats["block.0.name"] == d["id"] and stats["block.0.capacity"] == d["size"]
    for key in ("rd", "wr"):
        assert [stats[f"block.0.{key}.{k}"] for k in ("reqs", "bytes", "times")] == [
            d[f"{key}-reqs"], d[f"{key}-bytes"], d[f"{key}-ns"]]


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


def test_define_with_validate_defines(fake):
    r = fake.cairn("define", "--validate", fake.write("vm1"))
    assert r.stdout == f"Domain 'vm1' defined from {fake.tmp}/vm1.json\n"
    assert fake.cairn("list", "--all", "--name").stdout == "vm1\n"
    assert fake.cairn("define", "--dry-run", fake.write("vm2")).stdout == f"{fake.tmp}/vm2.json validates\n"
    assert fake.cairn("list", "-a", "--name", "--without-checkpoint").stdout == "vm1\n"
    assert fake.cairn("list", "-a", "--name", "--with-checkpoint").stdout == ""


def test_domstats_filters_vms_by_state(fake):
    def listed(*filters):
        return re.findall("Domain: '(.*)'", fake.cairn("domstats", "--state", *filters).stdout)
    for name in "abc":
        fake.define(name, cmdline="idle")
    fake.cairn("start", "a", "b")
    fake.cairn("suspend", "b")
    assert [listed(f"--list-{x}") for x in ("active", "inactive", "running", "paused", "shutoff", "other")] == [
        ["a", "b"], ["c"], ["a"], ["b"], ["c"], []]
    assert listed("--list-running", "--list-shutoff") == ["a", "c"] and listed("--list-active", "--list-paused") == ["b"]
    assert listed("--raw", "--enforce", "--nowait") == ["a", "b", "c"]
    assert "exclude each other" in fake.cairn("domstats", "a", "--list-running", ok=2).stderr


def test_options_of_virsh_that_change_nothing_are_accepted(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", max_vcpus=4, disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("setvcpus", "vm1", "2", "--config", "--hotpluggable")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["vcpus"] == 2
    assert fake.cairn("domblkinfo", "vm1", "--all").stdout == fake.cairn("domblkinfo", "vm1").stdout
    assert "exclude each other" in fake.cairn("domblkinfo", "vm1", "vda", "--all", ok=2).stderr
    assert "a VM has one screen" in fake.cairn("screenshot", "vm1", "x.png", "--screen", "1", ok=2).stderr
    fake.cairn("undefine", "vm1", "--remove-all-storage", "--delete-storage-volume-snapshots")
    assert not (fake.tmp / "d.raw").exists()


def test_wait_returns_at_requested_state(fake):
    fake.define("vm1")
    fake.define("deaf", cmdline="deaf")
    r = fake.cairn("wait", "vm1", "--for", "running", "--timeout", "0.1", ok=1)
    assert "timeout: the VM is not running; see cairn domstate --reason vm1\n" in r.stderr
    waiter = subprocess.Popen([os.path.join(BUILD, "cairn"), "wait", "vm1", "--for", "running"],
                              env=fake.env)
    fake.cairn("start", "vm1", "deaf")
    assert waiter.wait(50) == 0
    assert fake.cairn("shutdown", "--wait", "--timeout", "50", "vm1").stdout == (
        "Domain 'vm1' is being shutdown\nDomain 'vm1' is shut off\n")
    start = time.monotonic()
    r = fake.cairn("shutdown", "--wait", "--timeout", "0.5", "deaf", ok=1)
    assert 0.4 < time.monotonic() - start
    assert "Domain 'deaf' is still running" in r.stderr and "cairn destroy deaf" in r.stderr
    assert fake.cairn("domstate", "--reason", "deaf").stdout == "in shutdown (user)\n"
    fake.cairn("wait", "nope", "--for", "running", ok=3)


def test_shutdown_that_waits_says_what_stops_a_deaf_guest(fake):
    """The note comes without a time limit of the test; then the verb waits on."""
    fake.define("deaf", cmdline="deaf")
    fake.cairn("start", "deaf")
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "shutdown", "--wait", "deaf"], env=fake.env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as p:
        assert p.stderr.readline() == ("note: domain 'deaf' is not off yet; if its guest ignores the request, try cairn shutdown deaf "
                                       "--mode agent, or stop it with cairn destroy deaf\n")
        fake.cairn("destroy", "deaf")
        assert p.communicate() == ("Domain 'deaf' is being shutdown\nDomain 'deaf' is shut off\n", "") and p.returncode == 0


class Script:
    """A daemon for one client that answers each command from a table and then sends the events in it."""

    def __init__(self, tmp, answers):
        """answers: for each command, its answer and a list of events, or an iterator of them."""
        self.path, self.answers = str(tmp / "s"), answers
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with self.listening, self.listening.accept()[0].makefile("rw") as client:
            self.say(client, {"QMP": {"version": {}}})
            for line in client:
                command = json.loads(line)
                answer = self.answers.get(command["execute"], ({"return": {}}, []))
                answer, events = answer if isinstance(answer, tuple) else next(answer)
                self.say(client, {**answer, "id": command["id"]})
                for event, data in events:
                    self.say(client, {"event": event, "data": data})

    def say(self, client, what):
        client.write(json.dumps(what) + "\n")
        client.flush()


@pytest.mark.parametrize("how, says", [({}, "the VM was undefined meanwhile"),
                                       ({"renamed-to": "vm2"}, "the VM was renamed meanwhile; wait for 'vm2'")])
def test_wait_ends_when_the_vm_is_gone(tmp_path, how, says):
    off = {"return": {"name": "vm1", "word": "shutoff"}}
    s = Script(tmp_path, {"vm-info": (off, [("VM_UNDEFINED", {"vm": "vm3"}), ("VM_UNDEFINED", {"vm": "vm1", **how})])})
    r = cairn("-c", s.path, "wait", "vm1", "--for", "running")
    assert (r.returncode, r.stderr) == (3, f"error: failed to get domain 'vm1'\nerror: {says}\n")


@pytest.mark.parametrize("error, code", [({}, 0), ({"error": "no space", "error-class": "NoSpace"}, 1)])
def test_result_of_job_that_cannot_be_dismissed_is_told(tmp_path, error, code):
    job = {"id": "job1", "status": "concluded", "result": {"name": "s1"}, **error}
    s = Script(tmp_path, {"snapshot-create": ({"return": {"job": "job1"}},
                                              [("JOB_STATUS_CHANGE", {"id": "job1", "status": "concluded"})]),
                          "query-jobs": ({"return": [job]}, []),
                          "job-dismiss": ({"error": {"class": "NotFound", "desc": "no job 'job1'"}}, [])})
    r = cairn("-c", s.path, "snapshot-create-as", "vm1", "s1")
    assert r.returncode == code and "no job" not in r.stderr
    assert "no space" in r.stderr if error else "s1" in r.stdout


def test_jobs_are_listed_anew_if_the_last_of_a_page_was_dismissed(tmp_path):
    gone = {"error": {"class": "NotFound", "desc": "after: there is no job 'job2' any more"}}
    pages = [{"return": [{"id": "job1"}, {"id": "job2"}]}, gone, {"return": [{"id": "job1"}, {"id": "job3"}]}, {"return": []}]
    s = Script(tmp_path, {"query-jobs": iter([(page, []) for page in pages])})
    r = cairn("-c", s.path, "jobs", "--format", "json")
    assert r.returncode == 0 and [j["id"] for j in json.loads(r.stdout)] == ["job1", "job3"]


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


def completions(fake, *words, line=None):
    """Return Tab's completions of the last word. line: what was typed [the words with blanks between them]."""
    script = os.path.join(ROOT, "tools", "completion", f"{words[0]}.bash")
    code = (f"source {script}; COMP_WORDS=({' '.join(shlex.quote(w) for w in words)}); COMP_LINE={shlex.quote(line or ' '.join(words))}; "
            f"COMP_CWORD={len(words) - 1}; _{words[0].replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    r = subprocess.run(["bash", "-c", code], text=True, capture_output=True, cwd=fake.tmp,
                       env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"]})
    assert r.stderr == ""
    return r.stdout.split("\n")[:-1]


def test_completion_of_cairn_img(fake):
    open(os.path.join(fake.tmp, "disk 1.qcow2"), "w").close()

    def complete(line):
        return set(completions(fake, *("cairn-img " + line).split(" "))) - {""}

    assert complete("re") == {"resize", "rebase"} == complete("help re")
    assert complete("help convert ") == set() == complete("nothing --")
    assert complete("convert --sa") == {"--salvage"} and "-f" in complete("commit -")
    assert complete("resize --preallocation = f") == {"falloc", "full"}
    assert complete("check -r ") == {"leaks", "all"} and complete("convert -O q") == {"qcow2"} and complete("map --output ") == {"human", "json"}
    assert complete("create -o cluster") == {"cluster_size="}
    assert complete("info di") == {"disk 1.qcow2"}


def test_completion_offers_matching_words(fake):
    fake.define("web1")
    fake.define("web2")

    def complete(line):
        """Split the line as the shell does, at blanks and at the characters of COMP_WORDBREAKS."""
        return set(completions(fake, *(w for part in line.split(" ") for w in re.split("([=:@])", part) if w or not part), line=line)) - {""}

    assert complete("cairn st") == {"start"}
    assert complete("cairn start ") == {"web1", "web2"}
    assert complete("cairn start web1 --pau") == {"--paused"}
    # Values of an option, however the shell splits it.
    for line in ("shutdown web1 --mode a", "shutdown web1 --mode=a"):
        assert complete("cairn " + line) == {"acpi", "agent"}
    assert complete("cairn shutdown web1 --mode=") == {"acpi", "agent"}
    assert complete("cairn shutdown web1 --then ") == {"leave", "destroy", "save"}
    assert complete("cairn list --format ") == {"table", "json", "yaml", "csv"}
    assert complete("cairn edit web1 --format ") == {"json", "xml"}
    assert complete("cairn wait web1 --for ") == {"running", "paused", "shutoff", "crashed", "agent", "ip"}
    assert complete("cairn event --event VM_") == {"VM_STATE_CHANGE", "VM_DEFINED", "VM_UNDEFINED"}
    # VMs for which the verb is possible.
    fake.cairn("start", "web2")
    assert complete("cairn start ") == {"web1"}
    assert complete("cairn suspend --domain ") == {"web2"}
    assert complete("cairn dominfo ") == {"web1", "web2"}
    fake.cairn("destroy", "web2")
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("web1", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "web1", "before")
    assert complete("cairn snapshot-revert ") == {"web1", "web2"}
    assert complete("cairn snapshot-revert web1 ") == {"before"}
    assert complete("cairn snapshot-delete web1 --snapshotname b") == {"before"}
    assert complete("cairn detach-disk web1 ") == {"vda"}
    # An option's value is neither a positional nor completed as a VM's name.
    for line in ("--disk vda", "--disk=vda", "--disks-only --disk vda", "--disks-only --format json --eager"):
        assert complete(f"cairn snapshot-revert {line} ") == {"web1", "web2"}
        assert complete(f"cairn snapshot-revert {line} web1 ") == {"before"}
        assert complete(f"cairn snapshot-revert web1 {line} ") == {"before"}
    assert complete("cairn snapshot-revert --disk ") == complete("cairn snapshot-revert web1 --disk=") == set()
    assert complete("cairn snapshot-revert --domain web1 ") == {"before"}
    assert complete("cairn snapshot-revert --di") == {"--disk", "--disks-only"}
    assert complete("cairn help dom") == {"dominfo", "domstate", "domid", "domuuid", "domname", "domblkerror", "domblkinfo", "domblklist", "domblkstat", "domiflist", "domifstat", "domif-getlink", "domif-egress", "domif-setlink", "domiftune", "domifaddr", "domrename", "domstats", "domdirtyrate-calc", "dommemstat", "domhostname", "domfsinfo",
                                         "domfstrim", "domfsfreeze", "domfsthaw", "domtime", "domjobinfo", "domjobabort"}
    assert complete(f"cairn -c {fake.socket} start web2") == {"web2"}
    # Words with characters at which the shell splits.
    fake.cairn("start", "web2")
    assert complete("cairn ssh root@w") == complete("cairn ssh w") == {"web2"} and complete("cairn ssh web2 ") == set()
    assert complete("cairn cp w") == {"web2:", "web1.json", "web2.json"} and complete("cairn cp d") == {"d.raw"} == complete("cairn cp web2:/etc/passwd d")
    assert complete("cairn run --publish 8080:80 --disk=d") == {"d.raw"}


def zsh_offers(fake, *words):
    """Return the words that the completion of zsh would add."""
    typed = " ".join(shlex.quote(w) for w in words)
    code = (f"compadd() {{ print -rl -- \"$words_found[@]\" }}; compset() {{ print -r -- $2 }}; _files() {{ print :files }}; words=({typed}); CURRENT={len(words)}; "
            f"source {ROOT}/tools/completion/cairn.zsh")
    return shell_says(fake, "zsh", "-fc", code)


def fish_offers(fake, *words):
    """Return the words that Tab of fish offers, without their descriptions."""
    code = f"source {ROOT}/tools/completion/cairn.fish; complete -C {shlex.quote(' '.join(words))}"
    return {line.split("\t")[0] for line in shell_says(fake, "fish", "--no-config", "-c", code)}


def shell_says(fake, *command):
    r = subprocess.run(command, text=True, capture_output=True, cwd=fake.tmp,
                       env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"], "HOME": str(fake.tmp), "TERM": "dumb"})
    assert r.stderr == ""
    return set(r.stdout.splitlines()) - {""}


@pytest.mark.parametrize("offers", [zsh_offers, fish_offers])
def test_completion_of_other_shells(fake, offers):
    fake.define("web1")
    fake.define("web2")
    fake.cairn("start", "web2")
    assert "start" in offers(fake, "cairn", "st")
    assert offers(fake, "cairn", "start", "") == {"web1"}
    assert offers(fake, "cairn", "shutdown", "web2", "--mode", "") == {"acpi", "agent"}
    assert offers(fake, "cairn", "shutdown", "web2", "--mode=") == {"--mode=acpi", "--mode=agent"}
    assert "--paused" in offers(fake, "cairn", "start", "--pau")
    (fake.tmp / "vm.json").write_text("{}")
    assert offers(fake, "cairn", "define", "v") in ({":files", "--*="}, {"vm.json"})
    assert offers(fake, "cairn", "run", "--disk=v") in ({":files", "--*="}, {"--disk=vm.json"})
    assert offers(fake, "cairn", "cp", "w") in ({":files", "--*=", "web2:"}, {"web1.json", "web2.json", "web2:"})


def test_completion_of_what_exists(fake):
    """Words of each kind that an argument may name."""
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    (fake.tmp / "pool").mkdir()
    fake.define("web1", disks=[{"path": "d.raw", "format": "raw"}], interfaces=[{"type": "user"}])
    fake.cairn("schedule", "web1", "shutdown", "--on", "daily", "--name", "night")
    fake.cairn("threshold", "web1", "cpu", "--above", "90", "--name", "busy")
    fake.cairn("pool-define-as", "images", "--target", str(fake.tmp / "pool"))

    def complete(*line):
        return {x.split("\t")[0] for x in fake.cairn("complete", "--", *line).stdout.splitlines()}

    assert complete("schedule-pause", "web1", "") == {"night"} and complete("threshold-remove", "web1", "") == {"busy"}
    assert complete("schedule", "web1", "") == {"start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot", "export"}
    assert complete("threshold", "web1", "") == {"cpu", "memory", "disk-space", "latency", "io-errors", "net"}
    assert fake.cairn("complete", "--", "pool-info", "").stdout == f"images\t{fake.tmp}/pool\n" and complete("vol-create-as", "images", "") == set()
    assert complete("domiftune", "web1", "") == {"net0"} == complete("domif-setlink", "--domain", "web1", "--interface", "")
    assert complete("domif-setlink", "web1", "net0", "") == {"up", "down"}
    assert complete("attach-interface", "web1", "") == {"network", "bridge", "user"} and complete("new", "--firmware", "") == {"bios", "uefi"}
    assert complete("set-lifecycle-action", "web1", "") == {"poweroff", "reboot", "crash"} and "restart" in complete("set-lifecycle-action", "web1", "crash", "")
    assert "add" in complete("net-update", "default", "") and "dns-host" in complete("net-update", "default", "add", "")
    assert complete("domblkstat", "web1", "") == complete("domblkinfo", "web1", "") == {"vda"} and complete("attach-disk", "web1", "x.raw", "") == set()
    assert complete("grant", "") == {"viewer", "guest", "operator", "admin", "owner"} and "web1" in complete("grant", "viewer", "")
    assert {"root", "nobody"} & complete("grant", "viewer", "--user", "") == {"root"} and "root" in complete("quota", "--group", "")
    assert {"cpu", "rx-bytes"} < complete("trend", "web1", "cpu", "") and complete("domrename", "web1", "") == set()
    assert complete("restore", "") == complete("save", "web1", "") == complete("-c", "") == {":files"}
    assert complete("nothing", "") == complete("list", "") == set() and "list" in complete("-c", "x", "")
    assert {"--quiet", "--readonly"} < complete("-") and "list" in complete("-q", "-r", "")
    assert "VM_STATE_CHANGE" in complete("event", "web1", "") and complete("exec", "web1", "-w", "") == set()


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


def test_completion_quotes_names_for_shell(fake):
    """A VM's owner chooses its name, and root may press Tab: completions are quoted for the shell, and nothing is
    executed."""
    name = "x $(touch ran) `touch ran` 'y' \"z\" \\ $HOME;&"
    fake.define(name)
    offered = completions(fake, "cairn", "start", "")
    assert [shlex.split(o) for o in offered] == [[name]]
    assert completions(fake, "cairn", "start", "x\\ ") == offered  # as Tab leaves it
    for quote in ("\"", "'"):
        (rest,) = completions(fake, "cairn", "start", quote + "x ")
        said = subprocess.check_output(["bash", "-c", f"printf %s {quote}{rest}{quote}"], cwd=fake.tmp, text=True)
        assert said == name
        assert completions(fake, "cairn", "start", quote + "y") == [""]
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("plain", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "plain", "s $(touch ran)")
    assert completions(fake, "cairn", "snapshot-delete", "'plain'", "") == ["s\\ \\$\\(touch\\ ran\\)"]
    assert not (fake.tmp / "ran").exists()


# ---- top ----

def top(fake, *args):
    """Return what it shows. Ask again while a process that stands still gives no figures of its own."""
    while True:
        vms = json.loads(fake.cairn("top", "--every", "0.2", "--format", "json", *args).stdout)
        if all(v["cpu-percent"] is not None for v in vms if v["id"] != -1):
            return vms


def top_in_order(fake, names, *args):
    """Return the VMs when they come in this order. Ask again: a VM whose process stood still between two samples shows
    another rate."""
    while True:
        vms = top(fake, *args)
        if [v["name"] for v in vms] == names:
            return vms


def test_top_once(fake):
    for name, words in (("idle", None), ("busy", "works=2"), ("Works", "works=1"), ("off", None)):
        fake.define(name, cmdline=words)
    fake.cairn("start", "idle", "busy", "Works")
    vms = top_in_order(fake, ["busy", "Works", "idle"])
    assert all(v["state"] == "running" for v in vms)
    busy = vms[0]
    for key, much in (("disk-read-rate", 2), ("disk-write-rate", 4), ("net-rx-rate", 6), ("net-tx-rate", 8)):
        # All rates refer to the same interval, whatever its length.
        assert busy[key] == pytest.approx(busy["cpu-percent"] / 50 * 1e9 * much, rel=0.01), key
        assert vms[2][key] == 0
    assert vms[2]["cpu-percent"] == 0 and busy["memory"] == 32 << 20
    assert busy["resident-memory"] > 4096 and busy["resident-memory"] == pytest.approx(fake.info("busy")["resident-memory"], rel=0.5)
    assert [v["name"] for v in top(fake, "--sort", "name")] == ["busy", "idle", "Works"]
    top_in_order(fake, ["busy", "Works", "idle"], "--sort", "net")
    assert [v["name"] for v in top(fake, "--sort", "memory")] == ["busy", "idle", "Works"]
    # The named VMs, in any state; a VM that is off has no rates.
    vms = top(fake, "off", "idle", "--sort", "disk")
    assert [(v["name"], v["id"], v["cpu-percent"]) for v in vms] == [("idle", fake.info("idle")["id"], 0.0), ("off", -1, None)]
    rows = []
    while [(r["name"], r["cpu-percent"]) for r in rows[2:]] != [("idle", "0.0")]:  # as top_in_order()
        rows = list(csv.DictReader(io.StringIO(fake.cairn("top", "--every", "0.2", "--format", "csv").stdout)))
        assert {r["name"] for r in rows} == {"busy", "Works", "idle"}
    lines = [""] * 6
    while lines[4].split()[1:4] != ["idle", "running", "0.0"]:
        lines = fake.cairn("top", "--once", "--every", "0.2").stdout.splitlines()  # without a terminal: once
        assert len(lines) == 6
    assert lines[0].split() == ["Id", "Name", "State", "CPU", "%", "Memory", "Resident", "Read/s", "Written/s", "Received/s", "Sent/s"]
    assert lines[4].split()[4:6] == ["32.0", "MiB"]


def test_top_refuses_impossible_options(fake):
    fake.cairn("top", "nope", ok=3)
    for args in (["--every", "0"], ["--every", "x"], ["--sort", "id"]):
        assert fake.cairn("top", *args, ok=2).stderr.startswith("error: ")
    assert top(fake) == []


def lines_of(got):
    """Return the lines of the last complete screen."""
    last = got.split(b"\x1b[J")[-2].split(b"\x1b[H")[-1]
    return [x.replace(b"\x1b[K", b"").decode() for x in last.split(b"\r\n")]


def test_top_redraws_on_terminal(fake):
    for name, words in (("b-idle", None), ("a-busy", "works=1"), ("long" * 20, None)):
        fake.define(name, cmdline=words)
    fake.cairn("start", "b-idle", "a-busy")
    pid, fd = terminal(fake, "top", "--every", "0.1", "--sort", "cpu")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    unused = pty.openpty()
    before = termios.tcgetattr(unused[0])  # cairn may have changed its own terminal by now
    for end in unused:
        os.close(end)
    got = read_until(fd, b"\x1b[J")
    assert got.startswith(b"\x1b[?1049h") and b"c: cpu" in got

    def see(ok):
        """Wait until the screen is as expected."""
        nonlocal got
        while True:
            got = got[-20000:] + read_until(fd, b"\x1b[J")
            lines = lines_of(got)
            if ok(lines):
                return lines

    names = lambda lines: [x.split()[1] for x in lines[4:] if x.split()]  # noqa: E731
    # Now there are rates, of a busy VM.
    see(lambda lines: names(lines) == ["a-busy", "b-idle"] and lines[4].split()[3] not in ("-", "0.0"))
    os.write(fd, b"m")
    see(lambda lines: ", by memory" in lines[0])
    os.write(fd, b"A")
    see(lambda lines: ", by name" in lines[0])
    # VMs appear and disappear.
    fake.cairn("start", "long" * 20)
    see(lambda lines: "long" * 20 in names(lines))
    fake.cairn("destroy", "b-idle")
    see(lambda lines: names(lines) == ["a-busy", "long" * 20])
    # No line wraps, and rows below the screen's end are left out.
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 40, 0, 0))
    see(lambda lines: len(lines) == 5 and max(map(len, lines)) == 40)
    os.write(fd, b"q")
    read_until(fd, b"\x1b[?25h\x1b[?1049l")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert termios.tcgetattr(fd) == before
    os.close(fd)


@pytest.mark.parametrize("how", ["signal", "daemon"])
def test_top_restores_terminal(fake, how):
    pid, fd = terminal(fake, "top", "--every", "0.1")
    read_until(fd, b"\x1b[J")
    if how == "signal":
        os.write(fd, b"\x03")
    else:
        fake.stop(signal.SIGKILL)
    got = read_until(fd, b"\x1b[?1049l")
    if how == "daemon" and b"read the usage of domains" not in got:
        read_until(fd, b"read the usage of domains")  # where the user sees it
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (status == 0) == (how == "signal")
    os.close(fd)


# ---- console ----

def test_console_connects_terminal_to_guest(fake):
    fake.define("vm1")
    fake.cairn("console", "vm1", ok=4)
    fake.cairn("start", "vm1")
    pid, fd = terminal(fake, "console", "vm1")
    read_until(fd, b"fake guest")  # output from before the attach
    os.write(fd, b"\x03abc\r")  # Ctrl-C goes to the guest
    assert b"\x03abc\r" in read_until(fd, b"abc\r")
    os.write(fd, b"\x1dnot sent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    assert fake.info("vm1")["state"] == "running"


def write_all(fd, data, seconds=50):
    """Write to a terminal or pipe, and fail when its reader takes nothing for so long."""
    os.set_blocking(fd, False)
    while data:
        assert select.select([], [fd], [], seconds)[1], f"{len(data)} bytes are not read"
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:
            pass
    os.set_blocking(fd, True)


# More than fits into the sockets and pipes between a terminal and a guest.
PASTED = b"x" * 1023 * 1024


def test_console_detaches_from_guest_that_does_not_read(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    vm = fake.info("vm1")["pid"]
    pid, fd = terminal(fake, "console", "vm1")
    read_until(fd, b"fake guest")
    os.kill(vm, signal.SIGSTOP)
    try:
        write_all(fd, PASTED)
        os.write(fd, b"\x1d")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.kill(vm, signal.SIGCONT)
        os.close(fd)


def test_console_ends_by_signal_while_guest_does_not_read(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    vm = fake.info("vm1")["pid"]
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "console", "vm1"], env=fake.env, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
    try:
        read_until(p.stdout.fileno(), b"fake guest")
        os.kill(vm, signal.SIGSTOP)
        write_all(p.stdin.fileno(), PASTED)
        p.terminate()
        assert p.wait(50) == 0
    finally:
        os.kill(vm, signal.SIGCONT)
        p.kill()
        p.communicate()


def test_console_ends_with_the_vm(fake):
    fake.define("vm1", cmdline=f"off-after=1 when={fake.tmp}/go")
    pid, fd = terminal(fake, "start", "--console", "vm1")
    out = read_until(fd, b"fake guest")
    (fake.tmp / "go").touch()
    assert b"Domain 'vm1' started" in out and b"Escape character is ^]" in out
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    fake.wait("vm1", "shutoff")


def test_start_console_of_short_lived_guest_works(fake):
    fake.define("vm1", cmdline="exit-after=0:0")
    r = fake.cairn("start", "--console", "vm1", ok=None)
    assert r.stdout.startswith("Domain 'vm1' started\n")
    # The guest ends after its console was opened, meanwhile, or before.
    assert (r.returncode == 0 and not r.stderr or r.returncode == 1 and "the VM ended before it answered" in r.stderr or
            r.returncode == 4 and "VM 'vm1' is shut off" in r.stderr), r
    fake.wait("vm1", "shutoff")


def test_console_of_real_vm(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.cairn("start", "vm1")
    pid, fd = terminal(daemon, "console", "vm1")
    read_until(fd, b"interp")
    os.write(fd, b"echo hello\r")
    read_until(fd, b"ok")
    os.write(fd, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    # A late attach sees earlier output.
    pid, fd = terminal(daemon, "console", "vm1")
    assert b"hello" in read_until(fd, b"ok")
    os.write(fd, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)


def piped_console(daemon, *args, text="", ok=0):
    """The output of a console whose standard input is a pipe with this text."""
    r = subprocess.run([os.path.join(BUILD, "cairn"), "console", *args], env=daemon.env, input=text, text=True,
                       capture_output=True, timeout=50)
    assert r.returncode == ok, r
    return r


def test_piped_console_shows_output_so_far_and_exits(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    piped_console(fake, "vm1", "--until", "fake guest", "--no-input", "--timeout", "45")
    assert "fake guest" in piped_console(fake, "vm1").stdout
    assert fake.info("vm1")["state"] == "running"


def test_console_of_script_sends_input_and_waits_for_text(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.cairn("start", "vm1")
    piped_console(daemon, "vm1", "--no-input", "--until", "interp", "--timeout", "45")
    r = piped_console(daemon, "vm1", "--no-history", "--until", "ok", "--timeout", "45", text="cpuid 0 0\r")
    # The end of the line "interp" may come before it.
    assert r.stdout.lstrip("\n").startswith("eax=") and r.stdout.endswith("ok")
    # More input than the guest's side buffers arrives before the console ends.
    piped_console(daemon, "vm1", text="".join(f"wrong {i:050}\r" for i in range(400)) + "cpuid 0x80000000 0\r")
    shown = piped_console(daemon, "vm1", "--until", "eax=0x8000", "--timeout", "45", "--no-input").stdout
    assert shown.count("err") == 400


def test_console_fails_when_text_does_not_appear(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    r = piped_console(fake, "vm1", "--until", "never", "--timeout", "0.2", ok=1)
    assert 'error: timeout: the guest has not written "never"; see cairn domstate --reason vm1' in r.stderr
    assert piped_console(fake, "vm1", "--no-input", "--timeout", "0.2").stderr == ""
    assert "--until needs a text" in piped_console(fake, "vm1", "--until", "", ok=2).stderr
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "console", "vm1", "--until", "never", "--no-input"], env=fake.env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_until(p.stdout.fileno(), b"fake guest")
    fake.cairn("destroy", "vm1")
    assert b'the console ended before the guest wrote "never"' in p.communicate(timeout=50)[1]
    assert p.returncode == 1


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
