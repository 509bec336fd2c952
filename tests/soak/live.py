"""live: random requests on the disks of a running VM, against a model of what the guest has written.

Layers come and go, disks move and grow, the VM is saved, stopped, killed and started, and the daemon is killed, while
the guest writes. Live clones may stay, write, are restarted and pulled. Whatever a request does to the
layers, each guest reads what it has written, a clone and a snapshot have the data of their moment, and what the guest
has flushed survives a kill. cairn-img and qemu-img check the images of the VM while it is off."""

import collections
import copy
import json
import os
import random
import re
import signal
import subprocess
import time

from conftest import BUILD, Qmp, QmpError, until
from model import both
from user import LEAKS, MEMORY_AT, MEMORY_BYTES, PIECES, SECTORS, Console, Difference

CAIRN, CAIRN_IMG = os.path.join(BUILD, "cairn"), os.path.join(BUILD, "cairn-img")
VM, PLUGGED = "vm", "vdc"
ASKED, RELEASE = 0xae04, 0xae08  # ports of the hotplug controller: the slots to release, and those that the guest releases
SNAPSHOTS_MAX, LAYERS_MAX = 3, 5
SIZE, GROWTH, SIZE_MAX = 4 << 20, 1 << 20, 12 << 20
EPOCH = 15  # steps
LAST = 60  # requests that a failure prints
TIMEOUT = 200
KILL_SECONDS = 0.2  # mean time from a request to a kill

# Why a request may be refused. Any other error fails the run.
REFUSALS = re.compile("|".join((
    "has internal snapshots", "live clones read it", "reads a frozen content", "so it must not change", "is to be committed to is larger than the disk", "is raw; internal snapshots need qcow2|snapshots need a writable qcow2 disk",
)))


class Content:
    """What the guest has written: seeds of its patterns, in memory and by disk. None: unknown."""

    def __init__(self, memory, disks):
        self.memory, self.disks = memory, disks


class Request:
    """words: of cairn. effect(content before it): on the model; None: none."""

    def __init__(self, run, words, effect):
        self.run, self.words, self.effect = run, list(map(str, words)), effect

    def begin(self):
        self.process = subprocess.Popen([CAIRN, *self.words], env=self.run.daemon.env, cwd=self.run.folder, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def end(self, killed=None):
        self.text, _ = self.process.communicate(timeout=TIMEOUT)
        self.status = self.process.returncode
        self.run.last.append(f"{' '.join(self.words)} -> {self.status} {self.text.strip()[:300]}{f' ({killed} killed)' if killed else ''}")
        self.run.counts[self.words[0], f"{killed} killed" if killed else "refused" if self.status else "done"] += 1


class Run:
    """daemon: without VMs. kills: the part of the requests that a kill of the daemon or of the VM's process meets.
    pairs: the part that has another request at the same time. clones: how many live clones stay."""

    def __init__(self, daemon, kernel, folder, seed, kills, pairs, clones):
        self.daemon, self.folder, self.rng, self.kills, self.pairs, self.clones_max = daemon, folder, random.Random(seed), kills, pairs, clones
        self.socket, self.serial, self.was_killed, self.takes_snapshots = daemon.socket, 0, False, False
        self.disks, self.plugged, self.pulled = ["vda", "vdb"], str(folder / f"{PLUGGED}.qcow2"), [0] * PIECES
        self.now = Content(None, {d: [0] * PIECES for d in self.disks})
        self.clones = {}  # Content by name
        self.snapshots, self.sizes, self.unflushed = {}, {d: SIZE for d in (*self.disks, PLUGGED)}, {d: set() for d in self.disks}
        self.last, self.counts = collections.deque(maxlen=LAST), collections.Counter()
        folder.mkdir()
        for d in (*self.disks, PLUGGED):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / f"{d}.qcow2", str(SIZE)], check=True)
        daemon.define(VM, memory="32M", debug_exit=True, boot={"kernel": kernel},
                      disks=[{"id": d, "path": str(folder / f"{d}.qcow2"), "format": "qcow2"} for d in self.disks])
        self.daemon.cairn("start", VM)
        self.fill()

    # ---- the host ----

    def patiently(self, ask):
        """Ask the daemon, again while the VM is handed over to a new process."""
        while True:
            try:
                return ask()
            except QmpError as e:
                if "being handed over" not in str(e):
                    raise
                time.sleep(0.02)

    def layers(self, disk, live=True, name=VM):
        """Return the paths of a disk's layers, the image first."""
        found, = [d for d in json.loads(self.daemon.cairn("dumpjson", name, *([] if live else ["--inactive"])).stdout)["disks"] if d["id"] == disk]
        return [found["path"], *(l["path"] for l in found.get("backing", []))]

    def snapshot_names(self):
        q = Qmp(self.socket)
        try:
            return {s["name"] for s in q.run("snapshot-list", vm=VM)["snapshots"]}
        finally:
            q.close()

    def settle(self):
        """Wait until nothing is in progress, and the next daemon, if any, knows the outcome."""
        def is_settled():
            q = Qmp(self.socket)
            jobs = q.run("query-jobs")
            for job in jobs:
                if job["status"] == "concluded":
                    q.run("job-dismiss", id=job["id"])
            q.close()
            return not jobs and not list(self.daemon.state.glob("vms/*/*.pending"))
        until(is_settled)

    # ---- the guest ----

    def number(self):
        self.serial += 1
        return self.serial

    def fill(self, name=VM, content=None):
        """Give a guest that has just booted a memory."""
        content = content or self.now
        content.memory = [self.number() for _ in range(PIECES)]
        with Console(self, name) as console:
            for i, seed in enumerate(content.memory):
                console.run(f"fill {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")

    def check(self, name=VM, want=None):
        want = want or self.now
        with Console(self, name) as console:
            try:
                for i, seed in enumerate(want.memory):
                    if seed is not None:
                        console.run(f"check {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")
                for n, d in enumerate(want.disks):
                    console.run(f"open {n}")
                    for i, seed in enumerate(want.disks[d]):
                        if seed:
                            console.run(f"verify {i * SECTORS} {SECTORS} {seed}")
            except Difference as e:
                raise Difference(f"{name}, memory {want.memory}, disks {want.disks}: {e}") from e

    def change(self, console, content, name):
        """Have a guest write something."""
        i, seed = self.rng.randrange(PIECES), self.number()
        if self.rng.random() < 0.2:
            console.run(f"fill {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")
            content.memory[i] = seed
            self.last.append(f"  {name}: memory {i} is {seed}")
            return
        n, flush = self.rng.randrange(len(content.disks)), self.rng.random() < 0.6
        d = list(content.disks)[n]
        console.run(f"open {n}")
        console.run(f"write {i * SECTORS} {SECTORS} {seed}")
        if flush:
            console.run("flush")
        self.last.append(f"  {name}: {d} {i} is {seed}{', flushed' if flush else ''}")
        content.disks[d][i] = seed
        if content is self.now:
            self.unflushed[d] = set() if flush else self.unflushed[d] | {i}

    # ---- the model ----

    def forget_unflushed(self):
        for d, pieces in self.unflushed.items():
            for i in pieces:
                self.now.disks[d][i] = None
        self.unflushed = {d: set() for d in self.disks}

    def between(self, before):
        """Return the content at an unknown moment since `before`."""
        return Content(both(before.memory, self.now.memory), {d: both(before.disks[d], self.now.disks[d]) for d in self.disks})

    # ---- requests: return (words, effect(before)), or None if it is senseless now ----

    def path(self, stem, format_="qcow2"):
        return str(self.folder / f"{stem}{self.number()}.{format_}")

    def snapshot(self):
        if len(self.snapshots) >= SNAPSHOTS_MAX or not self.takes_snapshots:
            return None
        name, disk_only = f"s{self.number()}", self.rng.random() < 0.3

        def effect(before):
            self.snapshots[name] = self.between(before)
            if disk_only:
                self.snapshots[name].memory = None
        return ["snapshot-create-as", VM, name, *["--disk-only"] * disk_only], effect

    def delete(self):
        if not self.snapshots:
            return None
        name = self.rng.choice(sorted(self.snapshots))
        return ["snapshot-delete", VM, name], lambda _: self.snapshots.pop(name, None)

    def external(self):
        disks = [d for d in self.disks if len(self.layers(d)) < LAYERS_MAX]
        disks = disks and self.rng.sample(disks, self.rng.randrange(1, len(disks) + 1))
        if not disks:
            return None
        specs = [w for d in self.disks for w in ("--diskspec", f"{d},file={self.path(d)}" if d in disks else f"{d},snapshot=no")]
        return ["snapshot-create-as", VM, f"x{self.number()}", "--disk-only", *specs], None

    def commit(self):
        d = self.rng.choice(self.disks)
        layers = self.layers(d)
        if len(layers) < 2:
            return None
        top, base = sorted(self.rng.sample(range(len(layers)), 2))
        how = [self.rng.choice(("--pivot", "--pivot", "--keep-overlay"))] if top == 0 else []
        delete = self.rng.random() < 0.5 and how != ["--keep-overlay"]
        return ["blockcommit", VM, d, "--top", layers[top], "--base", layers[base], *how, *["--delete"] * delete], None

    def pull(self):
        d = self.rng.choice(self.disks)
        return (["blockpull", VM, d], None) if len(self.layers(d)) > 1 else None

    def copy(self):
        d, how = self.rng.choice(self.disks), self.rng.choice(("--pivot", "--pivot", "--finish"))
        return ["blockcopy", VM, d, self.path(d, self.rng.choice(("qcow2", "qcow2", "raw"))), how], None

    def resize(self):
        d = self.rng.choice(self.disks)
        if self.sizes[d] >= SIZE_MAX:
            return None
        self.sizes[d] += GROWTH
        return ["blockresize", VM, d, f"{self.sizes[d]}b"], None

    def restart(self):
        return ["restart-process", VM], None

    LIVE = {snapshot: 4, delete: 2, external: 6, commit: 6, pull: 2, copy: 3, resize: 1, restart: 1}

    # ---- what happens alone ----

    def revert(self):
        if not self.snapshots:
            return
        name = self.rng.choice(sorted(self.snapshots))
        if not self.ask(["snapshot-revert", VM, name]):
            return
        self.now, self.unflushed = copy.deepcopy(self.snapshots[name]), {d: set() for d in self.disks}
        if self.now.memory is None:
            self.off()

    def fork(self):
        new = f"f{self.number()}"
        if not self.ask(["clone", "--live", VM, new, "--count", "1"]):
            return
        new, theirs = f"{new}-1", copy.deepcopy(self.now)
        for name, content in ((VM, self.now), (new, theirs)):
            with Console(self, name) as console:
                self.change(console, content, name)
        self.check(new, theirs)
        self.check()
        self.clones[new] = theirs
        if len(self.clones) > self.clones_max:
            self.remove()

    # ---- the clones ----

    def remove(self):
        name = self.rng.choice(list(self.clones))
        self.last.append(f"remove {name}")
        self.daemon.cairn("destroy", name)
        self.daemon.cairn("undefine", name, "--remove-all-storage", "--snapshots-metadata")
        del self.clones[name]

    def restart_clone(self):
        name = self.rng.choice(list(self.clones))
        self.last.append(f"restart {name}")
        content = self.clones[name]
        with Console(self, name) as console:
            for n in range(len(content.disks)):
                console.run(f"open {n}")
                console.run("flush")
        self.daemon.cairn("destroy", name)
        self.daemon.cairn("start", name)
        self.fill(name, content)

    def pull_clone(self):
        name = self.rng.choice(list(self.clones))
        d = self.rng.choice(list(self.clones[name].disks))
        if len(self.layers(d, name=name)) > 1:
            self.ask(["blockpull", name, d])

    def of_clones(self):
        if self.clones and self.rng.random() < 0.3:
            self.rng.choice((self.remove, self.restart_clone, self.pull_clone))()
        for name, content in self.clones.items():
            with Console(self, name) as console:
                for _ in range(self.rng.randrange(2)):
                    self.change(console, content, name)
            self.check(name, content)

    def save(self):
        if self.ask(["managedsave", VM]):
            self.images_check()
            self.daemon.cairn("start", VM)

    def power(self):
        self.last.append("poweroff")
        with Console(self, VM) as console:
            console.sock.sendall(b"poweroff\n")
            self.daemon.cairn("wait", VM, "--for", "shutoff")
        self.off()

    def kill(self):
        self.last.append("kill -9")
        self.kill_vm()
        self.daemon.cairn("wait", VM, "--for", "crashed")
        self.was_killed = True
        self.forget_unflushed()
        self.off()

    def kill_vm(self):
        def is_killed():
            try:
                os.kill(self.daemon.info(VM)["pid"], signal.SIGKILL)
                return True
            except ProcessLookupError:  # the VM goes on in another process
                return False
        until(is_killed)

    def suspend(self):
        self.last.append("suspend, resume")
        self.daemon.cairn("suspend", VM)
        self.daemon.cairn("resume", VM)

    def plug(self):
        """Attach the third disk, or detach it. Snapshots of the VM with it and without it are not mixed."""
        if self.snapshots or self.takes_snapshots:
            return
        if PLUGGED not in self.disks:
            if self.ask(["attach-disk", VM, self.plugged, PLUGGED, "--subdriver", self.plugged.rsplit(".", 1)[1], "--persistent"]):
                self.disks.append(PLUGGED)
                self.now.disks[PLUGGED], self.unflushed[PLUGGED] = self.pulled, set()
            return
        layers = self.layers(PLUGGED)
        if len(layers) > 1:
            return
        r = Request(self, ["detach-disk", VM, PLUGGED, "--persistent", "--timeout", "60"], None)
        r.begin()
        with Console(self, VM) as console:
            while r.process.poll() is None:
                console.run(f"outl {RELEASE} {int(console.run(f'inl {ASKED}')[0], 16)}")
        r.end()
        if r.status:
            self.refused(r.words, r.text)
            return
        self.plugged, self.pulled = layers[0], self.now.disks.pop(PLUGGED)
        self.disks.remove(PLUGGED)
        del self.unflushed[PLUGGED]

    ALONE = {revert: 4, fork: 3, save: 1, power: 1, kill: 1, suspend: 1, plug: 4}

    # ---- the run ----

    def off(self):
        """The VM is off. Check its images, and start it."""
        self.images_check()
        self.daemon.cairn("start", VM)
        self.unflushed = {d: set() for d in self.disks}
        self.fill()

    def images_check(self):
        for d in self.disks:
            for path in [p for p in self.layers(d, live=False) if p.endswith("qcow2")]:
                for tool in (CAIRN_IMG, "qemu-img"):
                    # The kernel releases the files of a killed process a moment after its end.
                    until(lambda: self.image_is_whole(tool, path))

    def image_is_whole(self, tool, path):
        r = subprocess.run([tool, "check", "-q", path], capture_output=True, text=True)
        if r.returncode not in ((0, LEAKS) if self.was_killed else (0,)):
            self.last.append(f"{tool} check {path}: {r.returncode} {r.stdout} {r.stderr}"[:300])
            return False
        return True

    def refused(self, words, text):
        if not REFUSALS.search(text):
            raise Difference(f"an unknown error of {' '.join(words)}: {text}")

    def make(self, words):
        """Make a request while nothing else happens."""
        r = Request(self, words, None)
        r.begin()
        r.end()
        return r

    def ask(self, words):
        """The same. Return whether it succeeded."""
        r = self.make(words)
        if r.status:
            self.refused(r.words, r.text)
        return r.status == 0

    def complete(self):
        """Complete an external snapshot of which only the next start has the overlays."""
        new = {d: self.layers(d, live=False)[0] for d in self.disks}
        specs = [w for d in self.disks for w in ("--diskspec", f"{d},file={new[d]}" if new[d] != self.layers(d)[0] else f"{d},snapshot=no")]
        if any("file=" in s for s in specs):
            self.ask(["snapshot-create-as", VM, "again", "--disk-only", "--reuse-external", *specs])

    def any_request(self):
        while True:
            kind, = self.rng.choices(list(self.LIVE), list(self.LIVE.values()))
            if found := kind(self):
                return Request(self, *found)

    def live(self):
        """Make a request, or two at once, while the guest writes. A kill may meet them."""
        before, killed = copy.deepcopy(self.now), None
        requests = [self.any_request() for _ in range(1 + (self.rng.random() < self.pairs))]
        for r in requests:
            r.begin()
        if self.rng.random() < self.kills:
            time.sleep(self.rng.expovariate(1 / KILL_SECONDS))
            killed = self.rng.choice(("daemon", "VM"))
            if killed == "daemon":
                self.daemon.stop(signal.SIGKILL)
                self.daemon.start()
            else:
                self.kill_vm()
            self.was_killed = True
        else:
            with Console(self, VM) as console:
                for _ in range(self.rng.randrange(4)):
                    self.change(console, self.now, VM)
        for r in requests:
            r.end(killed)
        if killed == "VM":  # until the daemon knows, it asks the process, and fails
            until(lambda: self.daemon.info(VM)["state"] == "crashed")
        self.settle()
        for r in requests if killed == "daemon" else ():
            if r.words[0] in ("blockcopy", "blockcommit"):  # the VM's process goes on mirroring until somebody ends that
                if "or continue with it" in self.make(["blockjob", VM, r.words[2], "--abort"]).text:  # the next start has the pivot
                    path = self.layers(r.words[2], live=False)[0]
                    self.ask(["blockjob", VM, r.words[2], "--pivot", "--dest", path, "--dest-format", path.rsplit(".", 1)[1]])
            elif "--disk-only" in r.words and not r.effect:
                self.complete()
        if killed == "VM":
            self.forget_unflushed()
        for r in requests:
            if r.effect and (r.status == 0 or killed and r.words[0] != "snapshot-delete"):
                r.effect(before)
            if r.status and not killed and len(requests) == 1:
                self.refused(r.words, r.text)
        names = self.snapshot_names()
        if killed:
            self.snapshots = {n: s for n, s in self.snapshots.items() if n in names}
        if names != set(self.snapshots):
            raise Difference(f"the snapshots are {sorted(names)} and not {sorted(self.snapshots)}")
        if killed == "VM":
            self.off()

    def step(self):
        """Internal snapshots forbid most changes of layers, so they are made in every other epoch only."""
        if self.rng.random() < 1 / EPOCH:
            self.takes_snapshots = not self.takes_snapshots
            while self.snapshots and not self.takes_snapshots:
                name = self.rng.choice(sorted(self.snapshots))
                self.ask(["snapshot-delete", VM, name])
                del self.snapshots[name]
        if self.rng.random() < 0.3:
            what, = self.rng.choices(list(self.ALONE), list(self.ALONE.values()))
            what(self)
        else:
            self.live()
        with Console(self, VM) as console:
            for _ in range(self.rng.randrange(3)):
                self.change(console, self.now, VM)
        self.check()
        self.of_clones()
        names = self.snapshot_names()
        self.last.append(f"  snapshots {sorted(names)}, layers {[[os.path.basename(l) for l in self.layers(d)] for d in self.disks]}")

    def go(self, steps):
        try:
            for _ in range(steps):
                self.step()
        except (Difference, QmpError, OSError, EOFError, AssertionError, subprocess.TimeoutExpired) as e:
            raise Difference("\n".join([*self.last, f"{type(e).__name__}: {e}"])) from e
