// A terminal in memory: what a guest's serial console prints, as a VT220 with colours and xterm's most used sequences
// shows it. It knows nothing of the page. Each line is two strings of the same length: characters, and their styles as
// character codes, which number the styles in `styles`.
const LINES_MAX = 1000; // above the screen
const STYLES_MAX = 4096;
const SEQUENCE_MAX = 4200;
const ANSWERS_MAX = 16; // to one piece of output
// Characters of the DEC line-drawing set, from "`" to "~".
const DRAWING = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";
// Texts, control characters, and sequences: CSI, OSC and DCS (a title, say), others of two or three characters.
const PARTS = /[^\x00-\x1f\x7f]+|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P_^X][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]|[\x00-\x1f\x7f]/g;

function emptyLine() {
	return { text: "", style: "" };
}

// Give the line n columns; styles of the new ones are `style`.
function widen(line, n, style) {
	if (line.text.length >= n)
		return;
	line.style += style.repeat(n - line.text.length);
	line.text = line.text.padEnd(n);
}

export class Terminal {
	// reply: gets what the guest is to be told, such as the cursor's place.
	constructor(columns = 80, rows = 24, reply = () => {}) {
		Object.assign(this, { columns, rows, reply });
		this.passed = 0; // number of lines that have left the screen for `above`
		this.cleared = 0; // how often these lines were dropped
		this.pending = ""; // a sequence whose end has not come
		this.reset();
	}

	reset() {
		this.dropAbove();
		this.styles = [];
		this.numbers = new Map(); // of looks as JSON
		this.characters = new Map(); // of `styles`
		this.changes = new Map(); // from a style and a sequence to one of `styles`
		this.number({});
		this.screen = Array.from({ length: this.rows }, emptyLine);
		this.other = null; // the main screen and its cursor, while the alternate one is shown
		Object.assign(this, { row: 0, column: 0, wraps: false, top: 0, bottom: this.rows - 1, saved: null, last: " ",
			autowrap: true, inserts: false, origin: false, cursorShown: true, keypadMode: false, charsets: ["B", "B"], shift: 0, look: this.styles[0], style: "\0" });
	}

	// ---- lines ----

	dropAbove() {
		this.above = []; // lines above the screen
		this.cleared++;
	}

	// Move the lines from `top` to the bottom margin up, or down if n < 0. keeps: those that go up out of the screen can
	// be looked at.
	scroll(n, top = this.top, keeps = !this.top && !this.other) {
		for (; n > 0; n--) {
			const [line] = this.screen.splice(top, 1);
			this.screen.splice(this.bottom, 0, emptyLine());
			if (keeps) {
				this.above.push(line);
				this.passed++;
			}
		}
		for (; n < 0; n++) {
			this.screen.splice(this.bottom, 1);
			this.screen.splice(top, 0, emptyLine());
		}
		if (this.above.length > 2 * LINES_MAX)
			this.above.splice(0, this.above.length - LINES_MAX);
	}

	lineFeed() {
		this.wraps = false;
		if (this.row === this.bottom)
			this.scroll(1);
		else if (this.row < this.rows - 1)
			this.row++;
	}

	put(text) {
		if (!this.autowrap && this.column + text.length > this.columns) // the last column takes each further character
			text = text.slice(0, this.columns - this.column - 1) + text.at(-1);
		while (text) {
			if (this.wraps) {
				this.column = 0;
				this.lineFeed();
			}
			const part = text.slice(0, this.columns - this.column), line = this.screen[this.row], end = this.column + part.length;
			const rest = this.inserts ? this.column : end;
			widen(line, this.column, "\0");
			line.text = (line.text.slice(0, this.column) + part + line.text.slice(rest)).slice(0, this.columns);
			line.style = (line.style.slice(0, this.column) + this.style.repeat(part.length) + line.style.slice(rest)).slice(0, this.columns);
			text = text.slice(part.length);
			this.last = part.at(-1);
			this.wraps = this.autowrap && end === this.columns;
			this.column = Math.min(end, this.columns - 1);
		}
	}

	// Blank columns of a line, with the present background.
	blank(row, from, to) {
		const line = this.screen[row];
		if (from >= to)
			return;
		widen(line, to, "\0");
		line.text = line.text.slice(0, from) + " ".repeat(to - from) + line.text.slice(to);
		line.style = line.style.slice(0, from) + this.background().repeat(to - from) + line.style.slice(to);
	}

	blankRows(from, to) {
		for (let i = from; i < to; i++) {
			this.screen[i] = emptyLine();
			if (this.look.back !== undefined)
				this.blank(i, 0, this.columns);
		}
	}

	// ---- the cursor ----

	move(row, column) {
		const top = this.origin ? this.top : 0, bottom = this.origin ? this.bottom : this.rows - 1;
		this.row = Math.max(top, Math.min(bottom, row));
		this.column = Math.max(0, Math.min(this.columns - 1, column));
		this.wraps = false;
	}

	// Move up or down, as far as a margin that is in the way.
	moveRows(n) {
		const top = this.row < this.top ? 0 : this.top, bottom = this.row > this.bottom ? this.rows - 1 : this.bottom;
		this.row = Math.max(top, Math.min(bottom, this.row + n));
		this.wraps = false;
	}

	cursorState() {
		const { row, column, wraps, look, charsets, shift, origin } = this;
		return { row, column, wraps, look, charsets: [...charsets], shift, origin };
	}

	// state: of cursorState(); null: none was saved.
	cursorSet(state) {
		Object.assign(this, state ?? { row: 0, column: 0, wraps: false, look: this.styles[0], shift: 0, origin: false }, { charsets: [...state?.charsets ?? "BB"] });
		this.styleChoose();
	}

	// ---- styles ----

	// Return the number of a look as a character; the default, when there are too many.
	number(look) {
		const sorted = Object.fromEntries(Object.entries(look).sort()), key = JSON.stringify(sorted);
		let n = this.numbers.get(key);
		if (n === undefined && this.styles.length < STYLES_MAX) {
			n = this.styles.push(sorted) - 1;
			this.numbers.set(key, n);
			this.characters.set(sorted, String.fromCharCode(n));
		}
		return String.fromCharCode(n ?? 0);
	}

	// this.look: one of `styles`.
	styleChoose() {
		this.style = this.characters.get(this.look);
	}

	background() {
		return this.look.back === undefined ? "\0" : this.number({ back: this.look.back });
	}

	// Colours are numbers of 256, or texts "#rrggbb". Returns how many of the numbers belong to the colour.
	color(name, n, i) {
		if (n[i + 1] === 5 && n[i + 2] >= 0 && n[i + 2] < 256) {
			this.look[name] = n[i + 2];
			return 2;
		}
		if (n[i + 1] === 2 && n.slice(i + 2, i + 5).length === 3) {
			this.look[name] = "#" + n.slice(i + 2, i + 5).map((v) => Math.min(v, 255).toString(16).padStart(2, "0")).join("");
			return 4;
		}
		return n.length;
	}

	graphics(text, n) {
		const key = this.style + text, known = this.changes.get(key);
		if (known) {
			this.look = known;
			this.styleChoose();
			return;
		}
		this.look = { ...this.look };
		for (let i = 0; i < n.length; i++) {
			const v = n[i];
			if (v === 0)
				this.look = {};
			else if (v === 1 || v === 4 || v === 7)
				this.look[{ 1: "bold", 4: "underline", 7: "inverse" }[v]] = true;
			else if (v === 22 || v === 24 || v === 27)
				delete this.look[{ 22: "bold", 24: "underline", 27: "inverse" }[v]];
			else if (v === 39 || v === 49)
				delete this.look[v === 39 ? "fore" : "back"];
			else if (v === 38 || v === 48)
				i += this.color(v === 38 ? "fore" : "back", n, i);
			else if ((v >= 30 && v < 38) || (v >= 90 && v < 98))
				this.look.fore = v < 90 ? v - 30 : v - 82;
			else if ((v >= 40 && v < 48) || (v >= 100 && v < 108))
				this.look.back = v < 100 ? v - 40 : v - 92;
		}
		this.look = this.styles[this.number(this.look).charCodeAt(0)];
		if (this.changes.size < STYLES_MAX)
			this.changes.set(key, this.look);
		this.styleChoose();
	}

	// ---- sequences ----

	mode(n, on) {
		if (n === "4")
			this.inserts = on;
		else if (n === "?1")
			this.keypadMode = on;
		else if (n === "?6") {
			this.origin = on;
			this.move(on ? this.top : 0, 0);
		} else if (n === "?7") {
			this.autowrap = on;
			this.wraps &&= on;
		} else if (n === "?25")
			this.cursorShown = on;
		else if (n === "?47" || n === "?1047" || n === "?1049")
			this.alternate(on, n === "?1049");
	}

	// Show the alternate screen, or the main one. saves: with the cursor of the main one.
	alternate(on, saves) {
		if (on === Boolean(this.other))
			return;
		if (on) {
			this.other = { screen: this.screen, cursor: this.cursorState() };
			this.screen = Array.from({ length: this.rows }, emptyLine);
		} else {
			this.screen = this.other.screen;
			if (saves)
				this.cursorSet(this.other.cursor);
			this.other = null;
		}
	}

	eraseDisplay(what) {
		this.wraps = false;
		if (what === 0) {
			this.blank(this.row, this.column, this.columns);
			this.blankRows(this.row + 1, this.rows);
		} else if (what === 1) {
			this.blankRows(0, this.row);
			this.blank(this.row, 0, this.column + 1);
		} else if (what === 2) {
			this.blankRows(0, this.rows);
		} else if (what === 3) {
			this.dropAbove();
		}
	}

	eraseLine(what) {
		if (what <= 2)
			this.blank(this.row, what === 0 ? this.column : 0, what === 1 ? this.column + 1 : this.columns);
		this.wraps = false;
	}

	// Delete n columns at the cursor, or insert them.
	shiftColumns(n, deletes) {
		const line = this.screen[this.row], width = Math.min(n, this.columns - this.column);
		widen(line, this.columns, "\0");
		const spaces = " ".repeat(width), styles = this.background().repeat(width), from = this.column + (deletes ? width : 0);
		line.text = line.text.slice(0, this.column) + (deletes ? line.text.slice(from) + spaces : (spaces + line.text.slice(from)).slice(0, this.columns - this.column));
		line.style = line.style.slice(0, this.column) + (deletes ? line.style.slice(from) + styles : (styles + line.style.slice(from)).slice(0, this.columns - this.column));
		this.wraps = false;
	}

	shiftRows(n) {
		if (this.row < this.top || this.row > this.bottom)
			return;
		this.scroll(Math.max(-this.rows, Math.min(this.rows, n)), this.row, false);
		this.wraps = false;
	}

	margins(top, bottom) {
		if (top < 1 || bottom > this.rows || top >= bottom)
			return;
		this.top = top - 1;
		this.bottom = bottom - 1;
		this.move(this.origin ? this.top : 0, 0);
	}

	// The guest cannot have more answers than it reads: the others are left out.
	answer(text) {
		if (++this.answers <= ANSWERS_MAX)
			this.reply(text);
	}

	report(n) {
		if (n === 5)
			this.answer("\x1b[0n");
		else if (n === 6)
			this.answer(`\x1b[${this.row - (this.origin ? this.top : 0) + 1};${this.column + 1}R`);
	}

	// text: between "\x1b[" and the last character, `end`.
	csi(text, end) {
		if (/[^0-9;]/.test(text)) {
			if (/^\?[0-9;]*$/.test(text) && (end === "h" || end === "l"))
				text.slice(1).split(";").forEach((n) => this.mode("?" + n, end === "h"));
			return;
		}
		const n = text.split(";").map((v) => Math.min(Number(v), 99999)), one = n[0] || 1, top = this.origin ? this.top : 0;
		switch (end) {
		case "A": this.moveRows(-one); break;
		case "B": case "e": this.moveRows(one); break;
		case "C": case "a": this.move(this.row, this.column + one); break;
		case "D": this.move(this.row, this.column - one); break;
		case "E": this.moveRows(one); this.column = 0; break;
		case "F": this.moveRows(-one); this.column = 0; break;
		case "G": case "`": this.move(this.row, one - 1); break;
		case "H": case "f": this.move(top + one - 1, (n[1] || 1) - 1); break;
		case "d": this.move(top + one - 1, this.column); break;
		case "J": this.eraseDisplay(n[0]); break;
		case "K": this.eraseLine(n[0]); break;
		case "L": this.shiftRows(-one); break;
		case "M": this.shiftRows(one); break;
		case "P": this.shiftColumns(one, true); break;
		case "@": this.shiftColumns(one, false); break;
		case "X": this.blank(this.row, this.column, Math.min(this.columns, this.column + one)); this.wraps = false; break;
		case "S": this.scroll(Math.min(one, this.rows)); break;
		case "T": this.scroll(-Math.min(one, this.rows)); break;
		case "b": this.put(this.last.repeat(Math.min(one, this.columns * this.rows))); break;
		case "m": this.graphics(text, n); break;
		case "r": this.margins(n[0] || 1, n[1] || this.rows); break;
		case "h": case "l": n.forEach((v) => this.mode(String(v), end === "h")); break;
		case "n": this.report(n[0]); break;
		case "c": this.answer("\x1b[?62;22c"); break; // a VT220 with colours
		case "s": this.saved = this.cursorState(); break;
		case "u": this.cursorSet(this.saved); break;
		}
	}

	reverseLineFeed() {
		this.wraps = false;
		if (this.row === this.top)
			this.scroll(-1);
		else
			this.row = Math.max(0, this.row - 1);
	}

	escape(sequence) {
		const end = sequence.at(-1);
		if (sequence[1] === "[")
			this.csi(sequence.slice(2, -1), end);
		else if (sequence[1] === "(" || sequence[1] === ")")
			this.charsets[sequence[1] === "(" ? 0 : 1] = end;
		else if (sequence.length === 2)
			switch (end) {
			case "7": this.saved = this.cursorState(); break;
			case "8": this.cursorSet(this.saved); break;
			case "c": this.reset(); break;
			case "D": this.lineFeed(); break;
			case "E": this.column = 0; this.lineFeed(); break;
			case "M": this.reverseLineFeed(); break;
			}
	}

	control(c) {
		switch (c) {
		case "\n": case "\v": case "\f": this.lineFeed(); break;
		case "\r": this.column = 0; this.wraps = false; break;
		case "\b": this.column = Math.max(0, this.column - 1); this.wraps = false; break;
		case "\t": this.column = Math.min(this.columns - 1, this.column + 8 - this.column % 8); break;
		case "\x0e": this.shift = 1; break;
		case "\x0f": this.shift = 0; break;
		}
	}

	printable(text) {
		return this.charsets[this.shift] === "0" ? text.replace(/[`-~]/g, (c) => DRAWING[c.charCodeAt(0) - 0x60]) : text;
	}

	write(text) {
		text = this.pending + text;
		this.pending = "";
		this.answers = 0;
		for (const match of text.matchAll(PARTS)) {
			const part = match[0];
			if (part === "\x1b" && text.length - match.index < SEQUENCE_MAX && !/[^\x1b]\x1b[^]/.test(text.slice(match.index + 1))) {
				this.pending = text.slice(match.index);
				return;
			}
			if (part[0] === "\x1b")
				this.escape(part);
			else if (part >= " " && part !== "\x7f")
				this.put(this.printable(part));
			else
				this.control(part);
		}
	}

	// ---- what a page shows ----

	// Return the newest lines above the screen.
	linesAbove() {
		return this.above.slice(-LINES_MAX);
	}
}
