/* ssh: run ssh(1) over vsock port 22 of the guest, or over the network if the guest does not listen there. */
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/address.h"
#include "tools/cairn/change.h"
#include "tools/cairn/cli.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SSH_PORT 22
#define PROXY_BYTES 8192
#define OPTION_BYTES 128

/* ---- the address of a guest ---- */

struct target {
	char address[ADDRESS_TEXT];
	int port;
};

/* Look for an address that dnsmasq of the interface's network has given. Returns whether there is one. */
static bool lease_find(struct cli *c, struct json_object *interface, char text[ADDRESS_TEXT])
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *args = json_object_new_object();
	struct err e;

	js_put_str(args, "network", js_get_str(interface, "source"));
	js_put_str(args, "mac", js_get_str(interface, "mac"));
	if (cli_fetch_all(c, "net-dhcp-leases", args, "leases", "from", &all, NULL, &e) < 0 || !json_object_array_length(all))
		return false;
	snprintf(text, ADDRESS_TEXT, "%s", js_get_str_or(json_object_array_get_idx(all, 0), "address", ""));
	return *text;
}

/* Look whether an address leads to this host. A guest that names one would get the user's commands run here. */
static bool is_of_this_host(const char *text)
{
	struct in6_addr a6 = IN6ADDR_LOOPBACK_INIT;
	struct in_addr a4 = { 0 };
	bool is_v4 = inet_pton(AF_INET, text, &a4) == 1, found = is_v4 && !a4.s_addr;
	struct ifaddrs *all;

	if (!is_v4 && (inet_pton(AF_INET6, text, &a6) != 1 || IN6_IS_ADDR_UNSPECIFIED(&a6) || IN6_IS_ADDR_V4MAPPED(&a6)))
		return true;
	if (getifaddrs(&all) < 0)
		return true;
	for (struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
		if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && is_v4)
			found = ((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr == a4.s_addr;
		else if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET6 && !is_v4)
			found = !memcmp(&((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr, &a6, sizeof(a6));
	}
	freeifaddrs(all);
	return found;
}

/* Look for a port of this host that is forwarded to the guest's SSH server. Returns whether there is one. */
static bool forward_find(struct json_object *interface, struct target *ret)
{
	struct json_object *list = js_get_array(interface, "forwards");

	for (size_t i = 0; list && i < json_object_array_length(list) && strcmp(js_get_str_or(interface, "link", "up"), "up") == 0; i++) {
		struct json_object *f = json_object_array_get_idx(list, i);
		const char *address = js_get_str_or(f, "address", "127.0.0.1");

		if (js_get_int(f, "to", 0) != SSH_PORT || strcmp(js_get_str_or(f, "protocol", "tcp"), "tcp") != 0)
			continue;
		/* Open at all addresses of the host. */
		if (!strcmp(address, "0.0.0.0"))
			address = "127.0.0.1";
		else if (!strcmp(address, "::"))
			address = "::1";
		snprintf(ret->address, sizeof(ret->address), "%s", address);
		ret->port = (int)js_get_int(f, "port", 0);
		return true;
	}
	return false;
}

/* Ask the guest's agent for the address of one of these interfaces. */
static bool agent_find(struct cli *c, const char *vm, struct json_object *interfaces, char text[ADDRESS_TEXT])
{
	CLEANUP_JS struct json_object *all = NULL, *kept = json_object_new_array();
	struct err e;

	if (!json_object_array_length(interfaces) || addresses_ask(c, vm, &all, &e) < 0)
		return false;
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (change_find(interfaces, "mac", js_get_str_or(o, "mac", "")) >= 0)
			json_object_array_add(kept, json_object_get(o));
	}
	return address_pick(kept, text) && !is_of_this_host(text);
}

/* Find an address and a port under which this host reaches the guest's SSH server: a clone's address or a lease, else a
 * published port, else an address that the agent tells. Guests of user networks have no address for the host.
 * Returns 0; -ENOENT. */
static int target_find(struct cli *c, const char *vm, struct target *ret, struct err *e)
{
	CLEANUP_JS struct json_object *all = NULL, *info = NULL, *usable = json_object_new_array();
	unsigned prefix;
	int r = change_read_list(c, vm, "interfaces", &all, e);
	size_t n = all ? json_object_array_length(all) : 0;

	ret->port = SSH_PORT;
	if (!r)
		r = cli_execute(c, "vm-info", cli_vm_args(vm), &info, NULL, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		const char *type = js_get_str_or(o, "type", "");

		/* The guest of a live clone knows its source's address only. */
		if (address_of_clone(info, js_get_str_or(o, "id", ""), ret->address, &prefix))
			return 0;
		if (!strcmp(type, "network") && lease_find(c, o, ret->address))
			return 0;
		if (strcmp(type, "user") != 0)
			json_object_array_add(usable, json_object_get(o));
	}
	for (size_t i = 0; i < n; i++)
		if (forward_find(json_object_array_get_idx(all, i), ret))
			return 0;
	return agent_find(c, vm, usable, ret->address) ? 0 : -ENOENT;
}

/* ---- ssh ---- */

/* Append a word for the shell that runs the ProxyCommand, in which ssh expands % sequences. */
static void word_add(char *text, size_t cap, const char *word)
{
	size_t n = strlen(text);

	n += (size_t)snprintf(text + n, cap - n, "%s'", n ? " " : "");
	for (; *word && n + 8 < cap; word++)
		n += (size_t)snprintf(text + n, cap - n, *word == '\'' ? "'\\''" : *word == '%' ? "%%%%" : "%c", *word);
	snprintf(text + n, cap - n, "'");
}

static int proxy_make(const struct cli *c, const char *vm, char text[PROXY_BYTES], struct err *e)
{
	char program[PATH_MAX];
	int n, r = paths_self(program, e);

	if (r < 0)
		return r;
	n = snprintf(text, PROXY_BYTES, "ProxyCommand=");
	word_add(text + n, PROXY_BYTES - (size_t)n, program);
	if (c->socket) {
		word_add(text + n, PROXY_BYTES - (size_t)n, "-c");
		word_add(text + n, PROXY_BYTES - (size_t)n, c->socket);
	}
	word_add(text + n, PROXY_BYTES - (size_t)n, "vsock");
	word_add(text + n, PROXY_BYTES - (size_t)n, "--");
	word_add(text + n, PROXY_BYTES - (size_t)n, vm);
	word_add(text + n, PROXY_BYTES - (size_t)n, "22");
	return 0;
}

/* host: a name that ssh's own configuration may match; VMs' names may have blanks. options: NULL at the end. */
static int ssh_become(struct cli *c, const char *user, const char *host, const char *const *options, struct err *e)
{
	const char *argv[CLI_POSITIONALS_MAX + 24];
	size_t n = 0;

	argv[n++] = "ssh";
	for (; *options; options++) {
		argv[n++] = "-o";
		argv[n++] = *options;
	}
	if (user) {
		argv[n++] = "-l";
		argv[n++] = user;
	}
	argv[n++] = "--";
	argv[n++] = host;
	for (size_t i = 1; i < c->npos; i++)
		argv[n++] = c->pos[i];
	argv[n] = NULL;
	execvp("ssh", (char **)(uintptr_t)argv);
	return err_set(e, -errno, ERR_HOST, "cannot run ssh: %s; install OpenSSH's client", strerror(errno));
}

/* No other party can answer on vsock, and a clone has its source's key or a new one: the key is not checked. */
static int ssh_over_vsock(struct cli *c, const char *user, const char *vm, struct err *e)
{
	char proxy[PROXY_BYTES];
	int r = proxy_make(c, vm, proxy, e);

	return r < 0 ? r : ssh_become(c, user, "cairn-vsock", (const char *const[]){ proxy, "HostKeyAlias=cairn-vsock",
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", NULL }, e);
}

/* Other guests of the network can answer in its place, so the key must be the one of the first connection. Addresses
 * change, and names of VMs are used again: ssh keeps the key by the VM's UUID. */
static int ssh_by_network(struct cli *c, const char *user, const char *vm, const struct target *to, struct err *e)
{
	char host[OPTION_BYTES], alias[OPTION_BYTES], port[OPTION_BYTES];
	CLEANUP_JS struct json_object *info = NULL;
	int r = cli_vm_info(c, vm, &info, e);

	if (r < 0)
		return r;
	snprintf(host, sizeof(host), "HostName=%s", to->address);
	snprintf(port, sizeof(port), "Port=%d", to->port);
	snprintf(alias, sizeof(alias), "HostKeyAlias=cairn-%s", js_get_str_or(info, "uuid", vm));
	return ssh_become(c, user, "cairn-network", (const char *const[]){ host, alias, "StrictHostKeyChecking=accept-new",
		"LogLevel=ERROR", to->port != SSH_PORT ? port : NULL, NULL }, e);
}

/* Look whether the guest listens: ssh would hide the reason behind a line of its own. */
static int vsock_probe(struct cli *c, const char *vm, struct err *e)
{
	struct json_object *args = cli_vm_args(vm);
	CLEANUP_CLOSE int sock = -1;

	js_put_int(args, "port", SSH_PORT);
	return cli_execute(c, "vsock-connect", args, NULL, &sock, e);
}

int verb_ssh(struct cli *c)
{
	const char *at = strchr(c->pos[0], '@'), *vm = at ? at + 1 : c->pos[0];
	CLEANUP_FREE char *user = at ? must_alloc(strndup(c->pos[0], (size_t)(at - c->pos[0]))) : NULL;
	struct target to;
	struct err e, other;
	int r = vsock_probe(c, vm, &e);

	if (!r)
		ssh_over_vsock(c, user, vm, &e);
	else if (e.cls != ERR_WRONG_STATE && e.cls != ERR_PERMISSION && target_find(c, vm, &to, &other) == 0)
		ssh_by_network(c, user, vm, &to, &e);
	return cli_fail(&e, "Failed to connect to domain '%s'", vm);
}
