// Elements of the page. Texts of others, such as names of VMs, become text nodes, never HTML.

// Make an element. A property that begins with "on" is a listener, one with "-" or named role an attribute.
export function element(tag, properties = {}, ...children) {
	const e = document.createElement(tag);
	for (const [name, value] of Object.entries(properties)) {
		if (name.startsWith("on"))
			e.addEventListener(name.slice(2), value);
		else if (name.includes("-") || name === "role")
			e.setAttribute(name, value);
		else
			e[name] = value;
	}
	e.append(...children.filter((c) => c !== null && c !== undefined));
	return e;
}

// Change a text only if it differs, so that an update without news costs no layout.
export function setText(e, text) {
	if (e.textContent !== text)
		e.textContent = text;
}

export function bytes(n) {
	const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
	let i = 0;
	for (; n >= 1024 && i < units.length - 1; i++)
		n /= 1024;
	return `${n >= 100 || i === 0 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

// Return a value of a trend with its unit, as `cairn trend` prints it.
export function quantity(value, unit) {
	const times = ["ns", "µs", "ms", "s"];
	let i = 0;
	if (unit === "bytes" || unit === "bytes/s")
		return bytes(value) + unit.slice(5);
	for (; unit === "ns" && value >= 1000 && i < times.length - 1; i++)
		value /= 1000;
	return (value >= 100 ? Math.round(value) : Number(value.toPrecision(3))) + ({ percent: " %", "1/s": "/s", ns: ` ${times[i]}` }[unit] ?? ` ${unit}`);
}

// Parse a size such as 20G or 512 MiB. Throws an error that says what is expected.
export function sizeBytes(text) {
	const parts = text.trim().match(/^(\d+(?:\.\d+)?) *([KMGTP]?)(?:i?B)?$/i);
	if (!parts)
		throw new Error(`"${text}" is no size such as 20G.`);
	return Math.round(Number(parts[1]) * 1024 ** "BKMGTP".indexOf(parts[2].toUpperCase() || "B"));
}

export function wholeNumber(text) {
	if (!/^\d+$/.test(text.trim()))
		throw new Error(`"${text}" is no whole number.`);
	return Number(text);
}

export function when(ns) {
	return new Date(ns / 1e6).toLocaleString();
}

const messageLine = document.getElementById("message");

export function message(text, isError = false) {
	messageLine.textContent = text;
	messageLine.className = isError ? "error" : "";
	messageLine.hidden = !text;
}

// Clear this message, if it is still shown.
export function messageClear(text) {
	if (text && messageLine.textContent === text)
		message("");
}

// Return the state of a VM for people.
export function stateName(vm) {
	return { shutoff: "shut off", "in-shutdown": "in shutdown", preserved: "crashed" }[vm.state] || vm.state;
}

// Give the keyboard's focus to the line at this place of a list or table; if there is none, to the one before or the list.
export function focusLine(list, at) {
	(list.children[Math.min(at, list.children.length - 1)] || list).focus();
}

// Give the keyboard's focus to a button; if it is hidden, to the nearest one beside it, or to its line.
export function focusButton(button) {
	const all = [...button.parentElement.children], at = all.indexOf(button);
	const near = all.filter((e) => e === button || e.tagName === "BUTTON").filter((e) => !e.hidden)
		.sort((a, b) => Math.abs(all.indexOf(a) - at) - Math.abs(all.indexOf(b) - at));
	(near[0] || button.closest("li, tbody > tr"))?.focus();
}

// Run an action of a button, and show its error. The button is disabled meanwhile, and keeps the keyboard's focus. If it is
// hidden then, a button beside it gets the focus; if its line goes, the line at its place.
export async function act(button, action) {
	const hadFocus = document.activeElement === button;
	const line = button.closest("li, tbody > tr"), list = line?.parentElement;
	const at = list ? [...list.children].indexOf(line) : -1;
	button.disabled = true;
	message("");
	try {
		await action();
	} catch (error) {
		message(error.message, true);
	} finally {
		button.disabled = false;
		if (hadFocus && document.activeElement === document.body) {
			if (button.isConnected || !list)
				focusButton(button);
			else
				focusLine(list, at);
		}
	}
}
