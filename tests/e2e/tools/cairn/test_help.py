"""`cairn help` compared with the schema: its statements about commands are the daemon's, each command has a verb,
and each verb sends the commands that its help names and no others."""

import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import threading

import agentlib
import pytest

from clilib import cairn
from conftest import BUILD, ROOT, QmpError

# Commands without a verb: the protocol's own, those that help is made from, and one for clients that read no events.
WITHOUT_VERB = {"qmp_capabilities", "query-commands", "query-qmp-schema", "schema-get", "job-wait"}
# Commands that any verb may send: to query VMs and to wait for jobs.
ON_THE_WAY = {"qmp_capabilities", "vm-list", "vm-info", "query-jobs", "job-cancel", "job-dismiss", "query-qmp-schema"}
# Arguments with a fixed set of words that are no option of that name with these words: a positional, flags, or not
# offered.
OTHERWISE = {("group-revert", "then"): [], ("blockcopy", "format"): ["dest-format"], ("blockjob", "format"): [], ("blockcommit", "format"): [], ("grant", "role"): ["positional"], ("request-permission", "role"): ["positional"], ("schedule", "action"): ["positional"], ("threshold", "measure"): ["positional"], ("screenshot", "format"): ["positional"], ("start", "kind"): [], ("create", "kind"): [],
             ("snapshot-delete", "children"): ["children", "children-only"], ("backup-begin", "children"): [], ("new", "boot"): [],
             ("domjobabort", "children"): []}
MAN = pathlib.Path(ROOT, "docs/man/cairn.1").read_text().replace("\\-", "-")
VERBS_C = "".join(p.read_text() for p in (pathlib.Path(ROOT, "tools/cairn/verbs/table.c"),
                                          *pathlib.Path(ROOT, "tools/cairn/verbs").glob("*_options.h")))


def help_of(*verb):
    return {v["name"]: v for v in json.loads(cairn("help", *verb, "--format", "json").stdout)}


VERBS = help_of()


@pytest.fixture
def schema(fake):
    q = fake.qmp()
    pages = iter(lambda n=itertools.count(): q.run("query-qmp-schema", page=next(n)), [])
    return {e["name"]: e for page in pages for e in page}


def commands_of(verb):
    return [c["name"] for c in VERBS[verb]["commands"]]


# ---- the schema and the table of verbs ----

def test_every_command_has_a_verb(schema):
    commands = {n for n, e in schema.items() if e["meta-type"] == "command"}
    named = {c for v in VERBS for c in commands_of(v)}
    assert named == commands - WITHOUT_VERB
    assert ON_THE_WAY | WITHOUT_VERB <= commands


def test_help_of_command_matches_schema(schema):
    """Role, states, whether it is a job: the daemon enforces what it reports (test_roles.py: the matrix)."""
    for v in VERBS.values():
        for c in v["commands"]:
            assert c == schema[c["name"]], v["name"]
    text = cairn("help", "snapshot-revert").stdout
    assert ("requires the role operator; the VM must be shutoff, running, paused, in-shutdown, crashed or preserved; starts a job\n"
            in text)
    assert "requires the role admin or creator\n" in cairn("help", "define").stdout
    assert "requires the role owner; the VM must be" in cairn("help", "undefine").stdout
    assert "requires the role owner, or admin for all VMs\n" in cairn("help", "web-hook").stdout
    assert "for everybody\n" in cairn("help", "version").stdout
    assert "Commands of the daemon" not in cairn("help", "run").stdout


def test_every_verb_and_option_has_help():
    for v in VERBS.values():
        assert v["summary"] and all(o["doc"] for o in v["options"]), v
        assert f"{v['name']} {v['arguments']}: ".replace(" :", ":") in cairn(
            "help", v["name"]).stdout.replace(" [OPTIONS]", "")


def test_help_shows_several_verbs_in_the_order_given():
    r = cairn("help", "undefine", "start")
    assert r.returncode == 0 and r.stdout == cairn("help", "undefine").stdout + "\n" + cairn("help", "start").stdout
    assert [v["name"] for v in json.loads(cairn("help", "undefine", "start", "--format", "json").stdout)] == ["undefine", "start"]
    r = cairn("help", "start", "strat")
    assert r.returncode == 2 and r.stdout == "" and r.stderr.startswith('error: unknown verb "strat"; did you mean start?\n')


def test_help_places_options_before_the_end_of_options():
    assert cairn("help", "run").stdout.startswith("cairn run [OPTIONS] [FILE] [-- COMMAND [ARGUMENT...]]: ")
    assert cairn("help", "start").stdout.startswith("cairn start {VM...|--all} [OPTIONS]: ")


def test_verb_table_does_not_repeat_schema(schema):
    """The table of verbs does not repeat what the schema says of a command or an argument."""
    commands = [e for e in schema.values() if e["meta-type"] == "command"]
    docs = {c["doc"] for c in commands} | {m["doc"] for c in commands for m in schema[c["arg-type"]]["members"]}
    twice = docs & set(re.findall(r'"((?:[^"\\]|\\.)*)"', VERBS_C))
    assert not twice
    # And every placeholder was found: another verb's argument would not be.
    assert VERBS_C.count("FROM_SCHEMA(") > 30


def test_words_of_options_match_schema(schema):
    seen = 0
    for v in VERBS.values():
        options = {o["name"]: o for o in v["options"]}
        for c in v["commands"]:
            for a in schema[c["arg-type"]]["members"]:
                words = schema[a["type"]].get("values")
                if not words:
                    continue
                seen += 1
                if (v["name"], a["name"]) not in OTHERWISE and "words" in options.get(a["name"], {}):
                    assert options[a["name"]]["words"] == words
                    continue
                flags = OTHERWISE.get((v["name"], a["name"]), words)
                assert flags == ["positional"] or set(flags) <= set(options), (v["name"], a["name"])
    assert seen > 10


def test_option_refuses_words_outside_its_list(fake):
    """Other words are refused, here or by the daemon; the listed words are accepted."""
    fake.define("vm1")
    seen = 0
    for v in VERBS.values():
        for o in (o for o in v["options"] if "words" in o and o["name"] != "event"):
            args = [v["name"], "--" + o["name"], "nonsense"] + ["vm1"] * v["arguments"].count("VM")
            args += ["x.tar"] * v["arguments"].count("FILE")
            if v["name"] in ("attach-disk", "change-media", "attach-interface", "detach-interface", "domrename"):
                args += ["x", "x"][:1 + (v["name"] == "attach-disk")]
            if v["name"] == "schedule":
                args += ["start", "--on", "daily"]
            if v["name"] == "threshold":
                args += ["cpu", "--above", "90"]
            if v["name"] == "revoke":
                args += ["--user", "nobody"]
            r = fake.cairn(*args, ok=2)
            said = r.stderr.splitlines()
            assert "nonsense" in r.stderr and all(w in said[0] + said[1] for w in o["words"]), (args, r.stderr)
            seen += 1
    assert seen > 40
    for v, option in (("wait", "for"), ("run", "log-level")):
        for word in next(o for o in VERBS[v]["options"] if o["name"] == option)["words"]:
            r = fake.cairn(v, f"--{option}", word, *(["--timeout", "0"] if v == "wait" else []), "nope", ok=None)
            assert r.returncode in (2, 3) and f"--{option}" not in r.stderr, r.stderr


# ---- effects of a verb ----

class Recorder:
    """A socket that forwards everything to the daemon's and records the commands."""

    def __init__(self, fake):
        self.to, self.seen, self.threads = fake.socket, [], []
        self.path = str(fake.tmp / "recorder.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.start(self.accept)

    def start(self, f, *args):
        t = threading.Thread(target=f, args=args, daemon=True)
        t.start()
        self.threads.append(t)

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.to)
            self.start(self.pump, client, server, True)
            self.start(self.pump, server, client, False)

    def pump(self, a, b, note):
        """Each command is one line."""
        rest = b""
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(a, 65536, 4)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n") if note else [b""]
                self.seen += [json.loads(x)["execute"] for x in lines]
                socket.send_fds(b, [data], fds)
                for fd in fds:
                    os.close(fd)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


# In this order, because some lines enable later ones. `vm1` is off at first. "@" is the folder of the files.
LINES = """
complete start x
complete snapshot-delete vm1 x
complete detach-disk vm1 x
complete schedule-pause vm1 x
complete threshold-remove vm1 x
complete pool-info x
complete approve x
complete net-info x
complete job-cancel x
define again.json
create once.json --console
destroy once
dumpjson vm1
dumpxml vm1
edit vm1
desc vm1 a text
setvcpus vm1 2
set-lifecycle-action vm1 crash restart
setmaxmem vm1 64M
setmem vm1 48M
attach-disk vm1 more.raw vdb
detach-disk vm1 vdb
change-media vm1 cd --eject
attach-interface vm1 user
forward-add vm1 2222:22 --config
forward-remove vm1 2222 --config
detach-interface vm1 user
domblklist vm1
domblkinfo vm1
domblkinfo vm1 vda --human
domblkstat vm1 vda
domiflist vm1
domifstat vm1 net0
domiftune vm1 net0 --config
blkdeviotune vm1 vda --config
domif-getlink vm1 net0 --config
domifaddr vm1
domifaddr vm1 --source lease
domblkerror vm1
dominfo vm1
dominfo vm1 --sandbox
domstate vm1
domid vm1
domuuid vm1
domname vm1
vcpuinfo vm1
vcpucount vm1
vcpucount vm1 --guest
nodeinfo
nodecpustats
metrics
trend vm1
advise vm1
threshold vm1 cpu --above 90 --name busy
threshold-list vm1
threshold-remove vm1 busy
web-hook chat --url https://chat.example.org/
web-hook-list
web-hook-test none
web-hook-remove chat
domstats vm1
top vm1 --once
domstats
domstats vm1 --backing
list --all --with-snapshot
log vm1
autostart vm1
console vm1
wait vm1 --for shutoff
new fresh --image more.raw --image-format raw
snapshot-create vm1
snapshot-create-as vm1 s1
snapshot-list vm1
snapshot-info vm1 s1
snapshot-dumpxml vm1 s1
snapshot-current vm1
snapshot-parent vm1 s1
snapshot-diff vm1 s1
snapshot-diff vm1 s1 --files
snapshot-rename vm1 s1 s2
snapshot-tag vm1 s2 old
snapshot-tag vm1 s2
schedule vm1 save --on yearly --name s1
schedule-list vm1
schedule-history vm1
schedule-pause vm1 s1
schedule-resume vm1 s1
schedule-remove vm1 s1
snapshot-schedule vm1 --every 1h
snapshot-schedule vm1
snapshot-schedule vm1 --remove
snapshot-revert vm1 s2
snapshot-delete vm1 s2 --dry-run
snapshot-delete vm1 s2
backup-begin vm1
domjobinfo vm1
snapshot-create-as vm1 served --disk-only --tag backup --tag keep
domjobabort vm1
clone vm1 full
clone vm1 live --live
clone live try --live
promote try
clone vm2 seeded --new-seed
export vm1 vm1.tar
import vm1.tar --name vm3
template vm1
template vm1 --disable
domrename vm1 vm9
domrename vm9 vm1
start vm1
start vm1 --foreground --publish 2222:22
domstats vm1
forward-add vm1 2222:22 --live
forward-remove vm1 2222 --live
forward-list vm1
clone vm1 live2 --live --publish 2222:22
domiftune vm1 net0 --live --config --inbound 100
blkdeviotune vm1 vda --live --config --total-iops-sec 100
blkdeviotune vm1 vda
attach-disk vm1 extra.raw vdz --persistent
detach-disk vm1 vdz --persistent
attach-interface vm1 user --target netz --forward 2223:22 --live
detach-interface vm1 user --timeout 1 --live
change-media vm1 cd more.raw
blockresize vm1 vda 64M
attach-device vm1 disk.json --persistent
detach-device vm1 disk.json --persistent
attach-device vm1 nic.json --live
detach-device vm1 nic.json --timeout 1 --live
update-device vm1 limits.json --persistent
update-device vm1 medium.json --live
update-device vm1 link.json --live
setmem vm1 40M --live
dommemstat vm1
dommemstat vm1 --period 5
domdirtyrate-calc vm1 --seconds 1
reclaim vm1
domif-setlink vm1 net0 down --live --config
domif-egress vm1 net0
domif-egress vm1 net0 deny --live
domif-egress vm1 net0 deny --config
domif-getlink vm1 net0
ssh vm1
wait vm1 --for ip --timeout 20
exec vm1 -- true
exec --no-wait vm1 -- true
exec-output job1
cp again.json vm1:/copy
guestinfo vm1
domhostname vm1
domfsinfo vm1
guestvcpus vm1
guestvcpus vm1 --cpulist 1 --disable
setvcpus vm1 1 --guest
setvcpus vm1 1 --live
setvcpus vm1 1 --current
domfstrim vm1
domfsfreeze vm1
domfsthaw vm1
set-user-password vm1 root word
domtime vm1
domtime vm1 --now
qemu-agent-command vm1 {"execute":"guest-info"}
start vm2 --console
qmp-path vm1
group-snapshot --name g vm1
group-revert --name g vm1
group-clone --name-pattern try-%s vm1
group-clone --network shared vm1
suspend vm1
resume vm1
reset vm1
dump vm1 core
screenshot vm1 picture.png
send-key vm1 KEY_ENTER
inject-nmi vm1
vncdisplay vm1
domdisplay vm1
save vm1 saved
restore saved
restart-process vm1
blockcopy vm1 vda --dest copied.qcow2 --pivot
blockcopy vm1 vda --dest another.qcow2 --finish
blockjob vm1 vda --pivot --dest another.qcow2
blockjob vm1 vda --abort
define slow.json
start slow
blockcopy slow vda --dest slow.qcow2 --no-wait
blockjob slow vda --abort
snapshot-create-as vm1 outside --disk-only --quiesce --diskspec vda,file=over.raw --reuse-external
blockcommit vm1 vda --pivot
snapshot-create-as vm1 outside --disk-only --diskspec vda,file=over.raw --reuse-external
blockcommit vm1 vda --keep-overlay
snapshot-revert vm1 gone
snapshot-delete vm1 gone
blockpull vm1 vda
managedsave vm1
managedsave-remove vm1
reboot vm1
reboot vm1 --cancel
shutdown vm1
shutdown vm1 --cancel
destroy vm1
undefine vm1 --snapshots-metadata
pool-define-as images dir --target pool
pool-list --format json
pool-info images
vol-create-as images v 1M
vol-list images
vol-info v --pool images
vol-dumpxml v --pool images
vol-path v --pool images
vol-clone v w --pool images
vol-download v @/v.copy --pool images
vol-download @/pool/v @/w.copy
vol-upload v @/v.copy --pool images
vol-upload @/pool/v @/v.copy
vol-clone @/pool/v x
vol-resize v 2M --pool images
vol-resize @/pool/v 1M --delta
vol-delete v --pool images
vol-delete @/pool/x
pool-undefine images
net-define net.json
net-list --all
net-info lan
net-dumpjson lan
net-dumpxml lan
net-edit lan
net-update lan add user 5 --config
net-update lan add user 6 --live
net-update lan add user 7
net-autostart lan
net-name lan
net-uuid lan
net-start lan
net-destroy lan
net-dhcp-leases lan
net-create net.json
net-undefine lan
event --since 0
events --timeout 0 --since 0
vsock vm1 5000
ssh vm1
jobs
job-cancel none
job-dismiss none
grant viewer --user 12345
permissions
permissions-review
approval-rule --acts destroy
approval-rule
request-permission viewer
requests
approve 1
deny 1
approval-rule --remove
quota --user 12345 --vms 3
quota
quota --user 12345 --remove
revoke --user 12345
audit
version
daemon-stop --vms-only
""".strip().splitlines()


# The files of attach-device, detach-device and update-device.
DEVICES = {
    "disk": {"disk": {"id": "vdy", "path": "extra.raw", "format": "raw"}},
    "nic": {"interface": {"type": "user", "id": "nety", "forwards": [{"port": 2224, "to": 22}]}},
    "limits": {"disk": {"id": "vda", "path": "vm1.img", "format": "qcow2", "iops": 7}},
    "medium": {"disk": {"id": "cd", "path": "more.raw", "format": "raw", "device": "cdrom", "readonly": True}},
    "link": {"interface": {"type": "network", "source": "lan", "link": "up"}},
}


@pytest.fixture
def no_networks(tmp_path, monkeypatch):
    """Have cairnd find a cairn-net that makes nothing in the host's network namespace."""
    (tmp_path / "libexec").mkdir()
    os.symlink("/bin/false", tmp_path / "libexec/cairn-net")
    monkeypatch.setenv("CAIRN_LIBEXEC", str(tmp_path / "libexec"))


def test_verb_sends_only_commands_named_in_help(no_networks, fake):
    agent = agentlib.Agent(fake.tmp / "agent.sock", fake.tmp)
    for name, cmdline in (("vm1", f"agent-after=1 agent-socket={fake.tmp}/agent.sock"), ("vm2", "off-after=100")):
        for f in (f"{name}.img", "more.raw", "extra.raw", "over.raw", "cd.iso"):
            (fake.tmp / f).write_bytes(bytes(1 << 20))
        fake.cairn("seed", str(fake.tmp / "cd.iso"), "--force")
        boot = {"boot": {"kernel": "kernel", "cmdline": cmdline}}
        fake.define(name, balloon=True, disks=[{"path": f"{name}.img", "format": "qcow2"},
                                 {"id": "cd", "path": "cd.iso", "format": "raw", "device": "cdrom", "readonly": True}],
                    guest_agent=True, interfaces=[{"type": "network", "source": "lan", "link": "down"}], **boot)
    for name in ("again", "once"):
        os.rename(fake.write(name), fake.tmp / f"{name}.json")
    (fake.tmp / "slow.img").write_bytes(bytes(1 << 20))
    os.rename(fake.write("slow", boot={"kernel": "kernel", "cmdline": f"work-until={fake.tmp}/never"},
                         disks=[{"path": "slow.img", "format": "qcow2"}]), fake.tmp / "slow.json")
    (fake.tmp / "pool").mkdir()
    (fake.tmp / "net.json").write_text(json.dumps({"name": "lan", "mode": "isolated"}))
    for name, device in DEVICES.items():
        (fake.tmp / f"{name}.json").write_text(json.dumps(device))
    recorder, asked = Recorder(fake), {}
    fake.env["EDITOR"] = 'sed -i -e s/32M/40M/ -e \'s/.mode.:/"mtu":1400,&/\''
    fake.env.pop("VISUAL", None)
    try:
        for line in LINES:
            verb, *args = line.replace("@", str(fake.tmp)).split()
            recorder.seen = []
            fake.cairn("-c", recorder.path, verb, *args, ok=None, cwd=fake.tmp)
            asked[verb] = asked.get(verb, set()) | set(recorder.seen)
    finally:
        recorder.close()
        agent.close()
    assert set(asked) == set(VERBS) - {"validate", "run", "image-list", "image-remove", "doctor", "cpu-models", "help", "seed", "shell", "web",
                                       "save-image-dumpjson", "save-image-dumpxml", "save-image-define", "save-image-edit"}
    wrong = {}
    for verb, seen in asked.items():
        said = set(commands_of(verb))
        if not said <= seen or not seen <= said | ON_THE_WAY:
            wrong[verb] = (said - seen, seen - said)
    assert not wrong


def test_list_can_matches_what_succeeds(fake):
    """list --can compared with what succeeds."""
    # fake_vm answers the power button by turning off, or (deaf) not at all.
    names = {"off": None, "runs": "deaf", "stands": "deaf"}
    for name, cmdline in names.items():
        fake.define(name, cmdline=cmdline)
    for verb in ("start", "shutdown", "reset", "suspend", "resume", "destroy", "undefine"):
        fake.cairn("destroy", "--all")
        for name, cmdline in names.items():
            fake.define(name, cmdline=cmdline)
        fake.cairn("start", "runs", "stands")
        fake.cairn("suspend", "stands")
        can = fake.cairn("list", "--name", "--can", verb).stdout.split()
        does = [n for n in sorted(names) if fake.cairn(verb, n, ok=None).returncode == 0]
        assert sorted(can) == does and 0 < len(does) < len(names), verb
    assert "unknown verb" in fake.cairn("list", "--can", "nonsense", ok=2).stderr
    # Verbs possible in any state.
    assert sorted(fake.cairn("list", "--name", "--can", "dominfo").stdout.split()) == ["runs", "stands"]
    for n in ("runs", "stands"):
        assert f"Would mark as autostarted domain '{n}'" in fake.cairn("autostart", "--all", "--dry-run").stdout


def test_list_can_of_template_matches_what_succeeds(fake):
    for name in ("golden", "off"):
        (fake.tmp / f"{name}.raw").write_bytes(bytes(1 << 20))
        fake.define(name, disks=[{"path": f"{name}.raw", "format": "raw"}])
        fake.cairn("snapshot-create-as", name, "s")
    fake.cairn("template", "golden")
    for verb, *more in (["start"], ["snapshot-create"], ["snapshot-create-as", "t"], ["snapshot-revert", "s"]):
        assert fake.cairn("list", "--name", "--can", verb).stdout == "off\n", verb
        assert "'golden' is a template" in fake.cairn(verb, "golden", *more, ok=False).stderr, verb
    for verb in ("clone", "dominfo", "snapshot-list", "undefine"):
        assert fake.cairn("list", "--name", "--can", verb).stdout == "golden\noff\n", verb


# Verbs that are refused depending on arguments, or that end the VM.
DEPENDS = {"vm-autostart", "vm-template", "vm-undefine"}


def test_schema_lists_commands_refused_by_templates(fake, schema):
    fake.define("golden")
    fake.cairn("template", "golden")
    q, said = fake.qmp(), set()
    given = {"vm-define": {"definition": q.run("vm-dump-definition", vm="golden")["definition"]}, "schedule-add": {"action": "start"},
             "threshold-set": {"measure": "cpu"}}
    for name, c in schema.items():
        members = {m["name"]: m for m in schema[c["arg-type"]]["members"]} if c["meta-type"] == "command" else {}
        if name in DEPENDS or not {"vm", "vms", "definition"} & set(members):
            continue
        args = {m: "golden" if m == "vm" else ["golden"] if m == "vms" else [] if schema[t["type"]].get("json-type") == "array" else "x"
                for m, t in members.items() if "default" not in t}
        try:
            q.run(name, **args | given.get(name, {}))
        except QmpError as e:
            said |= {name} if "'golden' is a template: cannot " in e.desc else set()
    assert said == {n for n, c in schema.items() if not c.get("templates", True)} and "vm-start" in said


# ---- suggestions ----

@pytest.mark.parametrize("args,hint", [
    (["strat", "vm1"], "did you mean start?"), (["help", "lsit"], "did you mean list?"),
    (["snapshotlist"], "did you mean snapshot-list?"), (["frobnicate"], None), (["x"], None), (["q" * 5000], None),
    (["start", "--pasued", "vm1"], "did you mean --paused?"), (["list", "--formt", "json"], "did you mean --format?"),
    (["list", "--" + "a" * 5000], None), (["shutdown", "--tehn=save", "vm1"], "did you mean --then?")])
def test_misspelled_words_get_suggestions(args, hint):
    r = cairn(*args)
    first, second = r.stderr.splitlines()
    assert r.returncode == 2 and r.stdout == ""
    assert first.endswith(hint) if hint else "did you mean" not in first
    assert "cairn help" in second


@pytest.mark.parametrize("word,verb", [
    ("ps", "list"), ("stop", "shutdown"), ("kill", "destroy"), ("rm", "undefine"), ("logs", "log"),
    ("launch", "new"), ("fork", "clone"), ("migrate", "export"), ("loadvm", "snapshot-revert"), ("users", "permissions"),
    ("schedinfo", "edit"), ("vcpupin", "vcpuinfo"), ("pool-start", "pool-undefine"), ("metadata", "desc"),
    ("pool-create", "pool-define-as"), ("nwfilter-binding-list", "domif-egress"), ("hostname", "nodeinfo"), ("uri", "version prints the daemon's socket,"), ("restart", "reboot"),
    ("load", "run"), ("iface-bridge", "net-list"), ("migrate-setspeed", "export"), ("net-port-list", "net-dhcp-leases"), ("approvals", "requests")])
def test_words_of_other_tools_name_the_verb(word, verb):
    r = cairn(word, "vm1")
    first, second = r.stderr.splitlines()
    assert r.returncode == 2 and first == f'error: unknown verb "{word}"' and f"cairn {verb} " in second + " "


@pytest.mark.parametrize("args,advice", [
    (["run", "-it", "-d", "nginx"], "cairn new NAME --image FILE"), (["run", "-P", "nginx"], "--publish PORT:TO"),
    (["run", "--mount", "type=bind,src=/a,dst=/b", "x"], "--volume FOLDER:/PLACE"),
    (["run", "--hostname", "x"], "--name NAME"), (["run", "--privileged", "x"], "root of the guest"), (["run", "--gpus", "all"], "no devices of the host"),
    (["schedule", "web1", "save", "--every", "1h"], "--on CALENDAR"),
    (["run", "python:3.12", "python3", "-c", "1"], "cairn run --image IMAGE -- COMMAND"), (["shutdown", "-a"], "see cairn help shutdown"),
    (["list", "-z"], "see cairn help list"), (["log", "vm1", "-n", "5"], "--tail N"),
    (["audit", "--last", "5"], "--since TIME"), (["-c", "qemu:///system", "list"], "see cairn help")])
def test_options_of_other_tools_get_advice(args, advice):
    r = cairn(*args)
    first, second = r.stderr.splitlines()
    assert r.returncode == 2 and r.stdout == "" and ("has no option -" in first or 'not the URI "qemu:///system"' in first) and advice in second


def test_option_of_a_verb_before_the_verb_is_told_its_place():
    r = cairn("--format", "json", "list")
    assert r.returncode == 2 and r.stderr.startswith("error: unknown option --format before the verb; the options of a verb follow it\n")
    r = subprocess.run([os.path.join(BUILD, "cairnd"), "--bogus"], capture_output=True, text=True, check=False, timeout=50)
    assert r.returncode == 2 and r.stderr.endswith("unrecognized option '--bogus'\nerror: see cairnd --help\n")


def test_options_of_virsh_are_accepted_or_get_advice():
    """tests/data/virsh-options has the options of virsh 9.0 for the verbs that Cairn has, too; those with = take a
    value."""
    for line in pathlib.Path(ROOT, "tests/data/virsh-options").read_text().splitlines():
        verb, *options = line.split()
        for o in options:
            name, takes, _ = o.partition("=")
            r = cairn("-c", "/nonexistent", verb, f"--{name}", *["1"] * bool(takes))
            lines = r.stderr.splitlines()
            if any("has no option" in x for x in lines):
                assert len(lines) == 2 and not lines[1].startswith("error: see cairn help"), (verb, o, r.stderr)
            assert takes or f"--{name} needs a value" not in r.stderr, (verb, o, r.stderr)
            assert not takes or f"--{name} takes no value" not in r.stderr, (verb, o, r.stderr)


def test_advice_for_options_of_other_tools_names_options_that_exist():
    text = pathlib.Path(ROOT, "tools/cairn/foreign_words.c").read_text()
    words = {m[1]: m[2] for m in re.finditer(r'#define (\w+) "([^"]+)"', text)}
    rows = re.findall(r'\{ "([^"]+)",\s+("[^"]+"(?:\s+"[^"]+")*),\s+(?:"([^"]+)"|(\w+)) \}', text)
    assert len(rows) > 60
    for verbs, options, advice, word in rows:
        advice = advice or words[word]
        options = "".join(re.findall(r'"([^"]+)"', options)).split()
        for v in verbs.split():
            own = {o["name"] for o in VERBS[v]["options"]}
            assert not own & set(options), (v, options)
        told = set(re.findall(r"\bcairn ([a-z][a-z-]*)", advice))
        assert told <= set(VERBS), advice
        known = {o["name"] for v in [*verbs.split(), *told] for o in VERBS[v]["options"]} | {"format"}
        assert set(re.findall(r"--([a-z][a-z-]*)", advice)) - set(options) - {"xpath", "reflink", "length"} <= known, advice


def test_run_of_an_image_without_its_option_names_the_option():
    r = cairn("run", "ubuntu", "bash")
    assert "there is no file ubuntu; to run a command in a container image: cairn run --image ubuntu -- COMMAND" in r.stderr
    assert "there is no file ls; if this is the command, write -- before it" in cairn("run", "--root", "/", "ls").stderr


@pytest.mark.parametrize("word, verb", [("hooks", "web-hook"), ("page", "web"), ("backup", "backup-begin"), ("permit", "grant"),
                                        ("set", "edit"), ("unschedule", "schedule-remove")])
def test_word_of_a_topic_names_its_verb(word, verb):
    for words in [word], ["help", word]:
        assert f"cairn {verb} " in cairn(*words).stderr


def test_advice_for_words_of_other_tools_names_verbs_that_exist():
    text = pathlib.Path(ROOT, "tools/cairn/foreign_words.c").read_text()
    verbs = {v["name"] for v in json.loads(cairn("help", "--format", "json").stdout)}
    rows = re.findall(r'\{ "([^"]+)", "([^"]+)" \}', text)
    words = [w for row, _ in rows for w in row.split()]
    assert len(rows) > 40 and len(set(words)) == len(words) and not verbs & set(words)
    for _, advice in rows:
        named = re.findall(r"\bcairn ([a-z][a-z-]*)", advice)
        assert named and set(named) <= verbs or "cairn-img" in advice, advice


# ---- the manual page ----

def man_entries():
    """Return each verb's text by name, from its heading on."""
    entries = {}
    for part in re.split(r"^\.(?:TP|SH.*)\n", MAN, flags=re.M):
        heads = re.findall(r"^(\.B[RI]? .*(?:\n\.TQ\n\.BR .*)*)", part)
        for word in re.findall(r"(?<![\w-])[a-z][a-z-]+", heads[0].replace("\\fI", " ").replace("\\fR", " ")) if heads else []:
            if word in VERBS:
                entries[word] = part
    return entries


def test_manual_lists_every_verb_and_option():
    entries = man_entries()
    assert set(entries) == set(VERBS)
    for v in VERBS.values():
        for o in v["options"]:
            assert re.search(rf"--{o['name']}(?![a-z-])", MAN), (v["name"], o["name"])
            if o["name"] in re.findall(r"--([a-z-]+)", entries[v["name"]]) and o["name"] not in ("format", "event"):
                assert all(w in entries[v["name"]] for w in o.get("words", [])), (v["name"], o)
