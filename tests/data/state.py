"""Write a state folder with the Cairn in the folder CAIRN_BUILD, for tests/e2e/api/store/test_state.py:

CAIRN_BUILD=build python3 tests/data/state.py tests/data/state-2

Run this when a kind of file gets a new version (api/store/store_version.c), once with the Cairn before and once
with the one after; existing folders are never overwritten. @TMP@ stands for the parent of the state folder."""

import os
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))

from conftest import FAKE_VM, Daemon, until  # noqa: E402

TEXT = (".json", ".jsonl", "audit.log")


def fill(d):
    for name in ("plain", "ran", "clocked", "planned"):
        d.define(name, cmdline="deaf")
    d.cairn("start", "ran", "planned")
    d.cairn("save", "--no-wait", "ran", str(d.tmp / "ran.save"))
    until(lambda: d.kept("ran").get("state") == "shutoff")
    until(lambda: (d.state / "jobs.json").exists() and '"concluded"' in (d.state / "jobs.json").read_text())
    d.cairn("snapshot-schedule", "clocked", "--every", "1h", "--keep", "7d:daily")
    d.cairn("grant", "operator", "--user", "1234", "plain")
    d.cairn("grant", "viewer", "--group", "4242")
    if d.cairn("autostart", "clocked", ok=None).returncode == 0:  # an older Cairn does not know it
        d.cairn("template", "plain")
        d.cairn("shutdown", "--then", "destroy", "--timeout", "3600", "planned")
        until(lambda: "shutdown" in d.kept("planned"))
    until(lambda: d.kept("planned").get("state") in ("running", "in-shutdown"))


def copy(d, out):
    for path in sorted(d.state.rglob("*")):
        if path.is_file() and path.name.endswith(TEXT):
            to = out / path.relative_to(d.state)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(path.read_text().replace(str(d.tmp), "@TMP@"))


def main(out):
    tmp = pathlib.Path(tempfile.mkdtemp())
    d = Daemon(tmp, FAKE_VM)
    try:
        fill(d)
        copy(d, out)  # while the daemon runs, as after a kill
    finally:
        d.close()
        shutil.rmtree(tmp)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    if folder.exists():
        sys.exit(f"{folder} is there already")
    main(folder)
