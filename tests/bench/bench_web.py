"""web: bytes of the page of cairn web without the list, and milliseconds of the page's files with a list of 1,000 VMs,
one request after the other; the server's processor time for it; and the same of 200 commands in requests of their own."""

import contextlib
import os
import re
import sys
import time

import freshfs
from bench_idle import use
from benchlib import ROUNDS
from conftest import ROOT
from snapbench import daemon_of

sys.path.append(os.path.join(ROOT, "tests/e2e/tools/web"))
from weblib import Web  # noqa: E402

VMS, COMMANDS = 1000, 200
PAGE_BYTES, PAGE_MS, COMMAND_MS = 300_000, 300.0, 5.0


def page_load(web):
    """Fetch what a browser fetches; return the bytes of files."""
    waiting, seen, size = ["/"], {"/"}, 0
    while waiting:
        _, text = web.ask("GET", waiting.pop())
        size += len(text)
        for path in re.findall(r'(?:src|href)="(/[a-z.]+)"|from "\.(/[a-z.]+)"', text):
            path = path[0] or path[1]
            if path not in seen:
                seen.add(path)
                waiting.append(path)
    after, count = {}, 0
    while after is not None:
        page = web.run("vm-list", brief=True, limit=1000, **after)["return"]
        count += len(page["vms"])
        after = {"after": page["next"]} if page.get("next") else None
    assert count == VMS
    return size


def milliseconds(work):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def run(bench):
    with freshfs.folder(bench, 512) as place, daemon_of(bench.uid, place) as daemon:
        q = daemon.qmp()
        for i in range(VMS):
            q.run("vm-define", definition={"name": f"vm{i:04}", "memory": "32M", "boot": {"kernel": "/bin/true"}})
        with contextlib.closing(Web(daemon)) as web:
            web.login()
            bench.pairs("files of the page", "bytes", [(page_load(web), PAGE_BYTES)], "target", 1.0)
            bench.pairs(f"page and {VMS} VMs", "ms", [(milliseconds(lambda: page_load(web)), PAGE_MS) for _ in range(ROUNDS)], "target", 1.0)
            before = use(web.proc.pid)[0]
            page_load(web)
            bench.pairs("processor time for it", "ms", [((use(web.proc.pid)[0] - before) * 1e3, PAGE_MS)], "target", 1.0)
            bench.pairs("a command", "ms", [(milliseconds(lambda: [web.run("query-version") for _ in range(COMMANDS)]) / COMMANDS, COMMAND_MS)
                                            for _ in range(ROUNDS)], "target", 1.0)
        q.close()
