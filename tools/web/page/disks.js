// The disks of a VM: their images, and the sizes that the guest sees.
import { attach, changeMedium, detach } from "./devices.js";
import { executePages, OFF } from "./daemon.js";
import { bytes, element, setText } from "./element.js";
import { checkField, choiceField, formNew, textField } from "./form.js";
import { lineButton, Lines } from "./lines.js";

// An entry: { disk: of the definition, figures: of vm-info, or undefined }.
function diskText({ disk, figures }) {
	if (!disk.path)
		return "no medium";
	const words = [disk.path, disk.format];
	if (figures?.size)
		words.push(bytes(figures.size));
	if (disk.readonly)
		words.push("read-only");
	for (const below of disk.backing || [])
		words.push(`stands on ${below.path}`);
	if (figures?.fault)
		words.push(figures.fault);
	return words.join(" · ");
}

// Make the form that attaches a disk. run(disk, isKept): its action. Returns { box, update(isOn) }.
function attachForm(run) {
	const volumes = element("datalist", { id: "volumes" });
	const path = textField("Path of the image", { placeholder: "/srv/images/data.qcow2" });
	const format = choiceField("Format", [["qcow2", "qcow2"], ["raw", "raw"]]), bus = choiceField("Bus", [["virtio", "virtio"], ["scsi", "scsi"]]);
	const device = choiceField("Device", [["disk", "disk"], ["readonly", "read-only disk"], ["cdrom", "CD drive"]]);
	const kept = checkField("Also for the next starts", { checked: true });
	const keys = { path, format, bus };
	const form = formNew([path, format, bus, device, kept], element("button", {}, "Attach disk"), async () => {
		const isEmpty = device.value === "cdrom" && !path.value;
		await run({ bus: bus.value, ...(isEmpty ? {} : { path: path.value, format: format.value }),
			...{ cdrom: { device: "cdrom" }, readonly: { readonly: true } }[device.value] }, kept.input.checked);
		path.input.value = "";
	}, (key) => /^disks?\b/.test(key) ? keys[key.split(".")[1]] ?? path : undefined);
	path.input.setAttribute("list", "volumes");

	// Offer the volumes of all pools, as far as the user may see them.
	async function volumesLoad() {
		const all = [];
		for (const pool of await executePages("query-pools", "pools", "after"))
			all.push(...(await executePages("query-volumes", "volumes", "after", { pool: pool.name })).map((v) => `${pool.target}/${v.name}`));
		volumes.replaceChildren(...all.map((value) => element("option", { value })));
	}
	const box = element("details", { hidden: true, ontoggle: () => box.open && volumesLoad().catch(() => {}) },
		element("summary", {}, "Attach a disk"), form, volumes);
	return { box, update: (isOn) => { kept.box.hidden = !isOn; } };
}

// Show the disks in `box`. again(): loads the definition again. Returns { show(list): shows the definition's disks, update(info, may): shows those of
// vm-info; may: the user may change them }.
export function showDisks(box, vm, again) {
	let disks = null, known = [], isOn = false, mayChange = false;

	function lineNew(now) {
		const title = element("span", { className: "name" }), about = element("span"), id = () => now().disk.id;
		const change = async (path) => {
			await changeMedium(vm, id(), path, isOn);
			again();
		};
		const medium = lineButton(() => "Change medium", id, async () => {
			const path = prompt(`Path of the ISO for ${id()}`, now().disk.path ?? "");
			if (path)
				await change(path);
		});
		const eject = lineButton(() => "Eject", id, () => change(null));
		const remove = lineButton(() => "Detach", id, async () => {
			if (!confirm(`Detach disk ${id()} of ${vm}, now and for its next starts? Its image stays.`))
				return;
			await detach(vm, "disks", id(), isOn);
			again();
		}, { className: "danger" });
		return { line: element("li", {}, title, about, element("span", { className: "bar" }, medium.button, eject.button, remove.button)), show: () => {
			const isDrive = now().disk.device === "cdrom";
			setText(title, id());
			setText(about, diskText(now()));
			about.className = now().figures?.fault ? "state crashed" : "soft";
			medium.button.hidden = !mayChange || !isDrive;
			eject.button.hidden = !mayChange || !isDrive || !now().disk.path;
			remove.button.hidden = !mayChange;
			[medium, eject, remove].forEach((b) => b.show());
		} };
	}

	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Disks" }), lineNew);
	const form = attachForm(async (disk, isKept) => {
		await attach(vm, "disks", disk, isOn, !isOn || isKept);
		again();
	});
	box.replaceChildren(lines.list, lines.note, form.box);

	function show() {
		if (disks)
			lines.show(disks.map((disk) => [disk.id, { disk, figures: known.find((one) => one.id === disk.id) }]));
	}

	return {
		show(list) {
			disks = list;
			show();
		},
		update(info, may) {
			known = info.disks || [];
			isOn = !OFF.includes(info.word);
			mayChange = may;
			form.box.hidden = !may;
			form.update(isOn);
			show();
		},
	};
}
