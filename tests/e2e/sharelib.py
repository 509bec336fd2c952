"""Share one suite among the pytest processes that tests/run.sh starts.

CAIRN_TESTS_SHARE is a folder that the processes share. Each process collects the whole suite and
claims one file of tests after another, the longest first (`durations` beside this file), so that no process works on a
long one when the others have ended. Each process writes the tests it has collected to `collected-<pid>` in that folder,
named as in its JUnit result: tests/run.sh compares both. `durations-<pid>` gets the seconds of each file that the process
claimed, and those of processors: of this process and of those that it has waited for. CAIRN_TESTS_LINES is an open fd that gets a line for each test file, with its part (CAIRN_TESTS_PART), and one
for each test that came near its time limit (conftest.py)."""

import contextlib
import os

import pytest
from _pytest.junitxml import mangle_test_address


def file_of(item):
    """Return the name of a test's file, which one process claims as a whole."""
    return os.path.relpath(item.path, os.path.dirname(__file__))


def durations():
    """Return a dict from the name of each long file of tests to its seconds in an earlier run."""
    try:
        with open(os.path.join(os.path.dirname(__file__), "durations")) as f:
            rows = [line.split() for line in f if not line.startswith("#")]
    except FileNotFoundError:
        return {}
    return {name: float(seconds) for seconds, *_, name in rows}


def cpu_seconds():
    """Return the seconds that this process and its ended children were on a processor."""
    return sum(os.times()[:4])


SECONDS = 0.1  # of one test of a short file


class Share:
    def __init__(self, config, folder, lines, suffix):
        self.config, self.folder, self.lines, self.suffix = config, folder, lines, suffix
        self.counts, self.slow, self.seconds, self.cpu = {}, [], 0, cpu_seconds()

    def claim(self, name):
        """Claim a file for this process. Return False when another process has it."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(self.folder, "claim-" + name.replace("/", "-")), os.O_CREAT | os.O_EXCL, 0o600))
            return True
        return False

    def claimed(self, items):
        """Yield the tests of this process. Claims a file only when its first test is requested."""
        files = {}
        for item in items:
            files.setdefault(file_of(item), []).append(item)
        known = durations()
        for name in sorted(files, key=lambda name: -known.get(name, SECONDS * len(files[name]))):
            if self.claim(name):
                yield from files[name]

    def pytest_collection_finish(self, session):
        addresses = (mangle_test_address(item.nodeid) for item in session.items)
        with open(os.path.join(self.folder, f"collected-{os.getpid()}"), "w") as f:
            f.writelines(f"{'.'.join(names[:-1])}::{names[-1]}\n" for names in addresses)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        ours = self.claimed(session.items)
        item = next(ours, None)
        while item:
            following = next(ours, None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if not following or file_of(following) != file_of(item):
                self.tell(file_of(item))
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    def pytest_runtest_logreport(self, report):
        self.seconds += report.duration
        if report.failed:
            self.counts[report.nodeid] = "FAILED"
        elif report.skipped:
            self.counts[report.nodeid] = "skipped"
        elif report.when == "call":
            self.counts[report.nodeid] = "passed"
        if report.when == "teardown":
            self.slow += [f"    {report.nodeid.split('::', 1)[1]}: {value}\n" for key, value in report.user_properties if key == "slow"]

    def tell(self, name):
        kinds = list(self.counts.values())
        words = [f"{kinds.count(kind)} {kind}" for kind in ("passed", "FAILED", "skipped")
                 if kinds.count(kind) or kind == "passed"]
        os.write(self.lines, f"  {name + self.suffix:<44} {', '.join(words)}\n{''.join(self.slow)}".encode())
        with open(os.path.join(self.folder, f"durations-{os.getpid()}"), "a") as f:
            f.write(f"{self.seconds:.0f} {cpu_seconds() - self.cpu:.0f} {name}\n")
        self.counts, self.slow, self.seconds, self.cpu = {}, [], 0, cpu_seconds()
