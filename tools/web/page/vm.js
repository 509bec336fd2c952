// One VM: its state, buttons, disks, interfaces, snapshots, console, screen, schedules, events and definition.
import { execute, executeAwhile, hasRole, listen, OFF } from "./daemon.js";
import { act, bytes, element, focusButton, message, messageClear, setText, stateName, when } from "./element.js";
import { showConsole } from "./console.js";
import { showDefinition } from "./definition.js";
import { showDisks } from "./disks.js";
import { showEvents } from "./events.js";
import { showInterfaces } from "./interfaces.js";
import { showManage } from "./manage.js";
import { repeat } from "./repeat.js";
import { showScreen } from "./screen.js";
import { showSchedules } from "./schedules.js";
import { showSnapshots } from "./snapshots.js";
import { showTrends } from "./trends.js";

const FIGURES_MS = 2000;
const ON = ["running", "paused", "in-shutdown", "preserved"];
// Label, command, states in which it is possible, question before it.
const ACTIONS = [
	["Start", "vm-start", OFF], ["Shut down", "vm-shutdown", ["running"]], ["Reboot", "vm-reboot", ["running"]], ["Pause", "vm-suspend", ["running"]],
	["Resume", "vm-resume", ["paused"]], ["Save", "vm-managed-save", ["running", "paused"]],
	["Reset", "vm-reset", ["running", "paused"], "Reset it like a reset button? Unsaved data is lost."],
	["Destroy", "vm-destroy", ON, "Stop it like pulling the plug? Unsaved data is lost."],
];

// Run a command that is a job, and wait for its end.
export async function runJob(name, args) {
	const { job } = await execute(name, args);
	message(`${name}: under way`);
	for (let wait = 50; job; wait = Math.min(1000, wait * 2)) {
		const found = (await execute("query-jobs", { id: job }))[0];
		if (!found || found.status === "concluded") {
			if (found)
				await execute("job-dismiss", { id: job });
			if (found?.error)
				throw new Error(found.error);
			message(`${name}: done`);
			return;
		}
		const all = found["total-progress"];
		if (all)
			message(`${name}: ${Math.round(found["current-progress"] * 100 / all)} %`);
		await new Promise((resolve) => setTimeout(resolve, wait));
	}
}

function actionButtons(vm) {
	return ACTIONS.map(([label, command, states, question]) => {
		const button = element("button", { className: question ? "danger" : "", onclick: () => {
			if (question && !confirm(`${vm}: ${question}`))
				return;
			act(button, async () => {
				if (command === "vm-managed-save")
					await runJob(command, { vm });
				else if (!await executeAwhile(command, { vm }))
					message(`${command}: under way`);
			});
		} }, label);
		return { button, states };
	});
}

function facts(info, cpu) {
	const all = [["State", `${stateName(info)} (${info.detail || info.reason})`]];
	if (info.since) // 0: the VM was never started
		all.push(["Since", when(info.since)]);
	all.push(["vCPUs", info.vcpus], ["Memory", bytes(info.memory)]);
	if (info["waits-for-hook"])
		all.push(["Waits for a hook", info["waits-for-hook"] + (info.delayed ? `: ${info.delayed}` : "")]);
	if (cpu !== null)
		all.push(["CPU", `${cpu.toFixed(0)} %`]);
	if (info["resident-memory"])
		all.push(["Memory in use on the host", bytes(info["resident-memory"])]);
	all.push(["UUID", info.uuid]);
	return all;
}

function section(title, content) {
	const box = element("div");
	const whole = element("details", { ontoggle: () => {
		if (whole.open)
			content(box);
		else
			whole.dispatchEvent(new Event("closed"));
	} }, element("summary", {}, element("h3", {}, title)), box);
	return whole;
}

// A section that changes by itself while it is open.
function liveSection(title, show, vm) {
	let running = null;
	const end = () => {
		running?.();
		running = null;
	};
	const whole = section(title, (box) => { running = show(box, vm); });
	whole.addEventListener("closed", end);
	return { whole, end };
}

// Say why the VM cannot be shown, until it can be. Returns a function that ends that.
function showGone(main, vm, why) {
	let over = false;
	const look = () => execute("vm-info", { vm }).then(() => over || dispatchEvent(new Event("hashchange")), () => {});
	const stop = listen((event) => {
		if (!event || event.event === "ROLES_CHANGED" || (event.event === "VM_DEFINED" && event.data.vm === vm))
			look();
	});
	main.replaceChildren(element("h2", {}, vm), element("p", {}, why));
	main.focus({ preventScroll: true });
	look(); // it may have been defined anew before this function listened
	return () => {
		over = true;
		stop();
	};
}

// Show the VM in `main`. Returns a function that ends it.
export function showVm(main, vm) {
	let last = null, lastAt = 0, dead = false, uuid = null, failure = "";
	const state = element("span", { className: "state" });
	const table = element("dl");
	const actions = actionButtons(vm);
	const diskBox = element("div"), disks = showDisks(diskBox, vm, devicesShow);
	const interfaceBox = element("div"), interfaces = showInterfaces(interfaceBox, vm, devicesShow);
	const manageBox = element("div"), manageUpdate = showManage(manageBox, vm);
	const manage = element("details", { hidden: true }, element("summary", {}, element("h3", {}, "Clone, rename, undefine")), manageBox);
	const snapshotBox = element("div");
	const refreshSnapshots = showSnapshots(snapshotBox, vm);
	const live = [["Console", showConsole], ["Screen", showScreen], ["Trends", showTrends], ["Events", showEvents]]
		.map(([title, show]) => liveSection(title, show, vm));
	main.replaceChildren(element("h2", {}, vm, " ", state), element("div", { className: "bar" }, ...actions.map((a) => a.button)), table,
		element("h3", {}, "Disks"), diskBox, element("h3", {}, "Interfaces"), interfaceBox, element("h3", {}, "Snapshots"), snapshotBox, ...live.map((one) => one.whole),
		section("Schedules", (box) => showSchedules(box, vm)),
		section("Definition", (box) => showDefinition(box, vm)), manage);

	async function devicesLoad() {
		const { definition } = await execute("vm-dump-definition", { vm });
		disks.show(definition.disks || []);
		interfaces.show(definition.interfaces || []);
	}

	function devicesShow() {
		devicesLoad().catch(failed);
	}

	async function refresh() {
		const info = await execute("vm-info", { vm: uuid ?? vm });
		if (dead)
			return;
		if (info.name !== vm) { // it was renamed
			end();
			location.replace(`#/vm/${encodeURIComponent(info.name)}`);
			return;
		}
		uuid = info.uuid;
		const now = performance.now(), time = info["cpu-time"];
		const cpu = last !== null && time >= last ? (time - last) / 1e4 / (now - lastAt) : null;
		last = time ?? null;
		lastAt = now;
		setText(state, stateName(info));
		state.className = `state ${info.word}`;
		const focused = actions.find(({ button }) => button === document.activeElement)?.button;
		for (const { button, states } of actions)
			button.hidden = !states.includes(info.word) || info.template || !hasRole(info, "operator");
		if (focused?.hidden)
			focusButton(focused);
		const mayChange = hasRole(info, "admin") && !info.template;
		disks.update(info, mayChange);
		interfaces.update(info, mayChange);
		manage.hidden = !mayChange;
		manageUpdate(info);
		table.replaceChildren(...facts(info, cpu).flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, String(v))]));
	}

	let end = () => {
		dead = true;
		stop();
		repeatEnd();
		live.forEach((one) => one.end());
	};

	// refresh() finds out whether the VM is gone, so a NotFound of another command is no news.
	function failed(error) {
		if (!dead && error.class !== "NotFound")
			message(error.message, true);
	}

	// Show the present state. Without the VM, or a role for it, no part of the view works, so none stays.
	async function update() {
		try {
			await refresh();
			messageClear(failure);
			failure = "";
		} catch (error) {
			if (dead)
				return;
			if (["NotFound", "PermissionDenied"].includes(error.class)) {
				end();
				end = showGone(main, vm, error.class === "NotFound" ? "There is no VM of this name." : error.message);
			} else if (failure !== error.message) { // say it once
				failure = error.message;
				failed(error);
			}
		}
	}

	const stop = listen((event) => {
		if (!event || event.data?.vm === vm || event.event === "ROLES_CHANGED")
			update();
		if (!event || (event.data?.vm === vm && !/_PROGRESS$/.test(event.event)))
			devicesShow();
		if (!event || (event.data?.vm === vm && /^SNAPSHOT_/.test(event.event)))
			refreshSnapshots();
	});
	const repeatEnd = repeat(FIGURES_MS, update);
	update();
	devicesShow();
	refreshSnapshots();
	return () => end();
}
