// Work that repeats while a page is visible.
import { message, messageClear } from "./element.js";

const LATE_MS = 10000;
const LATE = "The daemon has not answered for a while.";

// Call action() each `ms` while the tab is visible, but not while its last call is under way: a daemon that hangs would
// take all of the browser's connections. Returns a function that ends that.
export function repeat(ms, action) {
	let begun = null;

	async function run() {
		if (begun !== null && performance.now() - begun > LATE_MS)
			message(LATE, true);
		if (begun !== null || document.hidden)
			return;
		begun = performance.now();
		await action().catch(() => {});
		begun = null;
		messageClear(LATE);
	}
	const timer = setInterval(run, ms);
	return () => clearInterval(timer);
}
