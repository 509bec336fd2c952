// The schedules of a VM.
import { execute, executePages } from "./daemon.js";
import { act, element, message, setText, when } from "./element.js";
import { lineButton, Lines } from "./lines.js";

const ACTIONS = ["start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot"];

export function showSchedules(box, vm) {
	const action = element("select", { "aria-label": "Action" }, ...ACTIONS.map((a) => element("option", {}, a)));
	const on = element("input", { placeholder: "Mon..Fri 02:30", "aria-label": "Calendar expression" });
	let newest = 0; // number of the newest request

	// Change a schedule and show the list again.
	async function change(command, args) {
		await execute(command, { vm, ...args });
		await show();
	}

	// An entry: { name, rule, s: the schedule, isSnapshots }.
	function lineNew(now) {
		const name = () => now().name;
		const title = element("span", { className: "name" }), about = element("span", { className: "soft" });
		const pause = lineButton(() => now().s.paused ? "Resume" : "Pause", name, () =>
			change("schedule-pause", now().s.paused ? { name: name(), resume: true } : { name: name() }));
		const remove = lineButton(() => "Remove", name, () =>
			now().isSnapshots ? change("snapshot-schedule-remove") : change("schedule-remove", { name: name() }));
		return { line: element("li", {}, title, about, element("span", { className: "bar" }, pause.button, remove.button)), show: () => {
			const { rule, s, isSnapshots } = now();
			setText(title, name());
			setText(about, `${rule}${s.paused ? " · paused" : ""} · next ${s["next-run"] ? when(s["next-run"]) : "never"}${s.outcome ? ` · last ${s.outcome}` : ""}`);
			pause.button.hidden = isSnapshots;
			pause.show();
			remove.show();
		} };
	}

	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Schedules" }), lineNew);

	async function show() {
		const mine = ++newest;
		const plain = await executePages("query-schedules", "schedules", "after", { vm });
		const snapshots = await executePages("query-snapshot-schedules", "schedules", "after", { vm });
		if (mine !== newest)
			return;
		lines.show([
			...plain.map((s) => [`schedule ${s.name}`, { name: s.name, s, rule: `${s.action} on ${s.on}${s.zone ? ` ${s.zone}` : ""}` }]),
			...snapshots.map((s) => ["snapshots", { name: "automatic snapshots", s, rule: `every ${s.every}, keep ${s.keep}`, isSnapshots: true }]),
		]);
	}

	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, () => change("schedule-add", { action: action.value, on: on.value }));
	} }, action, on, element("button", {}, "Add schedule"));
	box.replaceChildren(form, lines.list, lines.note);
	show().catch((error) => message(error.message, true));
}
