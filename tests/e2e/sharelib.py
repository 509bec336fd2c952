"""Share one suite among the pytest processes that tests/run.sh starts.

CAIRN_TESTS_SHARE is a folder that the processes share. Each process collects the whole suite and
claims one file of tests after another, the longest first. A test that is marked `alone` runs last, while no
other test runs. Each process writes the tests it has collected to `collected-<pid>` in that folder, named as
in its JUnit result: tests/run.sh compares both. CAIRN_TESTS_LINES is an open fd that gets a line for each test
file."""

import contextlib
import fcntl
import os

import pytest
from _pytest.junitxml import mangle_test_address

ALONE = "tests that run alone"


def group(item):
    """Return the name of the group that one process claims as a whole: the test's file, or ALONE."""
    return ALONE if item.get_closest_marker("alone") else os.path.relpath(item.path, os.path.dirname(__file__))


def longest(item):
    """Return the test's time limit in seconds: before the first run it is the best guess of the duration."""
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
        """Claim a group for this process. Return False when another process has it."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(os.path.join(self.folder, "claim-" + name.replace("/", "-")), os.O_CREAT | os.O_EXCL, 0o600))
            return True
        return False

    def claimed(self, items):
        """Yield the tests of this process. Claims a group only when its first test is requested."""
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
        """Let no other test run beside one that is `alone`. The gate keeps later tests from overtaking it."""
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
