#!/usr/bin/python3
"""Generate the table of docs/libvirt-xml.md from cairn-xml's own list of elements.

xml_doc.py BUILD          print the differences; exit status 1 if there are any
xml_doc.py BUILD --write  write the table"""

import difflib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "libvirt-xml.md"
MARK = "<!-- From here on: tests/xml_doc.py BUILD --write -->\n"


def row(path, what, attrs, why):
    name = path.replace("*", "\\*")
    text = {"read": why or "part of its parent", "not needed": "ignored",
            "no effect": f"warning: {why}", "refused": f"**refused**: {why}"}[what]
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return f"| {name} | {', '.join(attrs.split())} | {text} |"


def table(build):
    lines = subprocess.run([os.path.join(build, "cairn-xml"), "elements"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    return "\n".join(["", "| element | attributes | effect |", "|---|---|---|",
                      *[row(*line.split("\t")) for line in lines], ""])


def compare(build):
    """Return the page as it is, and as it should be."""
    page = DOC.read_text()
    return page, page.split(MARK)[0] + MARK + table(build)


def main(build, *args):
    page, wanted = compare(build)
    if args == ("--write",):
        DOC.write_text(wanted)
        return 0
    sys.stdout.writelines(difflib.unified_diff(page.splitlines(True), wanted.splitlines(True),
                                               "docs/libvirt-xml.md", "cairn-xml"))
    return int(page != wanted)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
