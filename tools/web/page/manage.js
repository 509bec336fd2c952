// Clone, rename and undefine a VM.
import { execute, mayDefine, OFF } from "./daemon.js";
import { element, message } from "./element.js";
import { checkField, choiceField, fieldError, formNew, textField } from "./form.js";
import { runJob } from "./vm.js";

function cloneForm(vm) {
	const name = textField("Name of the clone");
	const kind = choiceField("Kind of clone", []);
	const kinds = { full: "copy of all disks", linked: "linked: its disks stand on those of this VM", live: "live: it runs on from the present state of this VM" };
	const form = formNew([name, kind], element("button", {}, "Clone"), async () => {
		if (!name.value)
			throw fieldError(name, "Give the clone a name.");
		await (kind.value === "live" ? runJob("vm-fork", { vm, name: name.value }) : runJob("vm-clone", { vm, name: name.value, kind: kind.value }));
		name.input.value = "";
	}, (key) => key === "name" ? name : undefined);
	return { form, update: (isOff) => {
		const wanted = isOff ? ["full", "linked"] : ["live"];
		if ([...kind.input.options].map((o) => o.value).join() !== wanted.join())
			kind.input.replaceChildren(...wanted.map((value) => element("option", { value }, kinds[value])));
	} };
}

// The view follows the VM to its new name.
function renameForm(vm) {
	const name = textField("New name", { value: vm });
	return formNew([name], element("button", {}, "Rename"), () => execute("vm-rename", { vm, name: name.value }), (key) => key === "name" ? name : undefined);
}

function undefineForm(vm) {
	const storage = checkField("Delete its disk images"), images = element("p", { className: "soft" });
	const snapshots = checkField("Undefine it although it has snapshots, which stay in the images that are kept");
	const state = checkField("Remove its saved state and its UEFI variables");
	const typed = textField("Type the name of the VM");
	const deletes = () => ({ "remove-all-storage": storage.input.checked, "snapshots-metadata": snapshots.input.checked,
		"managed-save": state.input.checked, nvram: state.input.checked });
	storage.input.addEventListener("change", async () => {
		images.textContent = "";
		if (!storage.input.checked)
			return;
		try {
			const { volumes } = await execute("vm-undefine", { vm, "remove-all-storage": true, "snapshots-metadata": true, "managed-save": true, nvram: true, "dry-run": true });
			images.textContent = volumes?.length ? volumes.map((v) => `${v.removed ? "Deletes" : "Keeps"} ${v.path}${v.why ? `: ${v.why}` : ""}`).join("; ") : "It has no images to delete.";
		} catch (error) {
			images.textContent = error.message;
		}
	});
	const form = formNew([storage, snapshots, state, typed], element("button", { className: "danger" }, "Undefine"), async () => {
		if (typed.value !== vm)
			throw fieldError(typed, `This is not "${vm}". Nothing was changed.`);
		await execute("vm-undefine", { vm, ...deletes() });
		location.hash = "#/";
	});
	storage.box.after(images);
	return form;
}

// Show the forms in `box`. Returns a function that shows those that are possible for a vm-info of the VM.
export function showManage(box, vm) {
	const clone = cloneForm(vm), cloneBox = element("div", { hidden: true }, element("h4", {}, "Clone"), clone.form);
	const offBox = element("div", {}, element("h4", {}, "Rename"), renameForm(vm), element("h4", {}, "Undefine"), undefineForm(vm));
	const note = element("p", { className: "soft" }, "Shut the VM down to rename or undefine it, or to clone its disks.");
	box.replaceChildren(cloneBox, offBox, note);
	mayDefine().then((may) => { cloneBox.hidden = !may; }).catch((error) => message(error.message, true));
	return (info) => {
		const isOff = OFF.includes(info.word);
		clone.update(isOff);
		offBox.hidden = !isOff;
		note.hidden = isOff;
	};
}
