// The disks of a VM: their images, and the sizes that the guest sees.
import { execute } from "./daemon.js";
import { bytes, element, setText } from "./element.js";
import { Lines } from "./lines.js";

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

function diskLineNew(now) {
	const title = element("span", { className: "name" }), about = element("span");
	return { line: element("li", {}, title, about), show: () => {
		setText(title, now().disk.id);
		setText(about, diskText(now()));
		about.className = now().figures?.fault ? "state crashed" : "soft";
	} };
}

// Show the disks in `box`. Returns { load: shows the definition's disks, figures(list): shows those of vm-info }.
export function showDisks(box, vm) {
	const lines = new Lines(element("ul", { className: "tree", "aria-label": "Disks" }), diskLineNew);
	let disks = null, known = [];
	box.replaceChildren(lines.list, lines.note);

	function show() {
		if (disks)
			lines.show(disks.map((disk) => [disk.id, { disk, figures: known.find((one) => one.id === disk.id) }]));
	}

	return {
		async load() {
			disks = (await execute("vm-dump-definition", { vm })).definition.disks || [];
			show();
		},
		figures(list) {
			known = list;
			show();
		},
	};
}
