// The daemon, through the server of this page.

const KEY = "cairn-key";

// The key of the session that this tab shows. Another tab may have begun another one since, even of another user: the
// cookie is then that one's, so requests of this tab are refused.
let key = localStorage.getItem(KEY) || "";

export class LoginNeeded extends Error {}

export async function request(method, path, body, signal) {
	let answer;
	try {
		answer = await fetch(path, { method, body, signal, headers: { "X-Cairn-Key": key } });
	} catch {
		throw new Error("cairn web does not answer; start it again and open the address that it prints");
	}
	if (answer.status === 401) {
		reloadIfOld();
		throw new LoginNeeded(await answer.text());
	}
	if (!answer.ok)
		throw new Error(await answer.text());
	return answer;
}

// secret: the token of an address, or a user and a password on two lines.
export async function login(secret) {
	key = (await (await request("POST", "/login", secret)).json()).key;
	localStorage.setItem(KEY, key);
}

// Begin anew if another tab has begun or ended a session.
function reloadIfOld() {
	if ((localStorage.getItem(KEY) || "") !== key)
		location.reload();
}

// Do that at once when another tab does so.
export function reloadAtLogins() {
	addEventListener("storage", reloadIfOld);
}

// Returns { login: "address" or "password", user: who has logged in with a password }.
export async function session() {
	return (await request("GET", "/session")).json();
}

export async function logout() {
	await request("POST", "/logout");
	key = "";
	localStorage.removeItem(KEY);
}

function result(answer) {
	if (answer.error)
		throw Object.assign(new Error(answer.error.desc), { class: answer.error.class });
	return answer.return;
}

async function post(path, name, args) {
	return (await request("POST", path, JSON.stringify({ execute: name, arguments: args }))).json();
}

// Run a command of the daemon, as docs/api.md describes it.
export async function execute(name, args = {}) {
	return result(await post("/api", name, args));
}

const WAIT_S = 3;

// Run a command whose end the state of a VM shows, such as a start, which a hook may delay for an hour. Wait for its end only
// a while, so that it does not keep a connection of the browser; then it continues. Returns whether it has ended.
export async function executeAwhile(name, args) {
	const answer = await post(`/api?seconds=${WAIT_S}`, name, args);
	result(answer);
	return !answer.pending;
}

const EACH_MAX = 64; // commands in one request

// Run one command for each of the arguments. A failure gives null.
export async function executeEach(name, listOfArgs) {
	const all = [];
	for (let i = 0; i < listOfArgs.length; i += EACH_MAX) {
		const body = JSON.stringify(listOfArgs.slice(i, i + EACH_MAX).map((args) => ({ execute: name, arguments: args })));
		const answers = await (await request("POST", "/api", body)).json();
		result(answers); // the daemon does not answer
		all.push(...answers.map((a) => a.return || null));
	}
	return all;
}

// Fetch all pages of a list.
export async function executePages(name, member, key, args = {}) {
	const all = [];
	for (let next; ;) {
		const page = await execute(name, next === undefined ? args : { ...args, [key]: next });
		all.push(...page[member]);
		next = page.next;
		if (next === undefined || next === null)
			return all;
	}
}

// Return whether the user may define new VMs. An older daemon does not say so, and refuses.
export async function mayDefine() {
	return (await execute("vm-list", { brief: true, limit: 1 }))["may-define"] ?? true;
}

const ROLES = ["viewer", "guest", "operator", "admin"];

// Return whether the user's role for a VM, of vm-info, is at least this one. An older daemon does not tell the role, and refuses.
export function hasRole(info, role) {
	return info.role === undefined || ROLES.indexOf(info.role) >= ROLES.indexOf(role);
}

// Fetch all jobs. An empty page ends their list; if the last job of a page was dismissed meanwhile, the list begins anew.
export async function executeJobs() {
	const all = [];
	for (;;) {
		let page;
		try {
			page = await execute("query-jobs", all.length ? { after: all.at(-1).id } : {});
		} catch (error) {
			if (error.class !== "NotFound")
				throw error;
			return executeJobs();
		}
		if (!page.length)
			return all;
		all.push(...page);
	}
}

// A browser has six connections to a server for all tabs together, and answers without an end keep theirs. So tabs in
// the background have none, and the others together this many.
const STREAMS_MAX = 4;
const PLACE_TRIES = 10, PLACE_MS = 200;

// Hold a lock of the browser's tabs until the signal. Returns whether it was free.
function lockTake(name, signal) {
	return new Promise((resolve, reject) => {
		navigator.locks.request(name, { ifAvailable: true }, (lock) => {
			resolve(lock !== null);
			return lock && !signal.aborted && new Promise((release) => { signal.addEventListener("abort", release); });
		}).catch(reject);
	});
}

// Hold one of the places for a stream until the signal. Returns whether there was one. A tab that goes into the background
// frees its places a moment after another one is shown.
async function placeTake(signal) {
	for (let i = 0; i < PLACE_TRIES; i++) {
		for (let place = 0; place < STREAMS_MAX; place++)
			if (await lockTake(`cairn-stream-${place}`, signal))
				return true;
		await new Promise((resolve) => setTimeout(resolve, PLACE_MS));
	}
	return false;
}

// Request an answer without an end. The signal ends it, and must come also when it has ended by itself.
export async function openStream(path, signal) {
	if (!await placeTake(signal))
		throw new Error(`The windows of this browser follow ${STREAMS_MAX} lists, VMs, consoles and screens, which is the most; close one.`);
	return request("GET", path, undefined, signal);
}

const listeners = new Set();

// Call listener(event) for each event, and listener(null) when events may have been missed. Returns a function that
// ends that.
export function listen(listener) {
	listeners.add(listener);
	return () => listeners.delete(listener);
}

export const OFF = ["shutoff", "saved", "crashed"];

// Call listener() when the VM has started: its console and its screen are new. Returns a function that ends that.
export function listenForStarts(vm, listener) {
	return listen((event) => {
		if (event?.event === "VM_STATE_CHANGE" && event.data.vm === vm && OFF.includes(event.data.from) && !OFF.includes(event.data.state))
			listener();
	});
}

async function readEvents(signal) {
	const answer = await openStream("/events", signal);
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	for (;;) {
		const { done, value } = await reader.read();
		if (done)
			return;
		const lines = (rest + value).split("\n");
		rest = lines.pop();
		for (const line of lines) {
			const event = JSON.parse(line);
			for (const listener of [...listeners])
				listener(event.event ? event : null);
		}
	}
}

function visibility(hidden) {
	return new Promise((resolve) => {
		const look = () => {
			if (document.hidden !== hidden)
				return;
			document.removeEventListener("visibilitychange", look);
			resolve();
		};
		document.addEventListener("visibilitychange", look);
		look();
	});
}

// Follow the daemon's events until a login is needed, or isOver(). failed(error) is told when they end. A tab in the
// background follows none.
export async function followEvents(failed, isOver) {
	for (;;) {
		await visibility(false);
		if (isOver())
			return;
		const abort = new AbortController();
		visibility(true).then(() => abort.abort());
		try {
			await readEvents(abort.signal);
			failed(new Error("The connection to the daemon has ended."));
		} catch (error) {
			if (abort.signal.aborted)
				continue;
			if (isOver())
				return;
			failed(error);
			if (error instanceof LoginNeeded)
				return;
		} finally {
			abort.abort();
		}
		await new Promise((resolve) => setTimeout(resolve, 2000));
	}
}
