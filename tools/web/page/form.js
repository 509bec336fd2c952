// Forms that show an error at the field that it is about, and texts with JSON that show it at the line.
import { act, element, setText } from "./element.js";

let fields = 0; // made so far

// Split the daemon's error about a definition. Returns { key: such as disks[0].path, or "" if it names none; sentence }.
export function errorParts(text) {
	const unknown = text.match(/^(?:([\w.[\]]+): )?"(\w+)" is not a key/), parts = text.match(/^([a-z]\w*(?:\[\d+\]|\.\w+)*): (.*)$/s);
	if (unknown)
		return { key: unknown[1] ? `${unknown[1]}.${unknown[2]}` : unknown[2], sentence: text };
	return parts ? { key: parts[1], sentence: parts[2] } : { key: "", sentence: text };
}

export class Field {
	// input: an <input>, <select> or <textarea>.
	constructor(label, input) {
		this.input = input;
		this.error = element("span", { className: "error", id: `error-${++fields}`, hidden: true });
		this.box = element("div", { className: "field" }, element("label", {}, label, input), this.error);
		input.setAttribute("aria-describedby", this.error.id);
	}

	get value() {
		return this.input.value.trim();
	}

	// sentence: "": there is no error.
	fail(sentence) {
		setText(this.error, sentence);
		this.error.hidden = !sentence;
		this.input.setAttribute("aria-invalid", Boolean(sentence));
	}
}

export function textField(label, properties = {}) {
	return new Field(label, element("input", { autocomplete: "off", autocapitalize: "none", spellcheck: false, ...properties }));
}

// options: [[value, text]].
export function choiceField(label, options, properties = {}) {
	return new Field(label, element("select", properties, ...options.map(([value, text]) => element("option", { value }, text))));
}

export function checkField(label, properties = {}) {
	const field = new Field(label, element("input", { type: "checkbox", ...properties }));
	field.box.classList.add("check");
	return field;
}

// Make a form of fields and a button. run(): its action. fieldOf(key): the field to which an error about that key belongs, if any.
export function formNew(all, button, run, fieldOf = () => undefined) {
	return element("form", { className: "fields wide", noValidate: true, onsubmit: (event) => {
		event.preventDefault();
		all.forEach((field) => field.fail(""));
		act(button, async () => {
			try {
				await run();
			} catch (error) {
				const { key, sentence } = errorParts(error.message), field = error.field ?? fieldOf(key);
				field?.fail(sentence);
				field?.input.focus();
				throw error;
			}
		});
	} }, ...all.map(({ box }) => box), button);
}

// Return an error about a field.
export function fieldError(field, sentence) {
	return Object.assign(new Error(sentence), { field });
}

// Return the line of a key of a definition in its text; if it is not there, of the innermost key around it. The first line is 1.
export function keyLine(text, key) {
	const open = []; // objects and arrays: { path, index: of the element; null: an object, key: the present one }
	let at = 0, length = -1;
	const path = () => {
		const top = open.at(-1);
		if (!top)
			return "";
		return top.index === null ? `${top.path}${top.path && "."}${top.key}` : `${top.path}[${top.index}]`;
	};
	const look = (place) => {
		const here = path();
		if (here.length > length && (here === key || key.startsWith(`${here}.`) || key.startsWith(`${here}[`)))
			[at, length] = [place, here.length];
	};
	for (const { 0: token, index: place } of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
		const top = open.at(-1);
		if (token === ",") {
			if (top?.index !== null)
				top.index++;
			else
				top.key = null;
		} else if (token === "}" || token === "]") {
			open.pop();
		} else if (token !== ":") {
			const isKey = top?.index === null && top.key === null;
			if (isKey)
				top.key = JSON.parse(token);
			if (top)
				look(place);
			if (!isKey && (token === "{" || token === "["))
				open.push({ path: path(), index: token === "[" ? 0 : null, key: null });
		}
	}
	return text.slice(0, at).split("\n").length;
}

// Return the line that JSON.parse() complains about: browsers tell it in their own ways.
export function syntaxLine(text, sentence) {
	const line = sentence.match(/line (\d+)/), position = sentence.match(/position (\d+)/);
	return line ? Number(line[1]) : text.slice(0, position ? Number(position[1]) : undefined).split("\n").length;
}

// A text field for a definition as JSON.
export class JsonField extends Field {
	constructor(label) {
		super(label, element("textarea", { rows: 18, spellcheck: false }));
	}

	// Run an action on the definition. An error is shown with its line, which gets the focus.
	async run(action) {
		const text = this.input.value;
		let line;
		this.fail("");
		try {
			let definition;
			try {
				definition = JSON.parse(text);
			} catch (error) {
				line = syntaxLine(text, error.message);
				throw error;
			}
			await action(definition);
		} catch (error) {
			const { key } = errorParts(error.message);
			line ??= key ? keyLine(text, key) : null;
			if (line) {
				const lines = text.split("\n"), from = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
				error.message = `Line ${line}: ${error.message}`;
				this.fail(error.message);
				this.input.focus();
				this.input.setSelectionRange(from, from + (lines[line - 1] ?? "").length);
			}
			throw error;
		}
	}
}
