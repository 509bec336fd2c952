#!/usr/bin/python3
"""Run QEMU's own tests of qcow2 (iotests) with qemu-img and with cairn-img in its place: run.py BUILD [short].

Takes the tests that start no VM. qemu-io, qemu-nbd and all else is QEMU's. "short" takes those in the file `short`,
and asks qemu-img only about those that fail with cairn-img. Environment:
ONLY           names of tests, e.g. "042 061" [all]
SETS           option sets of OPTION_SETS, e.g. "plain extended_l2" [plain]
TEST_JOBS      tests at a time [2]
CAIRN_CACHE    the folder for the tests' source [~/.cache/cairn]

A test's sentences about errors, which begin with the tool's name, need not be QEMU's: a test whose output differs only in them,
or in `compressed` in the JSON of map, passes; the summary counts such tests. A result of qemu-img is kept in
BUILD/iotests/SET/qemu-img and not asked for again. BUILD/iotests/SET/cairn-img/NAME.diff is the difference of a test's output from what it
expects. Prints a table of the tests that pass with qemu-img only; those in the file `differences` have a reason. The last line
is "N passed, N failed, N skipped"; a failed test is one that passes with qemu-img, fails with cairn-img, and has no reason.
Exit status 1 when a test failed."""

import collections
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OPTION_SETS = {
    "plain": "",
    "extended_l2": "extended_l2=on",
    "data_file": "data_file=$TEST_IMG.ext_data_file",
    "compat": "compat=0.10",
}
STARTS_VM = re.compile(r"_launch_qemu|\$QEMU\b|_qemu_proc|\bVM\(|\$QEMU_PROG|QSD|QemuStorageDaemon")
USES_TOOL = re.compile(r"QEMU_IMG|qemu_img|_make_test_img|_img_info")
ERROR = "qemu-img: "
COMPRESSED = re.compile(r', "compressed": (?:true|false)')  # in the output of map; QEMU before 8.2 does not print it
MORE_OF_THEIRS = ("Could not open backing image.", "Optional suffix k, M", "and exabytes, ", "Try --skip-broken-bitmaps")  # second lines of sentences
SECONDS = 600  # for one test; a busy machine takes many times the usual one


def names_in(folder):
    for sub in ("", "tests"):
        for name in sorted(os.listdir(os.path.join(folder, sub))):
            path = os.path.join(folder, sub, name)
            if os.access(path, os.X_OK) and os.path.exists(path + ".out"):
                with open(path, encoding="utf-8") as f:
                    text = f.read()
                if USES_TOOL.search(text) and not STARTS_VM.search(text):
                    yield name


def short_names():
    with open(os.path.join(HERE, "short"), encoding="utf-8") as f:
        return [name for line in f if not line.startswith("#") for name in line.split()]


def differences():
    """Returns {(set, test): reason}."""
    found = {}
    with open(os.path.join(HERE, "differences"), encoding="utf-8") as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                sets, name, reason = line.split(None, 2)
                for kind in OPTION_SETS if sets == "all" else sets.split(","):
                    found[kind, name] = reason.strip()
    return found


def only_words_differ(text):
    """Return whether all hunks of a failed test replace sentences about errors by other ones, or add `compressed`.
    cairn-img checks options before it says "Formatting"."""
    begin = re.search(r"^--- .*\n\+\+\+ .*\n", text, re.M)
    if not begin or "failed, exit status" in text:
        return False
    for hunk in re.split(r"^(?:[^-+].*|)\n", text[begin.end():] + "\n", flags=re.M):
        theirs = [line[1:] for line in hunk.splitlines() if line[0] == "-"]
        ours = [line[1:] for line in hunk.splitlines() if line[0] == "+"]
        if not theirs and all(line.startswith("Try `") for line in ours) or theirs == [COMPRESSED.sub("", line) for line in ours]:
            continue
        if not (any(line.startswith(ERROR) for line in theirs) and any(line.startswith(ERROR) for line in ours) and
                all(line.startswith((ERROR, "Formatting ", *MORE_OF_THEIRS)) for line in theirs) and
                all(line.startswith((ERROR, "Try `")) for line in ours)):
            return False
    return True


class Runner:
    """Runs tests with one tool and one set of options."""

    def __init__(self, build, source, work, kind, tool):
        self.folder = os.path.join(build, "iotests", kind, tool)
        os.makedirs(self.folder, exist_ok=True)
        self.work = os.path.join(work, kind[0] + tool[0])  # short: paths of sockets have a limit
        os.makedirs(self.work)
        os.symlink(os.path.join(source, "tests/qemu-iotests/check"), os.path.join(self.work, "check"))
        self.options = ["-o", OPTION_SETS[kind]] if OPTION_SETS[kind] else []
        programs = {name: shutil.which(program) or program for name, program in (
            ("QEMU_PROG", "qemu-system-x86_64"), ("QEMU_IMG_PROG", "qemu-img"), ("QEMU_IO_PROG", "qemu-io"),
            ("QEMU_NBD_PROG", "qemu-nbd"), ("QSD_PROG", "qemu-storage-daemon"))}
        self.keeps = tool == "qemu-img"
        if not self.keeps:  # its messages begin with the name that it is called by
            programs["QEMU_IMG_PROG"] = os.path.join(self.work, "qemu-img")
            os.symlink(os.path.join(build, tool), programs["QEMU_IMG_PROG"])
        self.env = {**os.environ, **programs}

    def run(self, name):
        """Returns "pass", "words" (only sentences about errors differ), "fail" or "skip"."""
        base = os.path.join(self.folder, name)
        if self.keeps and os.path.exists(base + ".result"):
            with open(base + ".result", encoding="utf-8") as f:
                return f.read()
        folder = os.path.join(self.work, name)
        os.makedirs(folder + "/s")
        env = {**self.env, "TEST_DIR": folder, "SOCK_DIR": folder + "/s", "TMPDIR": folder}
        with open(base + ".diff", "w", encoding="utf-8") as out:
            process = subprocess.Popen([sys.executable, self.work + "/check", "-qcow2", "-tap", *self.options, name],
                                       cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                       start_new_session=True)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                out.write(f"no end within {SECONDS} s\n")
            try:  # what a test left runs in its session
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()
        with open(base + ".diff", encoding="utf-8", errors="replace") as f:
            text = f.read()
        result = "fail"
        if process.returncode == 0 and f"\nok qcow2 {name}" in text:
            result = "skip" if "# SKIP" in text else "pass"
        if result == "fail" and not self.keeps and only_words_differ(text):
            result = "words"
        if result == "pass":
            os.unlink(base + ".diff")
        if self.keeps and result != "fail":  # one that fails may pass another time
            with open(base + ".result", "w", encoding="utf-8") as f:
                f.write(result)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def first_lines(self, name):
        """Returns the first two lines in which a failed test's output differs."""
        with open(os.path.join(self.folder, name + ".diff"), encoding="utf-8", errors="replace") as f:
            lines = [line.rstrip() for line in f if re.match(r"[-+](?![-+])|no end", line)]
        minus = next((line for line in lines if line[0] == "-"), "")
        plus = next((line for line in lines if line[0] == "+"), "")
        return [line for line in (minus, plus) if line] or ["(no difference: see the file)"]


PASSES = ("pass", "words")


def run_set(build, source, work, kind, names, reasons):
    """Returns (passed, failed, skipped)."""
    tools = [Runner(build, source, work, kind, tool) for tool in ("qemu-img", "cairn-img")]
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("TEST_JOBS", "2"))) as pool:
        theirs = dict(zip(names, pool.map(tools[0].run, names)))
        names = [name for name in names if theirs[name] == "pass"]
        ours = dict(zip(names, pool.map(tools[1].run, names)))
    counts = collections.Counter(ours.values())
    print(f"{kind}: {len(names)} tests pass with qemu-img, {counts['pass'] + counts['words']} of them with cairn-img "
          f"({counts['words']} of these with other sentences about errors); "
          f"qemu-img fails {list(theirs.values()).count('fail')}, {list(theirs.values()).count('skip')} are not for these options")
    failed = 0
    for name in names:
        reason = reasons.get((kind, name))
        if ours[name] in PASSES and reason:
            failed += 1
            print(f"  {name}: passes, so its line in tests/iotests/differences has to go")
        elif ours[name] not in PASSES:
            failed += not reason
            print(f"  {name}: {reason or 'FAILED'}")
            for line in tools[1].first_lines(name):
                print(f"      {line[:150]}")
    reasoned = sum(ours[name] not in PASSES and (kind, name) in reasons for name in names)
    return len(names) - failed - reasoned, failed, reasoned


def run_short(build, source, work):
    """Returns (passed, failed, skipped)."""
    theirs, ours = (Runner(build, source, work, "plain", tool) for tool in ("qemu-img", "cairn-img"))
    names = short_names()
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("TEST_JOBS", "2"))) as pool:
        results = dict(zip(names, pool.map(ours.run, names)))
    counts = collections.Counter()
    for name in names:
        how = "passed" if results[name] in PASSES else "failed" if theirs.run(name) == "pass" else "skipped"
        counts[how] += 1
        if how == "failed":
            print(f"  {name}: FAILED")
            with open(os.path.join(ours.folder, name + ".diff"), encoding="utf-8", errors="replace") as f:
                print("".join("      " + line for line in f.readlines()[:60]))
        elif how == "skipped":
            print(f"  {name}: skipped, it fails with qemu-img, too")
    return counts["passed"], counts["failed"], counts["skipped"]


def main():
    build = os.path.abspath(sys.argv[1])
    cache = os.environ.get("CAIRN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cairn")
    fetch = subprocess.run([os.path.join(HERE, "fetch.sh"), cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if fetch.returncode == 77:
        print(fetch.stderr.strip().splitlines()[-1])
        print("0 passed, 0 failed, 1 skipped")
        return 0
    fetch.check_returncode()
    source = fetch.stdout.strip()
    names = os.environ.get("ONLY", "").split() or list(names_in(os.path.join(source, "tests/qemu-iotests")))
    reasons = differences()
    with tempfile.TemporaryDirectory(prefix="io-") as work:
        if sys.argv[2:] == ["short"]:
            sums = [run_short(build, source, work)]
        else:
            sums = [run_set(build, source, work, kind, names, reasons) for kind in os.environ.get("SETS", "plain").split()]
    passed, failed, skipped = map(sum, zip(*sums))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
