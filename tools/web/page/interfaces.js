// The network interfaces of a VM.
import { attach, detach } from "./devices.js";
import { executePages, OFF } from "./daemon.js";
import { element, setText } from "./element.js";
import { checkField, choiceField, formNew, textField } from "./form.js";
import { lineButton, Lines } from "./lines.js";

// Return an option for each network that the user may see. Its value is "=" and the name.
export async function networkOptions() {
	const networks = await executePages("net-list", "networks", "after").catch(() => []);
	return networks.map((net) => element("option", { value: `=${net.name}` }, `network ${net.name}${net.state === "active" ? "" : `, ${net.state}`}`));
}

// Show the interfaces in `box`. Returns { show(list): shows those of the definition, update(info, may): of vm-info; may: the user may change them }.
export function showInterfaces(box, vm, again) {
	let isOn = false, mayChange = false, list = [];
	const kind = choiceField("Network", [["user", "user (no rights needed)"], ["bridge", "a bridge of the host"]]), bridge = textField("Bridge", { placeholder: "br0" });
	const kept = checkField("Also for the next starts", { checked: true });
	const form = formNew([kind, bridge, kept], element("button", {}, "Attach interface"), async () => {
		const device = kind.value === "user" ? { type: "user" } : kind.value === "bridge" ? { type: "bridge", source: bridge.value } :
			{ type: "network", source: kind.value.slice(1) };
		await attach(vm, "interfaces", device, isOn, !isOn || kept.input.checked);
		again();
	}, (key) => /^interfaces?\b/.test(key) ? kind.value === "bridge" ? bridge : kind : undefined);
	const more = element("details", { hidden: true, ontoggle: () => more.open && networkOptions().then((options) => {
		[...kind.input.options].filter((o) => o.value.startsWith("=")).forEach((o) => o.remove());
		kind.input.append(...options);
	}) }, element("summary", {}, "Attach an interface"), form);

	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Interfaces" }), (now) => {
		const title = element("span", { className: "name" }), about = element("span", { className: "soft" });
		const remove = lineButton(() => "Detach", () => now().id, async () => {
			if (!confirm(`Detach interface ${now().id} of ${vm}, now and for its next starts?`))
				return;
			await detach(vm, "interfaces", now().id, isOn);
			again();
		}, { className: "danger" });
		return { line: element("li", {}, title, about, element("span", { className: "bar" }, remove.button)), show: () => {
			const { id, type, source, mac, link } = now();
			setText(title, id);
			setText(about, [source ? `${type} ${source}` : type, mac, link === "down" ? "link down" : null].filter(Boolean).join(" · "));
			remove.button.hidden = !mayChange;
			remove.show();
		} };
	});
	const show = () => lines.show(list.map((one) => [one.id, one]));
	kind.input.addEventListener("change", () => { bridge.box.hidden = kind.value !== "bridge"; });
	bridge.box.hidden = true;
	box.replaceChildren(lines.list, lines.note, more);
	return {
		show(interfaces) {
			list = interfaces;
			show();
		},
		update(info, may) {
			isOn = !OFF.includes(info.word);
			mayChange = may;
			more.hidden = !may;
			kept.box.hidden = !isOn;
			show();
		},
	};
}
