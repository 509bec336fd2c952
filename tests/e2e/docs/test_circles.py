"""Few files call each other in a circle, so that a file can be read with those below it only."""

import functools
import subprocess
from pathlib import Path

from conftest import BUILD, ROOT

FOLDERS = ("base", "block", "snapshot", "devices", "vmm", "api")
FILES_MAX = 5


def calls():
    """Map each source to the sources whose functions or data it names, by the symbols of the built objects."""
    sources = [str(s.relative_to(ROOT)) for folder in FOLDERS for s in sorted(Path(ROOT, folder).rglob("*.c"))]
    objects = {str(Path(BUILD, name).with_suffix(".o")): name for name in sources}
    home, named = {}, {name: set() for name in sources}
    for line in subprocess.check_output(["nm", "--print-file-name", *objects], text=True).splitlines():
        path, symbol = line.split(":", 1)
        *_, kind, symbol = symbol.split()
        if kind == "U":
            named[objects[path]].add(symbol)
        elif kind.isupper():
            home[symbol] = objects[path]
    return {name: {home[symbol] for symbol in symbols if symbol in home} for name, symbols in named.items()}


def test_few_files_call_each_other_in_a_circle():
    graph = calls()
    assert "block/block.c" in graph["block/raw.c"], "the objects say nothing"

    @functools.cache
    def reached(name):
        found, left = set(), [name]
        while left:
            new = graph[left.pop()] - found
            found |= new
            left += new
        return found

    circles = {frozenset(other for other in reached(name) if name in reached(other)) for name in graph}
    largest = max(circles, key=len)
    assert 1 < len(largest) <= FILES_MAX, sorted(largest)
