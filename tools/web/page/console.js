// The serial console of a guest in a <pre>: a line of the terminal is a <div>, with a <span> for each style.
import { openStream } from "./daemon.js";
import { element, message } from "./element.js";
import { openStreams } from "./stream_input.js";
import { Terminal } from "./terminal.js";

const DRAW_MS = 50;
const HISTORY_MS = 1000;
const KEYS = {
	Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", Insert: "\x1b[2~", Delete: "\x1b[3~", PageUp: "\x1b[5~", PageDown: "\x1b[6~",
	F1: "\x1bOP", F2: "\x1bOQ", F3: "\x1bOR", F4: "\x1bOS", F5: "\x1b[15~", F6: "\x1b[17~", F7: "\x1b[18~", F8: "\x1b[19~", F9: "\x1b[20~",
	F10: "\x1b[21~", F11: "\x1b[23~", F12: "\x1b[24~",
};
const CURSOR_KEYS = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };
const COLORS = ["#000", "#c33", "#2a2", "#a80", "#36c", "#a3a", "#1a9", "#bbb", "#777", "#f66", "#5d5", "#fd5", "#7af", "#f7f", "#4ee", "#fff"];

// Return the CSS colour of one of 256 colours, or of a text "#rrggbb".
function colorText(c) {
	if (typeof c === "string" || c < 16)
		return COLORS[c] ?? c;
	if (c >= 232)
		return `rgb(${Array(3).fill(8 + 10 * (c - 232))})`;
	return `rgb(${[36, 6, 1].map((n) => [0, 95, 135, 175, 215, 255][Math.floor((c - 16) / n) % 6])})`;
}

function styledSpan(text, look, isCursor) {
	const span = element("span", {}, text);
	const [front, back] = [look.fore ?? null, look.back ?? null].map((c) => c === null ? null : colorText(c));
	if (Boolean(look.inverse) !== isCursor) {
		span.style.color = back ?? "var(--raised)";
		span.style.backgroundColor = front ?? "var(--front)";
	} else {
		span.style.color = front ?? "";
		span.style.backgroundColor = back ?? "";
	}
	span.style.fontWeight = look.bold ? "bold" : "";
	span.style.textDecoration = look.underline ? "underline" : "";
	return span;
}

// Fill a line's <div>. cursor: its column; -1: it is not in this line.
function lineDraw(div, line, styles, cursor) {
	const text = line.text.padEnd(cursor + 1), style = line.style.padEnd(cursor + 1, "\0"), parts = [];
	for (let from = 0, to; from < text.length; from = to) {
		const isCursor = from === cursor;
		for (to = from + 1; to < text.length && !isCursor && to !== cursor && style[to] === style[from];)
			to++;
		const look = styles[style.charCodeAt(from)];
		parts.push(isCursor || Object.keys(look).length ? styledSpan(text.slice(from, to), look, isCursor) : text.slice(from, to));
	}
	div.replaceChildren(...parts, "\n");
}

// Shows a terminal in a <pre>. It changes only lines that differ from what it has drawn.
export class View {
	constructor(out, terminal) {
		Object.assign(this, { out, terminal, cleared: -1, passed: 0, drawn: [] });
	}

	draw() {
		const t = this.terminal, above = t.linesAbove();
		const follows = this.out.scrollTop + this.out.clientHeight >= this.out.scrollHeight - 30;
		const added = Math.min(above.length, t.passed - this.passed), kept = above.length - added;
		if (this.cleared !== t.cleared || this.out.childNodes.length < kept + t.rows) {
			this.out.replaceChildren(...[...above, ...t.screen].map(() => element("div")));
			above.forEach((line, i) => lineDraw(this.out.childNodes[i], line, t.styles, -1));
			this.drawn = [];
		} else {
			while (this.out.childNodes.length > kept + t.rows)
				this.out.firstChild.remove();
			const first = this.out.childNodes[kept] ?? null;
			above.slice(kept).forEach((line) => {
				const div = element("div");
				lineDraw(div, line, t.styles, -1);
				this.out.insertBefore(div, first);
			});
		}
		Object.assign(this, { cleared: t.cleared, passed: t.passed });
		t.screen.forEach((line, i) => {
			const cursor = t.cursorShown && i === t.row ? t.column : -1, state = `${cursor} ${line.style}\n${line.text}`;
			if (this.drawn[i] !== state)
				lineDraw(this.out.childNodes[above.length + i], line, t.styles, cursor);
			this.drawn[i] = state;
		});
		if (follows)
			this.out.scrollTop = this.out.scrollHeight;
	}
}

// A Mac has signs on its Option keys, other keyboards on AltGr. Alt is the prefix ESC.
const hasSignsOnAlt = navigator.platform.startsWith("Mac");

// Return what a key sends to the guest; null: the browser keeps the key.
// keypadMode: the guest has asked for the cursor keys of applications.
export function keyText(event, keypadMode) {
	const sign = [...event.key].length === 1 ? event.key : null;
	if (sign !== null && event.getModifierState("AltGraph"))
		return sign;
	if (event.ctrlKey && !event.altKey && event.key.length === 1 && /[a-z@\[\\\]^_]/i.test(event.key))
		return event.shiftKey ? null : String.fromCharCode(event.key.toUpperCase().charCodeAt(0) & 31); // Ctrl-Shift-C copies
	if (event.ctrlKey || event.metaKey)
		return null;
	if (event.key in CURSOR_KEYS)
		return (keypadMode ? "\x1bO" : "\x1b[") + CURSOR_KEYS[event.key];
	const text = KEYS[event.key] ?? sign;
	return text !== null && event.altKey && !hasSignsOnAlt ? "\x1b" + text : text;
}

// Show the console in `box`. Returns a function that ends it.
export function showConsole(box, vm) {
	let input = null; // of the console while it is open
	let terminal, view, isHistory = false;
	const out = element("pre", { className: "console", tabIndex: 0, role: "log", "aria-label": `Console of ${vm}` });
	const line = element("input", { "aria-label": "Line for the guest", placeholder: "Line for the guest", autocomplete: "off",
		autocapitalize: "off", spellcheck: false });
	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		if (send(line.value + "\r"))
			line.value = "";
	} }, line, element("button", {}, "Send"));
	let drawing = false, wait = DRAW_MS;

	function terminalNew() {
		terminal = new Terminal(80, 24, (text) => isHistory || input?.send(text));
		view = new View(out, terminal);
	}

	function draw() {
		const begin = performance.now();
		drawing = false;
		view.draw();
		wait = Math.max(DRAW_MS, 4 * (performance.now() - begin)); // a flood of output leaves time for the rest of the page
	}

	// Returns false when no console is open.
	function send(text) {
		if (input)
			input.send(text);
		else
			message(`The console of ${vm} is not open.`, true);
		return Boolean(input);
	}

	async function show(reader) {
		for (;;) {
			const { done, value } = await reader.read();
			if (done)
				return;
			terminal.write(value);
			if (!drawing) {
				drawing = true;
				setTimeout(draw, wait);
			}
		}
	}

	// A console begins with what the guest has printed last. If the guest has got answers to that already, it gets no others.
	async function read(stream, signal, isSame) {
		const answer = await openStream(`/console?vm=${encodeURIComponent(vm)}&id=${stream.id}`, signal);
		if (isSame) {
			terminalNew();
			isHistory = true;
			setTimeout(() => { isHistory = false; }, HISTORY_MS);
		}
		input = stream;
		try {
			await show(answer.body.pipeThrough(new TextDecoderStream()).getReader());
		} finally {
			if (input === stream)
				input = null;
			if (!signal.aborted) {
				terminal.write("\r\n[The console has ended.]\r\n");
				draw();
			}
		}
	}

	out.addEventListener("keydown", (event) => {
		// Shift-Tab leaves the console, so that it is no trap for the keyboard.
		const text = event.shiftKey && event.key === "Tab" ? null : keyText(event, terminal.keypadMode);
		if (text === null)
			return;
		event.preventDefault();
		send(text);
	});
	out.addEventListener("paste", (event) => send(event.clipboardData.getData("text").replaceAll(/\r?\n/g, "\r")));
	box.replaceChildren(out, form, element("p", { className: "soft" }, "Keys go to the guest while the console has the focus. Shift-Tab leaves it."));
	terminalNew();
	return openStreams(vm, read);
}
