"""sharelib: one suite for several pytest processes, as tests/run.sh starts them.

CAIRN_TESTS_SHARE is a folder that the processes have in common. Each process collects the whole suite and
claims one file of tests after another, the longest first. A test that is marked `alone` runs last, while no
other test does. The folder afterwards has `collected-<pid>`, the tests as they stand in the JUnit result:
tests/run.sh compares both. CAIRN_TESTS_LINES is an open fd, which gets a line for each file of tests."""

import contextlib
import fcntl
import os

import pytest
from _pytest.junitxml import mangle_test_address

ALONE = "tests that run alone"


def group(item):
    """The tests that one process runs in a row: a file's, or those that run alone."""
    return ALONE if item.get_closest_marker("alone") else os.path.relpath(item.path, os.path.dirname(__file__))


def longest(item):
    """The time limit is the best guess, before a test has run, at how long it takes."""
    mark = item.get_closest_marker("seconds")
    return mark.args[0] if mark else 60


class Share:
    def __init__(self, config, folder, lines):
        self.config, self.folder, self.lines = config, folder, lines
        self.counts = {}
        self.gate, self.running = (self.open(name) for name in ("gate", "running"))

    def open(self, name):
        return os.open(os.path.join(self.folder, name), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def claim(self, name):
        """Is it ours from now on?"""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(self.folder, "claim-" + name.replace("/", "-")), os.O_CREAT | os.O_EXCL, 0o600))
            return True
        return False

    def claimed(self, items):
        """The tests of this process. Claims a group only when its first test is asked for."""
        groups = {}
        for item in items:
            groups.setdefault(group(item), []).append(item)
        for name in sorted(groups, key=lambda name: (name == ALONE, -sum(map(longest, groups[name])))):
            if self.claim(name):
                yield from groups[name]

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
            if not following or group(following) != group(item):
                self.tell(group(item))
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        """No other test runs beside one that is `alone`. The gate keeps later ones from overtaking it."""
        fcntl.flock(self.gate, fcntl.LOCK_EX)
        fcntl.flock(self.running, fcntl.LOCK_EX if group(item) == ALONE else fcntl.LOCK_SH)
        fcntl.flock(self.gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self.running, fcntl.LOCK_UN)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.counts[report.nodeid] = "FAILED"
        elif report.skipped:
            self.counts[report.nodeid] = "skipped"
        elif report.when == "call":
            self.counts[report.nodeid] = "passed"

    def tell(self, name):
        kinds = list(self.counts.values())
        words = [f"{kinds.count(kind)} {kind}" for kind in ("passed", "FAILED", "skipped")
                 if kinds.count(kind) or kind == "passed"]
        os.write(self.lines, f"  {name:<44} {', '.join(words)}\n".encode())
        self.counts = {}
