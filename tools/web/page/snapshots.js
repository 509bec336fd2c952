// The snapshot tree of a VM.
import { executeEach, executePages } from "./daemon.js";
import { act, bytes, element, setText, when } from "./element.js";
import { lineButton, Lines } from "./lines.js";
import { runJob } from "./vm.js";

// Order snapshots as a tree. Returns [[snapshot, depth]].
export function treeOrder(snapshots) {
	const children = new Map();
	const ids = new Set(snapshots.map((s) => s.id));
	for (const s of snapshots) {
		const parent = ids.has(s.parent) ? s.parent : null;
		children.set(parent, [...(children.get(parent) || []), s]);
	}
	const order = [], stack = (children.get(null) || []).reverse().map((s) => [s, 0]);
	while (stack.length) {
		const [s, depth] = stack.pop();
		order.push([s, depth]);
		stack.push(...(children.get(s.id) || []).reverse().map((c) => [c, depth + 1]));
	}
	return order;
}

function confirmed(text) {
	return confirm(text) ? Promise.resolve() : Promise.reject(new Error("Nothing was changed."));
}

// An entry of the list: { s: the snapshot, depth, cost }.
function snapshotLineNew(vm, now) {
	const name = () => now().s.name;
	const title = element("span", { className: "name" }), about = element("span", { className: "soft" });
	const danger = { className: "danger" };
	const buttons = [
		lineButton(() => "Revert", name, () => confirmed(`Revert ${vm} to ${name()}? Its present state is lost.`).then(() =>
			runJob("snapshot-revert", { vm, name: name() })), danger),
		lineButton(() => "Fork", name, async () => {
			const fork = prompt(`Name of the new VM that continues from ${name()}`);
			if (fork)
				await runJob("vm-fork", { vm, name: fork, snapshot: name() });
		}),
		lineButton(() => "Delete", name, () => confirmed(`Delete snapshot ${name()}?`).then(() => runJob("snapshot-delete", { vm, name: name() })), danger),
	];
	const line = element("li", {}, title, about, element("span", { className: "bar" }, ...buttons.map(({ button }) => button)));
	return { line, show: () => {
		const { s, depth, cost } = now();
		setText(title, s.current ? `${s.name} (current)` : s.name);
		setText(about, `${when(s.time)} · ${s.state}` + (s["vm-state-size"] ? ` · saved state ${bytes(s["vm-state-size"])}` : "") +
			(cost ? ` · deletion frees ${bytes(cost["own-size"])}` : "") + (s.description ? ` · ${s.description}` : ""));
		line.style.marginLeft = `${Math.min(depth, 12) * 16}px`;
		buttons.forEach((b) => b.show());
	} };
}

// Show the snapshots in `box`. Returns a function that shows them again after an event.
export function showSnapshots(box, vm) {
	const name = element("input", { placeholder: "Name of a new snapshot", "aria-label": "Name of a new snapshot" });
	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Snapshots" }), (now) => snapshotLineNew(vm, now));
	let newest = 0; // number of the newest request
	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, async () => {
			await runJob("snapshot-create", name.value ? { vm, name: name.value } : { vm });
			name.value = "";
		});
	} }, name, element("button", {}, "Create snapshot"));
	box.replaceChildren(form, lines.list, lines.note);
	async function show(mine) {
		const order = treeOrder(await executePages("snapshot-list", "snapshots", "from", { vm }));
		const costs = await executeEach("snapshot-size", order.slice(0, 64).map(([s]) => ({ vm, name: s.name })));
		if (mine === newest)
			lines.show(order.map(([s, depth], i) => [s.id, { s, depth, cost: costs[i] }]));
	}
	// Show why there are none here: that a VM's disks can have no snapshots is no failure.
	return () => {
		const mine = ++newest;
		return show(mine).catch((error) => mine === newest && lines.show([], error.message));
	};
}
