"""off: random requests on VMs that are off, against a model of what their images hold. It needs no /dev/kvm.

A request changes only the images that the model changes: none of another VM's disks, of a snapshot, a linked clone or a
template. Some requests come in pairs at once, and during some the daemon is killed; then the images are as after one of
the possible orders, with or without the requests that did not succeed. qemu-img and cairn-img read the images."""

import collections
import copy
import hashlib
import itertools
import json
import os
import random
import re
import signal
import struct
import subprocess
import time

from conftest import BUILD, Qmp, QmpError, until
from off_model import Image, Impossible, World

CAIRN, CAIRN_IMG, QEMU_IMG = os.path.join(BUILD, "cairn"), os.path.join(BUILD, "cairn-img"), "qemu-img"
CLUSTER = 64 << 10
SIZES = [n * CLUSTER for n in (4, 8, 12, 16)]
VMS_MAX, SPARES_MAX, SNAPSHOTS_MAX, LAYERS_MAX, DISKS_MAX = 6, 3, 3, 5, 3
LAST = 40  # requests that a failure prints
KILL_SECONDS = 0.2  # mean time from a request to the kill
TIMEOUT = 100
LEAKS = 3  # exit status of a check

# Why a request may be refused. Any other error fails the run.
REFUSALS = re.compile("|".join((
    "linked clones have its disks as backing files", "is a template|the template of linked clones|also a disk of the template",
    "also has .* as an image, so it must not change", "is raw; internal snapshots need qcow2|snapshots need a writable qcow2 disk",
    "is used by VM|belongs to VM", "is a backing file of VM|is an image of the template|is the backing file of",
    "has internal snapshots", "no snapshot", "is to be committed to is larger than the disk",
)))


class Failure(Exception):
    """The host and the model differ."""


class Request:
    """words: of cairn, or with `program` of another program. apply(world): its effect. part(world): the effect of a
    request that was cut off. alone: nothing else may happen at the same time."""

    def __init__(self, words, apply, part=None, program=CAIRN, alone=False):
        self.words, self.apply, self.part, self.alone = [program, *map(str, words)], apply, part, alone
        self.status, self.text = None, ""

    def begin(self, run):
        self.process = subprocess.Popen(self.words, env=run.daemon.env, cwd=run.folder, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def end(self):
        self.text, _ = self.process.communicate(timeout=TIMEOUT)
        self.status = self.process.returncode

    def __str__(self):
        return f"{os.path.basename(self.words[0])} {' '.join(self.words[1:])} -> {self.status} {self.text.strip()[:300]}"


class Reader:
    """Reads images by both tools. An image whose file and backing files did not change is not read again."""

    def __init__(self, run):
        self.run, self.known, self.used = run, {}, {}

    def tool(self, *args, ok=(0,)):
        r = subprocess.run(list(map(str, args)), cwd=self.run.folder, capture_output=True, timeout=TIMEOUT)
        if r.returncode not in ok:
            raise Failure(f"{' '.join(map(str, args))}: {r.returncode}\n{(r.stdout + r.stderr).decode(errors='replace')}")
        return r

    @staticmethod
    def below(path):
        """Return the path of an image's backing file; None: it has none."""
        with open(path, "rb") as f:
            magic, at, size = struct.unpack(">4s4xQI", f.read(20).ljust(20))
            if magic != b"QFI\xfb" or not at:
                return None
            f.seek(at)
            return os.path.join(os.path.dirname(path), f.read(size).decode())

    def key(self, path, format_):
        with open(path, "rb") as f:
            digest = hashlib.sha1(f.read())
        below = self.below(path) if format_ == "qcow2" else None
        if below:
            digest.update(self.key(below, self.format(below)))
        return digest.digest() + path.encode()

    def format(self, path):
        return "raw" if path.endswith(".raw") else "qcow2"

    def convert(self, tool, path, *snapshot):
        out = self.run.daemon.tmp / "content"
        self.tool(tool, "convert", "-f", self.format(path), *snapshot, "-O", "raw", path, out)
        return out.read_bytes()

    def snapshot(self, path, name, size):
        how = ["-l", f"snapshot.name={name}"]
        content = self.convert(CAIRN_IMG, path, *how)
        # QEMU reads as much of a snapshot as the disk has now.
        if len(content) == size and self.run.rng.random() < 0.3 and self.convert(QEMU_IMG, path, *how) != content:
            raise Failure(f"cairn-img and qemu-img read other contents of snapshot {name} of {path}")
        return content

    def read(self, path):
        """Return an image as the host has it."""
        format_ = self.format(path)
        key = self.key(path, format_)
        if key not in self.known:
            self.known[key] = self.read_anew(path, format_)
        self.used[key] = self.known[key]
        return self.known[key]

    def read_anew(self, path, format_):
        names = []
        if format_ == "qcow2":
            for tool in (CAIRN_IMG, QEMU_IMG):
                self.tool(tool, "check", "-q", "-f", "qcow2", path, ok=(0, LEAKS) if self.run.was_killed else (0,))
            info = json.loads(self.tool(CAIRN_IMG, "info", "--output", "json", "-f", "qcow2", path).stdout)
            names = [s["name"] for s in info.get("snapshots", [])]
        content = self.convert(self.run.rng.choice((CAIRN_IMG, QEMU_IMG)), path)
        return Image(format_, content, snapshots={name: self.snapshot(path, name, len(content)) for name in names})

    def forget(self):
        self.known, self.used = self.used, {}


class Run:
    """daemon: without VMs. kills: the part of the steps in which it is killed. pairs: the part with two requests."""

    def __init__(self, daemon, folder, seed, kills, pairs):
        self.daemon, self.folder, self.rng = daemon, str(folder), random.Random(seed)
        self.kills, self.pairs, self.serial = kills, pairs, 0
        self.world, self.reader = World(), Reader(self)
        self.was_killed = False
        self.last, self.counts = collections.deque(maxlen=LAST), collections.Counter()
        os.makedirs(folder)
        daemon.cairn("pool-define-as", "pool", "--target", self.folder)

    def next(self, prefix):
        self.serial += 1
        return f"{prefix}{self.serial}"

    def path(self, name, format_="qcow2"):
        return os.path.join(self.folder, f"{name}.{format_}")

    # ---- the host ----

    def ask(self, command, **args):
        q = Qmp(self.daemon.socket)
        try:
            return q.run(command, **args)
        finally:
            q.close()

    def is_settled(self):
        """Return whether nothing is in progress."""
        jobs = self.ask("query-jobs")
        for job in jobs:
            if job["status"] == "concluded":
                self.ask("job-dismiss", id=job["id"])
        state = self.daemon.state
        return not jobs and not self.daemon.children() and not list(state.glob("batches/*")) and not list(state.glob("groups/*")) and not any(
            list(state.glob(f"vms/*/{mark}")) for mark in ("*.pending", "undefine.json"))

    def vms(self):
        """Return the disks of all VMs as the daemon has them: {VM: ({id: layers}, is a template)}."""
        found = {}
        for vm in self.ask("vm-list")["vms"]:
            definition = self.ask("vm-dump-definition", vm=vm["name"])
            definition = definition.get("definition", definition)
            disks = {d["id"]: [d["path"], *(l["path"] for l in d.get("backing", []))] for d in definition.get("disks", [])}
            found[vm["name"]] = disks, (self.daemon.state / "vms" / vm["name"] / "template.json").exists()
        return found

    def files(self):
        return {os.path.join(at, name) for at, _, names in os.walk(self.folder) for name in names if name != "kernel"}

    def differences(self, world, vms, files):
        """Return how the host differs from a world: a list of texts."""
        found = []
        for name in sorted(set(vms) | set(world.vms)):
            ours, theirs = world.vms.get(name), vms.get(name)
            if not ours or not theirs or (ours.disks, ours.is_template) != theirs:
                found.append(f"VM {name} is {theirs} and not {ours}")
        found += [f"{path} is gone" for path in sorted(set(world.images) - files)]
        found += [f"{path} is left" for path in sorted(files - set(world.images) - world.left)]
        for path in sorted(set(world.images) & files if not found else ()):
            image, seen = world.images[path], self.reader.read(path)
            if image.content not in (None, seen.content):
                found.append(f"the content of {path} differs, {difference(image.content, seen.content)}")
            for snapshot in sorted(set(image.snapshots) | set(seen.snapshots)):
                a, b = image.snapshots.get(snapshot), seen.snapshots.get(snapshot)
                if a is None or b is None:
                    found.append(f"{path} {'lacks' if b is None else 'has'} snapshot {snapshot}")
                elif a != b:
                    found.append(f"snapshot {snapshot} of {path} differs, {difference(a, b)}")
        return found

    # ---- requests; each returns a Request, or None if it is senseless now ----

    def any_vm(self):
        return self.rng.choice(sorted(self.world.vms)) if self.world.vms else None

    def any_disk(self, fits):
        """Return (VM, id, layers) of a disk whose layers fit."""
        fit = [d for d in self.world.disks() if fits(d[2])]
        return self.rng.choice(fit) if fit else None

    def any_snapshot(self):
        """Return (VM, snapshot of its first disk)."""
        all_ = [(vm, name) for vm in self.world.vms for path in self.world.tops(vm)[:1] for name in self.world.images[path].snapshots]
        return self.rng.choice(sorted(all_)) if all_ else None

    def is_writable(self, path):
        """Return whether a program beside the daemon may write an image."""
        w = self.world
        return not w.is_read(path) and not any(w.vms[vm].is_template for vm, _ in w.users(path))

    def any_image(self, fits=lambda image: True):
        fit = [path for path, image in self.world.images.items() if self.is_writable(path) and fits(image)]
        return self.rng.choice(sorted(fit)) if fit else None

    def create(self):
        if len(self.world.spares()) >= SPARES_MAX:
            return None
        format_, size = self.rng.choice(("qcow2", "qcow2", "qcow2", "raw")), self.rng.choice(SIZES)
        path = self.path(self.next("i"), format_)
        options = ["-o", f"cluster_size={self.rng.choice((512, 4096, CLUSTER, CLUSTER))}"] if format_ == "qcow2" else []
        return Request(["create", "-q", "-f", format_, *options, path, size], lambda w: w.create(path, format_, size), program=QEMU_IMG, alone=True)

    def define(self):
        if len(self.world.vms) >= VMS_MAX or not self.world.spares():
            return None
        spares, name = sorted(self.world.spares()), self.next("v")
        disks = dict(zip(("vda", "vdb"), self.rng.sample(spares, min(len(spares), self.rng.choice((1, 2))))))
        if any(self.world.images[path].snapshots for path in list(disks.values())[1:]):
            return None  # as in attach()
        file = self.daemon.write(name, disks=[{"path": p, "format": self.world.images[p].format} for p in disks.values()])
        return Request(["define", file], lambda w: w.define(name, disks))

    def write(self):
        """Write what a guest might write."""
        path = self.any_image()
        if not path:
            return None
        size, commands, data = len(self.world.images[path].content), [], []
        for _ in range(self.rng.randrange(1, 4)):
            at, n, byte = self.rng.randrange(size // 512) * 512, self.rng.choice((512, 4096, CLUSTER)), self.rng.choice((0, self.rng.randrange(256)))
            n = min(n, size - at)
            commands += ["-c", f"write {f'-P {byte}' if byte else '-z'} {at} {n}"]
            data.append((at, bytes([byte]) * n))

        def apply(w):
            for at, part in data:
                w.write(path, at, part)
        return Request(["-f", self.world.images[path].format, *commands, path], apply, program="qemu-io", alone=True)

    def snapshot(self):
        vm, name = self.any_vm(), self.next("s")
        if not vm or any(len(self.world.images[path].snapshots) >= SNAPSHOTS_MAX for path in self.world.tops(vm)):
            return None
        return Request(["snapshot-create-as", vm, name], lambda w: w.snapshot(vm, name))

    def group_snapshot(self):
        if len(self.world.vms) < 2:
            return None
        vms, name = self.rng.sample(sorted(self.world.vms), 2), self.next("g")
        if any(len(self.world.images[path].snapshots) >= SNAPSHOTS_MAX for vm in vms for path in self.world.tops(vm)):
            return None
        return Request(["group-snapshot", *vms, "--name", name], lambda w: w.group_snapshot(vms, name))

    def revert(self):
        found = self.any_snapshot()
        if not found:
            return None
        vm, name = found
        only = self.rng.choice((None, None, *self.world.vms[vm].disks))
        return Request(["snapshot-revert", vm, name, *(["--disks-only", "--disk", only] if only else [])], lambda w: w.revert(vm, name, only))

    def rename_snapshot(self):
        found, new = self.any_snapshot(), self.next("r")
        return found and Request(["snapshot-rename", *found, new], lambda w: w.rename_snapshot(*found, new))

    def delete(self):
        found = self.any_snapshot()
        if not found:
            return None
        vm, name = found
        if self.rng.random() < 0.7:
            return Request(["snapshot-delete", vm, name], lambda w: w.delete(vm, [name]))
        tree, names = self.ask("snapshot-list", vm=vm)["snapshots"], [name]
        ids = {s["id"]: s["name"] for s in tree}
        while more := [s["name"] for s in tree if ids.get(s.get("parent")) in names and s["name"] not in names]:
            names += more
        return Request(["snapshot-delete", vm, name, "--children"], lambda w: w.delete(vm, names), alone=True)

    def external(self):
        vm = self.any_vm()
        disks = self.world.vms[vm].disks if vm else {}
        if not disks or any(len(layers) >= LAYERS_MAX for layers in disks.values()):
            return None
        name = self.next("x")
        overlays = {id_: self.path(f"{name}-{id_}") for id_ in self.rng.sample(sorted(disks), self.rng.randrange(1, len(disks) + 1))}
        specs = [w for id_ in disks for w in ("--diskspec", f"{id_},file={overlays[id_]}" if id_ in overlays else f"{id_},snapshot=no")]
        return Request(["snapshot-create-as", vm, name, "--disk-only", *specs], lambda w: w.external(vm, overlays),
                       lambda w: w.left.update(overlays.values()))

    def commit(self):
        found = self.any_disk(lambda layers: len(layers) > 1)
        if not found:
            return None
        vm, id_, layers = found
        top, base = sorted(self.rng.sample(range(len(layers)), 2))
        top, base, delete = layers[top], layers[base], self.rng.random() < 0.5
        return Request(["blockcommit", vm, id_, "--top", top, "--base", base, *(["--delete"] if delete else [])],
                       lambda w: w.commit(vm, id_, top, base, delete), lambda w: w.commit_part(vm, id_, top, base))

    def pull(self):
        found = self.any_disk(lambda layers: len(layers) > 1)
        if not found:
            return None
        vm, id_, _ = found
        return Request(["blockpull", vm, id_], lambda w: w.pull(vm, id_))

    def clone(self):
        vm, new = self.any_vm(), self.next("c")
        if not vm or len(self.world.vms) >= VMS_MAX:
            return None
        how = self.rng.choice(("full", "linked", "linked", "snapshots"))
        if how == "linked" and any(len(layers) >= LAYERS_MAX for layers in self.world.vms[vm].disks.values()):
            return None
        files = {id_: self.path(f"{new}-{id_}", "qcow2" if how == "linked" else self.world.images[layers[0]].format)
                 for id_, layers in self.world.vms[vm].disks.items()}
        words = {"full": ["--full"], "linked": ["--linked"], "snapshots": ["--full", "--snapshots"]}[how]
        return Request(["clone", vm, new, *words, *(w for path in files.values() for w in ("--file", path))],
                       lambda w: w.clone(vm, new, files, how == "linked", how == "snapshots"))

    def export(self):
        vm, archive = self.any_vm(), str(self.daemon.tmp / f"{self.next('a')}.tar")
        if not vm or len(self.world.archives) > 3:
            return None
        found = self.any_snapshot() if self.rng.random() < 0.3 else None
        if found:
            vm = found[0]
        return Request(["export", vm, archive, *(["--snapshotname", found[1]] if found else [])],
                       lambda w: w.export(vm, archive, found and found[1]))

    def import_(self):
        if not self.world.archives or len(self.world.vms) >= VMS_MAX:
            return None
        archive, vm = self.rng.choice(sorted(self.world.archives)), self.next("m")
        return Request(["import", archive, "--name", vm, "--folder", self.folder],
                       lambda w: w.import_(archive, vm, os.path.join(self.folder, vm)))

    def undefine(self):
        vm = self.any_vm()
        if not vm or len(self.world.vms) < 3:
            return None
        storage = self.rng.random() < 0.6
        return Request(["undefine", vm, "--snapshots-metadata", *(["--remove-all-storage"] if storage else [])], lambda w: w.undefine(vm, storage))

    def rename(self):
        vm, new = self.any_vm(), self.next("n")
        return vm and Request(["domrename", vm, new], lambda w: w.rename(vm, new))

    def template(self):
        vm = self.any_vm()
        if not vm:
            return None
        on = not self.world.vms[vm].is_template and self.rng.random() < 0.3
        return Request(["template", vm, *([] if on else ["--disable"])], lambda w: w.template(vm, on))

    def attach(self):
        # A part of a snapshot that another disk has under another name, as after an import, would get that name.
        vm, spares = self.any_vm(), sorted(path for path in self.world.spares() if not self.world.images[path].snapshots)
        if not vm or not spares or len(self.world.vms[vm].disks) >= DISKS_MAX:
            return None
        path = self.rng.choice(spares)
        id_ = next(i for i in ("vda", "vdb", "vdc", "vdd") if i not in self.world.vms[vm].disks)
        return Request(["attach-disk", vm, path, id_, "--subdriver", self.world.images[path].format], lambda w: w.attach(vm, id_, path))

    def detach(self):
        vm = self.any_vm()
        if not vm or len(self.world.vms[vm].disks) < 2:
            return None
        id_ = self.rng.choice(sorted(self.world.vms[vm].disks))
        return Request(["detach-disk", vm, id_], lambda w: w.detach(vm, id_))

    def resize(self):
        path, size = self.rng.choice(sorted(self.world.images)) if self.world.images else None, self.rng.choice(SIZES)
        if not path or os.path.dirname(path) != self.folder:
            return None
        return Request(["vol-resize", path, size, "--pool", "pool", "--shrink"], lambda w: w.resize(path, size), alone=True)

    def image_snapshot(self):
        path = self.any_image(lambda image: image.format == "qcow2")
        if not path:
            return None
        names = sorted(self.world.images[path].snapshots)
        action = self.rng.choice(("-a", "-d")) if names else "-c"
        name = self.rng.choice(names) if names else self.next("i")
        return Request(["snapshot", action, name, path], lambda w: w.image_snapshot(path, action, name), program=self.rng.choice((CAIRN_IMG, QEMU_IMG)),
                       alone=True)

    def image_commit(self):
        w = self.world
        found = self.any_disk(lambda layers: len(layers) > 1 and self.is_writable(layers[0]) and len(w.users(layers[1])) == 1)
        if not found or w.vms[found[0]].is_template:
            return None
        path = found[2][0]
        return Request(["commit", "-q", "-f", "qcow2", *self.rng.choice(([], ["-d"])), path], lambda w: w.image_commit(path), program=CAIRN_IMG, alone=True)

    def image_trim(self):
        path = self.any_image(lambda image: image.format == "qcow2")
        how = self.rng.choice((["trim", "-q"], ["trim", "-q", "--zeros"], ["check", "-q", "-r", "all"], ["check", "-q", "-r", "leaks"]))
        return path and Request([*how, "-f", "qcow2", path], lambda w: None, program=CAIRN_IMG, alone=True)

    def image_convert(self):
        if not self.world.images or len(self.world.spares()) >= SPARES_MAX:
            return None
        path, format_ = self.rng.choice(sorted(self.world.images)), self.rng.choice(("qcow2", "raw"))
        image, new = self.world.images[path], self.path(self.next("i"), format_)
        name = self.rng.choice((None, *sorted(image.snapshots)))
        return Request(["convert", "-f", image.format, *(["-l", name] if name else []), "-O", format_, path, new],
                       lambda w: w.new(new, format_, image.snapshots[name] if name else image.content), program=CAIRN_IMG, alone=True)

    def rebase(self):
        """Rebase an image to a lower layer or to none, and define the VM with the new layers."""
        found = self.any_disk(lambda layers: len(layers) > 1 and self.is_writable(layers[0]))
        if not found or self.world.vms[found[0]].is_template:
            return None
        vm, id_, layers = found
        left = self.rng.randrange(2, len(layers) + 1)
        where = ["-b", layers[left], "-F", self.world.images[layers[left]].format] if left < len(layers) else ["-b", ""]
        definition = self.ask("vm-dump-definition", vm=vm)
        definition = definition.get("definition", definition)
        for disk in definition["disks"]:
            if disk["id"] == id_:
                disk["backing"] = disk["backing"][left - 1:]
                if not disk["backing"]:
                    del disk["backing"]
        file = self.daemon.tmp / "rebased.json"
        file.write_text(json.dumps(definition))
        script = f'"{CAIRN_IMG}" rebase -q -f qcow2 "$@" && "{CAIRN}" define "{file}"'
        return Request(["-c", script, "rebase", *where, layers[0]], lambda w: w.rebase(vm, id_, [layers[0], *layers[left:]]), program="sh", alone=True)

    REQUESTS = {
        create: 3, define: 4, write: 8, snapshot: 6, group_snapshot: 1, revert: 5, rename_snapshot: 1, delete: 3, external: 5, commit: 6, pull: 2,
        clone: 5, export: 1, import_: 2, undefine: 2, rename: 1, template: 2, attach: 2, detach: 1, resize: 2, image_snapshot: 2,
        image_commit: 1, image_trim: 1, image_convert: 1, rebase: 1,
    }

    # ---- the run ----

    def any_request(self):
        while True:
            kind, = self.rng.choices(list(self.REQUESTS), list(self.REQUESTS.values()))
            request = kind(self)
            if request:
                request.kind = kind.__name__
                return request

    def choose(self):
        requests = [self.any_request()]
        if not requests[0].alone and self.rng.random() < self.pairs:
            second = self.any_request()
            if not second.alone:
                requests.append(second)
        return requests

    def kill_daemon(self):
        time.sleep(self.rng.expovariate(1 / KILL_SECONDS))
        self.daemon.stop(signal.SIGKILL)
        self.daemon.start()

    def worlds(self, requests, killed):
        """Return the worlds that may be there after the requests."""
        found = []
        done = [r for r in requests if r.status == 0]
        for n in range(len(done), len(requests) + 1 if killed else len(done) + 1):
            for some in itertools.permutations(requests, n):
                if set(done) <= set(some):
                    found += self.worlds_after(some, [r for r in requests if r not in some] if killed else [])
        return found

    def worlds_after(self, requests, cut_off):
        world = copy.deepcopy(self.world)
        try:
            for r in requests:
                r.apply(world)
        except (Impossible, KeyError, ValueError) as e:
            self.last.append(f"  {r.words[1]}: impossible, {e!r}")
            return []
        for r in cut_off:
            part = copy.deepcopy(world)
            try:
                if r.part:
                    r.part(part)
                    world = part
            except (Impossible, KeyError, ValueError):
                pass
        return [world]

    def step(self):
        requests, kill = self.choose(), self.rng.random() < self.kills
        kill = kill and not requests[0].alone
        for r in requests:
            r.begin(self)
        if kill:
            self.kill_daemon()
        for r in requests:
            r.end()
            self.last.append(f"{r}{' (killed)' if kill else ''}")
            self.counts[r.kind, "done" if r.status == 0 else "killed" if kill else "refused"] += 1
        self.was_killed |= kill
        until(self.is_settled)
        for r in requests:
            if r.status and not kill and len(requests) == 1 and not REFUSALS.search(r.text):
                raise Failure(f"an unknown error: {r}")
        self.compare(self.worlds(requests, kill))

    def compare(self, worlds):
        vms, files, found = self.vms(), self.files(), []
        for world in worlds:
            found.append(self.differences(world, vms, files))
            if not found[-1]:
                self.world = world
                break
        else:
            raise Failure("\n".join(min(found, key=len)) if found else "the request should have been refused")
        self.reader.forget()
        for path in files - set(world.images):
            os.unlink(path)
        world.left.clear()
        for path, image in world.images.items():
            image.content = self.reader.read(path).content

    def go(self, steps):
        try:
            for _ in range(steps):
                self.step()
        except (Failure, QmpError, subprocess.TimeoutExpired) as e:
            raise Failure("\n".join([*self.last, str(e)])) from e


def difference(a, b):
    if len(a) != len(b):
        return f"{len(b)} bytes and not {len(a)}"
    at = [i for i in range(0, len(a), 512) if a[i:i + 512] != b[i:i + 512]]
    return f"{len(at)} sectors from {at[0]} on: {b[at[0]]} and not {a[at[0]]}"
