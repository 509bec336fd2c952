// The list of all VMs. Only the rows that are in sight are elements, so that 1,000 VMs cost no more than twenty.
import { executeAwhile, executeEach, executePages, listen, mayDefine, OFF } from "./daemon.js";
import { act, bytes, element, message, setText, stateName } from "./element.js";
import { repeat } from "./repeat.js";

const ROW = 44; // height of a row in style.css
const FIGURES_MS = 2000;
const LOAD_MS = 1000; // time between two requests for all VMs

// A list in the browser's history keeps its place: Back, Forward and Reload show the rows that were shown.
function placeLoad() {
	if (!history.state?.list)
		history.replaceState({ list: `list-${Date.now()}` }, "");
	const key = history.state.list;
	return { filter: "", scroll: 0, focused: null, ...JSON.parse(sessionStorage.getItem(key)), key };
}

// Return the label and the command of a VM's button.
function buttonOf(vm) {
	if (OFF.includes(vm.word))
		return ["Start", "vm-start"];
	return vm.word === "paused" ? ["Resume", "vm-resume"] : ["Shut down", "vm-shutdown"];
}

function rowNew() {
	const row = {
		name: element("a"), state: element("span"), cpu: element("span", { className: "figure" }),
		memory: element("span", { className: "figure" }), button: element("button"),
	};
	row.line = element("div", { className: "row", role: "row" }, row.name, row.state, row.cpu, row.memory, row.button);
	for (const cell of row.line.children)
		if (cell !== row.button && cell !== row.name)
			cell.setAttribute("role", "cell");
	row.button.addEventListener("click", () => act(row.button, () =>
		executeAwhile(buttonOf(row.vm)[1], { vm: row.vm.name })));
	return row;
}

function rowHide(row) {
	row.vm = null;
	row.line.hidden = true;
}

function rowShow(row, vm, index) {
	Object.assign(row, { vm, index });
	row.line.hidden = false;
	row.line.style.transform = `translateY(${index * ROW}px)`;
	row.line.setAttribute("aria-rowindex", index + 1);
	setText(row.name, vm.name);
	row.name.href = `#/vm/${encodeURIComponent(vm.name)}`;
	setText(row.state, vm["waits-for-hook"] ? `${stateName(vm)}, ${vm["waits-for-hook"]} waits for a hook` : stateName(vm));
	row.state.className = `state ${vm.word}`;
	setText(row.cpu, vm.cpu === undefined ? "" : `${vm.cpu.toFixed(0)} %`);
	setText(row.memory, vm.memory === undefined ? "" : bytes(vm.memory));
	setText(row.button, buttonOf(vm)[0]);
	row.button.setAttribute("aria-label", `${row.button.textContent} ${vm.name}`);
	row.button.disabled = vm.template || ["in-shutdown", "preserved"].includes(vm.word);
}

// Show the list in `main`. Returns a function that ends it.
export function showList(main) {
	let vms = new Map(), shown = [], dead = false, drawing = false;
	let rows = []; // those of VMs in order, then hidden ones
	let loading = Promise.resolve(), loadTimer = null, loadedAt = -LOAD_MS;
	const filter = element("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter by name" });
	const count = element("span", { className: "soft" });
	const create = element("a", { className: "button", href: "#/new", hidden: true }, "New VM");
	const box = element("div", { className: "rows", role: "table", "aria-label": "Virtual machines" });
	const place = placeLoad();
	let isPlaced = false; // the list is where it was
	filter.value = place.filter;
	main.replaceChildren(element("div", { className: "bar" }, filter, count, create), box);

	function draw() {
		drawing = false;
		const top = Math.max(0, -box.getBoundingClientRect().top);
		const first = Math.max(0, Math.floor(top / ROW) - 4);
		const n = Math.max(0, Math.min(shown.length - first, Math.ceil(innerHeight / ROW) + 8));
		const focused = rows.find((row) => row.line.contains(document.activeElement));
		const at = focused ? shown.indexOf(vms.get(focused.vm?.name)) : -1;
		// Tab goes on from the row with the focus, also if that is out of sight.
		const wanted = [...new Set([...Array.from({ length: n }, (_, i) => first + i), ...(at < 0 ? [] : [at - 1, at, at + 1])])]
			.filter((i) => i >= 0 && i < shown.length).sort((a, b) => a - b);
		// A row keeps its VM while that is in sight or has the keyboard's focus, so that Enter acts on no other one.
		const names = new Set(wanted.map((i) => shown[i].name));
		const kept = new Map(rows.filter((row) => names.has(row.vm?.name)).map((row) => [row.vm.name, row]));
		const free = rows.filter((row) => !names.has(row.vm?.name) && row !== focused);
		const used = wanted.map((i) => kept.get(shown[i].name) || free.pop() || rowNew());
		used.forEach((row, i) => rowShow(row, shown[wanted[i]], wanted[i]));
		rowsInOrder(used, Math.max(0, used.indexOf(focused)));
		if (focused && at < 0) {
			free.push(focused);
			(used[Math.min(focused.index - first, used.length - 1)]?.name ?? filter).focus({ preventScroll: true });
		}
		free.forEach(rowHide);
		rows = [...used, ...free];
	}

	// Bring the rows into the order of Tab. The row at `still` stays in its place, and with it the keyboard's focus.
	function rowsInOrder(used, still) {
		if (used.length && !used[still].line.isConnected)
			box.append(used[still].line);
		for (let i = still - 1; i >= 0; i--)
			if (used[i].line.nextSibling !== used[i + 1].line)
				used[i + 1].line.before(used[i].line);
		for (let i = still + 1; i < used.length; i++)
			if (used[i].line.previousSibling !== used[i - 1].line)
				used[i - 1].line.after(used[i].line);
	}

	function placeSave() {
		const focused = rows.find((row) => row.line.contains(document.activeElement))?.vm?.name ?? null;
		if (isPlaced)
			sessionStorage.setItem(place.key, JSON.stringify({ filter: filter.value, scroll: scrollY, focused }));
	}

	function placeRestore() {
		isPlaced = true;
		scrollTo(0, place.scroll);
		draw();
		if (!document.activeElement.closest("main *")) // the user has not gone on meanwhile
			rows.find((row) => row.vm && row.vm.name === place.focused)?.name.focus({ preventScroll: true });
	}

	function drawSoon() {
		if (!drawing && !dead) {
			drawing = true;
			requestAnimationFrame(draw);
		}
	}

	function countShow() {
		const running = shown.filter((vm) => vm.word === "running").length;
		setText(count, `${shown.length} VMs, ${running} running`);
		drawSoon();
	}

	function sort() {
		const word = filter.value.toLowerCase();
		shown = [...vms.values()].filter((vm) => vm.name.toLowerCase().includes(word));
		shown.sort((a, b) => (a.name < b.name ? -1 : 1));
		box.style.height = `${shown.length * ROW}px`;
		box.setAttribute("aria-rowcount", shown.length);
		countShow();
	}

	async function load() {
		loadTimer = null;
		loadedAt = performance.now();
		if (dead)
			return;
		const all = await executePages("vm-list", "vms", "after", { brief: true, limit: 1000 });
		// Of what was known, keep only the figures of VMs that run.
		vms = new Map(all.map((vm) => {
			const { cpu, memory, cpuTime, at } = vm.word === "running" ? vms.get(vm.name) ?? {} : {};
			return [vm.name, { cpu, memory, cpuTime, at, ...vm }];
		}));
		sort();
		if (!isPlaced)
			placeRestore();
	}

	// Several events in a row make one request. One that comes during a request makes another.
	function loadSoon(wait) {
		loadTimer ??= setTimeout(() => {
			loading = loading.then(load).catch((error) => dead || message(error.message, true));
		}, Math.max(wait, loadedAt + LOAD_MS - performance.now()));
	}

	function createShow() {
		mayDefine().then((may) => { create.hidden = !may; }).catch(() => {}); // load() tells of an error
	}

	function onEvent(event) {
		if (!event || event.event === "ROLES_CHANGED")
			createShow();
		const vm = event?.event === "VM_STATE_CHANGE" && vms.get(event.data.vm);
		if (vm) {
			vm.state = vm.word = event.data.state;
			countShow();
		}
		if (!event || ["VM_DEFINED", "VM_UNDEFINED", "VM_STATE_CHANGE", "START_DELAYED", "ROLES_CHANGED"].includes(event.event))
			loadSoon(event ? 100 : 0);
	}

	async function figures() {
		const seen = rows.filter((row) => row.vm && row.vm.word === "running").map((row) => row.vm).slice(0, 64);
		if (!seen.length)
			return;
		const now = performance.now();
		const infos = await executeEach("vm-info", seen.map((vm) => ({ vm: vm.name })));
		infos.forEach((info, i) => {
			const vm = seen[i];
			if (!info)
				return;
			if (vm.cpuTime !== undefined && info["cpu-time"] >= vm.cpuTime)
				vm.cpu = (info["cpu-time"] - vm.cpuTime) / 1e4 / (now - vm.at);
			Object.assign(vm, { cpuTime: info["cpu-time"], at: now, memory: info["resident-memory"] });
		});
		drawSoon();
	}

	const stop = listen(onEvent);
	const figuresEnd = repeat(FIGURES_MS, figures);
	filter.addEventListener("input", sort);
	addEventListener("scroll", drawSoon, { passive: true });
	addEventListener("resize", drawSoon);
	addEventListener("pagehide", placeSave);
	loadSoon(0);
	createShow();
	return () => {
		placeSave();
		dead = true;
		stop();
		clearTimeout(loadTimer);
		figuresEnd();
		removeEventListener("scroll", drawSoon);
		removeEventListener("resize", drawSoon);
		removeEventListener("pagehide", placeSave);
	};
}
