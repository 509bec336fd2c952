"""`tests/bench/run.py --list`: a line for each benchmark, with the first sentence of its docstring."""

import glob
import os
import pathlib
import shutil
import subprocess
import sys

from conftest import ROOT

BENCH = os.path.join(ROOT, "tests", "bench")


def listed(folder):
    return subprocess.run([sys.executable, folder / "run.py", "--list"], capture_output=True, text=True, check=True, cwd=folder).stdout


def test_each_benchmark_has_one_sentence():
    lines = dict(line.split(": ", 1) for line in listed(pathlib.Path(BENCH)).splitlines())
    assert sorted(lines) == sorted(os.path.basename(f)[len("bench_"):-3] for f in glob.glob(f"{BENCH}/bench_*.py"))
    assert not [text for text in lines.values() if not text.endswith(".")]
    assert lines["boot"] == "the small Linux until user space, in the SVM host next to QEMU microvm, and natively."


def test_sentence_of_several_lines_is_whole(tmp_path):
    for name in ("run.py", "history.py"):
        shutil.copy(f"{BENCH}/{name}", tmp_path)
    (tmp_path / "bench_a.py").write_text('"""a, b: the time of 2.5 GiB\nby run.py. More\nof it."""\n')
    (tmp_path / "bench_b.py").write_text('"""b: one line."""\n')
    assert listed(tmp_path) == "a: the time of 2.5 GiB by run.py.\nb: one line.\n"
