"""The programs' help, the manual pages, the tables of keys and the JSON Schemas agree."""

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import BUILD, ROOT

PAGES = {p.relative_to(ROOT): p.read_text() for p in [Path(ROOT, "README.md"), *sorted(Path(ROOT, "docs").glob("*.md"))]}


def output(*args):
    return subprocess.check_output([os.path.join(BUILD, args[0]), *args[1:]], text=True)


def manual(name):
    return re.sub(r"\\f[BIRP]", "", Path(ROOT, "docs", "man", name).read_text().replace("\\-", "-"))


def image_verbs():
    return re.findall(r"^  ([a-z-]+) ", output("cairn-img", "--help"), re.M)


# ---- options ----

@pytest.mark.parametrize("program", ["cairnd", "cairn-metrics", "cairn-web"])
def test_manual_lists_every_option(program):
    text = manual(program + ".1")
    rows = re.findall(r"^  (--[a-z-]+).*", output(program, "--help"), re.M)
    assert rows
    for option in rows:
        assert re.search(rf"^\.B[RI]* .*{option}(?![a-z-])", text, re.M), option


@pytest.mark.parametrize("verb", image_verbs())
def test_manual_of_image_tool_lists_every_option(verb):
    """An option is in the verb's own entry, in the description or in the section on options of all verbs."""
    text = manual("cairn-img.1")
    entry = re.search(rf"^\.TP\n\.B {verb}\n(.*?)^\.(?:TP|SH)", text, re.M | re.S)[1]
    common = re.search(r"^\.SH DESCRIPTION\n(.*?)^\.SH VERBS.*?^(\.SH OPTIONS.*?)^\.SH NBD", text, re.M | re.S)
    options = re.findall(r"^  (--?[a-zA-Z-]+)|\((--[a-z-]+)\)", output("cairn-img", "help", verb), re.M)
    assert options
    for option in (a or b for a, b in options):
        assert re.search(rf"^\.(?:B|BI|BR|RB) .*{option}(?![\w-])", entry + common[1] + common[2], re.M), option


@functools.cache
def options_of(verb):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", output("cairn", "help", verb)))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_options_of_commands_in_pages_exist(page):
    verbs = {v["name"] for v in json.loads(output("cairn", "help", "--format", "json"))}
    spans = re.findall(r"`([^`\n]+)`", PAGES[page])
    spans += [line for block in re.findall(r"```\w*\n(.*?)```", PAGES[page], re.S) for line in block.splitlines()]
    for span in spans:
        for verb, rest in re.findall(r"(?:^|[\s/])cairn ([a-z-]+)((?: [^|;&#]*)?)", span):
            used = re.findall(r"(?:^|[\s\[])(--[a-z][a-z0-9-]*)", rest.split(" -- ")[0])
            assert verb not in verbs or set(used) <= options_of(verb), span


# ---- keys ----

def keys(schema, path=()):
    """Yield the path and the schema of every key."""
    for name, of in schema.get("properties", {}).items():
        yield path + (name,), of
        for inner in (of, of.get("items", {}), *of.get("anyOf", [])):
            yield from keys(inner, path + (name,))


def rows(page):
    """Yield the cells of every table of keys, values and defaults."""
    for table in re.findall(r"^\| key[^|]* \| value \| default \|\n\|[-|]+\n((?:\|.*\n)+)", PAGES[Path(page)], re.M):
        for row in table.splitlines():
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


SCHEMAS = {"docs/definition.md": lambda: json.loads(output("cairn", "validate", "--schema")),
           "docs/networks.md": lambda: json.loads(Path(BUILD, "network-definition.schema.json").read_text())}


@pytest.mark.parametrize("page", SCHEMAS)
def test_page_names_every_key(page):
    text = re.sub(r"^```.*?^```", "", PAGES[Path(page)], flags=re.M | re.S)
    spans = {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[a-z_0-9]+", span)}
    missing = {path[-1] for path, _ in keys(SCHEMAS[page]())} - spans
    assert not missing


@pytest.mark.parametrize("page", SCHEMAS)
def test_tables_of_keys_match_schema(page):
    """Keys exist; a row of one key has its range, and a default that is one word is the schema's."""
    schema = list(keys(SCHEMAS[page]()))
    seen = 0
    for cell, value, default in rows(page):
        names = re.findall(r"`([a-z_.0-9]+)`", cell)
        for name in names:
            of = [s for path, s in schema if path[-len(name.split(".")):] == tuple(name.split("."))]
            assert of, name
            ranges = [(s["minimum"], s["maximum"]) for s in of if s.get("type") == "integer"]
            written = [(int(a), int(b)) for a, b in re.findall(r"\b(\d+) to (\d+)\b", value)]
            if len(names) == 1 and written and len(ranges) == len(of):
                assert set(written) & set(ranges) or "power of two" in value, (name, written, ranges)
                seen += 1
            initial = {json.dumps(s["default"]).strip('"') for s in of if "default" in s}
            if len(names) == 1 and initial and re.fullmatch(r"`?[\w./-]+`?", default):
                assert default.strip("`") in initial, (name, default, initial)
                seen += 1
    assert seen
