// The snapshot tree of a VM.
import { executeEach, executePages } from "./daemon.js";
import { act, bytes, element, when } from "./element.js";
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

function snapshotLine(vm, s, depth, cost) {
	const button = (label, action, danger) => element("button", { className: danger ? "danger" : "", "aria-label": `${label} ${s.name}`,
		onclick: (event) => act(event.target, action) }, label);
	const line = element("li", {},
		element("span", { className: "name" }, s.current ? `${s.name} (current)` : s.name),
		element("span", { className: "soft" }, `${when(s.time)} · ${s.state} · memory ${bytes(s["vm-state-size"] || 0)}` +
			(cost ? ` · deletion frees ${bytes(cost["own-size"])}` : "") + (s.description ? ` · ${s.description}` : "")),
		element("span", { className: "bar" },
			button("Revert", () => confirmed(`Revert ${vm} to ${s.name}? Its present state is lost.`).then(() => runJob("snapshot-revert", { vm, name: s.name })), true),
			button("Fork", async () => {
				const name = prompt(`Name of the new VM that continues from ${s.name}`);
				if (name)
					await runJob("vm-fork", { vm, name, snapshot: s.name });
			}),
			button("Delete", () => confirmed(`Delete snapshot ${s.name}?`).then(() => runJob("snapshot-delete", { vm, name: s.name })), true)));
	line.style.marginLeft = `${Math.min(depth, 12) * 16}px`;
	return line;
}

// Show the snapshots in `box`. Returns a function that shows them again after an event.
export function showSnapshots(box, vm) {
	const name = element("input", { placeholder: "Name of a new snapshot", "aria-label": "Name of a new snapshot" });
	const list = element("ul", { className: "tree" });
	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, async () => {
			await runJob("snapshot-create", name.value ? { vm, name: name.value } : { vm });
			name.value = "";
		});
	} }, name, element("button", {}, "Create snapshot"));
	box.replaceChildren(form, list);
	async function show() {
		const order = treeOrder(await executePages("snapshot-list", "snapshots", "from", { vm }));
		const costs = await executeEach("snapshot-size", order.slice(0, 64).map(([s]) => ({ vm, name: s.name })));
		list.replaceChildren(...order.map(([s, depth], i) => snapshotLine(vm, s, depth, costs[i])));
	}
	// Show why there are none here: that a VM's disks can have no snapshots is no failure.
	return () => show().catch((error) => list.replaceChildren(element("li", { className: "soft" }, error.message)));
}
