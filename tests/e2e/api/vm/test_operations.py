"""One operation per VM: a table of every pair of an operation in progress and a request.

Each row names the operation in progress: its function brings a VM there and holds the operation, by a file that
tests/helpers/fake_vm or the disk waits for. Each letter is the outcome of one request meanwhile, in the order of
ASKS."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import time

import pytest

from conftest import BUILD, FAKE_VM, Daemon, Qmp, library, until

PRELOAD = library("slow_sync")

# Letter: what the refusal says. "+": allowed: it succeeds, or its job begins, while the first operation is under way,
# or it ends that one. "w": waits, and succeeds when the first operation is over. Lower case: waits, and is refused
# then. "v": "w" or "c": it waits for the offline process alone, which may be gone before or after the first operation
# is over.
SENTENCES = {
    "S": "is being started; .* afterwards",
    "D": "is being stopped; .* afterwards",
    "J": "is under way; .* afterwards, or end the job with: cairn job-cancel job",
    "C": "is being (undefined|changed); .* afterwards",
    "N": "is being renamed; .* afterwards",
    "R": "its managed save is being removed; .* afterwards",
    "L": "its snapshots are being read; .* afterwards",
    "P": "will be restarted; to cancel the restart: cairn destroy",
    "B": "^work of this VM is under way",  # says its process
    "G": "^there is no VM|the VM's process ended",
    ".": "is [a-z ]+ already, and nothing was done|works when it is|has a managed save|shut it down, or|"
         "would change during the copy",  # for the VM's state, in any case
    "+": "saved state's header|there is no (such )?snapshot|has no backing file",  # nothing else forbids it
}


class Bench:
    """A VM in a daemon, and a way to hold the operation in progress."""

    def __init__(self, daemon, n, slow):
        self.daemon, self.n, self.slow = daemon, n, slow
        self.tmp = daemon.tmp
        self.vm = f"v{n}"
        self.go = self.tmp / f"{n}.go"
        self.q, self.a, self.a2, self.b = daemon.q, *(Qmp(daemon.socket) for _ in range(3))
        self.kill = self.pipe = None

    def file(self, name):
        return self.tmp / f"{self.n}.{name}"

    def define(self, words="", vm=None, **keys):
        image = self.file("img")
        image.write_bytes(b"")
        os.truncate(image, 1 << 20)
        self.definition = {"name": vm or self.vm, "memory": "32M",
                           "boot": {"kernel": str(self.tmp / "kernel"), "cmdline": words.replace("GO", str(self.go))},
                           "disks": [{"path": str(image), "format": "qcow2"}], **keys}
        self.uuid = self.q.run("vm-define", definition=self.definition)["uuid"]

    def run(self, command, **args):
        return self.q.run(command, vm=self.vm, **args)

    def settled(self):
        """Wait until the daemon has seen everything that was sent."""
        for _ in range(2):
            self.q.run("query-version")

    def ask(self, command, **args):
        """Send the first request, whose answer comes when the operation ends."""
        send(self.a, command, vm=self.vm, **args)
        self.settled()

    def state(self):
        return self.run("vm-info")["state"]

    def job_ends(self, answer):
        until(lambda: self.q.run("query-jobs", id=answer["job"])[0]["status"] == "concluded")

    def release(self):
        self.go.touch()
        self.slow.touch()
        if self.kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.kill, signal.SIGKILL)

    def close(self):
        self.release()
        for q in (self.a, self.a2, self.b):
            q.close()
        if self.pipe:
            os.close(self.pipe)
            self.pipe = None


def send(q, command, fd=None, **args):
    data = json.dumps({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}).encode()
    if fd is None:
        q.send(data)
    else:
        socket.send_fds(q.sock, [data], [fd])


# ---- operations in progress ----

def off(x):
    x.define()


def running(x):
    x.define()
    x.run("vm-start")


def saved(x, words=""):
    x.define(words)
    x.run("vm-start")
    x.job_ends(x.run("vm-managed-save"))


def restart_pending(x):
    x.define("kill-after=0", on_crash="restart", restart={"delay": 60, "max_delay": 60, "tries": 3})
    x.run("vm-start")
    until(lambda: x.run("vm-info").get("restart-in", 0) > 30e9)  # the first restart is immediate


def process_waits(x):
    """The files are open, and the VM's process has begun."""
    until(lambda: (x.daemon.state / f"vms/{x.vm}/log").exists() and "pid" in x.run("vm-info"))


def starting(x):
    x.define("config-until=GO")
    x.ask("vm-start")
    process_waits(x)


def start_queued(x):
    x.define("config-until=GO", vm=f"first{x.n}")
    send(x.a, "vm-start", vm=f"first{x.n}")
    x.define()
    send(x.a2, "vm-start", vm=x.vm)
    x.settled()


def start_waits_for_images(x):
    listing(x)
    send(x.a2, "vm-start", vm=x.vm)
    x.settled()


def start_holds_save(x):
    saved(x)
    x.q.run("vm-define", definition=x.definition)  # the renaming waits for no other write then
    x.slow.unlink()
    x.ask("vm-start")
    until(lambda: (x.daemon.state / f"vms/{x.vm}/managed.save.used").exists())  # before that, destroy ends the start at once


def stopping(x):
    x.define("stubborn")
    x.run("vm-start")
    x.kill = x.run("vm-info")["pid"]
    x.ask("vm-destroy")


def start_refused(x):
    """The start has failed, and its process is ending."""
    x.define("refuse lingers-until=GO")
    x.ask("vm-start")
    process_waits(x)
    until(lambda: "refused" in (x.daemon.state / f"vms/{x.vm}/log").read_text())


def shutting_down(x):
    x.define("deaf")
    x.run("vm-start")
    x.run("vm-shutdown")


def rebooting(x):
    x.define("deaf")
    x.run("vm-start")
    x.run("vm-reboot")


def suspending(x):
    x.define("stops-quietly")
    x.run("vm-start")
    x.kill = x.run("vm-info")["pid"]
    x.ask("vm-suspend")


def saving(x):
    x.define("work-until=GO")
    x.run("vm-start")
    with open(x.file("first"), "w+b") as f:
        send(x.q, "vm-save", f.fileno(), vm=x.vm)
    assert "job" in x.q.answer()["return"]
    until(lambda: x.state() == "paused")


def managed_saving(x):
    x.define("work-until=GO")
    x.run("vm-start")
    x.run("vm-managed-save")
    until(lambda: x.state() == "paused")


def restarting_process(x):
    x.define("work-until=GO")
    x.run("vm-start")
    x.run("vm-restart-process")
    until(lambda: x.state() == "paused")


def save_being_kept(x):
    managed_saving(x)
    x.slow.unlink()
    x.go.touch()
    until(lambda: x.state() == "saved")


def save_being_dropped(x):
    saved(x)
    x.slow.unlink()
    x.ask("vm-managed-save-remove")


def with_snapshot(x, run):
    """Of its memory, too, if it runs; nothing is held so far."""
    x.define("work-until=GO")
    x.go.touch()
    if run:
        x.run("vm-start")
    x.job_ends(x.run("snapshot-create", name="s"))
    x.go.unlink()


def snapshotting(x):
    x.define("work-until=GO")
    x.run("vm-start")
    x.run("snapshot-create", name="s")


def snapshotting_off(x):
    x.define("work-until=GO")
    x.run("snapshot-create", name="s")
    until(lambda: x.daemon.children())


def deleting(x):
    with_snapshot(x, True)
    x.run("snapshot-delete", name="s")
    x.settled()


def reverting(x):
    with_snapshot(x, True)
    x.run("snapshot-revert", name="s")


def reverting_off(x):
    with_snapshot(x, False)
    x.run("snapshot-revert", name="s")


def revert_stops(x):
    """To a snapshot of disks only: the job stops the VM first."""
    x.define("stubborn")
    x.run("vm-start")
    x.job_ends(x.run("snapshot-create", name="s", disks_only=True))
    x.kill = x.run("vm-info")["pid"]
    x.run("snapshot-revert", name="s")
    until(lambda: "is being stopped" in refusal(x, "vm-reset"))


def revert_starts(x):
    """To a snapshot with memory, of a VM that is off: the job starts the VM first."""
    x.define()
    x.run("vm-start")
    x.job_ends(x.run("snapshot-create", name="s"))
    x.run("vm-destroy")
    x.definition["boot"]["cmdline"] = f"boot-until={x.go}"
    x.q.run("vm-define", definition=x.definition)
    x.run("snapshot-revert", name="s")
    until(lambda: "is being started" in refusal(x, "vm-reset"))


def forking(x):
    x.define("work-until=GO")
    x.run("vm-start")
    x.run("vm-fork", name=f"first{x.n}")


def forking_snapshot(x):
    with_snapshot(x, False)
    x.run("vm-fork", name=f"first{x.n}", snapshot="s")


def fork_starts_clone(x):
    x.define(f"clone-until=GO:first{x.n}")
    x.run("vm-start")
    x.run("vm-fork", name=f"first{x.n}")
    clone = {"vm": f"first{x.n}"}
    until(lambda: "is being started" in refusal(x, "vm-reset", **clone))


def clone_of_fork(x):
    """The clone itself."""
    source, x.vm = x.vm, f"first{x.n}"
    x.define(f"clone-until=GO:first{x.n}", vm=source)
    x.q.run("vm-start", vm=source)
    x.q.run("vm-fork", vm=source, name=x.vm)
    until(lambda: "is being started" in refusal(x, "vm-reset"))


def cloning(x):
    x.define("config-until=GO")
    x.run("vm-clone", name=f"first{x.n}", kind="full")
    until(lambda: x.daemon.children())


def cloning_linked(x):
    x.define("config-until=GO")
    x.run("vm-clone", name=f"first{x.n}", kind="linked")
    until(lambda: x.daemon.children())


def clone_of_clone(x):
    """The clone itself, of a VM that is off."""
    source, x.vm = x.vm, f"first{x.n}"
    x.define("config-until=GO", vm=source)
    x.q.run("vm-clone", vm=source, name=x.vm, kind="full")
    until(lambda: x.vm in [vm["name"] for vm in x.q.run("vm-list", limit=1000)["vms"]])


def exporting(x):
    x.define()
    with open(x.file("img"), "wb") as f:
        f.write(os.urandom(1 << 20))
    x.definition["disks"][0]["format"] = "raw"
    x.q.run("vm-define", definition=x.definition)
    x.pipe, w = os.pipe()  # nobody reads it
    send(x.q, "vm-export", w, vm=x.vm)
    os.close(w)
    assert "job" in x.q.answer()["return"]


def importing(x):
    source, x.vm = x.vm, f"first{x.n}"
    x.define(vm=source)
    with open(x.file("img"), "wb") as f:
        f.write(os.urandom(1 << 20))
    x.definition["disks"][0]["format"] = "raw"
    x.q.run("vm-define", definition=x.definition)
    with open(x.file("tar"), "w+b") as f:
        send(x.q, "vm-export", f.fileno(), vm=source)
        x.job_ends(x.q.answer()["return"])
    x.slow.unlink()
    with open(x.file("tar"), "rb") as f:
        send(x.q, "vm-import", f.fileno(), folder=str(x.tmp / "imported"), name=x.vm)
    assert "job" in x.q.answer()["return"]


def dumping(x):
    x.define("work-until=GO")
    x.run("vm-start")
    with open(x.file("first"), "wb") as f:
        send(x.q, "vm-dump", f.fileno(), vm=x.vm)
    assert "job" in x.q.answer()["return"]


def pulling(x, run=True):
    x.define("work-until=GO")
    base = x.file("base")
    base.write_bytes(bytes(1 << 20))
    x.definition["disks"][0]["backing"] = [{"path": str(base), "format": "raw"}]
    x.q.run("vm-define", definition=x.definition)
    if run:
        x.run("vm-start")
    x.run("vm-blockpull", disk="vda")


def pulling_off(x):
    pulling(x, False)
    until(lambda: x.daemon.children())


def templating(x):
    x.define("config-until=GO")
    x.ask("vm-template")


def undefining(x):
    x.define("config-until=GO")
    x.ask("vm-undefine")


def renaming(x):
    x.define()
    x.slow.unlink()
    new = f"new{x.n}"
    x.ask("vm-rename", name=new)
    x.vm = x.definition["name"] = new


def listing(x):
    x.define("config-until=GO")
    x.ask("snapshot-list")


# ---- requests ----

def with_file(mode="w+b"):
    def fds(x):
        f = open(x.file("second"), mode)
        return f, f.fileno()
    return fds


def state_file(x):
    """Content is irrelevant: the VM's process finds that it is no state."""
    x.file("state").write_bytes(b"no state")
    f = open(x.file("state"), "r+b")
    return f, f.fileno()


ASKS = {
    "start": ("vm-start", {}, None),
    "destroy": ("vm-destroy", {}, None),
    "shutdown": ("vm-shutdown", {}, None),
    "reboot": ("vm-reboot", {}, None),
    "reset": ("vm-reset", {}, None),
    "suspend": ("vm-suspend", {}, None),
    "resume": ("vm-resume", {}, None),
    "save": ("vm-save", {}, with_file()),
    "m-save": ("vm-managed-save", {}, None),
    "r-process": ("vm-restart-process", {}, None),
    "m-remove": ("vm-managed-save-remove", {}, None),
    "restore": ("vm-restore", {}, state_file),
    "s-create": ("snapshot-create", {"name": "second"}, None),
    "s-delete": ("snapshot-delete", {"name": "s"}, None),
    "s-revert": ("snapshot-revert", {"name": "s"}, None),
    "s-set": ("snapshot-set", {"name": "s", "description": "d"}, None),
    "s-list": ("snapshot-list", {}, None),
    "s-size": ("snapshot-size", {"name": "s"}, None),
    "pull": ("vm-blockpull", {"disk": "vda"}, None),
    "clone": ("vm-clone", {"kind": "full"}, None),
    "linked": ("vm-clone", {"kind": "linked"}, None),
    "fork": ("vm-fork", {}, None),
    "fork-s": ("vm-fork", {"snapshot": "s"}, None),
    "template": ("vm-template", {}, None),
    "export": ("vm-export", {}, with_file()),
    "export-s": ("vm-export", {"snapshot": "s"}, with_file()),
    "dump": ("vm-dump", {}, with_file()),
    "undefine": ("vm-undefine", {}, None),
    "rename": ("vm-rename", {}, None),
    "define": ("vm-define", {}, None),
}


def second(x, name):
    """Send the second request."""
    command, args, fds = ASKS[name]
    args = {"vm": x.vm, **args}
    f = fd = None
    if command in ("vm-clone", "vm-fork", "vm-rename"):
        args["name"] = f"second{x.n}"
    if command == "vm-define":
        args = {"definition": {**x.definition, "name": x.vm, "title": "second"}}
    if command == "vm-restore":
        d = x.run("vm-dump-definition", inactive=True)["definition"]
        args = {"definition": d}
    if fds:
        f, fd = fds(x)
    send(x.b, command, fd, **args)
    if f:
        f.close()


def refusal(x, command, **args):
    m = {"execute": command, "arguments": {"vm": x.vm, **args}}
    x.q.send(json.dumps(m).encode())
    return x.q.answer().get("error", {}).get("desc", "")


def letter(answer):
    if "return" in answer:
        return "+"
    desc = answer["error"]["desc"]
    found = [c for c, pattern in SENTENCES.items() if re.search(pattern, desc)]
    assert len(found) == 1, (found, desc)
    return found[0]


def answer(x, seconds):
    """Return the answer to the second request, if it comes this soon; else None."""
    end = time.monotonic() + seconds
    while True:
        while b"\r\n" not in x.b.buffer:
            if not select.select([x.b.sock], [], [], max(0, end - time.monotonic()))[0]:
                return None
            x.b.buffer += x.b.sock.recv(65536)
        m = x.b.read()
        if "event" not in m:
            return m


ROWS = {f.__name__: f for f in (
    off, running, saved, restart_pending, starting, start_queued, start_waits_for_images, start_holds_save, stopping,
    start_refused, shutting_down, rebooting, suspending, saving, managed_saving,
    restarting_process, save_being_kept, save_being_dropped,
    snapshotting, snapshotting_off, deleting, reverting, reverting_off, revert_stops, revert_starts, forking,
    forking_snapshot, fork_starts_clone, clone_of_fork, cloning, cloning_linked, clone_of_clone, exporting, importing,
    dumping, pulling, pulling_off, templating, undefining, renaming, listing)}
SLOW = {start_holds_save, save_being_kept, save_being_dropped, importing, renaming}


# Columns, as ASKS: start destroy shutdown reboot reset suspend resume | save m-save r-process m-remove restore |
# snapshots: create delete revert set list size | pull clone linked fork fork-s template export export-s dump |
# undefine rename define
TABLE = """
off                     +...... ....+ ++++++ +++.++++. +++
running                 .+++++. +++.. ++++++ +..++..++ ..+
saved                   +...... ...+. ++.+++ +...+..+. .++
restart_pending         ++P.... ....+ ++++++ +++.++++. +++
starting                S+SSSSS SSSSS SSSSSS SSSSSSS+S SS+
start_queued            S+..... ....S SSSSSS SSS.SSS+. SS+
start_waits_for_images  S+..... ....S SSSSSS SSS.SsS+. sS+
start_holds_save        Sw..... ...SS SS.SSS S...S.S+. SSS
stopping                DwDDDDD DDDDD DDDDDD D..DDDD+D DD+
start_refused           S+SSSSS SSSSS SSSSSS SSSSSSS+S SS+
shutting_down           .+++++. ++... ++++++ +...+..++ ..+
rebooting               .+++++. ++... ++++++ +...+..++ ..+
suspending              .++++g. +++.. ++++++ +..++..++ ..+
saving                  .+..+.B JJJ.J JJJJ++ J..JJ.JJJ ..+
managed_saving          .+..+.B JJJ.J JJJJ++ J..JJ.JJJ ..+
restarting_process      .+..+.B JJJ.J JJJJ++ J..JJ.JJJ ..+
save_being_kept         w...... ...JJ JJ.J++ J...J.JJ. JJw
save_being_dropped      R...... ...RR RR.R++ R...R.RR. RRw
snapshotting            .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
snapshotting_off        J...... ....J JJJJ++ JJJ.JJJJ. JJ+
deleting                .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
reverting               .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
reverting_off           J...... ....J JJJJ++ JJJ.JJJJ. JJ+
revert_stops            DwDDDDD DDDDD DDDD++ D..DDDJJD DD+
revert_starts           S+SSSSS SSSSS SSSS++ SSSSSSJJS SS+
forking                 .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
forking_snapshot        J...... ....J JJJJ++ JJJ.JJJJ. JJ+
fork_starts_clone       .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
clone_of_fork           S+SSSSS SSSSS SSSSJJ SSSSSSJJS SSS
cloning                 J...... ....J JJJJww JJJ.JJJJ. JJ+
cloning_linked          J...... ....J JJJJww JJJ.JJJJ. JJ+
clone_of_clone          J...... ....J JJJJJJ JJJ.JJJJ. JJJ
exporting               J...... ....J JJJJ++ JJJ.JJJJ. JJ+
importing               J...... ....J JJJJJJ JJJ.JJJJ. JJJ
dumping                 .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
pulling                 .+++++. JJJ.J JJJJ++ J..JJ.JJJ ..+
pulling_off             J...... ....J JJJJ++ JJJ.JJJJ. JJ+
templating              C...... ....C CCCCww CCC.CvCC. vCC
undefining              C...... ....C CCCCww CCC.CgCC. gCC
renaming                N...... ....N NNNNNN NNN.NNNN. NNN
listing                 w...... ....L +++www +++.+w++. ww+
"""


def expected():
    return {line.split()[0]: "".join(line.split()[1:]) for line in TABLE.strip().splitlines()}



class Held(Daemon):
    """A daemon that starts one VM at a time where the row needs it, and has a slow disk where the row needs one."""

    def __init__(self, tmp, row):
        self.slow = tmp / "slow.go"
        self.slow.touch()
        self.args = ["--max-starting", "1"] if row is start_queued else []
        env = {"LD_PRELOAD": PRELOAD, "SLOW_SYNC_UNTIL": str(self.slow), "SLOW_SYNC_OF": "/vms"} if row in SLOW else None
        # The daemon ends with requests under way, whose memory it leaves to the kernel.
        env = {**(env or {}), "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
        super().__init__(tmp, vm_program=FAKE_VM, env=env)
        self.q = Qmp(self.socket)
        (tmp / "kernel").write_bytes(b"not a kernel\n")
        (tmp / "imported").mkdir()

    def command(self):
        return super().command() + self.args


# ---- the pairs ----

def outcome(x, name, waits):
    """Make the second request, and return the letter of its outcome.

    Only a request that should wait is checked for waiting, because that takes no guessed time."""
    second(x, name)
    x.settled()
    if not waits:
        return letter(answer(x, 50))
    assert not answer(x, 0), f"{name} does not wait"
    x.release()
    return letter(answer(x, 50)).replace("+", "w").lower()


def outcomes(daemon, row, want):
    """A VM for each request; but requests that are to be refused share one, for they leave it as it is."""
    benches = []

    def bench():
        benches.append(Bench(daemon, len(benches), daemon.slow))
        row(benches[-1])
        return benches[-1]

    got = dict.fromkeys(ASKS)
    try:
        for name, c in zip(ASKS, want):
            if c == "+" or c.islower():
                got[name] = outcome(bench(), name, c.islower())
                benches[-1].close()
        x = bench()
        for name in [name for name in ASKS if not got[name]]:
            got[name] = outcome(x, name, False)
            if got[name] == "+":  # it ought not to be, and may have ended what is to be under way
                x = bench()
    finally:
        for x in benches:
            x.close()
    return "".join(c or "?" for c in got.values())


@pytest.mark.sample(20)
@pytest.mark.seconds(120)
@pytest.mark.parametrize("row", ROWS)
def test_second_operation_is_allowed_waits_or_is_refused(row, tmp_path):
    want = expected()[row]
    if ROWS[row] in SLOW and ("asan" in BUILD or not os.path.exists(PRELOAD)):
        pytest.skip("slow_sync.so is not built, or has to come behind a sanitizer")
    daemon = Held(tmp_path, ROWS[row])
    try:
        got = outcomes(daemon, ROWS[row], want)
    finally:
        daemon.q.close()
        daemon.close()
    differ = {name: (want[n], got[n]) for n, name in enumerate(ASKS) if got[n] not in {"v": "wc"}.get(want[n], want[n])}
    assert not differ, f"{row:<24}{got[:7]} {got[7:12]} {got[12:18]} {got[18:27]} {got[27:]}"


def test_table_has_every_pair():
    assert list(expected()) == list(ROWS)
    assert {len(row) for row in expected().values()} == {len(ASKS)}


def test_destroyed_start_leaves_the_queue(tmp_path):
    """The starts behind it continue in their order, and none begins before a place is free."""
    daemon = Held(tmp_path, start_queued)
    try:
        x = Bench(daemon, 0, daemon.slow)
        names = ["a", "b", "c", "d"]
        for name in names:
            x.define("config-until=GO", vm=name, disks=[])
        clients = [daemon.qmp() for _ in names]
        for name, q in zip(names, clients):
            send(q, "vm-start", vm=name)
            x.settled()
        x.vm = "a"
        process_waits(x)
        x.vm = "b"
        x.run("vm-destroy")
        assert clients[1].answer()["error"]["desc"] == "the VM was destroyed while starting"
        assert [name for name in names if "pid" in x.q.run("vm-info", vm=name)] == ["a"]
        x.release()
        ids = [clients[i].answer()["return"]["id"] for i in (0, 2, 3)]
        assert ids == sorted(ids)
        x.run("vm-start")
        x.close()
    finally:
        daemon.q.close()
        daemon.close()
