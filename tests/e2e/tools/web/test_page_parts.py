"""Parts of the page, which node runs with a document that knows only texts: keys of the console, words under graphs,
places of errors in definitions."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import ROOT

pytestmark = [pytest.mark.skipif(not shutil.which("node"), reason="needs nodejs")]
DOCUMENT = """
class Element {
	children = [];
	append(...more) { this.children.push(...more); }
	setAttribute(name, value) { this[name] = value; }
	addEventListener() {}
	get textContent() { return this.children.map((c) => c.textContent ?? c).join(""); }
}
globalThis.document = { createElement: () => new Element(), createElementNS: () => new Element(), getElementById: () => new Element() };
globalThis.localStorage = { getItem: () => "" };
"""
KEYS = DOCUMENT + """
const { cases, platform } = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));
Object.defineProperty(globalThis, "navigator", { value: { platform } });
const { keyText } = await import("./console.js");
console.log(JSON.stringify(cases.map(({ graph, keypad, ...event }) => keyText({ ...event, getModifierState: () => Boolean(graph) }, keypad))));
"""
GRAPH = DOCUMENT + """
const series = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));
const { figure } = await import("./trends.js");
console.log(JSON.stringify(series.map((s) => figure(s)?.children[0].children[1].textContent ?? null)));
"""
KEYS_OF_ERRORS = DOCUMENT + """
const { text, keys, sentences } = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));
const { errorParts, keyLine, syntaxLine } = await import("./form.js");
const parts = sentences.map((s) => errorParts(s).key);
const wrong = [text.replace('"memory":', '"memory"'), text.slice(0, -3)].map((t) => {
	try {
		JSON.parse(t);
	} catch (error) {
		return syntaxLine(t, error.message);
	}
});
console.log(JSON.stringify({ lines: keys.map((key) => keyLine(text, key)), parts, wrong }));
"""
DEFINITION = """{
  "name": "a \\"{[,:",
  "memory": "1G", "vcpus": 2,
  "disks": [
    { "path": "/a", "format": "raw" },
    { "path": "/b",
      "backing": [ { "path": "/c" },
        { "path": "/d" } ] }
  ],
  "boot": {
    "kernel": "/k"
  }
}
"""


def run(folder, script, data):
    """Run a script beside the page's, with JSON as its input. Return its answer."""
    page = folder / "page"
    shutil.copytree(os.path.join(ROOT, "tools/web/page"), page)
    (page / "package.json").write_text('{"type": "module"}')
    (page / "run.js").write_text(script)
    r = subprocess.run(["node", "run.js"], cwd=page, input=json.dumps(data), capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


@pytest.mark.parametrize("platform", ["Linux x86_64", "MacIntel"])
def test_console_keys_send_what_terminals_send(tmp_path, platform):
    alt = "" if platform == "MacIntel" else "\x1b"  # Option types signs
    cases = [
        ({"key": "a"}, "a"), ({"key": "ü"}, "ü"), ({"key": "\U0001f600"}, "\U0001f600"), ({"key": "A", "shiftKey": True}, "A"),
        ({"key": "Enter"}, "\r"), ({"key": "Backspace"}, "\x7f"), ({"key": "Tab"}, "\t"), ({"key": "Escape"}, "\x1b"),
        ({"key": "Delete"}, "\x1b[3~"), ({"key": "PageUp"}, "\x1b[5~"), ({"key": "F1"}, "\x1bOP"), ({"key": "F5"}, "\x1b[15~"),
        ({"key": "F12"}, "\x1b[24~"), ({"key": "ArrowUp"}, "\x1b[A"), ({"key": "Home"}, "\x1b[H"),
        ({"key": "ArrowUp", "keypad": True}, "\x1bOA"), ({"key": "End", "keypad": True}, "\x1bOF"),
        ({"key": "c", "ctrlKey": True}, "\x03"), ({"key": "[", "ctrlKey": True}, "\x1b"), ({"key": "@", "ctrlKey": True}, "\0"),
        ({"key": "_", "ctrlKey": True}, "\x1f"),
        # The browser keeps these: Ctrl-Shift-C copies, Ctrl-+ enlarges.
        ({"key": "C", "ctrlKey": True, "shiftKey": True}, None), ({"key": "+", "ctrlKey": True}, None), ({"key": "ArrowUp", "ctrlKey": True}, None),
        ({"key": "c", "metaKey": True}, None), ({"key": "Shift"}, None), ({"key": "Dead"}, None), ({"key": "AudioVolumeUp"}, None),
        ({"key": "b", "altKey": True}, alt + "b"), ({"key": "Backspace", "altKey": True}, alt + "\x7f"),
        ({"key": "@", "ctrlKey": True, "altKey": True, "graph": True}, "@"),  # AltGr on Windows
        ({"key": "x", "ctrlKey": True, "altKey": True}, None),
    ]
    found = run(tmp_path, KEYS, {"cases": [case for case, _ in cases], "platform": platform})
    assert found == [text for _, text in cases]


def test_graph_calls_a_figure_of_the_past_the_last_one(tmp_path):
    """The newest point has not ended, so it may be missing."""
    cases = [([1, 3, 2], "now 2 %, most 3 %"), ([1, 3, None], "now 3 %, most 3 %"), ([1, 3, None, None], "last 3 %, most 3 %"),
             ([4, 0, None, None], "last 0 %, most 4 %"), ([4, None, 0], "now 0 %, most 4 %"), ([0, 0], None), ([None, None], None), ([], None)]
    found = run(tmp_path, GRAPH, [{"name": "cpu", "unit": "percent", "average": average} for average, _ in cases])
    assert found == [words for _, words in cases]


def test_error_is_shown_at_its_line(tmp_path):
    lines = {"name": 2, "memory": 3, "vcpus": 3, "disks": 4, "disks[0]": 5, "disks[0].format": 5, "disks[1]": 6, "disks[1].path": 6, "disks[1].backing": 7,
             "disks[1].backing[1].path": 8, "boot": 10, "boot.kernel": 11, "boot.initrd": 10, "disks[1].format": 6, "disks[7]": 4, "interfaces[0].type": 1, "": 1}
    sentences = {'name: must not have a "/"': "name", "disks[0].path: must be an absolute path": "disks[0].path", "boot.kernel: /nope: No such file": "boot.kernel",
                 '"foo" is not a key of a definition; known here: version, name': "foo", 'disks[1]: "cdrom" is not a key; known here: id': "disks[1].cdrom",
                 "vm-define requires the role admin": "", "VM 'a': is busy": "", "/srv/a.qcow2: File exists": ""}
    found = run(tmp_path, KEYS_OF_ERRORS, {"text": DEFINITION, "keys": list(lines), "sentences": list(sentences)})
    assert found["lines"] == list(lines.values())
    assert found["parts"] == list(sentences.values())
    assert found["wrong"] == [3, 12]
