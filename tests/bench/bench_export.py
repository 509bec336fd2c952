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


def image(path):
    rng = random.Random(5)
    words = [rng.randbytes(40) for _ in range(4000)]
    with open(path, "wb") as f:
        f.truncate(SIZE_MIB * MIB)
        for i in range(DATA_MIB // 2):
            f.seek(i * 20 * MIB)
            f.write(rng.randbytes(MIB))
            f.write(b"".join(rng.choice(words) for _ in range(MIB // 40)))


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
    image(os.path.join(folder, "disk.raw"))
    daemon.define("vm", disks=[{"path": "disk.raw", "format": "raw"}])
    for suffix, compressor in ((".tar.zst", f"zstd -3 -T{os.cpu_count()}"), (".tar.gz", "pigz -6")):
        mine, theirs = (os.path.join(folder, name + suffix) for name in ("ours", "tar"))
        pairs, back = [], []
        for _ in range(ROUNDS):
            pairs.append((seconds(lambda: daemon.cairn("export", "vm", mine, "--force")),
                          seconds(lambda: packed(folder, theirs, compressor))))
            back.append((seconds(lambda: daemon.cairn("import", mine, "--name", "new", "--folder", folder)),
                         seconds(lambda: unpacked(folder, theirs, compressor))))
            daemon.cairn("undefine", "new")
            shutil.rmtree(os.path.join(folder, "new"))
            shutil.rmtree(os.path.join(folder, "tar"))
        bench.pairs(f"export {suffix}", "s", pairs, "tar", GOAL)
        bench.pairs(f"import {suffix}", "s", back, "tar", GOAL)


def packed(folder, path, compressor):
    subprocess.run(["tar", "-C", folder, "-S", "-I", compressor, "-cf", path, "disk.raw", "kernel"], check=True)
    subprocess.run(["sync", path], check=True)


def unpacked(folder, path, compressor):
    os.mkdir(os.path.join(folder, "tar"))
    subprocess.run(["tar", "-C", os.path.join(folder, "tar"), "-I", compressor.split()[0], "-xf", path], check=True)
    subprocess.run(["sync", os.path.join(folder, "tar", "disk.raw")], check=True)
