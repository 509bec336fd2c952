#include "api/net/network_blocked.h"
#include "api/definition/definition.h"
#include "api/net/network.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <stdlib.h>
#include <string.h>

#define VERB "blocked"
#define NAMES_MAX 4096 /* bytes of a file of the kernel's */

struct asking {
	struct network *network;
	network_done *done; /* NULL: nobody waits */
	void *opaque;
};

/* Return whether the host may have rules that drop: few hosts have, so the others start no process. */
static bool host_has_tables(void)
{
	static const char *const files[] = { "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names" };

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		CLEANUP_FREE char *text = NULL;
		size_t len;

		if (file_read(files[i], NAMES_MAX, &text, &len, NULL) == 0 && strstr(text, "filter"))
			return true;
	}
	return false;
}

/* notes: borrowed; NULL or empty: nothing is blocked. */
static void notes_take(struct network *n, struct json_object *notes)
{
	size_t count = notes ? json_object_array_length(notes) : 0;

	if (count ? json_object_equal(notes, n->blocked) : !n->blocked)
		return;
	json_object_put(STEAL_PTR(n->blocked));
	if (count)
		n->blocked = json_object_get(notes);
	for (size_t i = 0; i < count; i++)
		network_state_emit(n, json_object_get_string(json_object_array_get_idx(notes, i)));
	if (!count)
		network_state_emit(n, "no rules of iptables-legacy drop its packets any more");
}

static void told(void *opaque, int r, struct json_object *answer, const struct err *e)
{
	struct asking a = *(struct asking *)opaque;

	free(opaque);
	if (!r && a.network->state == NETWORK_ACTIVE) /* after an error, the network may be gone */
		notes_take(a.network, js_get_array(answer, "notes"));
	if (a.done)
		a.done(a.opaque, r, answer, e);
}

int network_blocked_ask(struct network *n, network_done *done, void *opaque)
{
	struct asking *a;
	struct err e;
	int r;

	if (n->state != NETWORK_ACTIVE || n->live->mode == NETWORK_BRIDGE || network_is_direct(n->live))
		return 0;
	if (!host_has_tables()) {
		notes_take(n, NULL);
		return 0;
	}
	a = must_alloc(malloc(sizeof(*a)));
	*a = (struct asking){ n, done, opaque };
	r = network_query(n, VERB, NULL, told, a, &e);
	if (r < 0)
		free(a);
	return r < 0 ? r : 1;
}

void network_blocked_update(struct network *n)
{
	if (!network_query_runs(n, VERB))
		network_blocked_ask(n, NULL, NULL);
}

static void update_at_start(struct vm *vm)
{
	const struct definition *d = vm_live(vm);

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		struct network *n = d->interfaces[i].type == DEFINITION_NETWORK ? network_find_name(vm->host, d->interfaces[i].source) : NULL;

		if (n)
			network_blocked_update(n);
	}
}

const struct vm_observer network_blocked_observer = { .started = update_at_start };
