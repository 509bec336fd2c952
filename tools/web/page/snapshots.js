// The snapshot tree of a VM.
import { executeEach, executePages } from "./daemon.js";
import { act, bytes, element, setText, when } from "./element.js";
import { lineButton, Lines } from "./lines.js";
import { runJob } from "./vm.js";

// Order snapshots as a tree. Returns [[snapshot, depth]].
function treeOrder(snapshots) {
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

// An entry of the list: { s: the snapshot, depth, size: the bytes that its deletion frees, if they are known }.
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
		const { s, depth, size } = now();
		setText(title, s.current ? `${s.name} (current)` : s.name);
		setText(about, `${when(s.time)} · ${s.state}` + (s["vm-state-size"] ? ` · saved state ${bytes(s["vm-state-size"])}` : "") +
			(size === undefined ? "" : ` · deletion frees ${bytes(size)}`) + (s.description ? ` · ${s.description}` : ""));
		line.style.marginLeft = `${Math.min(depth, 12) * 16}px`;
		buttons.forEach((b) => b.show());
	} };
}

// Show the snapshots in `box`. Returns a function that shows them again after an event.
export function showSnapshots(box, vm) {
	const name = element("input", { placeholder: "Name of a new snapshot", "aria-label": "Name of a new snapshot" });
	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Snapshots" }), (now) => snapshotLineNew(vm, now));
	let sizes = new Map(); // by id
	let loading = null, isStale = false;
	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, async () => {
			await runJob("snapshot-create", name.value ? { vm, name: name.value } : { vm });
			name.value = "";
		});
	} }, name, element("button", {}, "Create snapshot"));
	box.replaceChildren(form, lines.list, lines.note);
	function show(order) {
		lines.show(order.map(([s, depth]) => [s.id, { s, depth, size: sizes.get(s.id) }]));
	}

	// To measure the sizes of many snapshots takes a while.
	async function load() {
		const order = treeOrder(await executePages("snapshot-list", "snapshots", "from", { vm }));
		show(order);
		if (isStale)
			return;
		const answers = await executeEach("snapshot-size", order.map(([s]) => ({ vm, name: s.name })));
		sizes = new Map(order.map(([s], i) => [s.id, answers[i]?.["own-size"]]));
		show(order);
	}

	// Events that come while the list is loaded make one more load. Show why there are no snapshots here: that a VM's disks
	// can have none is no failure.
	async function loadWhileStale() {
		while (isStale) {
			isStale = false;
			await load().catch((error) => lines.show([], error.message));
		}
		loading = null;
	}
	return () => {
		isStale = true;
		loading ??= loadWhileStale();
	};
}
