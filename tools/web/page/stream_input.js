// Streams of a guest: its console or its screen. What it sends is the answer of a request without an end; what the page
// sends to it goes in requests of their own, one at a time.
import { listen, listenForStarts, request } from "./daemon.js";
import { message, messageClear } from "./element.js";

const PART_BYTES = 512 * 1024; // the server takes twice as much in a request

class StreamInput {
	constructor(signal) {
		Object.assign(this, { signal, waiting: [], sending: false, sent: null, id: crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 32) });
	}

	// data: a text or bytes.
	send(data) {
		this.waiting.push(data);
		if (!this.sending)
			this.sent = this.run();
	}

	// After a failure, nothing more is sent: a part of the input is lost.
	async run() {
		this.sending = true;
		try {
			while (this.waiting.length) {
				const all = new Blob(this.waiting.splice(0));
				for (let at = 0; at < all.size; at += PART_BYTES)
					await request("POST", `/console?id=${this.id}`, all.slice(at, at + PART_BYTES), this.signal);
			}
			this.sending = false;
		} catch (error) {
			if (!this.signal.aborted)
				message(error.message, true);
		}
	}
}

// Open a stream of the guest now, again when the VM starts, again when the tab comes out of the background, where it has none,
// and after a failure again when the daemon's events are back. read(input, signal, isSame) reads one to its end; input.send() takes the page's side of it once the answer has come.
// isSame: the stream may be of the same run of the VM as the one before. Returns a function that ends that.
export function openStreams(vm, read) {
	let abort = new AbortController(), input = null, failure = "";

	async function open(isSame) {
		const mine = new AbortController(), { signal } = mine;
		abort.abort();
		abort = mine;
		messageClear(failure);
		failure = "";
		if (document.hidden)
			return;
		try {
			input = new StreamInput(signal);
			await read(input, signal, isSame);
		} catch (error) {
			if (signal.aborted)
				return;
			failure = error.message;
			message(failure, true);
		} finally {
			mine.abort();
		}
	}
	async function look() {
		if (!document.hidden) {
			open(true);
			return;
		}
		await input?.sent;
		if (document.hidden)
			abort.abort();
	}
	document.addEventListener("visibilitychange", look);
	const stops = [listenForStarts(vm, () => open(false)), listen((event) => event || !failure || open(true))];
	open(false);
	return () => {
		document.removeEventListener("visibilitychange", look);
		stops.forEach((stop) => stop());
		abort.abort();
	};
}
