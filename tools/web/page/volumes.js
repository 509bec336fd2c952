// Pools of images, and the volumes in them.
import { execute } from "./daemon.js";
import { act, bytes, element, message, setText, sizeBytes } from "./element.js";
import { lineButton, Lines } from "./lines.js";
import { runJob } from "./vm.js";

const SHOWN = 200; // volumes, and as many more with each press of a button

function poolText(pool) {
	const words = [pool.target];
	if (pool.total)
		words.push(`${bytes(pool.used)} of ${bytes(pool.total)} used`, `${bytes(pool.total - pool.used)} free`);
	if (pool.growth)
		words.push(`${pool.growth < 0 ? "shrinks" : "grows"} ${bytes(Math.abs(pool.growth))} a day`);
	if (pool["days-left"] !== undefined)
		words.push(`full in ${pool["days-left"]} days`);
	return words.join(" · ");
}

function volumeText(volume) {
	if (!volume.format)
		return "you may not read it";
	const words = [volume.format, bytes(volume.capacity), `${bytes(volume.allocation)} on disk`];
	if (volume.backing)
		words.push(`stands on ${volume.backing}`);
	if (volume.vms.length)
		words.push(`used by ${volume.vms.join(", ")}`);
	return words.join(" · ");
}

// again(): shows the volumes again.
function volumeLineNew(pool, again, now) {
	const name = () => now().name;
	const title = element("span", { className: "name" }), about = element("span", { className: "soft" });
	// Run a command on the volume, and show the volumes again.
	const run = async (command, args) => {
		message(`${command}: under way`);
		await execute(command, { pool: pool(), name: name(), ...args });
		await again();
		message(`${command}: done`);
	};
	const buttons = [
		lineButton(() => "Resize", name, async () => {
			const size = prompt(`New size of ${name()}, such as 20G. It can only grow here.`);
			if (size)
				await run("volume-resize", { capacity: sizeBytes(size) });
		}),
		lineButton(() => "Clone", name, async () => {
			const clone = prompt(`Name of the copy of ${name()}`);
			if (clone)
				await runJob("volume-clone", { pool: pool(), name: name(), "new-name": clone }).then(again);
		}),
		lineButton(() => "Delete", name, async () => {
			if (confirm(`Delete ${name()}? What is in it is lost.`))
				await run("volume-delete");
		}, { className: "danger" }),
	];
	return { line: element("li", {}, title, about, element("span", { className: "bar" }, ...buttons.map(({ button }) => button))), show: () => {
		setText(title, name());
		setText(about, volumeText(now()));
		buttons.forEach((b) => b.show());
	} };
}

// Show the volumes of a pool in `box`. pool(): its name.
function showVolumes(box, pool) {
	const lines = new Lines(element("ul", { className: "tree", "aria-label": `Volumes of ${pool()}` }), (now) => volumeLineNew(pool, show, now));
	const name = element("input", { placeholder: "Name of a new volume", "aria-label": "Name of a new volume", autocapitalize: "none", spellcheck: false });
	const size = element("input", { placeholder: "Size, such as 20G", "aria-label": "Size", autocapitalize: "none", spellcheck: false });
	const format = element("select", { "aria-label": "Format" }, ...["qcow2", "raw"].map((f) => element("option", {}, f)));
	const more = element("button", { hidden: true, onclick: () => act(more, () => {
		limit += SHOWN;
		return show();
	}) }, "Show more");
	let limit = SHOWN, newest = 0; // newest: number of the newest request

	async function show() {
		const mine = ++newest, all = [];
		let next;
		do {
			const page = await execute("query-volumes", next === undefined ? { pool: pool() } : { pool: pool(), after: next });
			all.push(...page.volumes);
			next = page.next;
		} while (next !== undefined && all.length < limit);
		if (mine !== newest)
			return;
		more.hidden = next === undefined;
		lines.show(all.map((volume) => [volume.name, volume]));
	}

	const form = element("form", { className: "bar", onsubmit: (event) => {
		event.preventDefault();
		act(event.submitter, async () => {
			await runJob("volume-create", { pool: pool(), name: name.value, capacity: sizeBytes(size.value), format: format.value });
			name.value = size.value = "";
			await show();
		});
	} }, name, size, format, element("button", {}, "Create volume"));
	box.replaceChildren(form, lines.list, lines.note, more);
	show().catch((error) => lines.show([], error.message));
}

// Make the line of a pool (lines.js): what is known of its space, and its volumes once it is opened.
export function poolLineNew(now) {
	const name = () => now().name;
	const title = element("span", { className: "name" }), about = element("span"), box = element("div");
	const whole = element("details", { ontoggle: () => whole.open && showVolumes(box, name) }, element("summary", {}, title, about), box);
	return { line: element("li", {}, whole), show: () => {
		setText(title, name());
		setText(about, poolText(now()));
		about.className = now().low ? "state crashed" : "soft";
	} };
}
