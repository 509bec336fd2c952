/* list: choose VMs of vm-list, sort and print them. Other verbs use cli_vm_list(), cli_vm_member() and
 * cli_columns_print(), too. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/util.h"
#include "tools/cairn/output.h"
#include "tools/cairn/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int cli_vm_list(struct cli *c, bool brief, struct json_object **ret_all, struct json_object **ret_unloaded,
	struct err *e)
{
	CLEANUP_JS struct json_object *first = NULL;
	struct json_object *args = json_object_new_object();
	int r;

	if (brief)
		js_put_bool(args, "brief", true);
	r = cli_fetch_all(c, "vm-list", args, "vms", "after", ret_all, &first, e);
	if (!r && ret_unloaded)
		*ret_unloaded = json_object_get(js_get_array(first, "unloaded"));
	return r;
}

static bool state_wanted(const struct cli *c, const char *word)
{
	bool running = option_flag(c, "state-running"), paused = option_flag(c, "state-paused"),
	     off = option_flag(c, "state-shutoff"), other = option_flag(c, "state-other");

	if (!running && !paused && !off && !other)
		return true;
	if (!strcmp(word, "running"))
		return running;
	if (!strcmp(word, "paused"))
		return paused;
	if (!strcmp(word, "shutoff") || !strcmp(word, "saved"))
		return off;
	return other;
}

/* Is this VM listed? Like virsh, list only VMs with an id, which have a process, unless --all, --inactive, --template,
 * --can or a state is given. can: VMs that the verb of --can accepts; NULL: any. */
static bool row_wanted(const struct cli *c, struct json_object *vm, const struct legal_vms *can)
{
	const char *word = js_get_str_or(vm, "word", "");
	bool active = js_get_int(vm, "id", -1) >= 0;
	bool by_state = option_flag(c, "state-running") || option_flag(c, "state-paused") ||
		option_flag(c, "state-shutoff") || option_flag(c, "state-other") || can;

	if (option_flag(c, "autostart") && !js_get_bool(vm, "autostart", false))
		return false;
	if (option_flag(c, "no-autostart") && js_get_bool(vm, "autostart", false))
		return false;
	if (option_flag(c, "with-managed-save") && !js_get_bool(vm, "managed-save", false))
		return false;
	if (option_flag(c, "without-managed-save") && js_get_bool(vm, "managed-save", false))
		return false;
	if (option_flag(c, "transient") != option_flag(c, "persistent") && option_flag(c, "persistent") != js_get_bool(vm, "persistent", true))
		return false;
	if (option_flag(c, "with-checkpoint") && !option_flag(c, "without-checkpoint"))
		return false;
	if (option_flag(c, "template") && !js_get_bool(vm, "template", false))
		return false;
	if (option_flag(c, "inactive") && active)
		return false;
	if (!option_flag(c, "all") && !option_flag(c, "inactive") && !option_flag(c, "template") && !by_state && !active)
		return false;
	return state_wanted(c, word) && (!can || legal_vms_have(can, vm));
}

static int can_parse(struct cli *c, struct legal_vms *can)
{
	const char *name = option_value(c, "can");
	const struct verb *v = name ? verb_find(name) : NULL;
	char command[64];
	struct err e;

	*can = (struct legal_vms){ 0 };
	if (!name)
		return 0;
	if (!v)
		return verb_missing(name);
	if (!v->commands || !verb_command_next(v->commands, command))
		return 0;
	if (legal_vms_ask(c, command, can, &e) < 0)
		return cli_fail(&e, "Failed to read the schema");
	return 0;
}

const char *cli_vm_member(struct json_object *vm, const char *key)
{
	struct json_object *v = js_get(vm, key);

	return !v || (!strcmp(key, "id") && json_object_get_int64(v) < 0) ? "-" : json_object_get_string(v);
}

bool cli_columns_print(struct cli *c, struct json_object *rows)
{
	static const char *const keys[] = { "uuid", "id", "name" };
	bool any = c->format != CLI_TABLE;

	if (any) {
		cli_rows_print(c, rows);
		return true;
	}
	for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
		any = any || option_flag(c, keys[k]);
	for (size_t i = 0; any && i < json_object_array_length(rows); i++) {
		const char *sep = "";

		for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
			if (!option_flag(c, keys[k]))
				continue;
			printf("%s%s", sep, cli_vm_member(json_object_array_get_idx(rows, i), keys[k]));
			sep = " ";
		}
		putchar('\n');
	}
	return any;
}

static void rows_print(struct json_object *rows, bool title)
{
	static const char *const heads[] = { "Id", "Name", "State", "Title" };
	struct table t;

	table_init(&t, heads, title ? 4 : 3);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *vm = json_object_array_get_idx(rows, i);
		long long id = (long long)js_get_int(vm, "id", -1);
		const char *waits = js_get_str(vm, "waits-for-hook");
		char number[24], state[96];

		snprintf(number, sizeof(number), "%lld", id);
		snprintf(state, sizeof(state), "%s%s%s%s%s%s", cli_vm_state(vm),
			js_get_bool(vm, "outdated", false) ? " (outdated)" : "", js_get_bool(vm, "ephemeral", false) ? " (ephemeral)" : "", waits ? " (" : "", waits ? waits : "",
			waits ? " waits for a hook)" : "");
		table_add(&t, (const char *const[]){ id < 0 ? "-" : number, js_get_str_or(vm, "name", ""),
			state, js_get_str_or(vm, "title", "") });
	}
	table_finish(&t, stdout);
}

/* Is the brief answer of vm-list enough? It takes half the time for a thousand VMs. */
static bool is_brief(const struct cli *c)
{
	static const char *const more[] = { "uuid", "title", "autostart", "no-autostart", "with-managed-save",
		"without-managed-save", "template", "persistent", "transient" };

	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++)
		if (option_flag(c, more[i]))
			return false;
	return c->format == CLI_TABLE;
}

/* Print on stderr which VMs the daemon could not load, because the table has only loaded VMs. */
static void unloaded_print(struct json_object *unloaded)
{
	for (size_t i = 0; unloaded && i < json_object_array_length(unloaded); i++) {
		struct json_object *vm = json_object_array_get_idx(unloaded, i);
		const char *name = js_get_str(vm, "name"), *why = js_get_str(vm, "why");

		if (name && why)
			fprintf(stderr, "warning: domain '%s' is not loaded: %s\n", name, why);
	}
}

/* Sort keys, looked up once: sorting a thousand VMs takes ten thousand comparisons. */
struct row {
	int64_t id;
	const char *name;
	struct json_object *vm;
};

/* Sort like virsh: VMs with an id first, by id, then the others by name. */
static int row_compare(const void *pa, const void *pb)
{
	const struct row *a = pa, *b = pb;

	if ((a->id < 0) != (b->id < 0))
		return a->id < 0 ? 1 : -1;
	return a->id < 0 ? strcasecmp(a->name, b->name) : (a->id > b->id) - (a->id < b->id);
}

/* Ask for the VM's snapshots if an option depends on them. Returns whether the VM is listed. */
static bool snapshots_wanted(struct cli *c, struct json_object *vm)
{
	bool with = option_flag(c, "with-snapshot"), without = option_flag(c, "without-snapshot"), any;
	const char *name = js_get_str_or(vm, "name", "");
	CLEANUP_JS struct json_object *list = NULL;
	struct err e;

	if (with == without)
		return true;
	if (cli_execute(c, "snapshot-list", cli_vm_args(name), &list, NULL, &e) < 0) {
		fprintf(stderr, "warning: domain '%s' is not listed: %s\n", name, e.msg);
		return false;
	}
	any = json_object_array_length(js_get_array(list, "snapshots")) > 0;
	return any == with;
}

/* Returns an array of the VMs to list, which the caller owns. */
static struct json_object *rows_pick(struct cli *c, struct json_object *all, const struct legal_vms *can)
{
	struct json_object *rows = json_object_new_array();
	struct row *sorted = must_alloc(calloc(json_object_array_length(all) + 1, sizeof(*sorted)));
	size_t n = 0;

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *vm = json_object_array_get_idx(all, i);

		if (row_wanted(c, vm, can) && snapshots_wanted(c, vm))
			sorted[n++] = (struct row){ js_get_int(vm, "id", -1), js_get_str_or(vm, "name", ""), vm };
	}
	qsort(sorted, n, sizeof(*sorted), row_compare);
	for (size_t i = 0; i < n; i++)
		json_object_array_add(rows, json_object_get(sorted[i].vm));
	free(sorted);
	return rows;
}

int verb_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL, *unloaded = NULL, *rows = NULL;
	struct legal_vms can;
	struct err e;
	int r = can_parse(c, &can);

	if (r)
		return r;
	if (cli_vm_list(c, is_brief(c) && !can.never_templates, &all, &unloaded, &e) < 0)
		return cli_fail(&e, "Failed to list domains");
	rows = rows_pick(c, all, option_value(c, "can") ? &can : NULL);
	if (!cli_columns_print(c, rows))
		rows_print(rows, option_flag(c, "title"));
	if (option_flag(c, "all") || option_flag(c, "inactive"))
		unloaded_print(unloaded);
	return CLI_OK;
}
