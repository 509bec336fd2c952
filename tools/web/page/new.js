// The form for a new VM, and a text for its definition as JSON.
import { execute, executeAwhile, executePages } from "./daemon.js";
import { act, element, message, sizeBytes, wholeNumber } from "./element.js";
import { checkField, choiceField, fieldError, formNew, JsonField, textField } from "./form.js";
import { networkOptions } from "./interfaces.js";
import { runJob } from "./vm.js";

// Make a VM. vm-define would change one of the same name.
async function define(definition) {
	const vms = await executePages("vm-list", "vms", "after", { brief: true, limit: 1000 });
	if (vms.some((vm) => vm.name === definition?.name))
		throw new Error(`name: there is a VM "${definition.name}" already`);
	return execute("vm-define", { definition });
}

function go(name) {
	location.hash = `#/vm/${encodeURIComponent(name)}`;
}

// Show the form in `main`. Returns a function that ends it.
export function showNew(main) {
	let dead = false, pools = [];
	const name = textField("Name"), memory = textField("Memory", { value: "2G" }), vcpus = textField("vCPUs", { value: "1", inputMode: "numeric" });
	const disk = choiceField("Disk", [["path", "an image that exists"], ["none", "none"]]);
	const pool = choiceField("Pool", []), size = textField("Size of the new volume", { value: "20G" });
	const path = textField("Path of the image", { placeholder: "/srv/images/web.qcow2" });
	const format = choiceField("Format of the image", [["qcow2", "qcow2"], ["raw", "raw"]]);
	const network = choiceField("Network", [["", "none"], ["user", "user (no rights needed)"]]);
	const boot = choiceField("Start from", [["bios", "disk or CD, with BIOS"], ["uefi", "disk or CD, with UEFI"], ["kernel", "a kernel"]]);
	const iso = textField("Path of an ISO for the CD drive", { placeholder: "none" });
	const kernel = textField("Path of the kernel"), initrd = textField("Path of the initrd", { placeholder: "none" });
	const cmdline = textField("Command line of the kernel", { placeholder: "console=ttyS0 root=/dev/vda" });
	const start = checkField("Start it", { checked: true });
	const json = new JsonField("Definition as JSON");
	const all = [name, memory, vcpus, disk, pool, size, path, format, network, boot, iso, kernel, initrd, cmdline, start];

	function show() {
		const isKernel = boot.value === "kernel";
		[pool, size].forEach(({ box }) => { box.hidden = disk.value !== "volume"; });
		[path, format].forEach(({ box }) => { box.hidden = disk.value !== "path"; });
		[kernel, initrd, cmdline].forEach(({ box }) => { box.hidden = !isKernel; });
		iso.box.hidden = isKernel;
	}

	const volume = () => `${name.value}.qcow2`;

	function disks() {
		const list = [];
		if (disk.value === "volume")
			list.push({ path: `${pools.find((one) => one.name === pool.value)?.target}/${volume()}`, format: "qcow2" });
		else if (disk.value === "path")
			list.push({ path: path.value, format: format.value });
		if (boot.value !== "kernel" && iso.value)
			list.push({ id: "cd", device: "cdrom", bus: "scsi", path: iso.value, format: "raw" });
		return list;
	}

	// A screen has its socket beside the first image.
	function screen() {
		const folder = disks()[0]?.path.replace(/[^/]*$/, "");
		return folder === undefined ? {} : { screen: true, tablet: true, vnc: { path: `${folder}${name.value}.vnc` } };
	}

	function definition() {
		const filled = (keys) => Object.fromEntries(Object.entries(keys).filter(([, field]) => field.value).map(([key, field]) => [key, field.value]));
		return {
			name: name.value, memory: memory.value, vcpus: wholeNumber(vcpus.value), rng: true, disks: disks(),
			...(network.value ? { interfaces: [network.value === "user" ? { type: "user" } : { type: "network", source: network.value.slice(1) }] } : {}),
			...(boot.value === "kernel" ? { boot: filled({ kernel, initrd, cmdline }) } :
				{ boot: { firmware: boot.value }, ...screen() }),
		};
	}

	function fieldOf(key) {
		const [, index] = key.match(/^disks\[(\d+)\]/) ?? [];
		if (index !== undefined)
			return disks()[index]?.device ? iso : disk.value === "volume" ? pool : /format$/.test(key) ? format : path;
		if (key.startsWith("interfaces"))
			return network;
		return { name, memory, vcpus, capacity: size, pool, "boot.kernel": kernel, "boot.initrd": initrd, "boot.cmdline": cmdline }[key] ??
			(key.startsWith("boot") ? boot : undefined);
	}

	function capacity() {
		try {
			return sizeBytes(size.value);
		} catch (error) {
			throw fieldError(size, error.message);
		}
	}

	async function create() {
		if (!name.value)
			throw fieldError(name, "Give the VM a name.");
		const wanted = definition(), made = disk.value === "volume" ? { pool: pool.value, name: volume() } : null;
		if (made)
			await runJob("volume-create", { ...made, capacity: capacity(), format: "qcow2" });
		try {
			await define(wanted);
		} catch (error) {
			if (made)
				await execute("volume-delete", made).catch(() => {});
			throw error;
		}
		go(name.value);
		if (start.input.checked)
			await executeAwhile("vm-start", { vm: name.value, ...(boot.value !== "kernel" && iso.value ? { boot: "cdrom" } : {}) });
	}

	const jsonButton = (label, action) => element("button", { type: "button", onclick: (event) => act(event.target, action) }, label);
	main.replaceChildren(element("h2", {}, "New VM"), formNew(all, element("button", {}, "Create VM"), create, fieldOf),
		element("details", {}, element("summary", {}, "As JSON"), json.box, element("div", { className: "bar" },
			jsonButton("Fill in from the form", async () => { json.input.value = JSON.stringify(definition(), null, 2); }),
			jsonButton("Check JSON", () => json.run(async (wanted) => {
				const { created, warnings } = await execute("vm-define", { definition: wanted, "validate-only": true });
				if (!created)
					throw new Error(`name: there is a VM "${wanted.name}" already`);
				message(["This definition is valid.", ...warnings].join(" "));
			})),
			jsonButton("Create VM from JSON", () => json.run(async (wanted) => go((await define(wanted)).name))))));
	[disk, boot].forEach(({ input }) => input.addEventListener("change", show));
	show();
	name.input.focus();
	// A user who may not see pools or networks has none to choose.
	executePages("query-pools", "pools", "after").then((found) => {
		if (dead || !found.length)
			return;
		pools = found;
		pool.input.append(...found.map((one) => element("option", {}, one.name)));
		disk.input.prepend(element("option", { value: "volume" }, "a new volume"));
		disk.input.value = "volume";
		show();
	}).catch(() => {});
	networkOptions().then((options) => network.input.append(...options));
	return () => { dead = true; };
}
