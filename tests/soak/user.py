"""user: one user's random requests. Each result, and the state and data of all VMs, must match the model."""

import collections
import copy
import json
import os
import random
import shutil
import socket
import subprocess
import time

import guestlib
from conftest import Qmp, QmpError, until
from model import BOOTS, LAYERS_MAX, LIVE, OFF, PIECES, SNAPSHOTS_MAX, VMS_MAX, Model, Refused

MEMORY_AT, MEMORY_BYTES = 16 << 20, 128 << 10  # of one piece
SECTORS = 64  # of one piece of the disk
LAST = 60  # operations that a failure prints
LEAKS = 3  # exit status of a check of an image
SETTLE_SECONDS = 20 * guestlib.SLOW  # after a kill of the daemon, the next one knows the outcome of each request
HIT_SECONDS = 0.03  # mean time from a request to the kill


class Difference(Exception):
    """The model and the host differ."""


class Console:
    """A guest's serial port for some commands, which begin at a prompt."""

    def __init__(self, user, vm):
        def attach():
            q = Qmp(user.socket)
            q.run("vm-console", vm=vm, history=False)
            self.sock = socket.socket(fileno=q.fds.pop())
            q.close()
        user.patiently(attach)
        self.buffer, self.tries = b"", 0
        self.sync()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def line(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the console ended")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def sync(self):
        """Wait until the guest answers. A guest that boots drops what came before, so repeat the question."""
        self.sock.settimeout(0.3)
        while True:
            self.tries += 1
            self.sock.sendall(f"\necho token{self.tries}\n".encode())
            try:
                while self.line() != f"token{self.tries}":
                    pass
                while self.line() != "ok":
                    pass
                break
            except TimeoutError:
                pass
        self.sock.settimeout(None)

    def run(self, text):
        """Return the lines of a command's answer."""
        self.sock.sendall(text.encode() + b"\n")
        lines = []
        while (line := self.line()) != "ok":
            if line.startswith(("err ", "error: ")):
                raise Difference(f"{text}: {line}")
            lines.append(line)
        return lines


class User:
    """folder: of its own, with the programs. ask(what): has the run's root do what this user may not. hits: kills of
    the daemon amid requests; hits.share: the part of this user's requests that ask for one."""

    def __init__(self, name, seed, folder, socket_path, ask, hits):
        self.name, self.folder, self.socket, self.ask = name, folder, socket_path, ask
        self.rng, self.serial = random.Random(f"{seed} {name}"), 0
        self.hits, self.clean = hits, (0, 0)  # clean: hits.read() when the model and the host were last equal
        self.model, self.archive = Model(), None
        self.files = sorted(os.listdir(folder))
        self.last, self.done, self.refused = collections.deque(maxlen=LAST), 0, 0
        self.env = {**os.environ, "CAIRN_SOCKET": socket_path, "HOME": str(folder)}

    # ---- the host ----

    def cairn(self, *args):
        """Return the exit status and the text of a request."""
        r = subprocess.run([os.path.join(self.folder, "cairn"), *args], env=self.env, cwd=self.folder, text=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return r.returncode, r.stdout

    def was_hit(self):
        """Return whether the daemon was killed since the model and the host were last equal."""
        now = self.hits.read()
        return now != self.clean or now[0] != now[1]

    def patiently(self, ask):
        """Ask the daemon, again and again while it is killed."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                return ask()
            except (OSError, EOFError, QmpError):
                begun, ended = self.hits.read()
                if begun != ended:
                    end = time.monotonic() + SETTLE_SECONDS
                if not self.was_hit() or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def wait_for(self, name, what):
        """Run cairn wait, also through kills of the daemon."""
        while self.cairn("wait", name, "--for", what)[0] and self.was_hit():
            time.sleep(0.02)

    def seen(self):
        q, mine, after = Qmp(self.socket), {}, {}
        while page := q.run("vm-list", **after)["vms"]:
            mine.update({vm["name"]: vm["word"] for vm in page if vm["name"].startswith(f"{self.name}-")})
            after = {"after": page[-1]["name"]}
        q.close()
        return {n: {"idle": "running"}.get(w, w) for n, w in mine.items()}

    def info(self, name):
        q = Qmp(self.socket)
        found = q.run("vm-info", vm=name)
        q.close()
        return found

    def snapshots_seen(self, name):
        q = Qmp(self.socket)
        found = q.run("snapshot-list", vm=name)["snapshots"]
        q.close()
        names = {s["id"]: s["name"] for s in found}
        return {s["name"]: (names.get(s.get("parent")), s["state"], s["current"]) for s in found}

    # ---- comparing ----

    def compare(self, touched, models=None):
        """Compare the states of all VMs, and the data of those that were touched, with each model. Keep the one that
        fits. After a kill of the daemon, wait until one fits. If several fit, such as those of a VM that is paused
        before and after a revert, what they differ in is unknown."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            before = self.hits.read()
            if before[0] != before[1]:  # while the next daemon starts, which has a time limit of its own (Daemon.start())
                end = time.monotonic() + SETTLE_SECONDS
            if self.was_hit() and self.works(touched) and time.monotonic() < end:
                time.sleep(0.05)
                continue
            fits, why = None, []
            for model in models or [self.model]:
                model = copy.deepcopy(model)
                if fits:
                    model.adopt_filled(fits)
                try:
                    self.compare_with(model, touched)
                    if fits:
                        fits.blur(model)
                    fits = fits or model
                except (Difference, OSError, EOFError, QmpError) as e:
                    if not self.was_hit():
                        raise
                    why.append(str(e))
            if fits:
                self.model, self.clean = fits, before
                return
            if time.monotonic() > end:
                about = {n: self.patiently(lambda n=n: self.info(n)) for n in touched if n in self.seen()}
                why += [f"{n}: {i['state']} ({i['reason']}) {i.get('detail', '')} job {i.get('job')}" for n, i in about.items()]
                raise Difference("after a kill of the daemon, no model fits:\n" + "\n".join(why))
            time.sleep(0.05)

    def works(self, names):
        """Return whether one of the VMs has a job, which the killed daemon may have begun: its outcome is not known
        yet. So it is while the next daemon does not answer, or a VM of the list is gone when asked for."""
        try:
            seen = self.seen()
            return any(self.info(n).get("job") for n in names if n in seen)
        except (OSError, EOFError, QmpError):
            return True

    def compare_with(self, model, touched):
        seen = self.seen()
        for name, vm in model.vms.items():
            # The state in-shutdown of a daemon that is killed before it has stored it is lost.
            if vm.state == "in-shutdown" and seen.get(name) == "running" and self.was_hit():
                vm.state = "running"
        self.equal("states", seen, model.seen())
        for name in touched:
            vm = model.vms.get(name)
            if not vm:
                continue
            want = {n: (s.parent, s.state, n == vm.current) for n, s in vm.snapshots.items()}
            self.equal(f"snapshots of {name}", self.snapshots_seen(name), want)
            if vm.state == "running":
                self.compare_data(name, vm)

    def equal(self, what, have, want):
        if have != want:
            raise Difference(f"{what}:\n  is      {have}\n  must be {want}")

    def compare_data(self, name, vm):
        with Console(self, name) as console:
            try:
                console.run("open 0")
                if vm.memory is BOOTS:
                    vm.memory = [self.number() for _ in range(PIECES)]
                    for i, seed in enumerate(vm.memory):
                        console.run(f"fill {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")
                for i, seed in enumerate(vm.memory):
                    if seed is None:
                        continue
                    console.run(f"check {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")
                for i, seed in enumerate(vm.disk):
                    if seed:
                        console.run(f"verify {i * SECTORS} {SECTORS} {seed}")
            except Difference as e:
                raise Difference(f"{name}, memory {vm.memory}, disk {vm.disk}: {e}") from e

    # ---- requests ----

    def number(self):
        self.serial += 1
        return self.serial

    def do(self, args, change, *touched, parts=()):
        """Make a request. change(model) says what follows, or raises Refused. parts: functions of a model that say what
        else may follow if the daemon is killed meanwhile."""
        after, status = copy.deepcopy(self.model), 0
        try:
            change(after)
        except Refused as r:
            after, status = self.model, r.status
        self.last.append(" ".join(args) + (f" (refused, {status})" if status else ""))
        if self.rng.random() < self.hits.share:
            seconds = self.rng.expovariate(1 / HIT_SECONDS)
            self.last.append(f"  the daemon is killed after {1000 * seconds:.1f} ms")
            self.ask({"hit": seconds})
        got, text = self.cairn(*args)
        self.refused += status != 0
        if self.was_hit():
            # A request that was answered with success is done. Any other is done or not done, but never half.
            self.last.append(f"  exit status {got} {text.strip()[:200]}")
            models = [after] if not got or status else [after, self.model]
            for part in parts if len(models) > 1 else ():
                models.append(copy.deepcopy(self.model))
                part(models[-1])
            self.compare(touched, models)
            return
        if got != status:
            raise Difference(f"{' '.join(args)}: exit status {got}, must be {status}\n{text}")
        self.model = after
        self.compare(touched)

    def simple(self, verb, name, *args, **how):
        method = verb.replace("-", "_")
        part = getattr(Model, f"{method}_part", None)
        self.do([verb, name, *args], lambda m: getattr(m, method)(name, **how), name,
                parts=[lambda m: part(m, name)] if part else ())

    def define(self):
        name = f"{self.name}-{self.number()}"
        image = os.path.join(self.folder, f"{name}.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
        path, limits, network = os.path.join(self.folder, "definition.json"), self.rng.random() < 0.3, self.rng.random() < 0.3
        with open(path, "w") as f:
            json.dump({"name": name, "memory": "32M", "debug_exit": True, "boot": {"kernel": os.path.join(self.folder, "interp.elf")},
                       "shutdown": {"deadline": 86400}, "interfaces": [{"type": "user"}] * network,
                       "disks": [{"path": image, "format": "qcow2", **({"iops": 2000, "bps": "200M"} if limits else {})}]}, f)
        self.do(["define", path], lambda m: m.define(name), name)
        if name not in self.model.vms:
            os.unlink(image)

    def start(self, name):
        paused, force = self.rng.random() < 0.2, self.rng.random() < 0.2
        self.simple("start", name, *["--paused"] * paused, *["--force-boot"] * force, paused=paused, force_boot=force)

    def suspend(self, name):
        self.simple("suspend", name)

    def resume(self, name):
        self.simple("resume", name)

    def shutdown(self, name):
        self.simple("shutdown", name)

    def destroy(self, name):
        self.simple("destroy", name)

    def reset(self, name):
        self.simple("reset", name)

    def managedsave(self, name):
        self.simple("managedsave", name)

    def managedsave_remove(self, name):
        self.simple("managedsave-remove", name)

    def restart_process(self, name):
        self.simple("restart-process", name)

    def undefine(self, name):
        self.undefine_with(name, self.rng.random() < 0.7)

    def undefine_with(self, name, storage):
        args = ["undefine", name, "--snapshots-metadata", "--managed-save", *["--remove-all-storage"] * storage]
        vm = self.model.vms[name]
        allowed = vm.state in OFF and not (storage and self.model.readers(vm.image))
        self.do(args, lambda m: m.undefine(name, storage))
        # The daemon was killed. If it had begun to delete files, the next one goes on with that.
        while allowed and name in self.model.vms:
            if self.cairn(*args)[0] == 0 or name not in self.patiently(self.seen):
                self.model.undefine(name, storage)
                self.compare(())
            time.sleep(0.02)

    def rename(self, name):
        new = f"{self.name}-{self.number()}"
        self.do(["domrename", name, new], lambda m: m.rename(name, new), new)

    def snapshot(self, name):
        if len(self.model.vms[name].snapshots) < SNAPSHOTS_MAX:
            new, disk_only = f"s{self.number()}", self.rng.random() < 0.2
            self.do(["snapshot-create-as", name, new, *["--disk-only"] * disk_only],
                    lambda m: m.snapshot(name, new, disk_only), name)

    def revert(self, name):
        if self.model.vms[name].snapshots:
            s = self.rng.choice(sorted(self.model.vms[name].snapshots))
            self.do(["snapshot-revert", name, s], lambda m: m.revert(name, s), name,
                    parts=[lambda m: m.revert_part(name), lambda m: m.revert_part(name, s)])

    def delete(self, name):
        if self.model.vms[name].snapshots:
            s = self.rng.choice(sorted(self.model.vms[name].snapshots))
            self.do(["snapshot-delete", name, s], lambda m: m.delete(name, s), name)

    def room(self):
        return VMS_MAX - len(self.model.vms)

    def clone(self, name):
        if self.room() > 0:
            new = f"{self.name}-{self.number()}"
            self.do(["clone", name, new, "--full"], lambda m: m.clone(name, new), name, new)

    def clone_linked(self, name):
        if self.room() > 0 and len(self.model.vms[name].layers) < LAYERS_MAX:
            new = f"{self.name}-{self.number()}"
            self.do(["clone", name, new, "--linked"], lambda m: m.clone(name, new, linked=True), name, new)

    def fork(self, name):
        vm, count, paused = self.model.vms[name], self.rng.choice((1, 2)), self.rng.random() < 0.2
        if self.room() < count or len(vm.layers) >= LAYERS_MAX:
            return
        new, snapshot = f"{self.name}-{self.number()}", None
        if vm.snapshots and self.rng.random() < 0.4:
            snapshot = self.rng.choice(sorted(vm.snapshots))
        names = [f"{new}-{i}" for i in range(1, count + 1)]
        self.do(["clone", "--live", name, new, "--count", str(count), *["--paused"] * paused,
                 *(["--snapshotname", snapshot] if snapshot else [])],
                lambda m: m.fork(name, new, count, snapshot, paused), name, *names)

    def file(self, name):
        path = os.path.join(self.folder, name)
        if os.path.exists(path):
            os.unlink(path)
        return path

    def dump(self, name):
        path = self.file("core")
        self.do(["dump", name, path], lambda m: m.dump(name), name)

    def state_file(self, name):
        return os.path.join(self.folder, f"{self.model.vms[name].uuid}.state")

    def save(self, name):
        if self.model.vms[name].uuid not in self.model.states:
            self.do(["save", name, self.state_file(name)], lambda m: m.save(name), name)
            # A client whose daemon was killed does not know whether the state is complete, and gives it no name.
            if not os.path.exists(self.state_file(name)):
                self.model.states.pop(self.model.vms[name].uuid, None)

    def restore(self, name):
        if self.model.vms[name].uuid in self.model.states:
            path, state = self.state_file(name), self.rng.choice((None, "running", "paused"))
            self.do(["restore", path, *([f"--{state}"] if state else [])], lambda m: m.restore(name, state), name)
            if self.model.vms[name].uuid not in self.model.states:
                os.unlink(path)

    def export(self, name):
        path, vm = self.file("vm.tar"), self.model.vms[name]
        self.archive = None
        self.do(["export", name, path], lambda m: m.export(name), name)
        if os.path.exists(path):
            self.archive = copy.deepcopy(vm)

    def import_(self):
        if self.archive and self.room() > 0:
            new = f"{self.name}-{self.number()}"
            self.do(["import", "vm.tar", "--name", new], lambda m: m.import_(new, self.archive), new)

    def poweroff(self, name):
        vm = self.model.vms[name]
        if vm.state == "running" or (vm.state == "in-shutdown" and vm.memory is not BOOTS):
            self.last.append(f"{name}: poweroff")
            with Console(self, name) as console:
                console.sock.sendall(b"poweroff\n")
                self.wait_for(name, "shutoff")
            self.model.poweroff(name)
            self.compare([name])

    def kill(self, name):
        if self.model.vms[name].state in LIVE:
            self.last.append(f"{name}: kill -9")
            self.ask({"kill": self.patiently(lambda: self.info(name))["pid"]})
            self.wait_for(name, "crashed")
            self.model.kill(name)
            # The kernel releases the files of a killed process a moment after its end.
            until(lambda: self.image_is_whole(name))
            self.compare([name])

    def image_is_whole(self, name):
        r = subprocess.run([os.path.join(self.folder, "cairn-img"), "check", "-q", self.model.vms[name].image],
                           cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return r.returncode in (0, LEAKS)

    def memory(self, name):
        vm = self.model.vms[name]
        if vm.state != "running":
            return
        i, seed = self.rng.randrange(PIECES), self.number()
        with Console(self, name) as console:
            console.run(f"fill {MEMORY_AT + i * MEMORY_BYTES} {MEMORY_BYTES} {seed}")
        self.last.append(f"{name}: memory {i} {seed}")
        vm.memory[i] = seed

    def disk(self, name):
        vm = self.model.vms[name]
        if vm.state != "running":
            return
        i, seed, flush = self.rng.randrange(PIECES), self.number(), self.rng.random() < 0.7
        with Console(self, name) as console:
            console.run(f"write {i * SECTORS} {SECTORS} {seed}")
            if flush:
                console.run("flush")
        self.last.append(f"{name}: disk {i} {seed}{' flushed' if flush else ''}")
        vm.disk[i] = seed
        vm.unflushed = set() if flush else vm.unflushed | {i}

    # ---- the run ----

    # For each request, how often it is chosen, and the states in which it is sensible.
    REQUESTS = {
        start: (8, OFF), suspend: (2, ("running", "in-shutdown")), resume: (6, ("paused",)), shutdown: (1, ("running", "in-shutdown")),
        poweroff: (1, ("running", "in-shutdown")), destroy: (1, LIVE), reset: (1, LIVE), restart_process: (1, ("running", "paused")),
        undefine: (2, OFF), rename: (1, OFF), managedsave: (1, LIVE), managedsave_remove: (1, ("saved",)),
        save: (1, LIVE), restore: (2, ("shutoff", "crashed")), dump: (1, LIVE), snapshot: (3, OFF + LIVE),
        revert: (3, ("shutoff", "crashed", *LIVE)), delete: (1, OFF + LIVE), clone: (1, ("shutoff", "crashed")), clone_linked: (1, ("shutoff", "crashed")),
        fork: (2, ("running", "paused")), export: (1, ("shutoff", "crashed")), memory: (4, ("running",)),
        disk: (4, ("running",)), kill: (1, LIVE),
    }

    def step(self):
        """Make one request of a random kind. One of ten may be senseless, and then the daemon must refuse it."""
        self.done += 1
        if not self.model.vms or (self.room() > 0 and self.rng.random() < 0.05):
            return self.define()
        if self.archive and self.rng.random() < 0.03:
            return self.import_()
        name = self.rng.choice(sorted(self.model.vms))
        state, any_state = self.model.vms[name].state, self.rng.random() < 0.1
        fit = {f: often for f, (often, states) in self.REQUESTS.items() if any_state or state in states}
        request, = self.rng.choices(list(fit), list(fit.values()))
        request(self, name)

    def sweep(self):
        """Undefine all VMs, readers of an image before its VM."""
        while self.model.vms:
            name = next(n for n, vm in self.model.vms.items() if not self.model.readers(vm.image))
            if self.model.vms[name].state in LIVE:
                self.destroy(name)
            if self.model.vms[name].state in OFF:
                self.undefine_with(name, True)
        self.clear()
        self.model, self.archive = Model(), None

    def clear(self):
        """Delete what the user has to: files that requests have left on purpose. Nothing else may be there."""
        for path in ["core", "vm.tar", "definition.json", *(f"{uuid}.state" for uuid in self.model.states)]:
            self.file(path)
        # A client whose daemon was killed says in which file the data are.
        for file in os.listdir(self.folder) if self.hits.share else []:
            if file.startswith("core.") or ".state." in file:
                self.file(file)
        for image in self.model.left:
            os.unlink(os.path.join(self.folder, image))
        for folder in self.model.folders:
            shutil.rmtree(os.path.join(self.folder, folder), ignore_errors=True)
        self.equal("files", sorted(os.listdir(self.folder)), self.files)
