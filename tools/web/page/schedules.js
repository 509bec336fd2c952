// The schedules of a VM.
import { execute, executePages } from "./daemon.js";
import { act, element, message, when } from "./element.js";

const ACTIONS = ["start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot"];

export function showSchedules(box, vm) {
	const list = element("ul", { className: "tree" });
	const action = element("select", { "aria-label": "Action" }, ...ACTIONS.map((a) => element("option", {}, a)));
	const on = element("input", { placeholder: "Mon..Fri 02:30", "aria-label": "Calendar expression" });

	// Change a schedule and show the list again.
	async function change(command, args) {
		await execute(command, { vm, ...args });
		await show();
	}

	function line(name, s, rule, buttons) {
		return element("li", {}, element("span", { className: "name" }, name), element("span", { className: "soft" },
			`${rule}${s.paused ? " · paused" : ""} · next ${s["next-run"] ? when(s["next-run"]) : "never"}${s.outcome ? ` · last ${s.outcome}` : ""}`),
		element("span", { className: "bar" }, ...buttons.map(([label, command, args]) => element("button", { "aria-label": `${label} ${name}`,
			onclick: (event) => act(event.target, () => change(command, args)) }, label))));
	}

	async function show() {
		const plain = await executePages("query-schedules", "schedules", "after", { vm });
		const snapshots = await executePages("query-snapshot-schedules", "schedules", "after", { vm });
		const lines = [
			...plain.map((s) => line(s.name, s, `${s.action} on ${s.on}${s.zone ? ` ${s.zone}` : ""}`, [
				[s.paused ? "Resume" : "Pause", "schedule-pause", s.paused ? { name: s.name, resume: true } : { name: s.name }],
				["Remove", "schedule-remove", { name: s.name }]])),
			...snapshots.map((s) => line("automatic snapshots", s, `every ${s.every}, keep ${s.keep}`, [["Remove", "snapshot-schedule-remove", {}]])),
		];
		list.replaceChildren(...(lines.length ? lines : [element("li", { className: "soft" }, "none")]));
	}

	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, () => change("schedule-add", { action: action.value, on: on.value }));
	} }, action, on, element("button", {}, "Add schedule"));
	box.replaceChildren(form, list);
	show().catch((error) => message(error.message, true));
}
