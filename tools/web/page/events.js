// The events of a VM.
import { execute, listen } from "./daemon.js";
import { element, message } from "./element.js";

const SHOWN = 200;

function eventText(e) {
	const words = Object.entries(e.data).filter(([k]) => k !== "vm" && k !== "vm-uuid").map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`);
	return `${new Date(e.timestamp.seconds * 1000).toLocaleString()}  ${e.event}  ${words.join(", ")}`;
}

// Show the newest events in `box`, also later ones. Returns a function that ends it.
export function showEvents(box, vm) {
	const list = element("pre", { className: "events", tabIndex: 0, "aria-label": "Events" });
	let events = [], since = 0, dead = false;
	let loading = Promise.resolve();
	box.replaceChildren(list);

	// Events without a number, of progress, are not kept.
	function add(more) {
		events = [...events, ...more.filter((e) => e.seq > since)].slice(-SHOWN);
		list.textContent = events.map(eventText).reverse().join("\n");
	}

	async function load() {
		for (let more = true; more && !dead;) {
			const page = await execute("query-events", { vm, since });
			add(page.events);
			since = page.next;
			more = page.more;
		}
	}

	const loadNext = () => { loading = loading.then(load).catch((error) => dead || message(error.message, true)); };
	const stop = listen((event) => {
		if (!event)
			loadNext();
		else if (event.data?.vm === vm)
			loading = loading.then(() => {
				add([event]);
				since = Math.max(since, event.seq ?? 0);
			});
	});
	loadNext();
	return () => {
		dead = true;
		stop();
	};
}
