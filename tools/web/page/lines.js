// Lists and tables that change while they are shown. A line stays the same element while its entry is there, so it
// keeps the keyboard's focus, and a button that is disabled stays so.
import { act, element, focusButton, focusLine, setText } from "./element.js";

export class Lines {
	// list: a <ul> or <tbody>. make(now): return { line, show }: a new <li> or <tr>, and the function that updates
	// it. now(): the present entry of the line.
	constructor(list, make) {
		list.tabIndex = -1; // takes the focus when its last line goes
		this.note = element("p", { className: "soft", hidden: true });
		Object.assign(this, { list, make, lines: new Map() });
	}

	lineNew(entry) {
		const one = { entry };
		Object.assign(one, this.make(() => one.entry));
		one.line.tabIndex = -1;
		return one;
	}

	// entries: [[key, entry]] in order; the keys differ. note: shown in place of lines if there are none.
	show(entries, note = "none") {
		const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
		const at = [...this.list.children].findIndex((line) => line.contains(focused));
		const keys = new Set(entries.map(([key]) => key));
		for (const [key, { line }] of this.lines)
			if (!keys.has(key)) {
				line.remove();
				this.lines.delete(key);
			}
		entries.forEach(([key, entry], i) => {
			const one = this.lines.get(key) || this.lineNew(entry), there = this.list.children[i];
			this.lines.set(key, one);
			one.entry = entry;
			one.show();
			if (there !== one.line)
				this.list.insertBefore(one.line, there || null);
		});
		setText(this.note, note);
		this.note.hidden = entries.length > 0;
		if (focused?.isConnected)
			focusButton(focused); // a line that moved has lost it
		else if (focused)
			focusLine(this.list, at);
	}
}

// Make a button of a line.
// label, name: functions that return its text, and what it acts on, for screen readers. run(): its action.
export function lineButton(label, name, run, properties = {}) {
	const button = element("button", { ...properties, onclick: () => act(button, run) });
	return { button, show: () => {
		setText(button, label());
		button.setAttribute("aria-label", `${label()} ${name()}`);
	} };
}
