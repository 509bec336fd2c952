// What belongs to no single VM: jobs with their progress, requests for approval, networks, pools and web hooks.
import { execute, executeJobs, executePages, listen } from "./daemon.js";
import { element, setText, when } from "./element.js";
import { lineButton, Lines } from "./lines.js";
import { poolLineNew } from "./volumes.js";

const SPACE_MS = 60000; // time between two requests for all of it without events

// A cell of a table: makes { cell, show } for a line, like lineNew of Lines.
const text = (of) => (now) => {
	const cell = element("td");
	return { cell, show: () => setText(cell, of(now())) };
};

// A cell of buttons. all: [label, action, properties]; label(entry): null: no such button now. action(entry): its promise.
// name(entry): what they act on.
const buttons = (name, ...all) => (now) => {
	const made = all.map(([label, action, properties]) => ({ label,
		...lineButton(() => label(now()) || "", () => name(now()), () => action(now()), properties) }));
	return { cell: element("td", {}, element("span", { className: "bar" }, ...made.map(({ button }) => button))),
		show: () => made.forEach(({ button, label, show }) => {
			button.hidden = !label(now());
			show();
		}) };
};

const rowNew = (cells) => (now) => {
	const made = cells.map((make) => make(now));
	return { line: element("tr", {}, ...made.map(({ cell }) => cell)), show: () => made.forEach(({ show }) => show()) };
};

const isDone = (job) => job.status === "concluded";

function progress(now) {
	const bar = element("progress", { "aria-label": `Progress of ${now().id}` }), end = element("span");
	return { cell: element("td", {}, bar, end), show: () => {
		const job = now();
		bar.hidden = isDone(job);
		bar.max = job["total-progress"] || 1;
		bar.value = job["current-progress"] || 0;
		setText(end, isDone(job) ? job.error || "done" : "");
	} };
}

const isActive = (net) => net.state === "active";
const hookArgs = (hook) => ({ name: hook.name, ...(hook.vm ? { vm: hook.vm } : {}) });
const waits = (label) => (request) => request.state === "waiting" ? label : null;
// What a request asks for: its command with the arguments. The asker has written them, so all but plain words are quoted.
function commandText({ command, arguments: args }) {
	const value = (v) => /^[\w.:@/-]+$/.test(v) ? String(v) : JSON.stringify(v);
	return [command, ...Object.entries(args).filter(([k]) => k !== "vm").map(([k, v]) => `${k} ${value(v)}`)].join(", ");
}

const answer = (label, isAsked) => [waits(label), async (request) => {
	if (isAsked && !confirm(`${label} request ${request.id} of uid ${request.user}, ${request.vm ? `VM ${request.vm}` : "no VM"}: ${commandText(request)}?`))
		return;
	await execute(`request-${label.toLowerCase()}`, { id: request.id });
}];

// Title; a function that loads the entries; the key of an entry; titles of the columns; their cells. again: shows the host
// again, since no event tells of web hooks.
const tables = (again) => [
	["Jobs", executeJobs, (job) => job.id, ["VM", "Kind", "Since", "Progress", ""], [
		text((job) => job.vm || ""), text((job) => job.type), text((job) => when(job.started)), progress,
		buttons((job) => job.id, [(job) => isDone(job) ? "Dismiss" : "Cancel", (job) => execute(isDone(job) ? "job-dismiss" : "job-cancel", { id: job.id })])]],
	["Requests", () => executePages("query-requests", "requests", "after"), (request) => request.id, ["", "Of", "VM", "Command", "What it does", "Note", "Expires", ""], [
		text((r) => String(r.id)), text((r) => `uid ${r.user}`), text((r) => r.vm || ""), text(commandText), text((r) => r.does), text((r) => r.note || ""), text((r) => when(r.expires)),
		(now) => {
			const { cell, show } = buttons((r) => `request ${r.id}`, answer("Approve", true), answer("Deny", false))(now), state = element("span");
			cell.append(state);
			return { cell, show: () => {
				show();
				setText(state, now().state === "waiting" ? "" : now().state);
			} };
		}]],
	["Networks", () => executePages("net-list", "networks", "after"), (net) => net.name, ["Name", "State", "Mode", "Bridge", ""], [
		text((net) => net.name), text((net) => net.state), text((net) => net.mode), text((net) => net.bridge || ""),
		buttons((net) => net.name, [(net) => isActive(net) ? "Stop" : "Start", (net) => execute(isActive(net) ? "net-destroy" : "net-start", { network: net.name })])]],
	["Web hooks", () => executePages("query-web-hooks", "hooks", "after"), (hook) => `${hook.vm || ""} ${hook.name}`,
		["Name", "VM", "URL", "Events", "Sent", "Last", ""], [
			text((hook) => hook.name), text((hook) => hook.vm || ""), text((hook) => hook.url), text((hook) => hook.events.join(", ")),
			text((hook) => `${hook.delivered} delivered, ${hook.failed} failed, ${hook.waiting} waiting`), text((hook) => hook.last || ""),
			buttons((hook) => hook.name, [() => "Test", (hook) => execute("web-hook-test", hookArgs(hook)).finally(again)],
				[() => "Remove", (hook) => execute("web-hook-remove", hookArgs(hook)).finally(again)])]],
];

function tableNew([, , , head, cells]) {
	const body = element("tbody"), lines = new Lines(body, rowNew(cells));
	const titles = element("thead", {}, element("tr", {}, ...head.map((h) => element("th", {}, h))));
	const box = element("div", { className: "scroll" }, element("table", {}, titles, body), lines.note);
	return { box, show: (entries, note) => {
		titles.hidden = !entries.length;
		lines.show(entries, note);
	} };
}

export function showHost(main) {
	let dead = false, waiting = null;
	const all = tables(refreshSoon).map((t) => ({ title: t[0], load: t[1], key: t[2], ...tableNew(t) }));
	const pools = new Lines(element("ul", { className: "tree", "aria-label": "Pools" }), poolLineNew);
	all.splice(3, 0, { title: "Pools", load: () => executePages("query-pools", "pools", "after"), key: (pool) => pool.name,
		box: element("div", {}, pools.list, pools.note), show: (entries, note) => pools.show(entries, note) });
	main.replaceChildren(...all.flatMap(({ title, box }) => [element("h2", {}, title), box]));

	// What the user may not see says so in its own place.
	async function refreshOne({ load, key, show }) {
		try {
			const entries = await load();
			if (!dead)
				show(entries.map((entry) => [key(entry), entry]));
		} catch (error) {
			if (!dead)
				show([], error.message);
		}
	}

	// At most four times a second, however fast the jobs report.
	function refreshSoon() {
		waiting ??= setTimeout(() => {
			waiting = null;
			all.forEach(refreshOne);
		}, 250);
	}

	const stop = listen((event) => {
		if (!event || /^(JOB|NETWORK|POOL|REQUEST)_/.test(event.event))
			refreshSoon();
	});
	// No event tells of a pool's space, which the daemon looks at each ten minutes.
	const timer = setInterval(() => document.hidden || refreshSoon(), SPACE_MS);
	all.forEach(refreshOne);
	return () => {
		dead = true;
		stop();
		clearInterval(timer);
		clearTimeout(waiting);
	};
}
