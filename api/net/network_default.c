#include "api/net/network_default.h"
#include "api/net/network.h"
#include "api/net/network_process.h"
#include "api/store/store.h"
#include "api/vm/vm_host.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define NAME "default"
#define ADDRESS "192.168.122.1"
#define PREFIX 24
/* The file says that the network was defined once: an admin may have undefined it since. */
#define MARK_FILE "networks.json"
#define TIMEOUT_NS (5 * 1000000000ULL)

struct asked {
	bool over;
	char address[INET_ADDRSTRLEN];
};

static void address_answered(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct asked *a = opaque;
	const char *address = js_get_str(answer, "address");

	a->over = true;
	if (!r && address && js_get_int(answer, "prefix", 0) == PREFIX)
		snprintf(a->address, sizeof(a->address), "%.*s", (int)sizeof(a->address) - 1, address);
	else
		log_warn("network", "network '" NAME "' gets the address " ADDRESS ", which may be in use: %s", r ? e->msg : "no address is free");
}

/* Ask cairn-net for an address whose network is free. */
static void address_ask(struct vm_host *host, struct asked *a)
{
	CLEANUP_JS struct json_object *request = json_object_new_object();
	struct network_process *p = NULL;
	struct err e;

	js_put_str(request, "verb", "free");
	if (network_process_start(host->loop, host->paths->net_program, request, TIMEOUT_NS, address_answered, a, &p, &e) < 0) {
		log_warn("network", "%s", e.msg);
		return;
	}
	while (!a->over)
		loop_run_once(host->loop, UINT64_MAX);
}

/* Return the definition, with addresses for guests from .2 to .254, owned by the caller. */
static struct json_object *definition_make(const char *address)
{
	struct json_object *o = json_object_new_object(), *ipv4 = json_object_new_object(), *dhcp = json_object_new_object(),
			   *ranges = json_object_new_array(), *range = json_object_new_object();
	int net = (int)(strrchr(address, '.') - address);
	char text[INET_ADDRSTRLEN];

	snprintf(text, sizeof(text), "%.*s.2", net, address);
	js_put_str(range, "start", text);
	snprintf(text, sizeof(text), "%.*s.254", net, address);
	js_put_str(range, "end", text);
	json_object_array_add(ranges, range);
	js_put(dhcp, "ranges", ranges);
	js_put_str(ipv4, "address", address);
	js_put_int(ipv4, "prefix", PREFIX);
	js_put(ipv4, "dhcp", dhcp);
	js_put_str(o, "name", NAME);
	js_put_str(o, "mode", "nat");
	js_put(o, "ipv4", ipv4);
	return o;
}

void network_default_define(struct vm_host *host)
{
	CLEANUP_JS struct json_object *o = NULL, *mark = NULL;
	struct asked a = { .address = ADDRESS };
	struct network_definition *d = NULL;
	struct network *n;
	bool created;
	struct err e;
	int r;

	if (!host->paths->system || store_has_side_file(host->store, MARK_FILE))
		return;
	if (!network_find_name(host, NAME)) {
		address_ask(host, &a);
		o = definition_make(a.address);
		r = network_definition_parse(o, &d, &e);
		if (!r)
			r = network_complete(host, d, &e);
		if (!r)
			r = network_define(host, d, false, &n, &created, &e);
		if (r < 0) {
			log_warn("network", "network '" NAME "' cannot be defined: %s", e.msg);
			network_definition_free(d);
			return;
		}
		log_info("network", "network '" NAME "' is defined; to start it: cairn net-start " NAME);
	}
	mark = json_object_new_object();
	if (store_put(host->store, NULL, MARK_FILE, mark, STORE_SOON, NULL, &e) < 0)
		log_warn("network", "%s", e.msg);
}
