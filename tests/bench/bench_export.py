"""export, import: a VM into one file and out of it, compared with tar on the same sparse image, with the same
compressor on all CPUs."""

import os
import random
import shutil
import subprocess
import time

from conftest import Daemon
from benchlib import Unfit
import pathlib
import tempfile

MIB = 1024 * 1024
ROUNDS, GOAL = 3, 1.0
# Half of the data compresses well, half does not; most of the file is a hole.
DATA_MIB, SIZE_MIB = 192, 8192
LIMIT = "zstd of the data alone"  # no program packs .gz as fast as libdeflate does here


def image(path, data):
    """Write the image, and its data without the holes to another file."""
    rng = random.Random(5)
    words = [rng.randbytes(40) for _ in range(4000)]
    with open(path, "wb") as f, open(data, "wb") as d:
        f.truncate(SIZE_MIB * MIB)
        for i in range(DATA_MIB // 2):
            piece = rng.randbytes(MIB) + b"".join(rng.choice(words) for _ in range(MIB // 40))
            f.seek(i * 20 * MIB)
            f.write(piece)
            d.write(piece)


def seconds(work):
    os.sync()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def run(bench):
    for program in ("pigz", "zstd", "tar"):
        if not shutil.which(program):
            raise Unfit(f"{program} is missing")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        daemon = Daemon(pathlib.Path(folder))
        try:
            measure(bench, daemon, folder)
        finally:
            daemon.close()


def measure(bench, daemon, folder):
    image(os.path.join(folder, "disk.raw"), os.path.join(folder, "data"))
    daemon.define("vm", disks=[{"path": "disk.raw", "format": "raw"}])
    for suffix, compressor in ((".tar.zst", f"zstd -3 -T{os.cpu_count()}"), (".tar.gz", "pigz -6")):
        mine, theirs = (os.path.join(folder, name + suffix) for name in ("ours", "tar"))
        pairs, back, limits = [], [], []
        for _ in range(ROUNDS):
            pairs.append((seconds(lambda: daemon.cairn("export", "vm", mine, "--force")),
                          seconds(lambda: packed(folder, theirs, compressor))))
            back.append((seconds(lambda: daemon.cairn("import", mine, "--name", "new", "--folder", folder)),
                         seconds(lambda: unpacked(folder, theirs, compressor))))
            limits.append([seconds(lambda c=c: bare(folder, c)) if suffix == ".tar.zst" else None for c in (f"{compressor} data", "zstd -d data.zst")])
            daemon.cairn("undefine", "new")
            shutil.rmtree(os.path.join(folder, "new"))
            shutil.rmtree(os.path.join(folder, "tar"))
        bench.pairs(f"export {suffix}", "s", pairs, "tar", GOAL, limit=[packing for packing, _ in limits], limit_name=LIMIT)
        bench.pairs(f"import {suffix}", "s", back, "tar", GOAL, limit=[unpacking for _, unpacking in limits], limit_name=LIMIT)


def bare(folder, command):
    """Compress or decompress the data alone."""
    subprocess.run([*command.split(), "-q", "-f"], cwd=folder, check=True)
    subprocess.run(["sync", "data.zst", "data"], cwd=folder, check=True)


def packed(folder, path, compressor):
    subprocess.run(["tar", "-C", folder, "-S", "-I", compressor, "-cf", path, "disk.raw", "kernel"], check=True)
    subprocess.run(["sync", path], check=True)


def unpacked(folder, path, compressor):
    os.mkdir(os.path.join(folder, "tar"))
    subprocess.run(["tar", "-C", os.path.join(folder, "tar"), "-I", compressor.split()[0], "-xf", path], check=True)
    subprocess.run(["sync", os.path.join(folder, "tar", "disk.raw")], check=True)
