// Disks and interfaces: attach and detach them, of the running VM and of its next starts.
import { execute } from "./daemon.js";

const IDS = { disks: (disk) => Array.from({ length: 26 }, (_, i) => (disk.bus === "scsi" ? "sd" : "vd") + String.fromCharCode(97 + i)),
	interfaces: () => Array.from({ length: 64 }, (_, i) => `net${i}`) };

async function definitionOf(vm, inactive) {
	return (await execute("vm-dump-definition", { vm, inactive })).definition;
}

// Attach a device. list: disks or interfaces. isOn: to the running VM. isKept: for its next starts. A device that a next start would refuse is
// not attached at all.
export async function attach(vm, list, device, isOn, isKept) {
	const was = await definitionOf(vm, true), now = await definitionOf(vm, false);
	const taken = [...(was[list] ?? []), ...(now[list] ?? [])].map(({ id }) => id);
	const full = { ...device, id: IDS[list](device).find((id) => !taken.includes(id)) };
	const define = (more) => execute("vm-define", { definition: { ...was, [list]: [...(was[list] ?? []), full] }, was, ...more });
	if (isKept)
		await define({ "validate-only": true });
	if (isOn && list === "disks")
		await execute("vm-attach-disk", { vm, disk: full });
	else if (isOn)
		full.mac = (await execute("vm-attach-interface", { vm, interface: full })).mac;
	if (isKept)
		await define({});
}

// Detach a device now, if the VM has it, and for its next starts.
export async function detach(vm, list, id, isOn) {
	const was = await definitionOf(vm, true), now = await definitionOf(vm, false);
	const rest = (was[list] ?? []).filter((one) => one.id !== id);
	if (isOn && (now[list] ?? []).some((one) => one.id === id))
		await execute("vm-detach-device", { vm, device: id });
	if (rest.length !== (was[list] ?? []).length)
		await execute("vm-define", { definition: { ...was, [list]: rest }, was });
}

// Put a medium into a CD drive now and for the next starts. path: of the ISO; null: eject.
export async function changeMedium(vm, id, path, isOn) {
	const medium = path ? { path, format: "raw" } : undefined;
	const change = (more) => execute("vm-change-medium", { vm, disk: id, ...(medium ? { medium } : {}), ...more });
	const was = await definitionOf(vm, true);
	const disks = (was.disks ?? []).map((disk) => {
		const { path: oldPath, format, backing, data_file, ...drive } = disk;
		return disk.id === id ? { ...drive, ...medium } : disk;
	});
	if (isOn)
		await change({}).catch((error) => {
			if (error.class !== "Busy" || !confirm(`${error.message}\n\nChange it although the guest uses it?`))
				throw error;
			return change({ force: true });
		});
	if ((was.disks ?? []).some((disk) => disk.id === id))
		await execute("vm-define", { definition: { ...was, disks }, was });
}
