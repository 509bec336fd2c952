/* cairn-net: make, change and remove one network of the host: bridge, addresses, NAT and filters, and dnsmasq in a
 * namespace of its own. cairnd runs it for each operation; docs/networks.md describes its input and output.
 *
 * Reads one JSON object from standard input, and writes one to standard output: {"return": …}, or {"error": {"class",
 * "desc"}} with exit status 1. It keeps no state of its own: everything that belongs to a network is found by names
 * made from its UUID, so `down` also removes the parts that a killed `up` has left. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/net/egress_rules.h"
#include "tools/net/operation.h"
#include "tools/net/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#define INPUT_MAX (1 * MIB)
#define NETNS "/proc/self/ns/net"
#define LOCK "/proc/sys/net/ipv4/tcp_fastopen_key"

static const struct verb_row {
	int (*run)(struct operation *, struct err *);
	bool rules;  /* needs nftables and CAP_NET_ADMIN */
	const char *notes; /* name of the array in the answer */
} verbs[] = {
	[VERB_UP] = { network_up, true, "notes" },
	[VERB_DOWN] = { network_down, true, "removed" },
	[VERB_UPDATE] = { network_update, true, "notes" },
	[VERB_LEASES] = { network_leases, false, NULL },
	[VERB_CHECK] = { network_check, true, "missing" },
	[VERB_FREE] = { network_free, false, NULL },
	[VERB_PORT_UP] = { network_port_up, true, "notes" },
	[VERB_PORT_DOWN] = { network_port_down, true, "notes" },
	[VERB_PORT_RESERVE] = { network_port_reserve, true, "notes" },
	[VERB_DENIED] = { network_denied, false, NULL },
	[VERB_BLOCKED] = { network_blocked, false, "notes" },
};

/* One operation at a time in a network namespace: they share uplinks and the chains of other firewalls. Each user of
 * the host may open the file of the namespace itself, and could keep a lock of it; so the lock is on a file that each
 * namespace has, and that only root may open. */
static int lock_take(int *ret, struct err *e)
{
	*ret = open(LOCK, O_RDONLY | O_CLOEXEC);
	if (*ret < 0 && errno == ENOENT)
		*ret = open(NETNS, O_RDONLY | O_CLOEXEC);
	return *ret < 0 || flock(*ret, LOCK_EX) < 0 ? err_set_errno(e, -errno, LOCK) : 0;
}

static int operation_run(struct operation *o, struct err *e)
{
	const struct verb_row *v = &verbs[o->req->verb];
	CLEANUP_CLOSE int lock = -1;
	int r = v->rules ? privileges_check(e) : 0;

	if (!r && v->rules)
		r = lock_take(&lock, e);
	if (!r)
		r = links_open(&o->links, e);
	if (!r && v->rules) {
		o->nft = nft_open(e);
		r = o->nft ? 0 : -EIO;
	}
	return r ? r : v->run(o, e);
}

static int answer_print(struct json_object *answer, int r, const struct err *e)
{
	struct json_object *out = r < 0 ? js_error(err_class_name(e->cls), e->msg) : json_object_new_object();

	if (r >= 0)
		js_put(out, "return", json_object_get(answer));
	puts(json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN));
	json_object_put(out);
	return fflush(stdout) || r < 0;
}

int main(void)
{
	CLEANUP_JS struct json_object *answer = json_object_new_object();
	struct request *req = must_alloc(calloc(1, sizeof(*req)));
	struct operation o = { .req = req, .answer = answer };
	CLEANUP_FREE char *text = NULL;
	struct err e = { 0 };
	size_t len;
	int r = program_begin(&e);

	if (!r)
		r = privileges_drop(&e);
	if (!r)
		r = file_read_fd(0, "the request", INPUT_MAX, &text, &len, &e);
	if (!r)
		r = request_parse(text, len, req, &e);
	if (!r && verbs[req->verb].notes)
		js_put(answer, verbs[req->verb].notes, o.notes = json_object_new_array());
	if (!r)
		r = operation_run(&o, &e);
	nft_close(o.nft);
	links_close(o.links);
	r = answer_print(answer, r, &e);
	request_done(req);
	free(req);
	return r;
}
