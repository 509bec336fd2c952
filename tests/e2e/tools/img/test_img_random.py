"""Random operations by qemu-img, qemu-io and cairn-img in turns on one image: after each step both tools find no fault
in it, and its content, its snapshots and its bitmaps are those of a shadow in memory. CAIRN_IMG_STEPS steps from
CAIRN_IMG_SEED."""
import collections
import json
import os
import random
import re
import shlex
import shutil
import struct
import subprocess

import pytest

from test_img import IMG, MIB, TIMEOUT

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img, the oracle, is missing")

STEPS = int(os.environ.get("CAIRN_IMG_STEPS", 40))
SEED = int(os.environ.get("CAIRN_IMG_SEED", 1))
LARGEST = {9: 320 << 10, 12: MIB, 14: 2 * MIB, 16: 4 * MIB, 18: 6 * MIB, 21: 16 * MIB}  # disks, by cluster_bits
SECTOR = 512
DEPTH = 3  # backing files
CAIRN, QEMU = str(IMG), "qemu-img"
BITMAPS = 0x23852875  # the header's extension
IN_USE, AUTO = 1, 2  # flags of a bitmap

# Operations that a tool may refuse, leaving the image as it was. All other errors fail the test.
REFUSALS = re.compile("|".join((
    "refcounts have . bits?, which is too few for snapshots",
    "Could not create snapshot '.*': -22|Could not apply snapshot '.*': Failed to load snapshot: Invalid",  # the same
    "needs? compat=1.1",
    "compat=0.10 requires refcount_bits=16|Lazy refcounts only supported with compatibility level 1.1",
    "snapshots in the old format .* which does not keep their sizes",
    "Device has active dirty bitmaps",
    "a cluster's refcount is at the maximum of . bits",
    "Can't resize a v2 image which has snapshots",
    "the image has zero clusters, which compat=0.10|has persistent bitmaps .*, which compat=0.10",
    "another size than its snapshot .*, which compat=0.10|Refcount widths other than 16 bits require compatibility level 1.1",
    "Internal snapshots prevent downgrade of image|Cannot downgrade an image with",
    "used [0-9]+ times, which refcounts of . bits cannot hold|Cannot decrease refcount entry width",
    "names do not fit into a cluster of 512 bytes",
    "compat 0.10 cannot preallocate clusters|Failed to zero out new clusters: Operation not supported",
)))


def merge_extents(extents):
    """Returns the extents of `map` in one form. Whether allocated space has holes, the tools find out differently."""
    merged = []
    for e in extents:
        end = e["start"] + e["length"]
        kind = e["depth"], e["present"], e["data"], e["zero"] and not e["data"], e["start"] - e["offset"] if "offset" in e else None
        if merged and merged[-1][0] == kind:
            merged[-1] = kind, merged[-1][1], end
        else:
            merged.append((kind, e["start"], end))
    return merged


class Bitmap:
    """A bitmap. must: the granules that changed while it was enabled; has: exactly what it recorded, once disabled."""

    def __init__(self, granularity):
        self.granularity, self.enabled, self.must, self.has = granularity, True, set(), None

    def resize(self, bytes_):
        for kept in filter(None, (self.must, self.has)):
            kept.intersection_update(range(-(-bytes_ // self.granularity)))


class Layer:
    """A backing file."""

    def __init__(self, name, fmt, content):
        self.name, self.fmt, self.content = name, fmt, content


def read_header(path):
    with open(path, "rb") as f:
        version, cluster_bits, size, features, autoclear, order = struct.unpack(">4xI12xIQ40xQ8xQI", f.read(100))
    return {"v2": version < 3, "cluster_bits": cluster_bits, "size": size, "extended": version > 2 and bool(features & 16),
            "dirty": version > 2 and bool(features & 1), "bitmaps": version > 2 and bool(autoclear & 1), "refcount_bits": 1 << order if version > 2 else 16}


def read_bitmaps(path):
    """Returns {name: (flags, granularity, set of recorded granules)}."""
    header = read_header(path)
    cluster, found = 1 << header["cluster_bits"], {}
    if not header["bitmaps"]:
        return found
    with open(path, "rb") as f:
        def read(form, at):
            f.seek(at)
            return struct.unpack(form, f.read(struct.calcsize(form)))

        at, = read(">I", 100)
        while (extension := read(">II", at))[0] != BITMAPS:
            assert extension[0], "no extension for bitmaps"
            at += 8 + -(-extension[1] // 8) * 8
        count, entry = read(">I12xQ", at + 8)
        for _ in range(count):
            table, entries, flags, _, bits, name_bytes, extra = read(">QIIBBHI", entry)
            name = read(f"{name_bytes}s", entry + 24 + extra)[0].decode()
            entry += -(-(24 + extra + name_bytes) // 8) * 8
            recorded = b""
            for value in read(f">{entries}Q", table):
                offset = value & 0xfffffffffffe00
                f.seek(offset)
                recorded += f.read(cluster).ljust(cluster, b"\0") if offset else bytes([255 * (value & 1)]) * cluster
            granules = range(-(-header["size"] // (1 << bits)))
            found[name] = flags, 1 << bits, {g for g in granules if recorded[g // 8] >> g % 8 & 1}
    return found


class Disk:
    """The image `a`, its backing files, and what they have to hold."""

    def __init__(self, folder, seed):
        self.folder, self.rng, self.serial = folder, random.Random(seed), 0
        self.log, self.counts = [f"seed {seed}"], collections.Counter()
        self.snapshots, self.bitmaps, self.layers = {}, {}, []
        self.was_overlay = False
        self.create()

    # ---- processes ----

    def run(self, *args, statuses=(0,)):
        args = [str(a) for a in args]
        self.log.append(shlex.join(args))
        p = subprocess.run(args, cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT)
        assert p.returncode in statuses, f"status {p.returncode}: {p.stdout}{p.stderr}"
        return p

    def tool(self):
        return self.rng.choice((CAIRN, QEMU))

    def change(self, tool, verb, *args):
        """Returns whether the tool did it; it may refuse some."""
        p = self.run(tool, verb, *args, statuses=(0, 1))
        self.counts[tool, verb, "refused" if p.returncode else "done"] += 1
        if p.returncode:
            assert REFUSALS.search(p.stderr), p.stderr
            self.log.append(f"# {p.stderr.strip()}")
            if tool == QEMU:  # it may leave leaks
                self.repair()
        return not p.returncode

    def next(self, prefix):
        self.serial += 1
        return f"{prefix}{self.serial}"

    def path(self, name):
        return os.path.join(self.folder, name)

    def write_file(self, name, content):
        with open(self.path(name), "wb") as f:
            f.write(content)

    def read(self, tool, *image):
        self.run(tool, "convert", "-O", "raw", *image, "content")
        with open(self.path("content"), "rb") as f:
            return bytearray(f.read())

    # ---- images ----

    def any_options(self, backed):
        """Choose an image's kind. Returns its options."""
        rng, self.data_file = self.rng, None
        self.cluster_bits = rng.choice(sorted(LARGEST))
        options = {"cluster_size": 1 << self.cluster_bits}
        if rng.random() < 0.2:
            options["compat"] = "0.10"
        else:
            options["refcount_bits"] = 1 << rng.randrange(7)
            if self.cluster_bits >= 14 and rng.random() < 0.5:
                options["extended_l2"] = "on"
            if rng.random() < 0.2:
                options["lazy_refcounts"] = "on"
            if rng.random() < 0.3:
                options["compression_type"] = "zstd"
            if rng.random() < 0.2:
                self.data_file = options["data_file"] = self.next("data")
                if not backed and rng.random() < 0.5:
                    options["data_file_raw"] = "on"
        if rng.random() < 0.2 and not (backed and "extended_l2" not in options):
            options["preallocation"] = rng.choice(("metadata", "falloc", "full"))
        self.options = options
        return ",".join(f"{k}={v}" for k, v in options.items())

    @property
    def raw_data(self):
        return self.options.get("data_file_raw")

    def any_size(self):
        return self.rng.randrange(1, LARGEST[self.cluster_bits] // SECTOR + 1) * SECTOR

    def any_content(self, size):
        """Runs of zeros and of bytes."""
        content = bytearray()
        while len(content) < size:
            byte = self.rng.choice((0, self.rng.randrange(1, 256)))
            content += bytes([byte]) * self.rng.choice((SECTOR, 4096, 65536, size // 3 + 1))
        return content[:size]

    def new_layer(self, below):
        """Make a backing file, perhaps over those in `below`. Returns the new list of layers."""
        rng, name = self.rng, self.next("base")
        self.cluster_bits = rng.choice(sorted(LARGEST))
        content = self.any_content(self.any_size())
        if rng.random() < 0.4:
            self.write_file(name, content)
            return [Layer(name, "raw", content)]
        self.write_file("content", content)
        options = f"cluster_size={1 << self.cluster_bits}"
        if rng.random() < 0.3 and self.cluster_bits >= 14:
            options += ",extended_l2=on"
        self.run(self.tool(), "convert", *(["-c"] if rng.random() < 0.3 else []), "-f", "raw", "-O", "qcow2", "-o", options, "content", name)
        if not below or len(below) >= DEPTH - 1 or rng.random() < 0.5:
            return [Layer(name, "qcow2", content)]
        # It has no zero clusters, so all its zeros show the layer below.
        self.run(QEMU, "rebase", "-u", "-f", "qcow2", "-b", below[0].name, "-F", below[0].fmt, name)
        return [Layer(name, "qcow2", self.read(QEMU, "-f", "qcow2", name)), *below]

    def create(self):
        for _ in range(self.rng.randrange(DEPTH)):
            self.layers = self.new_layer(self.layers)
        options = self.any_options(self.layers)
        backing = ["-b", self.layers[0].name, "-F", self.layers[0].fmt] if self.layers else []
        size = self.any_size()
        self.run(self.tool(), "create", "-q", "-f", "qcow2", "-o", options, *backing, "a", size)
        self.want = self.layers[0].content[:size] if self.layers else bytearray()
        self.want += bytes(size - len(self.want))

    def replace(self, tool, *args, bitmaps=False):
        """Convert, with ARGS up to the source, to a new image that takes the place of `a`."""
        old = self.cluster_bits, self.options, self.data_file
        options = self.any_options("-B" in args)
        if LARGEST[self.cluster_bits] < len(self.want) or bitmaps and "compat" in self.options:
            self.cluster_bits, self.options, self.data_file = old
            return False
        compress = not self.data_file and "preallocation" not in self.options and self.rng.random() < 0.4
        self.run(tool, "convert", *(["-c"] if compress else []), "-O", "qcow2", "-o", options, *args, "b")
        self.counts[tool, "convert", "done"] += 1
        os.rename(self.path("b"), self.path("a"))
        if old[-1]:
            os.unlink(self.path(old[-1]))
        self.snapshots = {}
        if not bitmaps:
            self.bitmaps = {}
        return True

    # ---- steps ----

    def range_any(self):
        """A part of the disk: offset and length."""
        rng, size = self.rng, len(self.want)
        unit = rng.choice((1, SECTOR, 2048, 1 << self.cluster_bits, 1 << self.cluster_bits))
        at = rng.randrange(-(-size // unit)) * unit
        return at, min(size - at, unit * rng.choice((1, 1, 2, 3, 8, 40)))

    def clusters_any(self):
        cluster, size = 1 << self.cluster_bits, len(self.want)
        at = self.rng.randrange(-(-size // cluster)) * cluster
        return at, min(size - at, cluster * self.rng.choice((1, 1, 2, 5)))

    def fill(self, at, length, byte):
        self.want[at:at + length] = bytes([byte]) * length

    def io(self):
        """Some commands of qemu-io; sometimes a signal kills it after a flush."""
        rng, commands = self.rng, []
        for _ in range(rng.randrange(1, 6)):
            kind, byte = rng.choice(("write", "write", "write", "zero", "discard", "flush")), rng.randrange(1, 256)
            if kind == "flush":
                commands.append("flush")
            elif kind == "discard":
                at, length = self.clusters_any()
                if not (self.layers and read_header(self.path("a"))["v2"]):
                    commands.append(f"discard {at} {length}")
                    self.fill(at, length, 0)
            else:
                at, length = self.range_any()
                commands.append(f"write -P {byte} {at} {length}" if kind == "write" else
                                f"write -z{rng.choice(('', ' -u'))} {at} {length}")
                self.fill(at, length, byte if kind == "write" else 0)
        if not self.bitmaps and rng.random() < 0.2:
            commands += ["flush", "sigraise 9"]
        self.run("qemu-io", "-f", "qcow2", *(a for c in commands for a in ("-c", c)), "a", statuses=(-9 if "sigraise 9" in commands else 0,))
        if "sigraise 9" in commands:
            self.run(self.tool(), "check", "-q", "-r", "all" if read_header(self.path("a"))["dirty"] else "leaks", "a")

    def io_compressed(self):
        at, length = self.clusters_any()
        if self.data_file:
            return False
        byte = self.rng.randrange(256)
        p = self.run("qemu-io", "-f", "qcow2", "-c", f"write -c -P {byte} {at} {length}", "a", statuses=(0, 1))
        if p.returncode:  # a cluster with data cannot be compressed; those before it were
            assert "Input/output error" in p.stdout + p.stderr
            self.want = self.read(QEMU, "-f", "qcow2", "a")
        else:
            self.fill(at, length, byte)

    def bench(self):
        """Parallel writes."""
        rng, size = self.rng, len(self.want)
        length = rng.choice((SECTOR, 4096, 1 << self.cluster_bits))
        step = length + SECTOR * rng.choice((0, 0, 7, 128))
        at = rng.randrange(size // SECTOR) * SECTOR
        count = min((size - at - length) // step + 1, 30)
        if count < 1:
            return False
        byte = rng.randrange(256)
        depth = rng.choice((1, 4, 64))
        flush = ["--flush-interval", depth] if rng.random() < 0.5 else []
        self.change(self.tool(), "bench", "-w", "-f", "qcow2", "-c", count, "-d", depth, "-s", length, "-S", step, "-o", at, "--pattern", byte,
                    *flush, "a")
        for i in range(count):
            self.fill(at + i * step, length, byte)

    def convert_into(self):
        size = self.rng.randrange(1, len(self.want) // SECTOR + 1) * SECTOR
        content = self.any_content(size)
        self.write_file("content", content)
        self.change(self.tool(), "convert", "-n", "-f", "raw", "-O", "qcow2", "content", "a")
        self.want[:size] = content

    def snapshot_create(self):
        if self.data_file or len(self.snapshots) > 4:
            return False
        name = self.next("s")
        if self.change(self.tool(), "snapshot", "-c", name, "a"):
            self.snapshots[name] = bytes(self.want)

    def snapshot_apply(self):
        if not self.snapshots:
            return False
        name = self.rng.choice(sorted(self.snapshots))
        # QEMU finds only halfway that a refcount of 1 bit cannot count a second user, and leaves a damaged image.
        tool = CAIRN if read_header(self.path("a"))["refcount_bits"] == 1 else self.tool()
        if self.change(tool, "snapshot", "-a", name, "a"):
            self.want = bytearray(self.snapshots[name])

    def snapshot_delete(self):
        if not self.snapshots:
            return False
        name = self.rng.choice(sorted(self.snapshots))
        if self.change(self.tool(), "snapshot", "-d", name, "a"):
            del self.snapshots[name]

    def resize(self):
        old, size, tool = len(self.want), self.any_size(), self.tool()
        if size < old:
            how = ["--shrink"]
            if tool == QEMU:  # what it leaves behind the end in the last cluster shows up when it grows the disk
                size = max(size >> self.cluster_bits, 1) << self.cluster_bits
        else:
            how = self.rng.choice(([], [], *([f"--preallocation={p}"] for p in ("metadata", "falloc", "full"))))
            if how:  # QEMU loses a compressed last cluster, and shows old content of free ones
                tool, size = CAIRN, max(size, old + SECTOR)
            elif self.was_overlay and not self.layers and old % (1 << self.cluster_bits):
                tool = CAIRN  # QEMU's rebase leaves content of the backing file behind the end, and its resize shows that
        if self.change(tool, "resize", "-q", "-f", "qcow2", *how, "a", size):
            self.want = self.want[:size] + bytes(max(0, size - old))

    def amend(self):
        rng, header, options = self.rng, read_header(self.path("a")), []
        if rng.random() < 0.5:
            options = ["compat=" + rng.choice(("0.10", "1.1"))]
        if not options or rng.random() < 0.2:
            options.append(rng.choice(("lazy_refcounts=on", "lazy_refcounts=off", f"refcount_bits={1 << rng.randrange(7)}")))
        tool = self.tool()
        if "compat=0.10" in options and (self.bitmaps or self.snapshots):
            tool = CAIRN  # QEMU loses bitmaps, and leaks; it writes zeros into clusters that snapshots share
        if self.cluster_bits > 14 and "refcount_bits" in options[-1]:
            tool = CAIRN  # QEMU takes minutes: the square of the refcounts in a block
        self.change(tool, "amend", "-f", "qcow2", "-o", ",".join(options), "a")

    def rebase(self):
        rng = self.rng
        if self.raw_data:
            return False
        self.was_overlay |= bool(self.layers)
        if self.layers and rng.random() < 0.3:  # the backing file moves
            old, new = self.layers[0], self.next("base")
            os.rename(self.path(old.name), self.path(new))
            self.log.append(f"mv {old.name} {new}")
            old.name = new
            tool = CAIRN if self.bitmaps and self.cluster_bits == 9 else self.tool()
            self.change(tool, "rebase", "-u", "-f", "qcow2", "-b", new, "-F", old.fmt, "a")
            return
        if self.snapshots:
            return False  # they read the backing file, too
        bits = self.cluster_bits
        layers = rng.choice(([], self.layers[1:], None)) if self.layers else None
        if layers is None:
            layers = self.new_layer(rng.choice(([], self.layers[-1:])))
        self.cluster_bits = bits
        where = ["-b", layers[0].name, "-F", layers[0].fmt] if layers else ["-b", ""]
        # If a first cluster of 512 bytes has no room for the name, QEMU loses the bitmaps. In an image of version 2 it
        # does not hide the new backing file where the old one, or nothing, had zeros.
        tool = CAIRN if self.bitmaps and bits == 9 or read_header(self.path("a"))["v2"] else self.tool()
        if self.change(tool, "rebase", "-f", "qcow2", *where, "a"):
            self.layers = layers

    def commit(self):
        if not self.layers or self.snapshots:
            return False
        how, into = self.rng.choice(([], ["-d"])), self.layers[0]
        if len(self.layers) > 1 and self.rng.random() < 0.3:
            into = self.rng.choice(self.layers[1:])
            how = ["-b", into.name]
        tool = self.tool()
        if len(into.content) < len(self.want) and into.fmt == "qcow2" and read_header(self.path(into.name))["extended"]:
            tool = CAIRN  # QEMU cannot grow an image with subclusters whose last cluster is compressed
        if self.change(tool, "commit", "-q", "-f", "qcow2", *how, "a"):
            into.content[:len(self.want)] = self.want
            for layer in self.layers[:self.layers.index(into)]:  # what they lack shows the new content below
                layer.content = self.read(QEMU, "-f", layer.fmt, layer.name)

    def convert(self):
        tool, rng = self.tool(), self.rng
        if self.layers and rng.random() < 0.5:
            return self.replace(tool, "-B", self.layers[0].name, "-F", self.layers[0].fmt, "-f", "qcow2", "a")
        if self.snapshots and rng.random() < 0.5:
            name = rng.choice(sorted(self.snapshots))
            content = bytearray(self.snapshots[name])
            tool = tool if len(content) == len(self.want) else CAIRN
            if not self.replace(tool, "-f", "qcow2", "-l", f"snapshot.name={name}", "a"):
                return False
            self.want, self.layers = content, []
            return True
        bitmaps = bool(self.bitmaps) and rng.random() < 0.7
        if not self.replace(tool, *(["--bitmaps"] if bitmaps else []), "-f", "qcow2", "a", bitmaps=bitmaps):
            return False
        self.layers = []
        return True

    def dd(self):
        rng, block = self.rng, self.rng.choice((SECTOR, 4096, 65536))
        if len(self.want) > 2 * MIB:
            block = max(block, 4096)  # QEMU's dd needs a minute for 20,000 blocks on a busy host
        blocks = len(self.want) // block
        if self.data_file or not blocks:
            return False
        skip, count = rng.randrange(min(blocks, 4)), blocks if rng.random() < 0.7 else rng.randrange(1, blocks + 1)
        if skip >= count:
            return False
        self.change(self.tool(), "dd", "-f", "qcow2", "-O", "qcow2", f"bs={block}", f"skip={skip}", f"count={count}", "if=a", "of=b")
        os.rename(self.path("b"), self.path("a"))
        self.want = self.want[skip * block:count * block]
        self.snapshots, self.bitmaps, self.layers, self.options = {}, {}, [], {}
        self.cluster_bits = 16

    def trim(self):
        self.change(CAIRN, "trim", "-q", "-f", "qcow2", *self.rng.choice(([], ["--zeros"])), "a")

    def repair(self):
        # QEMU 7.2 repairs an image with snapshots and bitmaps, and then has lost the snapshots.
        tool = CAIRN if self.snapshots and self.bitmaps else self.tool()
        self.change(tool, "check", "-q", "-r", self.rng.choice(("leaks", "all")), "a")

    def bitmap_add(self):
        if read_header(self.path("a"))["v2"] or len(self.bitmaps) > 3:
            return False
        name, granularity = self.next("bitmap"), 1 << self.rng.randrange(9 if len(self.want) <= MIB else 12, 20)
        how = self.rng.choice(([], ["--disable"]))
        if self.change(self.tool(), "bitmap", "--add", *how, "-g", granularity, "a", name):
            self.bitmaps[name] = bitmap = Bitmap(granularity)
            if how:
                bitmap.enabled, bitmap.has = False, set()

    def bitmap_change(self):
        if not self.bitmaps:
            return False
        name, action = self.rng.choice(sorted(self.bitmaps)), self.rng.choice(("remove", "clear", "enable", "disable", "merge"))
        other = self.rng.choice(sorted(self.bitmaps))
        bitmap = self.bitmaps[name]
        if not self.change(self.tool(), "bitmap", f"--{action}", *([other] if action == "merge" else []), "a", name):
            return True
        if action == "remove":
            del self.bitmaps[name]
            return True
        if action == "clear":
            bitmap.must = set()
            assert not read_bitmaps(self.path("a"))[name][2]
        elif action in ("enable", "disable"):
            bitmap.enabled = action == "enable"
        else:
            there = self.bitmaps[other]
            for g in there.must:
                at = g * there.granularity
                bitmap.must.update(range(at // bitmap.granularity, (at + there.granularity - 1) // bitmap.granularity + 1))
            bitmap.resize(len(self.want))
        bitmap.has = None if bitmap.enabled else read_bitmaps(self.path("a"))[name][2]
        return True

    # ---- checks ----

    def check_bitmaps(self, before):
        found = read_bitmaps(self.path("a"))
        assert sorted(found) == sorted(self.bitmaps)
        size = len(self.want)
        before = before[:size] + bytes(max(0, size - len(before)))
        for name, bitmap in self.bitmaps.items():
            bitmap.resize(size)
            flags, granularity, recorded = found[name]
            assert (flags, granularity) == (AUTO if bitmap.enabled else 0, bitmap.granularity), name
            if bitmap.enabled:
                starts = range(0, size, granularity)
                bitmap.must |= {at // granularity for at in starts if before[at:at + granularity] != self.want[at:at + granularity]}
            assert bitmap.must <= recorded, f"{name} lacks granules {sorted(bitmap.must - recorded)[:10]}"
            assert bitmap.has in (None, recorded), f"the disabled {name} has changed"

    def compare(self, name, fmt, content):
        self.write_file("want", content)
        self.run(self.tool(), "compare", "-q", "-f", "raw", "-F", fmt, "want", name)

    def compare_answers(self):
        """Both tools say the same about the image."""
        verb = self.rng.choice((["info"], ["map"], ["measure", "-O", "qcow2", "-o", f"cluster_size={1 << self.rng.randrange(9, 22)}"]))
        ours, theirs = (json.loads(self.run(tool, *verb, "--output", "json", "-f", "qcow2", "a").stdout) for tool in (CAIRN, QEMU))
        if verb == ["info"]:
            theirs.pop("children", None)  # QEMU 10
            del ours["actual-size"], theirs["actual-size"]  # a file system may allocate in between
        if verb == ["map"]:
            ours, theirs = merge_extents(ours), merge_extents(theirs)
        if verb == ["info"] or not self.data_file:  # QEMU may look for holes in a data file
            assert ours == theirs

    def check(self, before):
        self.compare_answers()
        for tool in (CAIRN, QEMU):
            self.run(tool, "check", "-q", "-f", "qcow2", "a")
        assert read_header(self.path("a"))["size"] == len(self.want)
        self.compare("a", "qcow2", self.want)
        self.check_bitmaps(before)
        if self.raw_data:
            with open(self.path(self.data_file), "rb") as f:
                content = f.read(len(self.want))
            assert content.ljust(len(self.want), b"\0") == self.want, "the raw data file differs"
        if self.snapshots:
            name = self.rng.choice(sorted(self.snapshots))
            # QEMU reads as much of a snapshot as the disk has now.
            tool = self.tool() if len(self.snapshots[name]) == len(self.want) else CAIRN
            content = self.read(tool, "-f", "qcow2", "-l", f"snapshot.name={name}", "a")
            assert content == self.snapshots[name], f"snapshot {name} differs"
        elif self.layers:
            layer = self.rng.choice(self.layers)
            self.compare(layer.name, layer.fmt, layer.content)

    def step(self):
        """Do one operation. Returns what it was."""
        while True:
            before = bytes(self.want)
            what = self.rng.choice((
                self.io, self.io, self.io, self.io, self.io_compressed, self.bench, self.bench, self.convert_into, self.snapshot_create,
                self.snapshot_create, self.snapshot_apply, self.snapshot_delete, self.resize, self.resize, self.amend, self.amend,
                self.rebase, self.commit, self.convert, self.dd, self.trim, self.repair, self.bitmap_add, self.bitmap_change))
            self.log.append(f"# {what.__name__}")
            if what() is not False:
                break
        self.check(before)


def walk(folder, steps, seed):
    """Take steps on images that the seed determines. Returns how often each verb was done and refused."""
    counts = collections.Counter()
    rng = random.Random(seed)
    while steps > 0:
        folder.mkdir()
        disk, life = None, min(steps, rng.randrange(20, 60))
        try:
            disk = Disk(folder, rng.randrange(1 << 30))
            for _ in range(life):
                disk.step()
        except (AssertionError, subprocess.TimeoutExpired) as e:
            pytest.fail(f"{e}\nThe image's steps:\n" + "\n".join(disk.log if disk else []), pytrace=False)
        counts += disk.counts
        shutil.rmtree(folder)
        steps -= life
    return counts


@pytest.mark.seconds(60 + 4 * STEPS)
def test_random_operations_of_both_tools_keep_an_image_whole(tmp_path):
    counts = walk(tmp_path / "disk", STEPS, SEED)
    for (tool, verb, how), n in sorted(counts.items()):
        print(f"{os.path.basename(tool)} {verb}: {n} {how}")
    if STEPS >= 1000:
        verbs = {verb for _, verb, _ in counts}
        assert {(tool, verb) for tool in (CAIRN, QEMU) for verb in verbs - {"trim"}} <= {key[:2] for key in counts if key[2] == "done"}
