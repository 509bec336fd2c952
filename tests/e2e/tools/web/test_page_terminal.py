"""The terminal of the page's console, which node runs, against tmux, an implementation of others."""

import json
import os
import random
import shutil
import subprocess

import pytest

from conftest import ROOT, until

pytestmark = [pytest.mark.skipif(not shutil.which("node") or not shutil.which("tmux"), reason="needs nodejs and tmux")]
CASES, COLUMNS, ROWS = 40, 40, 10
RUN = """
import { readFileSync } from "node:fs";
import { Terminal } from "./terminal.mjs";
const shown = [];
for (const { text, columns, rows, part } of JSON.parse(readFileSync(0, "utf8"))) {
	let said = "";
	const t = new Terminal(columns, rows, (s) => { said += s; });
	for (let i = 0; i < text.length; i += part)
		t.write(text.slice(i, i + part));
	shown.push({ screen: t.screen.map((line) => line.text.trimEnd()), above: t.linesAbove().map((line) => line.text.trimEnd()), at: [t.column, t.row],
		said, looks: t.screen.map((line) => [...line.style].map((c) => t.styles[c.charCodeAt(0)])), lengths: t.screen.every((line) => line.text.length === line.style.length) });
}
console.log(JSON.stringify(shown));
"""


def shown(folder, *cases):
    """Return what the terminal shows of each case: a text, or a dictionary."""
    shutil.copy(os.path.join(ROOT, "tools/web/page/terminal.js"), folder / "terminal.mjs")
    (folder / "run.mjs").write_text(RUN)
    cases = [{"columns": COLUMNS, "rows": ROWS, "part": 1 << 20, **(c if isinstance(c, dict) else {"text": c})} for c in cases]
    r = subprocess.run(["node", "run.mjs"], cwd=folder, input=json.dumps(cases), capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def place(rng):
    """Move the cursor away from the first column and from behind the last one, where terminals differ."""
    return f"\x1b[{rng.randrange(ROWS + 3)};{rng.randrange(2, COLUMNS)}H"


def csi(rng):
    number = rng.choice(["", "0", "1", "2", "3", "5", "9", "30"])
    end = rng.choice("ABCDGHJKLMPX@STdfrHKm")
    if end in "Hf":
        return f"\x1b[{rng.randrange(ROWS + 3)};{rng.randrange(COLUMNS + 3)}{end}"
    if end in "JK":
        return place(rng) + f"\x1b[{rng.randrange(3)}{end}"
    if end == "r":
        top = rng.randrange(1, ROWS)
        return f"\x1b[{top};{rng.randrange(top + 1, ROWS + 1)}r"
    if end == "m":
        return f"\x1b[{rng.choice(['0', '1', '7', '31', '44', '38;5;200', '48;2;1;2;3', '39;49'])}m"
    if end == "@":  # tmux takes a larger number for another
        number = rng.choice(["", "1"])
    if end in "LM":  # tmux moves lines outside of the margins, too
        return "\x1b[r" + place(rng) + f"\x1b[{number}{end}"
    return place(rng) + f"\x1b[{number}{end}"


def random_text(rng):
    """Return output of a guest that draws."""
    parts = []
    for _ in range(rng.randrange(20, 300)):
        kind = rng.random()
        if kind < 0.45:
            parts.append("".join(rng.choice("abcdefgh 0123ü") for _ in range(rng.choice([1, 3, 10, COLUMNS - 1, COLUMNS, COLUMNS + 5]))))
        elif kind < 0.65:
            parts.append(rng.choice(["\r\n", "\r"]) if rng.random() < 0.5 else place(rng) + rng.choice(["\n", "\b", "\t", "\x1bM", "\x1bD", "\x1bE"]))
        elif kind < 0.72:
            parts.append(rng.choice(["\x1b7", "\x1b8", "\x1b[?25l", "\x1b[?25h", "\x1b]0;title\x07", "\x1b[?7l", "\x1b[?7h"]))
        elif kind < 0.74:
            parts.append("\x1b[?1049h" + csi(rng) + "other" + "\x1b[?1049l")
        else:
            parts.append(csi(rng))
    return "".join(parts)


@pytest.fixture
def tmux(tmp_path):
    def run(*args):
        return subprocess.run(["tmux", "-S", tmp_path / "tmux", "-f", "/dev/null", *args], capture_output=True, text=True, timeout=30,
                              env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True).stdout
    run("new-session", "-d", "-s", "s", "-x", str(COLUMNS), "-y", str(ROWS), "sleep 1000")
    run("set-option", "-g", "status", "off")
    yield run
    run("kill-server")


@pytest.mark.seconds(60)
def test_random_output_equals_tmux(tmp_path, tmux):
    seed = int(os.environ.get("CAIRN_TERMINAL_SEED", "1"))
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(int(os.environ.get("CAIRN_TERMINAL_CASES", CASES)))]
    ours = shown(tmp_path, *[{"text": t, "part": rng.choice([1, 7, 1 << 20])} for t in texts])
    for i, text in enumerate(texts):
        (tmp_path / "text").write_text(text, newline="")
        (tmp_path / "done").unlink(missing_ok=True)
        tmux("respawn-window", "-k", "-t", "s", f"stty raw -echo; cat {tmp_path}/text; printf '\\033[6n'; head -c 4 >{tmp_path}/done; sleep 1000")
        until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").stat().st_size)
        theirs = [line.rstrip() for line in tmux("capture-pane", "-p", "-t", "s").split("\n")[:ROWS]]
        x, y = map(int, tmux("display-message", "-p", "-t", "s", "#{cursor_x} #{cursor_y}").split())
        assert (ours[i]["screen"], ours[i]["at"]) == (theirs, [min(x, COLUMNS - 1), y]), (seed, i, text)
        assert ours[i]["lengths"]


def test_answers_and_drawn_lines(tmp_path):
    """The terminal answers the guest's queries, and draws the lines of Debian's installer."""
    asks = "\x1b[3;5H\x1b[6n\x1b[5n\x1b[c" + "\x1b[6n" * 100
    boxes, insert, modes, wide, answers, title = shown(
        tmp_path, "\x1b(0lqk\x1b(B|\x0e\x1b)0x\x0fx", "abc\x1b[1;2H\x1b[4hX\x1b[4lY", "\x1b[1;7;38;5;9mA\x1b[0mB\x1b[48;2;1;2;300mC",
        "a" * COLUMNS + "b\r\n\x1b[?7l" + "c" * COLUMNS + "d", asks, {"text": "\x1b]0;<script>\x07ok\x1bP1;2|zz\x1b\\!\x1b[31", "part": 3})
    assert boxes["screen"][0] == "┌─┐|│x" and insert["screen"][0] == "aXYc"
    assert modes["looks"][0] == [{"bold": True, "fore": 9, "inverse": True}, {}, {"back": "#0102ff"}]
    assert [line for line in wide["screen"] if line] == ["a" * COLUMNS, "b", "c" * (COLUMNS - 1) + "d"]
    assert answers["said"].startswith("\x1b[3;5R\x1b[0n\x1b[?62;22c\x1b[3;5R") and answers["said"].count("\x1b") == 16
    assert title["screen"][0] == "ok!" and title["said"] == ""


def test_lines_above_the_screen_are_bounded(tmp_path):
    many, cleared, other = shown(tmp_path, "".join(f"line {i}\r\n" for i in range(5000)), "x\r\n" * 50 + "\x1b[3J", "\x1b[?1049h" + "x\r\n" * 50 + "\x1b[?1049lback")
    assert len(many["above"]) == 1000 and many["above"][-1] == f"line {5000 - ROWS}" and many["screen"][ROWS - 2] == "line 4999"
    assert not cleared["above"] and cleared["screen"][0] == "x"
    assert not other["above"] and other["screen"] == ["back"] + [""] * (ROWS - 1)
