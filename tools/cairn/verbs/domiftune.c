/* domiftune, domif-setlink and domif-getlink: limits and link of a network interface, with virsh's words. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "tools/cairn/change.h"
#include "tools/cairn/interface.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int interface_missing(const char *vm, const char *which, struct err *e)
{
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%s' has no interface '%s'. Next: cairn domiflist %s", vm, which, shell_word(vm).s);
}

/* Get the interface as the running VM, or as the definition has it. The caller owns *ret. Returns 0 or -errno. */
static int interface_get(struct cli *c, bool live, struct json_object **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	struct json_object *found;
	int r = live ? cli_vm_info(c, c->pos[0], &o, e) : change_read(c, c->pos[0], &o, e);

	if (r < 0)
		return r;
	if (live && !js_get_array(o, "interfaces"))
		return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s; use --config. Next: cairn start %s", c->pos[0],
			cli_vm_state(o), shell_word(c->pos[0]).s);
	found = interface_find(js_get_array(o, "interfaces"), c->pos[1]);
	if (!found)
		return interface_missing(c->pos[0], c->pos[1], e);
	*ret = json_object_get(found);
	return 0;
}

/* ---- the changes ---- */

#define DIRECTIONS 2

static const char *const directions[DIRECTIONS] = { "inbound", "outbound" };

struct wish {
	const char *link;	      /* NULL: no change */
	const char *rates[DIRECTIONS]; /* "AVERAGE[,PEAK[,BURST]]"; NULL: no change */
	const char *packets[DIRECTIONS];
};

/* Parse a number of at most UINT32_MAX. Returns -1 for other texts. */
static int64_t number_of(const char *text)
{
	char *end;
	long long n;

	if (!*text || *text < '0' || *text > '9')
		return -1;
	n = strtoll(text, &end, 10);
	return *end || n > UINT32_MAX ? -1 : n;
}

static void number_set(struct json_object *limit, const char *key, int64_t n)
{
	json_object_object_del(limit, key);
	if (n)
		js_put_int(limit, key, n);
}

/* Set average, peak and burst from "1000,2000,512"; those that are not given become 0, as with virsh. */
static int rates_set(struct cli *c, const char *option, const char *text, struct json_object *limit)
{
	static const char *const keys[] = { "average", "peak", "burst" };
	char copy[64], *rest = copy;
	int64_t n[3] = { 0 };
	size_t i = 0;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *part; (part = strsep(&rest, ",")); i++) {
		int64_t value = *part || !i ? number_of(part) : 0;

		if (i == ARRAY_SIZE(keys) && value == 0)
			continue; /* virsh's floor */
		if (i >= ARRAY_SIZE(keys) || value < 0 || strlen(text) >= sizeof(copy))
			return cli_usage(c, "--%s must be AVERAGE[,PEAK[,BURST]] in KiB a second and KiB, such as 1000,2000,512, not \"%s\"",
				option, text);
		n[i] = value;
	}
	for (i = 0; i < ARRAY_SIZE(keys); i++)
		number_set(limit, keys[i], n[0] ? n[i] : 0);
	return 0;
}

/* Change the limits of one direction. Returns 0; CLI_USAGE after an error message. */
static int limit_change(struct cli *c, const struct wish *w, unsigned direction, struct json_object *limit)
{
	int64_t packets = w->packets[direction] ? number_of(w->packets[direction]) : 0;

	if (packets < 0)
		return cli_usage(c, "--%s-packets must be a number of packets a second, or 0 for no limit, not \"%s\"",
			directions[direction], w->packets[direction]);
	if (w->packets[direction])
		number_set(limit, "packets", packets);
	return w->rates[direction] ? rates_set(c, directions[direction], w->rates[direction], limit) : 0;
}

/* Change the interface's link and its `bandwidth`. Returns 0; CLI_USAGE after an error message. */
static int interface_change(struct cli *c, const struct wish *w, struct json_object *interface)
{
	struct json_object *bandwidth = js_get(interface, "bandwidth");
	int r = 0;

	if (!bandwidth) {
		bandwidth = json_object_new_object();
		js_put(interface, "bandwidth", bandwidth);
	}
	if (w->link)
		js_put_str(interface, "link", w->link);
	for (unsigned i = 0; i < DIRECTIONS && !r; i++) {
		struct json_object *limit = js_get(bandwidth, directions[i]);

		if (!limit) {
			limit = json_object_new_object();
			js_put(bandwidth, directions[i], limit);
		}
		r = limit_change(c, w, i, limit);
	}
	return r;
}

/* Apply the change to the running VM. Returns 0; -errno; CLI_USAGE after an error message. */
static int live_set(struct cli *c, const struct wish *w, struct err *e)
{
	CLEANUP_JS struct json_object *interface = NULL, *answer = NULL;
	struct json_object *args;
	int r = interface_get(c, true, &interface, e);

	if (!r)
		r = interface_change(c, w, interface);
	if (r)
		return r;
	args = cli_vm_args(c->pos[0]);
	js_put_str(args, "interface", js_get_str(interface, "id"));
	js_put_str(args, "link", w->link);
	for (unsigned i = 0; i < DIRECTIONS; i++)
		if (w->rates[i] || w->packets[i])
			js_put(args, directions[i], json_object_get(js_get(js_get(interface, "bandwidth"), directions[i])));
	return cli_execute(c, "vm-set-interface", args, &answer, NULL, e);
}

static int config_edit(struct cli *c, struct json_object *definition, void *opaque, struct err *e)
{
	struct json_object *found = interface_find(js_get_array(definition, "interfaces"), c->pos[1]);

	if (!found)
		return interface_missing(c->pos[0], c->pos[1], e);
	return interface_change(c, opaque, found);
}

/* Returns 0; -errno; CLI_USAGE after an error message. */
static int wish_apply(struct cli *c, struct wish *w, const struct place *p, struct err *e)
{
	int r = p->live ? live_set(c, w, e) : 0;

	return !r && p->config ? change_make_config(c, c->pos[0], p->live, config_edit, w, e) : r;
}

/* ---- domiftune ---- */

static void limit_print(struct json_object *bandwidth, const char *direction)
{
	static const char *const keys[] = { "average", "peak", "burst", "packets" };
	struct json_object *limit = js_get(bandwidth, direction);
	char name[32];

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		snprintf(name, sizeof(name), "%s.%s", direction, keys[i]);
		printf("%-16s: %lld\n", name, (long long)js_get_int(limit, keys[i], 0));
	}
}

static int limits_show(struct cli *c, const struct place *p, struct err *e)
{
	CLEANUP_JS struct json_object *interface = NULL, *none = json_object_new_object();
	struct json_object *bandwidth;
	int r = interface_get(c, p->live, &interface, e);

	if (r < 0)
		return r;
	bandwidth = js_get(interface, "bandwidth");
	if (c->format != CLI_TABLE) {
		output_print(stdout, c->format, bandwidth ? bandwidth : none);
		return 0;
	}
	for (unsigned i = 0; i < DIRECTIONS; i++)
		limit_print(bandwidth, directions[i]);
	return 0;
}

int verb_domiftune(struct cli *c)
{
	struct wish w = { .rates = { option_value(c, "inbound"), option_value(c, "outbound") },
		.packets = { option_value(c, "inbound-packets"), option_value(c, "outbound-packets") } };
	bool show = !w.rates[0] && !w.rates[1] && !w.packets[0] && !w.packets[1];
	struct place p;
	struct err e;
	int r = place_choose(c, &p, &e);

	if (!r)
		r = show ? limits_show(c, &p, &e) : wish_apply(c, &w, &p, &e);
	if (r < 0)
		return cli_fail(&e, "Unable to %s interface parameters", show ? "get" : "set");
	return r;
}

/* ---- domif-setlink and domif-getlink ---- */

int verb_domif_setlink(struct cli *c)
{
	struct wish w = { .link = c->pos[2] };
	struct place p;
	struct err e;
	int r;

	if (strcmp(w.link, "up") && strcmp(w.link, "down"))
		return cli_usage(c, "the state of a link is up or down, not \"%s\"", w.link);
	r = place_choose(c, &p, &e);
	if (!r)
		r = wish_apply(c, &w, &p, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to update interface link state");
	if (!r)
		say("Device updated successfully\n");
	return r;
}

int verb_domif_getlink(struct cli *c)
{
	CLEANUP_JS struct json_object *interface = NULL, *o = json_object_new_object();
	struct place p;
	struct err e;
	int r = place_choose(c, &p, &e);
	const char *link;

	if (!r)
		r = interface_get(c, p.live, &interface, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to get interface link state");
	if (r)
		return r;
	link = js_get_str_or(interface, "link", "up");
	if (c->format == CLI_TABLE) {
		printf("%s %s\n", c->pos[1], link);
	} else {
		js_put_str(o, "interface", js_get_str(interface, "id"));
		js_put_str(o, "link", link);
		output_print(stdout, c->format, o);
	}
	return CLI_OK;
}
