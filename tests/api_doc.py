#!/usr/bin/python3
"""Generate the command and event sections of docs/api.md from the introspection of both sockets.

api_doc.py BUILD          print the differences; exit status 1 if there are any
api_doc.py BUILD --write  write the sections"""

import difflib
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "api.md"
MARK = "<!-- From here on: tests/api_doc.py BUILD --write -->\n"


def fields(types, name):
    """Return lines for the members of an object type, or of the objects in a list."""
    type = types[name]
    if type["meta-type"] == "array":
        return ["- a list of"] + ["  " + line for line in fields(types, type["element-type"])]
    if type["meta-type"] == "builtin":
        return [f"- {name}"]
    if type["meta-type"] == "enum":
        return [f"- `{value}`" for value in type["values"]]
    return [f"- `{m['name']}` {words(types, m['type'])}{', optional' if 'default' in m else ''}"
            + (f": {m['doc']}" if "doc" in m else "") for m in type["members"]]


def words(types, name):
    """Return the type's name, or the words of an enumeration."""
    type = types[name]
    if type["meta-type"] == "enum" and not is_named(type):
        return "|".join(type["values"])
    if type["meta-type"] == "alternate":
        return " or ".join(m["type"] for m in type["members"])
    if type["meta-type"] == "array":
        return "list of " + words(types, type["element-type"])
    if type["meta-type"] == "map":
        return "object of " + words(types, type["value-type"])
    return name if not is_named(type) else f"[{name}](#{name})"


def is_named(type):
    """Return whether the type has a heading of its own: an object type that is not that of a command or an event, or an
    enumeration of many words."""
    if type["meta-type"] == "enum":
        return len(type["values"]) > 10
    return type["meta-type"] == "object" and not type["name"].isdigit()


def command(types, c):
    lines = [f"### {c['name']}", ""]
    if "doc" in c:
        facts = [f"Role: {c['role']}."] if c["role"] != "nobody" else ["For everybody."]
        if "states" in c:
            facts.append(f"States: {c['states'].replace(',', ', ')}.")
        if not c.get("templates", True):
            facts.append("Refused for a template.")
        if c["job"]:
            facts.append("A job.")
        if c["mutates"]:
            facts.append("Audited.")
        lines += [c["doc"][0].upper() + c["doc"][1:] + ". " + " ".join(facts), ""]
    takes, gives = fields(types, c["arg-type"]), fields(types, c["ret-type"])
    if takes:
        lines += ["Arguments:", *takes, ""]
    if gives:
        lines += ["Returns:", *gives, ""]
    if "result-type" in c:
        result = fields(types, c["result-type"])
        lines += [f"Result of the job, whose type is `{c['job-type']}`:" if result else
                  f"The job, whose type is `{c['job-type']}`, has no result.", *result, ""]
    return lines


def event(types, e):
    lines = [f"### {e['name']}", ""]
    if "doc" in e:
        lines += [e["doc"][0].upper() + e["doc"][1:] + ".", ""]
    data = fields(types, e["arg-type"])
    return lines + (data + [""] if data else [])


def chapter(title, schema, short):
    """Return a chapter. short: only names and types, one command per line."""
    types = {e["name"]: e for e in schema}
    lines = []
    for what, of in (("commands", "command"), ("events", "event")):
        lines += [f"## {title}: {what}", ""]
        for e in sorted((e for e in schema if e["meta-type"] == of), key=lambda e: e["name"]):
            if not short:
                lines += command(types, e) if of == "command" else event(types, e)
                continue
            members = ", ".join(f"`{m['name']}`" + ("?" if "default" in m else "")
                                for m in types[e["arg-type"]]["members"])
            lines.append(f"- **{e['name']}**" + (f" {members}" if members else ""))
        lines += [""] if short else []
    if not short:
        lines += [f"## {title}: types", ""]
        for e in sorted(filter(is_named, schema), key=lambda e: e["name"]):
            lines += [f"### {e['name']}", "", *fields(types, e["name"]), ""]
    return lines


def schema_with_docs(q):
    """Return the daemon's schema with descriptions, which comes in pages."""
    page = q.run("schema-get")
    schema = page["schema"]
    while "next" in page:
        page = q.run("schema-get", page=page["next"])
        schema += page["schema"]
    return schema


def generate(build):
    os.environ["CAIRN_BUILD"] = str(build)
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    from conftest import FAKE_VM, Daemon, Qmp

    with tempfile.TemporaryDirectory() as tmp:
        d = Daemon(pathlib.Path(tmp), vm_program=FAKE_VM)
        try:
            d.define("vm1")
            d.cairn("start", "vm1")
            own = Qmp(d.qmp().run("vm-qmp-path", vm="vm1")["path"])
            lines = chapter("The daemon's socket", schema_with_docs(d.qmp()), False)
            lines += chapter("A VM's own socket", own.run("query-qmp-schema"), True)
            own.close()
        finally:
            d.close()
    return "\n".join(lines).rstrip("\n") + "\n"


def compare(build):
    """Return the page as it is and as it should be."""
    page = DOC.read_text()
    head, _, _ = page.partition(MARK)
    return page, head + MARK + "\n" + generate(build)


def main():
    page, wanted = compare(pathlib.Path(sys.argv[1]).resolve())
    if "--write" in sys.argv:
        DOC.write_text(wanted)
    elif page != wanted:
        sys.stdout.writelines(difflib.unified_diff(page.splitlines(True), wanted.splitlines(True),
                                                   "docs/api.md", "the schema", n=0))
        sys.exit(1)


if __name__ == "__main__":
    main()
