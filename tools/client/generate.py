#!/usr/bin/python3
"""Make the files for clients from the schema that schema-print prints.

generate.py API_JSON FOLDER     write api.schema.json, openrpc.json, network-definition.schema.json, cairn.d.ts and the Python
                                package into the folder"""

import json
import keyword
import pathlib
import re
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
INDENT = "    "


def camel(name):
    """Return the name of a class."""
    return {"event": "LoggedEvent"}.get(name) or "".join(w[:1].upper() + w[1:] for w in re.split(r"[-_.]", name))


def sentence(text):
    return text[:1].upper() + text[1:] + "."


class Api:
    """The schema, with a name for each type that has a number there."""

    def __init__(self, o):
        self.entries = {e["name"]: e for e in o["daemon"]}
        self.version, self.errors = o["version"], o["errors"]
        self.definitions = {name: o[name] for name in ("definition", "network-definition")}
        self.commands = [e for e in o["daemon"] if e["meta-type"] == "command"]
        self.events = [e for e in o["daemon"] if e["meta-type"] == "event"]
        self.enums = [e for e in o["daemon"] if e["meta-type"] == "enum"]
        self.objects = {e["name"]: e["members"] for e in o["daemon"] if e["meta-type"] == "object" and not e["name"].isdigit()}
        for c in self.commands:
            self.rename(c, "ret-type", c["name"] + "-result")
            self.rename(c, "result-type", c["name"] + "-job-result")

    def rename(self, c, key, name):
        """Give the type of a result a name, unless it is a list or has a name."""
        list_of, type = self.element(c.get(key, "str"))
        if type.isdigit() and (self.entries[type]["members"] or key == "result-type"):
            self.objects[name] = self.entries[type]["members"]
            self.entries[name] = {"name": name, "meta-type": "object", "members": self.objects[name]}
            c[key] = f"[{name}]" if list_of else name
            if list_of:
                self.entries[c[key]] = {"name": c[key], "meta-type": "array", "element-type": name}

    def element(self, name):
        """Return whether the type is a list, and the type of its values or itself."""
        type = self.entries[name]
        return (True, type["element-type"]) if type["meta-type"] == "array" else (False, name)

    def has_result(self, c):
        return c["ret-type"] in self.objects

    def starts_job(self, c):
        """Whether the command always starts a job, and returns nothing but its id."""
        return c["job"] and [m["name"] for m in self.objects[c["ret-type"]]] == ["job"]

    def arguments(self, c):
        return self.entries[c["arg-type"]]["members"]


# ---- JSON Schema ----

# Types that are described by a definition's schema: where in which one, and the name of a class.
PARTS = {
    "definition": ("definition", "Definition"),
    "disk-definition": ("definition/properties/disks/items", "DefinitionDisk"),
    "interface-definition": ("definition/properties/interfaces/items", "DefinitionInterface"),
    "network-definition": ("network-definition", "NetworkDefinition"),
    "egress-definition": ("network-definition/properties/egress", "NetworkDefinitionEgress"),
}


def json_type(api, name):
    type = api.entries[name]
    meta = type["meta-type"]
    if meta == "array":
        return {"type": "array", "items": json_type(api, type["element-type"])}
    if meta == "map":
        return {"type": "object", "additionalProperties": json_type(api, type["value-type"])}
    if meta == "alternate":
        return {"anyOf": [json_type(api, m["type"]) for m in type["members"]]}
    if name in PARTS:
        return {"$ref": "#/$defs/" + PARTS[name][0]}
    if meta == "builtin":
        kind = {"int": "integer", "value": None}.get(type["json-type"], type["json-type"])
        return {"type": kind} if kind else {}
    return {"$ref": f"#/$defs/{name}"}


def json_object(api, members, closed):
    o = {"type": "object", "properties": {}}
    for m in members:
        o["properties"][m["name"]] = {**json_type(api, m["type"]), "description": m["doc"]}
    o["required"] = [m["name"] for m in members if "default" not in m]
    if closed:
        o["additionalProperties"] = False
    return o


def json_schema(api):
    """Return a schema whose root is a command. Its $defs have results (NAME.result, NAME.job), events and objects."""
    defs = {name: {k: v for k, v in d.items() if k != "$schema"} for name, d in api.definitions.items()}
    defs.update((e["name"], {"enum": e["values"]}) for e in api.enums)
    names = {c["ret-type"] for c in api.commands} | {c.get("result-type") for c in api.commands}
    defs.update((n, json_object(api, m, False)) for n, m in sorted(api.objects.items()) if not n.endswith("-result") or n not in names)
    for c in api.commands:
        n = c["name"]
        defs[n + ".arguments"] = {**json_object(api, api.arguments(c), True), "description": sentence(c["doc"])}
        list_of, element = api.element(c["ret-type"])
        result = json_object(api, api.entries[element]["members"], False) if element.isdigit() or element.endswith("-result") else json_type(api, element)
        defs[n + ".result"] = {"type": "array", "items": result} if list_of else result
        if "result-type" in c:
            defs[n + ".job"] = json_object(api, api.entries[c["result-type"]]["members"], False)
    for e in api.events:
        data = json_object(api, api.entries[e["arg-type"]]["members"], False)
        defs["event." + e["name"]] = {"type": "object", "description": sentence(e["doc"]), "required": ["event", "timestamp"], "properties": {
            "event": {"const": e["name"]}, "timestamp": {"$ref": "#/$defs/timestamp"}, "seq": {"type": "integer"}, "data": data}}
    commands = [{"type": "object", "required": ["execute"] + (["arguments"] if defs[c["name"] + ".arguments"]["required"] else []), "properties": {
        "execute": {"const": c["name"]}, "id": {}, "arguments": {"$ref": f"#/$defs/{c['name']}.arguments"}}} for c in api.commands]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"commands of Cairn {api.version}", "oneOf": commands, "$defs": defs}


# ---- OpenRPC ----

def openrpc(api):
    """Return an OpenRPC document with the schemas of json_schema(). Members that OpenRPC does not define
    begin with "x-"."""
    schemas = json.loads(json.dumps(json_schema(api)["$defs"]).replace('"#/$defs/', '"#/components/schemas/'))
    methods = []
    for c in api.commands:
        of = schemas[c["name"] + ".arguments"]
        params = [{"name": m["name"], "description": m["doc"], "required": m["name"] in of["required"],
                   "schema": {k: v for k, v in of["properties"][m["name"]].items() if k != "description"}} for m in api.arguments(c)]
        more = {"x-" + k: c[k] for k in ("role", "states", "mutates", "takes-fd", "returns-fd") if k in c}
        if "result-type" in c:
            more["x-job-result"] = {"$ref": f"#/components/schemas/{c['name']}.job"}
        methods.append({"name": c["name"], "summary": sentence(c["doc"]), "paramStructure": "by-name", "params": params,
                        "result": {"name": "return", "schema": {"$ref": f"#/components/schemas/{c['name']}.result"}}, **more})
    about = ('The messages are those of QMP, not of JSON-RPC: {"execute": NAME, "arguments": {...}} is answered by {"return": ...} or '
             '{"error": {"class", "desc"}}, after the command qmp_capabilities. See docs/api.md.')
    return {"openrpc": "1.3.2", "info": {"title": "Cairn", "version": api.version, "description": about}, "methods": methods,
            "components": {"schemas": schemas}, "x-error-classes": api.errors,
            "x-events": [{"name": e["name"], "summary": sentence(e["doc"]), "schema": {"$ref": f"#/components/schemas/event.{e['name']}"}} for e in api.events]}


# ---- Python ----

def attribute(name):
    name = name.replace("-", "_")
    return name + "_" if keyword.iskeyword(name) else name


SIMPLE = {"string": "str", "int": "int", "boolean": "bool", "number": "float", "null": "None", "object": "Mapping[str, Any]", "value": "Any",
          "array": "Sequence[Any]"}


def python_type(api, name, argument=False):
    type = api.entries[name]
    meta = type["meta-type"]
    if meta == "array":
        return f"{'Sequence' if argument else 'list'}[{python_type(api, type['element-type'], argument)}]"
    if meta == "map":
        return f"Mapping[str, {python_type(api, type['value-type'], argument)}]"
    if meta == "alternate":
        return " | ".join(python_type(api, m["type"], argument) for m in type["members"])
    if name in PARTS:
        return PARTS[name][1]
    return SIMPLE[type["json-type"]] if meta == "builtin" else camel(name)


def reader(api, name):
    """Return how to read a value, for wire.Object._fields."""
    type = api.entries[name]
    meta = type["meta-type"]
    if meta in ("array", "map"):
        inner = reader(api, type["element-type" if meta == "array" else "value-type"])
        return f"({'list' if meta == 'array' else 'dict'}, {inner})" if inner != "None" else "None"
    return camel(name) if meta == "object" else "None"


def python_class(api, name, members, base, doc, more=()):
    lines = ["@dataclass(frozen=True, kw_only=True)", f"class {name}({base}):"]
    attributes = [f"{INDENT * 2}{attribute(m['name'])}: {m['doc']}" for m in members]
    lines += [f'{INDENT}"""{doc}' + ("" if attributes else '"""')] + (["", *attributes, INDENT + '"""'] if attributes else []) + [""]
    lines += [f"{INDENT}{line}" for line in more]
    for m in members:
        type = python_type(api, m["type"])
        optional = "default" in m
        lines.append(f"{INDENT}{attribute(m['name'])}: {type}" + (" | None = None" if optional else ""))
    fields = [f'("{m["name"]}", "{attribute(m["name"])}", {reader(api, m["type"])})' for m in members]
    if not members and not more:
        lines.append(f"{INDENT}pass")
    return [line.rstrip() for line in lines] + ["", ""], f"{name}._fields = ({', '.join(fields)}{',' if fields else ''})"


def typed_dict(schema, name, out):
    """Append the TypedDict of an object of a JSON Schema to `out`, those inside of it first. Returns the type."""
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "properties" not in schema and ("anyOf" in schema or "oneOf" in schema):
        types = [typed_dict(s, name + str(i or ""), out) for i, s in enumerate(schema.get("anyOf") or schema["oneOf"])]
        return "Any" if "Any" in types else " | ".join(dict.fromkeys(types))
    kind = schema.get("type")
    if kind == "array":
        return f"Sequence[{typed_dict(schema.get('items', {}), name[:-1] if name.endswith('s') else name + 'Item', out)}]"
    if kind != "object":
        return {"string": "str", "integer": "int", "boolean": "bool", "null": "None"}.get(kind, "Any")
    rows = [f'{INDENT}"{k}": "{typed_dict(s, name + camel(k), out)}",' for k, s in schema.get("properties", {}).items()]
    out += [f'{name} = TypedDict("{name}", {{', *rows, "}, total=False)", ""]
    return name


def signature(api, c):
    """Return the parameters of the command's method, and the pairs of its arguments."""
    args = api.arguments(c)
    first = [m for m in args if "default" not in m]
    rest = [m for m in args if "default" in m]
    params = [f"{attribute(m['name'])}: {python_type(api, m['type'], True)}" for m in first]
    params += ["fd: int"] if c.get("takes-fd") else []
    if rest:
        params += ["*"] + [f"{attribute(m['name'])}: {python_type(api, m['type'], True)} | None = None" for m in rest]
    return ["self"] + params, ", ".join(f'"{m["name"]}": {attribute(m["name"])}' for m in args)


def python_method(api, c, is_async):
    params, pairs = signature(api, c)
    job = "AsyncJob" if is_async else "Job"
    fd = ", fd" if c.get("takes-fd") else ""
    call = f'"{c["name"]}", {{{pairs}}}{fd}'
    wait = "await " if is_async else ""
    list_of, element = api.element(c["ret-type"])
    lines = []
    if api.has_result(c) and api.starts_job(c):
        of = camel(c["result-type"])
        returns, body = f"{job}[{of}]", f"return {wait}self._job({of}, {call})"
    elif list_of:
        of = camel(element) if element in api.objects else "Any"
        returns, body = (f"list[{of}]", f"return {wait}self._list({of}, {call})") if of != "Any" else ("Any", f"return {wait}self.call({call})")
    elif c.get("returns-fd") and not api.has_result(c):
        returns, body = "int", f"return await self._needed_fd({call})" if is_async else f"self.call({call})\n{INDENT * 2}return self._needed_fd()"
    elif c.get("returns-fd"):
        of = camel(c["ret-type"])
        returns = f"tuple[{of}, int | None]"
        body = (f"answer, got = await self.call_with_fd({call})\n{INDENT * 2}return decode({of}, answer), got" if is_async
                else f"return self._object({of}, {call}), self.taken_fd()")
    elif api.has_result(c):
        of = camel(c["ret-type"])
        returns, body = of, f"return {wait}self._object({of}, {call})"
    else:
        returns, body = "None", f"{wait}self.call({call})"
    lines += [f"{INDENT}{'async ' if is_async else ''}def {attribute(c['name'])}(", *(f"{INDENT * 2}{p}," for p in params), f"{INDENT}) -> {returns}:"]
    lines += [f'{INDENT * 2}"""{sentence(c["doc"])}', ""]
    lines += [f"{INDENT * 2}{attribute(m['name'])}: {m['doc']}" for m in api.arguments(c)]
    lines += [f"{INDENT * 2}fd: the open file; it stays open"] if fd else []
    lines += [f"{INDENT * 2}Returns an open file, which the caller closes."] if c.get("returns-fd") else []
    lines = lines[:-1] if lines[-1] == "" else lines
    return lines + [f'{INDENT * 2}"""', INDENT * 2 + body, ""]


HEAD = '''"""Made by tools/client/generate.py from the schema of Cairn {version}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict

from .aio import AsyncConnection
from .job import AsyncJob, Job
from .sync import Connection
from .wire import CairnError, Event, Object, decode, register
'''


def python_module(api):
    lines, tables = HEAD.format(version=api.version).splitlines(), []
    for e in api.enums:
        lines.append(f"{camel(e['name'])} = Literal[{', '.join(map(repr, e['values']))}]")
    lines.append("")
    for name, definition in api.definitions.items():
        typed_dict(definition, camel(name), lines)
    lines += ["EgressDefinition = NetworkDefinitionEgress", ""]
    for name in api.errors:
        if name != "GenericError":
            lines += ["@register", f"class {name}(CairnError):", f'{INDENT}error_class = "{name}"', "", ""]
    for name, members in api.objects.items():
        about = name.replace("-job-result", "").replace("-result", "")
        doc = (f"Result of the jobs of {about}." if name.endswith("-job-result") else f"Result of {about}." if name.endswith("-result")
               else f"An object of type {name}.")
        code, table = python_class(api, camel(name), members, "Object", doc)
        lines += code
        tables.append(table)
    for e in api.events:
        name = camel(e["name"].lower()) + "Event"
        code, table = python_class(api, name, api.entries[e["arg-type"]]["members"], "Event", f"{e['name']}: {e['doc']}.",
                                   [f'name: ClassVar[str] = "{e["name"]}"'])
        lines += code
        tables.append(table)
    lines += tables
    lines += ["", "events_by_name: dict[str, type[Event]] = {"]
    lines += [f'{INDENT}"{e["name"]}": {camel(e["name"].lower())}Event,' for e in api.events] + ["}", ""]
    for name, base in (("Client", "Connection"), ("AsyncClient", "AsyncConnection")):
        lines += ["", f"class {name}({base}):", f'{INDENT}"""The daemon\'s commands."""', "", f"{INDENT}_known = events_by_name", ""]
        for c in api.commands:
            if c["name"] != "qmp_capabilities":
                lines += python_method(api, c, name == "AsyncClient")
    return "\n".join(lines).rstrip("\n") + "\n"


# ---- TypeScript ----

def ts_definition(schema, name, out):
    """Append the type of an object of a JSON Schema to `out`, those inside of it first. Returns the type."""
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(v) for v in schema.get("enum", [schema.get("const")]))
    if "properties" not in schema and ("anyOf" in schema or "oneOf" in schema):
        return " | ".join(dict.fromkeys(ts_definition(s, name + str(i or ""), out) for i, s in enumerate(schema.get("anyOf") or schema["oneOf"])))
    kind = schema.get("type")
    if kind == "array":
        return f"({ts_definition(schema['items'], name[:-1] if name.endswith('s') else name + 'Item', out)})[]"
    if kind != "object":
        return {"integer": "number"}.get(kind, kind)
    optional = {k: "" if k in schema.get("required", []) else "?" for k in schema["properties"]}
    rows = [(f'{INDENT}/** {s["description"]} */\n' if "description" in s else "") +
            f'{INDENT}"{k}"{optional[k]}: {ts_definition(s, name + camel(k), out)};' for k, s in schema["properties"].items()]
    out += [f"export type {name} = {{", *rows, "};", ""]
    return name


def ts_type(api, name):
    if name in PARTS:
        return PARTS[name][1]
    type = api.entries[name]
    meta = type["meta-type"]
    if meta == "array":
        return f"({ts_type(api, type['element-type'])})[]"
    if meta == "map":
        return f"Record<string, {ts_type(api, type['value-type'])}>"
    if meta == "alternate":
        return " | ".join(ts_type(api, m["type"]) for m in type["members"])
    if meta == "enum":
        return " | ".join(f'"{v}"' for v in type["values"])
    if meta == "builtin":
        return {"string": "string", "int": "number", "number": "number", "boolean": "boolean", "null": "null"}.get(
            type["json-type"], "any" if type["json-type"] in ("value", "array") else "Record<string, any>")
    return camel(name) if name in api.objects else ts_members(api, type["members"])


def ts_members(api, members):
    rows = [f'/** {m["doc"]} */ "{m["name"]}"{"?" if "default" in m else ""}: {ts_type(api, m["type"])};' for m in members]
    return "{" + "".join(f"\n{INDENT}{row}" for row in rows) + "\n}" if rows else "Record<string, never>"


def ts_module(api):
    lines = [f"// Made by tools/client/generate.py from the schema of Cairn {api.version}.", ""]
    for name, definition in api.definitions.items():
        ts_definition(definition, camel(name), lines)
    for name, members in api.objects.items():
        lines += [f"export type {camel(name)} = {ts_members(api, members)};", ""]
    for title, of in (("Commands", api.commands), ("Events", api.events)):
        lines.append(f"export interface {title} {{")
        for e in of:
            parts = {"arguments": e["arg-type"], "result": e.get("ret-type"), "job": e.get("result-type")} if title == "Commands" else {"data": e["arg-type"]}
            rows = "; ".join(f"{k}: {ts_type(api, v)}" for k, v in parts.items() if v)
            lines.append(f'{INDENT}/** {sentence(e["doc"])} */\n{INDENT}"{e["name"]}": {{ {rows} }};')
        lines += ["}", ""]
    return "\n".join(lines)


def main():
    api = Api(json.loads(pathlib.Path(sys.argv[1]).read_text()))
    out = pathlib.Path(sys.argv[2])
    package = out / "python"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(HERE / "python", package, ignore=shutil.ignore_patterns("__pycache__", "*.in"))
    (package / "pyproject.toml").write_text((HERE / "python" / "pyproject.toml.in").read_text().replace("@VERSION@", api.version))
    (package / "cairn_client" / "api.py").write_text(python_module(api))
    (out / "api.schema.json").write_text(json.dumps(json_schema(api), indent=1) + "\n")
    (out / "openrpc.json").write_text(json.dumps(openrpc(api), indent=1) + "\n")
    (out / "network-definition.schema.json").write_text(json.dumps(api.definitions["network-definition"], indent=1) + "\n")
    (out / "cairn.d.ts").write_text(ts_module(api))


if __name__ == "__main__":
    main()
