// What a VM did over time, as graphs.
import { execute } from "./daemon.js";
import { act, element, quantity } from "./element.js";
import { repeat } from "./repeat.js";

const WIDTH = 300, HEIGHT = 60;
const LIVE_MS = 5000; // time between two drawings of the shortest span; longer spans change less often
const SPANS = [["Hour", 3600], ["Day", 86400], ["Week", 7 * 86400], ["Month", 30 * 86400]];

function svg(tag, attributes) {
	const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
	for (const [name, value] of Object.entries(attributes))
		e.setAttribute(name, value);
	return e;
}

// Draw the known points as lines with gaps. values: null where nothing is known.
function graph(values, most) {
	let path = "", gap = true;
	values.forEach((v, i) => {
		if (v !== null)
			path += `${gap ? "M" : "L"}${(i * WIDTH / Math.max(1, values.length - 1)).toFixed(1)} ${(HEIGHT - 2 - v / most * (HEIGHT - 4)).toFixed(1)}`;
		gap = v === null;
	});
	const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
	image.append(svg("path", { d: path }));
	return image;
}

// Return the graph of a series with its newest and its largest value; null: there is nothing to see.
export function figure(series) {
	const values = series.average, known = values.filter((v) => v !== null);
	if (!known.some((v) => v))
		return null;
	const most = Math.max(...known), now = values.at(-1) ?? values.at(-2); // the last point has not ended
	return element("figure", {}, element("figcaption", {}, element("span", {}, series.name),
		element("span", { className: "soft" }, `${now == null ? "last" : "now"} ${quantity(now ?? known.at(-1), series.unit)}, most ${quantity(most, series.unit)}`)), graph(values, most));
}

// Show the trends in `box`, and draw them again as they grow. Returns a function that ends that.
export function showTrends(box, vm) {
	const figures = element("div", { className: "figures" });
	let end = () => {}, newest = 0; // number of the newest request

	async function show(seconds) {
		const all = [], mine = ++newest;
		const to = Date.now() * 1e6;
		for (let from = to - seconds * 1e9, page; from; from = page.next) {
			page = await execute("vm-trend", { vm, from: Math.round(from), to, points: 120 });
			for (const s of page.series) {
				const before = all.find((a) => a.name === s.name);
				if (before)
					before.average.push(...s.average);
				else
					all.push(s);
			}
		}
		if (mine !== newest)
			return;
		const shown = all.map(figure).filter((f) => f);
		figures.replaceChildren(...(shown.length ? shown : [element("p", { className: "soft" }, "Nothing is recorded for this time.")]));
	}

	function choose(seconds) {
		end();
		end = repeat(LIVE_MS * seconds / SPANS[0][1], () => show(seconds));
		return show(seconds);
	}

	const buttons = SPANS.map(([label, seconds]) => element("button", { onclick: (event) => act(event.target, () => choose(seconds)) }, label));
	box.replaceChildren(element("div", { className: "bar" }, ...buttons), figures);
	buttons[0].click();
	return () => {
		newest++;
		end();
	};
}
