// What belongs to no single VM: jobs with their progress, requests for approval, networks, pools and web hooks.
import { execute, executePages, listen } from "./daemon.js";
import { act, bytes, element, message, when } from "./element.js";

function table(head, rows) {
	if (!rows.length)
		return element("p", { className: "soft" }, "none");
	return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...head.map((h) => element("th", {}, h)))),
		element("tbody", {}, ...rows.map((r) => element("tr", {}, ...r.map((cell) => element("td", {}, cell)))))));
}

function jobRow(job) {
	const done = job.status === "concluded", all = job["total-progress"];
	const progress = done ? (job.error || "done") : element("progress", { max: all || 1, value: job["current-progress"] || 0, "aria-label": `Progress of ${job.id}` });
	const label = done ? "Dismiss" : "Cancel";
	const button = element("button", { "aria-label": `${label} ${job.id}`, onclick: () => act(button, () =>
		execute(done ? "job-dismiss" : "job-cancel", { id: job.id })) }, label);
	return [job.vm, job.type, when(job.started), progress, button];
}

function netRow(net) {
	const active = net.state === "active";
	const label = active ? "Stop" : "Start";
	const button = element("button", { "aria-label": `${label} ${net.name}`, onclick: () => act(button, () =>
		execute(active ? "net-destroy" : "net-start", { network: net.name })) }, label);
	return [net.name, net.state, net.mode, net.bridge || "", button];
}

const poolRow = (pool) => [pool.name, pool.target, pool.total ? `${bytes(pool.used)} of ${bytes(pool.total)}` : "",
	pool["days-left"] === undefined ? "" : `${Math.round(pool["days-left"])} days until full`];

function requestRow(request) {
	const answers = ["Approve", "Deny"].map((label) => {
		const button = element("button", { "aria-label": `${label} request ${request.id}`, onclick: () => act(button, () =>
			execute(`request-${label.toLowerCase()}`, { id: request.id })) }, label);
		return button;
	});
	return [String(request.id), `uid ${request.user}`, request.does, request.note || "", when(request.expires),
		request.state === "waiting" ? element("span", { className: "bar" }, ...answers) : request.state];
}

// again: shows the host again, since no event tells of web hooks.
function hookRow(hook, again) {
	const owner = hook.vm ? { vm: hook.vm } : {};
	const button = (label, command) => {
		const made = element("button", { "aria-label": `${label} ${hook.name}`, onclick: () => act(made, () =>
			execute(command, { name: hook.name, ...owner }).finally(again)) }, label);
		return made;
	};
	return [hook.name, hook.vm || "", hook.url, hook.events.join(", "), `${hook.delivered} delivered, ${hook.failed} failed, ${hook.waiting} waiting`, hook.last || "",
		element("span", { className: "bar" }, button("Test", "web-hook-test"), button("Remove", "web-hook-remove"))];
}

// Title, head, a function that loads the entries, the row of an entry.
const TABLES = [
	["Jobs", ["VM", "Kind", "Since", "Progress", ""], () => execute("query-jobs"), jobRow],
	["Requests", ["", "Of", "What it does", "Note", "Expires", ""], () => executePages("query-requests", "requests", "after"), requestRow],
	["Networks", ["Name", "State", "Mode", "Bridge", ""], () => executePages("net-list", "networks", "after"), netRow],
	["Pools", ["Name", "Folder", "Used", ""], () => executePages("query-pools", "pools", "after"), poolRow],
	["Web hooks", ["Name", "VM", "URL", "Events", "Sent", "Last", ""], () => executePages("query-web-hooks", "hooks", "after"), hookRow],
];

export function showHost(main) {
	const boxes = TABLES.map(() => element("div"));
	main.replaceChildren(...TABLES.flatMap(([title], i) => [element("h2", {}, title), boxes[i]]));
	let dead = false, waiting = null;

	async function refresh() {
		waiting = null;
		const lists = await Promise.all(TABLES.map(([, , load]) => load()));
		if (dead)
			return;
		// The keyboard's focus stays, however often the rows are made anew.
		const focused = main.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
		TABLES.forEach(([, head, , row], i) => boxes[i].replaceChildren(table(head, lists[i].map((entry) => row(entry, refreshSoon)))));
		if (focused)
			[...main.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused)?.focus();
	}

	// At most four times a second, however fast the jobs report.
	function refreshSoon() {
		waiting ??= setTimeout(() => refresh().catch((error) => message(error.message, true)), 250);
	}

	const stop = listen((event) => {
		if (!event || /^(JOB|NETWORK|POOL|REQUEST)_/.test(event.event))
			refreshSoon();
	});
	refresh().catch((error) => message(error.message, true));
	return () => {
		dead = true;
		stop();
		clearTimeout(waiting);
	};
}
