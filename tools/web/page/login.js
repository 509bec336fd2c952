// The form to log in with a password.
import { login } from "./daemon.js";
import { act, element } from "./element.js";

// done() is called after a login.
export function showLogin(main, done) {
	const user = element("input", { name: "user", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: false });
	const password = element("input", { name: "password", type: "password", autocomplete: "current-password" });
	const button = element("button", { type: "submit" }, "Log in");
	const form = element("form", {
		className: "login",
		onsubmit: (event) => {
			event.preventDefault();
			act(button, async () => {
				try {
					await login(`${user.value}\n${password.value}`);
				} finally {
					password.value = "";
				}
				done();
			});
		},
	}, element("h2", {}, "Log in"), element("label", {}, "User of this host", user), element("label", {}, "Password", password), button);
	main.replaceChildren(form);
	user.focus();
}
