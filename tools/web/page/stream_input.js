// What the page sends to a stream of the guest: a console's keys, or messages of a screen. One request at a time.
import { request } from "./daemon.js";
import { message } from "./element.js";

export class StreamInput {
	constructor() {
		this.id = crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 32);
		this.waiting = [];
		this.sending = false;
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
