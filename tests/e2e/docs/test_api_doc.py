"""docs/api.md matches the sockets' introspection, and its examples work."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import BUILD, FAKE_VM, ROOT

sys.path.insert(0, os.path.join(ROOT, "tests"))
import api_doc  # noqa: E402

PAGE = pathlib.Path(ROOT, "docs", "api.md").read_text()
# Language, code and output; … in the output matches anything.
EXAMPLES = re.findall(r"```(sh|python)\n(.*?)```\n```\n(.*?)```", PAGE, re.S)


def test_reference_matches_schema():
    if not os.path.exists(FAKE_VM):
        pytest.fail("fake_vm is not built: make helpers")
    page, wanted = api_doc.compare(BUILD)
    assert page.splitlines() == wanted.splitlines(), "run: tests/api_doc.py BUILD --write"


@pytest.mark.parametrize("n", range(4))
def test_examples_run_as_printed(fake, n):
    assert len(EXAMPLES) == 4
    language, code, prints = EXAMPLES[n]
    (fake.tmp / "disk").write_bytes(bytes(1 << 20))
    fake.define("web1", disks=[{"path": "disk", "format": "qcow2"}])
    fake.define("db1")
    fake.cairn("start", "web1")
    r = subprocess.run({"sh": ["sh", "-c"], "python": ["/usr/bin/python3", "-c"]}[language] + [code],
                       env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"],
                                              "PYTHONPATH": os.path.join(BUILD, "python")}, capture_output=True, text=True)
    assert r.returncode == 0 and not r.stderr, r.stderr
    pattern = ".*?".join(map(re.escape, prints.splitlines() and prints.split("…")))
    assert re.fullmatch(pattern, r.stdout.replace("\r\n", "\n")), r.stdout
