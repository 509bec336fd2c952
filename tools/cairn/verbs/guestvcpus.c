/* guestvcpus: show or change which processors the guest uses, by its agent; setvcpus --guest. The answers come from the
 * guest, so each number is checked. */
#include "tools/cairn/verbs/guestvcpus.h"
#include "api/wire/json.h"
#include "base/shell_word.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/guest_agent.h"
#include "tools/cairn/output.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VCPUS_MAX 1024 /* more than a VM has */
#define SET_TIMEOUT_S 30

struct vcpus {
	bool there[VCPUS_MAX], online[VCPUS_MAX], fixed[VCPUS_MAX]; /* by number; fixed: cannot go offline */
};

static int vcpus_get(struct cli *c, struct vcpus *ret, struct err *e)
{
	CLEANUP_JS struct json_object *list = NULL;
	int r = guest_agent_call(c, c->pos[0], "guest-get-vcpus", NULL, true, GUEST_AGENT_TIMEOUT_S, &list, e);

	*ret = (struct vcpus){ 0 };
	if (r < 0)
		return r;
	if (!json_object_is_type(list, json_type_array))
		return guest_agent_malformed("guest-get-vcpus", e);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		int64_t id = js_get_int(o, "logical-id", -1);

		if (id < 0 || id >= VCPUS_MAX)
			return guest_agent_malformed("guest-get-vcpus", e);
		ret->there[id] = true;
		ret->online[id] = js_get_bool(o, "online", false);
		ret->fixed[id] = !js_get_bool(o, "can-offline", false);
	}
	return 0;
}

int vcpus_count_online(struct cli *c, struct err *e)
{
	struct vcpus now;
	int r = vcpus_get(c, &now, e), n = 0;

	for (unsigned i = 0; !r && i < VCPUS_MAX; i++)
		n += now.online[i];
	return r ? r : n;
}

/* Take the processors of `which` online or offline; those that are so already stay. The agent takes them in order, and
 * reports how many it has done. */
static int vcpus_change(struct cli *c, const struct vcpus *now, const bool *which, bool online, struct err *e)
{
	struct json_object *args = json_object_new_object(), *list = json_object_new_array();
	CLEANUP_JS struct json_object *done = NULL;
	int64_t n;
	int r;

	for (unsigned i = 0; i < VCPUS_MAX; i++) {
		struct json_object *o;

		if (!which[i] || now->online[i] == online)
			continue;
		o = json_object_new_object();
		js_put_int(o, "logical-id", i);
		js_put_bool(o, "online", online);
		json_object_array_add(list, o);
	}
	n = (int64_t)json_object_array_length(list);
	js_put(args, "vcpus", list);
	if (!n) {
		json_object_put(args);
		return 0;
	}
	r = guest_agent_call(c, c->pos[0], "guest-set-vcpus", args, false, SET_TIMEOUT_S, &done, e);
	if (r < 0)
		return r;
	if (!json_object_is_type(done, json_type_int))
		return guest_agent_malformed("guest-set-vcpus", e);
	if (json_object_get_int64(done) == n)
		return 0;
	return err_set(e, -EIO, ERR_GENERIC, "the guest has taken only %lld of %lld processors %s. Next: cairn guestvcpus %s",
		(long long)json_object_get_int64(done), (long long)n, online ? "online" : "offline", shell_word(c->pos[0]).s);
}

int vcpus_set_online(struct cli *c, long n, struct err *e)
{
	bool which[VCPUS_MAX] = { false }, more;
	struct vcpus now;
	long is = 0, all = 0, change;
	int r = vcpus_get(c, &now, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < VCPUS_MAX; i++) {
		all += now.there[i];
		is += now.online[i];
	}
	if (n > all)
		return err_set(e, -EINVAL, ERR_INVALID, "the guest has %ld processors; more come with the next start: cairn setvcpus %s %ld "
			"--config", all, shell_word(c->pos[0]).s, n);
	more = n > is;
	change = more ? n - is : is - n;
	/* The first ones come online, and the last ones go offline. */
	for (unsigned k = 0; k < VCPUS_MAX && change; k++) {
		unsigned i = more ? k : VCPUS_MAX - 1 - k;

		if (!now.there[i] || now.online[i] == more || (!more && now.fixed[i]))
			continue;
		which[i] = true;
		change--;
	}
	if (change)
		return err_set(e, -EINVAL, ERR_INVALID, "the guest cannot take so many processors offline; it needs at least %ld", n + change);
	return vcpus_change(c, &now, which, more, e);
}

/* ---- guestvcpus ---- */

/* Parse "0-3,5". Returns 0; CLI_USAGE after an error message. */
static int list_parse(struct cli *c, const char *text, bool *ret_which)
{
	const char *p = text;
	char *end;

	do {
		unsigned long first, last;

		if (*p < '0' || *p > '9')
			break;
		first = last = strtoul(p, &end, 10);
		if (*end == '-' && end[1] >= '0' && end[1] <= '9')
			last = strtoul(end + 1, &end, 10);
		if (first > last || last >= VCPUS_MAX)
			break;
		for (unsigned long i = first; i <= last; i++)
			ret_which[i] = true;
		p = end;
		if (!*p)
			return 0;
	} while (*p++ == ',');
	return cli_usage(c, "--cpulist must be a list of processors, such as 1-3,5, not \"%s\"", text);
}

/* Write "0-3,5". */
static void list_print(const bool *which, const bool *without, char *text, size_t size)
{
	size_t n = 0;

	text[0] = 0;
	for (unsigned i = 0, k; i < VCPUS_MAX && n < size; i = k + 1) {
		k = i;
		if (!which[i] || (without && without[i]))
			continue;
		while (k + 1 < VCPUS_MAX && which[k + 1] && !(without && without[k + 1]))
			k++;
		n += (size_t)snprintf(text + n, size - n, k > i ? "%s%u-%u" : "%s%u", n ? "," : "", i, k);
	}
}

static int vcpus_show(struct cli *c, struct err *e)
{
	struct json_object *out;
	struct vcpus now;
	char text[3][4096];
	int r = vcpus_get(c, &now, e);

	if (r < 0)
		return r;
	list_print(now.there, NULL, text[0], sizeof(text[0]));
	list_print(now.online, NULL, text[1], sizeof(text[1]));
	list_print(now.there, now.fixed, text[2], sizeof(text[2]));
	if (c->format == CLI_TABLE) {
		printf("%-15s: %s\n%-15s: %s\n%-15s: %s\n", "vcpus", text[0], "online", text[1], "offlinable", text[2]);
		return 0;
	}
	out = json_object_new_object();
	js_put_str(out, "vcpus", text[0]);
	js_put_str(out, "online", text[1]);
	js_put_str(out, "offlinable", text[2]);
	output_print(stdout, c->format, out);
	json_object_put(out);
	return 0;
}

static int listed_check(const struct vcpus *now, const bool *which, bool online, struct err *e)
{
	for (unsigned i = 0; i < VCPUS_MAX; i++) {
		if (which[i] && !now->there[i])
			return err_set(e, -EINVAL, ERR_INVALID, "the guest has no processor %u", i);
		if (which[i] && !online && now->fixed[i])
			return err_set(e, -EINVAL, ERR_INVALID, "the guest cannot take processor %u offline", i);
	}
	return 0;
}

int verb_guestvcpus(struct cli *c)
{
	const char *list = option_value(c, "cpulist");
	bool enable = option_flag(c, "enable"), disable = option_flag(c, "disable"), which[VCPUS_MAX] = { false };
	struct vcpus now;
	struct err e;
	int r;

	if (!list != !(enable || disable) || (enable && disable))
		return cli_usage(c, "give --cpulist with either --enable or --disable");
	if (list && list_parse(c, list, which))
		return CLI_USAGE;
	r = list ? vcpus_get(c, &now, &e) : vcpus_show(c, &e);
	if (!r && list)
		r = listed_check(&now, which, enable, &e);
	if (!r && list)
		r = vcpus_change(c, &now, which, enable, &e);
	return r < 0 ? cli_fail(&e, list ? "Failed to change the guest's processors of domain '%s'" : "Failed to query the guest of domain '%s'",
		c->pos[0]) : CLI_OK;
}
