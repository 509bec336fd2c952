// Streams of a guest: its console or its screen. What it sends is the answer of a request without an end; what the page
// sends to it goes in requests of their own, one at a time.
import { listenForStarts, request } from "./daemon.js";
import { message, messageClear } from "./element.js";

class StreamInput {
	constructor(signal) {
		Object.assign(this, { signal, waiting: [], sending: false, id: crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 32) });
	}

	// data: a text or bytes.
	send(data) {
		this.waiting.push(data);
		if (!this.sending)
			this.run();
	}

	// After a failure, nothing more is sent: a part of the input is lost.
	async run() {
		this.sending = true;
		try {
			while (this.waiting.length)
				await request("POST", `/console?id=${this.id}`, new Blob(this.waiting.splice(0)), this.signal);
			this.sending = false;
		} catch (error) {
			if (!this.signal.aborted)
				message(error.message, true);
		}
	}
}

// Open a stream of the guest now, and again when the VM starts. read(input, signal) reads one to its end; input.send() takes
// the page's side of it once the answer has come. Returns a function that ends that.
export function openStreams(vm, read) {
	let abort = new AbortController(), failure = "";

	function open() {
		abort.abort();
		abort = new AbortController();
		const { signal } = abort;
		messageClear(failure);
		read(new StreamInput(signal), signal).catch((error) => {
			if (signal.aborted)
				return;
			abort.abort(); // its connection may be open still
			failure = error.message;
			message(failure, true);
		});
	}
	const stop = listenForStarts(vm, open);
	open();
	return () => {
		stop();
		abort.abort();
	};
}
