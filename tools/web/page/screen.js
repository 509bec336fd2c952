// The screen of a guest: a client of RFB 3.8 (RFC 6143), the protocol of VNC, with raw pixels.
import { openStream } from "./daemon.js";
import { element } from "./element.js";
import { openStreams } from "./stream_input.js";

const UPDATE_MS = 33;
const RAW = 0, DESKTOP_SIZE = -223, KEY_PLACES = -258;
const SIZE_MAX = 8192;
const KEYS = {
	Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Home: 0xff50, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
	PageUp: 0xff55, PageDown: 0xff56, End: 0xff57, Insert: 0xff63, CapsLock: 0xffe5, Shift: 0xffe1, Control: 0xffe3, Meta: 0xffe7, Alt: 0xffe9, AltGraph: 0xfe03,
	Delete: 0xffff,
};

// Places of keys (KeyboardEvent.code) as numbers of QEMU's extended key event, which are scan codes of set 1: those from 1 on, and those
// with the prefix 0xe0, for which the bit 0x80 stands.
const PLACES = new Map(`Escape Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 Digit9 Digit0 Minus Equal Backspace Tab
	KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP BracketLeft BracketRight Enter ControlLeft KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL
	Semicolon Quote Backquote ShiftLeft Backslash KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period Slash ShiftRight NumpadMultiply AltLeft Space
	CapsLock F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ScrollLock Numpad7 Numpad8 Numpad9 NumpadSubtract Numpad4 Numpad5 Numpad6 NumpadAdd
	Numpad1 Numpad2 Numpad3 Numpad0 NumpadDecimal - - IntlBackslash F11 F12`.split(/\s+/).map((code, i) => [code, i + 1]));
for (const [code, place] of Object.entries({
	NumpadEnter: 0x9c, ControlRight: 0x9d, NumpadDivide: 0xb5, PrintScreen: 0xb7, AltRight: 0xb8, Home: 0xc7, ArrowUp: 0xc8, PageUp: 0xc9,
	ArrowLeft: 0xcb, ArrowRight: 0xcd, End: 0xcf, ArrowDown: 0xd0, PageDown: 0xd1, Insert: 0xd2, Delete: 0xd3, MetaLeft: 0xdb, MetaRight: 0xdc,
	ContextMenu: 0xdd, IntlRo: 0x73, IntlYen: 0x7d,
}))
	PLACES.set(code, place);

function keysym(key) {
	const f = key.match(/^F([1-9]|1[0-2])$/);
	const code = key.codePointAt(0);
	if (f)
		return 0xffbd + Number(f[1]);
	if (key.length > 2 || key in KEYS)
		return KEYS[key] ?? null;
	return code < 0x100 ? code : 0x01000000 + code;
}

// Make a message: [bits, value] for each number, or a number for a byte.
function packet(...fields) {
	const bytes = [];
	for (const field of fields) {
		const [bits, value] = Array.isArray(field) ? field : [8, field];
		for (let shift = bits - 8; shift >= 0; shift -= 8)
			bytes.push((value >>> shift) & 255);
	}
	return new Uint8Array(bytes);
}

// The bytes of an answer, by number.
class Bytes {
	constructor(reader) {
		this.reader = reader;
		this.parts = [];
		this.length = 0;
	}

	async take(n) {
		while (this.length < n) {
			const { done, value } = await this.reader.read();
			if (done)
				throw new Error("The screen has ended.");
			this.parts.push(value);
			this.length += value.length;
		}
		const all = new Uint8Array(n);
		for (let at = 0; at < n;) {
			const part = this.parts[0].subarray(0, n - at);
			all.set(part, at);
			at += part.length;
			if (part.length === this.parts[0].length)
				this.parts.shift();
			else
				this.parts[0] = this.parts[0].subarray(part.length);
		}
		this.length -= n;
		return all;
	}

	async view(n) {
		return new DataView((await this.take(n)).buffer);
	}
}

async function handshake(bytes, input) {
	await bytes.take(1 + 12); // the server's 0, and the version
	input.send(new TextEncoder().encode("RFB 003.008\n"));
	const types = await bytes.take((await bytes.take(1))[0]);
	if (!types.includes(1))
		throw new Error("This screen asks for a password; use a VNC client.");
	input.send(packet(1));
	if ((await bytes.view(4)).getUint32(0) !== 0)
		throw new Error("The screen was refused.");
	input.send(packet(1)); // others may look, too
	const init = await bytes.view(24);
	await bytes.take(init.getUint32(20));
	input.send(packet(0, [24, 0], 32, 24, 0, 1, [16, 255], [16, 255], [16, 255], 0, 8, 16, [24, 0])); // bytes red, green, blue, 0
	input.send(packet(2, 0, [16, 3], [32, RAW], [32, DESKTOP_SIZE], [32, KEY_PLACES]));
	return [init.getUint16(0), init.getUint16(2)];
}

// Show the screen in `box`. Returns a function that ends it.
export function showScreen(box, vm) {
	let input = null; // of the screen while its stream takes messages of the keyboard and the mouse
	const canvas = element("canvas", { className: "screen", tabIndex: 0, role: "img", "aria-label": `Screen of ${vm}` });
	const context = canvas.getContext("2d");
	const held = new Map(); // keysym by place
	let buttons = 0, takesPlaces = false;

	function ask(incremental) {
		input?.send(packet(3, incremental, [16, 0], [16, 0], [16, canvas.width], [16, canvas.height]));
	}

	function resize(width, height) {
		if (width > SIZE_MAX || height > SIZE_MAX)
			throw new Error("The screen is too large for this page.");
		canvas.width = width;
		canvas.height = height;
	}

	async function rectangle(bytes) {
		const head = await bytes.view(12);
		const [x, y, width, height] = [0, 2, 4, 6].map((at) => head.getUint16(at));
		const encoding = head.getInt32(8);
		if (encoding === DESKTOP_SIZE) {
			resize(width, height);
			return encoding;
		}
		if (encoding === KEY_PLACES) {
			takesPlaces = true;
			return encoding;
		}
		if (encoding !== RAW || width > SIZE_MAX || height > SIZE_MAX)
			throw new Error("The screen sends what this page does not know.");
		if (!width || !height)
			return encoding;
		const pixels = new Uint8ClampedArray((await bytes.take(4 * width * height)).buffer);
		for (let i = 3; i < pixels.length; i += 4)
			pixels[i] = 255;
		context.putImageData(new ImageData(pixels, width, height), x, y);
		return encoding;
	}

	async function update(bytes, signal) {
		const encodings = [];
		for (let n = (await bytes.view(3)).getUint16(1); n; n--)
			encodings.push(await rectangle(bytes));
		if (encodings.length === 1 && encodings[0] === KEY_PLACES) // no answer to a request
			return;
		const resized = encodings.includes(DESKTOP_SIZE);
		setTimeout(() => signal.aborted || ask(resized ? 0 : 1), UPDATE_MS);
	}

	async function show(bytes, signal) {
		for (;;) {
			const kind = (await bytes.take(1))[0];
			if (kind === 0)
				await update(bytes, signal);
			else if (kind === 3) // text of the guest's clipboard
				await bytes.take((await bytes.view(7)).getUint32(3));
			else if (kind !== 2) // a bell
				throw new Error("The screen sends what this page does not know.");
		}
	}

	async function read(stream, signal) {
		const answer = await openStream(`/screen?vm=${encodeURIComponent(vm)}&id=${stream.id}`, signal);
		const bytes = new Bytes(answer.body.getReader());
		resize(...await handshake(bytes, stream));
		held.clear();
		takesPlaces = false;
		buttons = 0;
		input = stream;
		ask(0);
		try {
			await show(bytes, signal);
		} finally {
			if (input === stream)
				input = null;
		}
	}

	// The guest's layout says which sign is at a place. Without a place, the server presses the keys of the US layout.
	function key(down, sym, code) {
		const place = takesPlaces && PLACES.get(code);
		if (place)
			input?.send(packet(255, 0, [16, down ? 1 : 0], [32, sym ?? 0], [32, place]));
		else if (sym !== null)
			input?.send(packet(4, down ? 1 : 0, [16, 0], [32, sym]));
	}

	function release(code) {
		if (held.has(code))
			key(false, held.get(code), code);
		held.delete(code);
	}

	function releaseAll() {
		for (const code of [...held.keys()])
			release(code);
	}

	function point(event) {
		const place = canvas.getBoundingClientRect();
		const scaled = (at, size, most) => Math.max(0, Math.min(most - 1, Math.floor(at * most / size)));
		input?.send(packet(5, buttons, [16, scaled(event.clientX - place.left, place.width, canvas.width)],
			[16, scaled(event.clientY - place.top, place.height, canvas.height)]));
	}

	canvas.addEventListener("keydown", (event) => {
		const sym = keysym(event.key);
		// Shift-Tab leaves the screen, so that it is no trap for the keyboard.
		if (!input || (sym === null && !PLACES.has(event.code)) || event.isComposing || (event.shiftKey && event.key === "Tab"))
			return;
		event.preventDefault();
		if (event.key === "AltGraph") // Windows presses Ctrl before AltGr
			release("ControlLeft");
		held.set(event.code, sym);
		key(true, sym, event.code);
	});
	canvas.addEventListener("keyup", (event) => release(event.code));
	canvas.addEventListener("blur", releaseAll);
	canvas.addEventListener("pointermove", point);
	for (const [name, pressed] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]])
		canvas.addEventListener(name, (event) => {
			const bit = [1, 2, 4][event.button] ?? 0;
			buttons = pressed ? buttons | bit : buttons & ~bit;
			if (pressed)
				canvas.setPointerCapture(event.pointerId);
			point(event);
		});
	canvas.addEventListener("wheel", (event) => {
		event.preventDefault();
		for (const mask of [event.deltaY < 0 ? 8 : 16, 0]) {
			buttons = (buttons & 7) | mask;
			point(event);
		}
	}, { passive: false });
	canvas.addEventListener("contextmenu", (event) => event.preventDefault());
	const combination = element("button", { onclick: () => {
		const syms = [KEYS.Control, KEYS.Alt, KEYS.Delete];
		syms.forEach((sym) => key(true, sym));
		syms.reverse().forEach((sym) => key(false, sym));
	} }, "Ctrl-Alt-Delete");
	box.replaceChildren(canvas, element("div", { className: "bar" }, combination),
		element("p", { className: "soft" }, "Keys go to the guest while the screen has the focus. Shift-Tab leaves it."));
	return openStreams(vm, read);
}
