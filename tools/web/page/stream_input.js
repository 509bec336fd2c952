// What the page sends to a stream of the guest: a console's keys, or messages of a screen. One request at a time.
import { listenForStarts, request } from "./daemon.js";
import { message } from "./element.js";

export class StreamInput {
	constructor() {
		this.sending = false;
		this.renew();
	}

	// Begin with a new stream, and drop what the old one has not got.
	renew() {
		this.id = crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 32);
		this.waiting = [];
	}

	// data: a text or bytes.
	send(data) {
		this.waiting.push(data);
		if (!this.sending)
			this.run();
	}

	async run() {
		this.sending = true;
		try {
			while (this.waiting.length)
				await request("POST", `/console?id=${this.id}`, new Blob(this.waiting.splice(0)));
		} catch (error) {
			message(error.message, true);
		}
		this.sending = false;
	}
}

// Open a stream of the guest now, and again when the VM starts. read(signal) reads one to its end. Returns a function that
// ends that.
export function openStreams(vm, input, read) {
	let abort = new AbortController();

	function open() {
		abort.abort();
		abort = new AbortController();
		const { signal } = abort;
		input.renew();
		read(signal).catch((error) => signal.aborted || message(error.message, true));
	}
	const stop = listenForStarts(vm, open);
	open();
	return () => {
		stop();
		abort.abort();
	};
}
