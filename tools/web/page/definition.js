// The definition of a VM: a form for common keys, and all of it as JSON.
import { execute } from "./daemon.js";
import { act, element, message, wholeNumber } from "./element.js";
import { JsonField } from "./form.js";

const FIELDS = [["title", "Title", String], ["description", "Description", String], ["memory", "Memory", String], ["vcpus", "vCPUs", wholeNumber]];

export function showDefinition(box, vm) {
	let was = null;
	const json = new JsonField("Definition as JSON");
	const inputs = FIELDS.map(([key]) => element("input", { "aria-label": key }));
	const save = (definition) => execute("vm-define", { definition, was });

	async function show() {
		was = (await execute("vm-dump-definition", { vm, inactive: true })).definition;
		json.input.value = JSON.stringify(was, null, 2);
		FIELDS.forEach(([key], i) => { inputs[i].value = was[key] ?? ""; });
	}

	async function define(definition) {
		if (was && definition?.name !== was.name)
			throw new Error(`The name of a VM does not change here; rename it with: cairn domrename ${was.name} NAME`);
		const done = await save(definition);
		await show();
		message([done.pending ? "Defined; the VM runs with the old definition until its next start." : "Defined.", ...done.warnings].join(" "));
	}

	const form = element("form", { className: "fields", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, async () => {
			const changed = { ...was };
			FIELDS.forEach(([key, , type], i) => {
				if (inputs[i].value !== String(was[key] ?? ""))
					changed[key] = type(inputs[i].value);
			});
			await define(changed);
		});
	} }, ...FIELDS.map(([, label], i) => element("label", {}, label, inputs[i])), element("button", {}, "Save definition"));
	box.replaceChildren(form, element("details", {}, element("summary", {}, "As JSON"), json.box, element("div", { className: "bar" },
		element("button", { onclick: (event) => act(event.target, () => json.run(define)) }, "Save JSON"),
		element("button", { onclick: (event) => act(event.target, show) }, "Reload"))));
	show().catch((error) => message(error.message, true));
}
