// The start of the page: login, and the view that the address names.
import { followEvents, listen, login, logout, LoginNeeded, reloadAtLogins, session } from "./daemon.js";
import { act, element, message } from "./element.js";
import { showHost } from "./host.js";
import { showList } from "./list.js";
import { showLogin } from "./login.js";
import { showNew } from "./new.js";
import { showVm } from "./vm.js";

const SESSION_MS = 60000; // a session in whose visible tab nobody does anything stays in use

const main = document.getElementById("main");
const logoutButton = document.getElementById("logout");
const userName = document.getElementById("user");
let viewEnd = null;
let loginCount = 0; // of the login that the page shows
let isIn = false;
let lost = false;

function leave() {
	isIn = false;
	loginCount++;
	viewEnd?.();
	viewEnd = null;
	logoutButton.hidden = userName.hidden = true;
	document.title = "Cairn";
	message("");
}

async function loginNeeded() {
	leave();
	const count = loginCount;
	const { login: kind } = await session().catch(() => ({}));
	if (count !== loginCount)
		return;
	if (kind === "password")
		showLogin(main, enter);
	else
		main.replaceChildren(element("p", {}, "Log in: run cairn web, and open the address that it prints."));
}

// Return the name in an address. What is no encoded name names itself, so its view says that there is no such VM.
function nameDecode(text) {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}

function show() {
	if (!isIn)
		return;
	viewEnd?.();
	message("");
	scrollTo(0, 0);
	const vm = location.hash.match(/^#\/vm\/(.+)$/), name = vm && nameDecode(vm[1]);
	const [title, view] = { "#/host": ["Host", showHost], "#/new": ["New VM", showNew] }[location.hash] ?? [name, showList];
	document.title = title ? `${title} - Cairn` : "Cairn";
	viewEnd = vm ? showVm(main, name) : view(main);
}

function enter() {
	const count = ++loginCount;
	isIn = true;
	logoutButton.hidden = false;
	show();
	session().then(({ user }) => {
		userName.textContent = user || "";
		userName.hidden = !user || count !== loginCount;
	}).catch(() => {});
	followEvents((error) => {
		if (error instanceof LoginNeeded) {
			loginNeeded();
		} else {
			lost = true;
			message(error.message, true);
		}
	}, () => count !== loginCount);
}

async function begin() {
	history.scrollRestoration = "manual"; // showList() scrolls, once it has the rows
	logoutButton.addEventListener("click", () => act(logoutButton, async () => {
		await logout();
		loginNeeded();
	}));
	addEventListener("hashchange", () => {
		show();
		main.focus({ preventScroll: true }); // Tab goes on in the new view
	});
	reloadAtLogins();
	setInterval(() => document.hidden || !isIn || session().catch(() => {}), SESSION_MS);
	listen(() => {
		if (lost)
			message("");
		lost = false;
	});
	const token = location.hash.match(/^#token=([0-9a-f]+)$/);
	if (token) {
		history.replaceState(null, "", "/");
		try {
			await login(token[1]);
		} catch (error) {
			await loginNeeded();
			message(error.message, true);
			return;
		}
	}
	enter();
}

begin();
