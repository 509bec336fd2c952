/* snapshot-list, -info, -dumpxml, -current and -parent: the verbs that show snapshots. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "snapshot/vmstate.h"
#include "tools/cairn/job.h"
#include "tools/cairn/output.h"
#include "tools/cairn/snapshot.h"
#include "tools/cairn/xml.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *state_word(struct json_object *o)
{
	const char *s = js_get_str(o, "state");

	if (js_get_int(o, "disks-missing", 0))
		return "incomplete";
	return s ? s : "-";
}

#define NO_PARENT SIZE_MAX

/* Return the index of o's parent; NO_PARENT: it has none in the list. */
static size_t parent_index(struct json_object *all, struct json_object *o)
{
	const char *id = js_get_str(o, "parent");

	for (size_t i = 0; id && i < json_object_array_length(all); i++)
		if (!strcmp(js_get_str_or(json_object_array_get_idx(all, i), "id", ""), id))
			return i;
	return NO_PARENT;
}

static struct json_object *parent_of(struct json_object *all, struct json_object *o)
{
	size_t i = parent_index(all, o);

	return i == NO_PARENT ? NULL : json_object_array_get_idx(all, i);
}

static bool is_child(struct json_object *o, struct json_object *above)
{
	const char *parent = js_get_str(o, "parent");

	return parent && !strcmp(parent, js_get_str_or(above, "id", ""));
}

static bool has_children(struct json_object *all, struct json_object *o)
{
	for (size_t i = 0; i < json_object_array_length(all); i++)
		if (is_child(json_object_array_get_idx(all, i), o))
			return true;
	return false;
}

/* ---- the tree, as virsh draws it ---- */

struct branch {
	size_t parent; /* index of its parent; NO_PARENT: it is a root */
	bool printed;
};

/* An image may be damaged or forged: several snapshots may share an id, and parents may form a circle. Each snapshot is
 * below the first one that has the id of its parent, and is printed once. */
struct tree {
	struct json_object *all;
	struct branch *branches; /* one for each snapshot */
	char *indent; /* prefix of the lines; grows by at most four characters a level */
};

/* Return the index of the child that follows the snapshot `after` in the list, or of the first child if after is
 * NO_PARENT; NO_PARENT: there is none. */
static size_t child_next(const struct tree *t, size_t of, size_t after)
{
	for (size_t i = after + 1; i < json_object_array_length(t->all); i++)
		if (t->branches[i].parent == of && !t->branches[i].printed)
			return i;
	return NO_PARENT;
}

static void branch_print(struct tree *t, size_t i, bool root, bool last)
{
	size_t had = strlen(t->indent), child, next;
	bool leaf;

	t->branches[i].printed = true;
	printf("%s%s%s\n", t->indent, root ? "" : "+- ",
		js_get_str_or(json_object_array_get_idx(t->all, i), "name", ""));
	if (!root)
		strcat(t->indent, last ? "  " : "| ");
	child = child_next(t, i, NO_PARENT);
	leaf = child == NO_PARENT;
	if (!leaf)
		printf("%s  |\n", t->indent);
	strcat(t->indent, "  ");
	for (; child != NO_PARENT; child = next) {
		next = child_next(t, i, child);
		branch_print(t, child, false, next == NO_PARENT);
	}
	t->indent[strlen(t->indent) - 2] = 0;
	if (leaf && last)
		printf("%s\n", t->indent);
	t->indent[had] = 0;
}

static int tree_print(struct json_object *all, struct json_object *from)
{
	size_t n = json_object_array_length(all);
	struct tree t = { .all = all, .branches = must_alloc(calloc(n + 1, sizeof(*t.branches))),
		.indent = must_alloc(calloc(n + 2, 4)) };

	for (size_t i = 0; i < n; i++)
		t.branches[i].parent = parent_index(all, json_object_array_get_idx(all, i));
	for (size_t i = 0; i < n; i++)
		if (from ? json_object_array_get_idx(all, i) == from : t.branches[i].parent == NO_PARENT)
			branch_print(&t, i, true, true);
	free(t.branches);
	free(t.indent);
	return CLI_OK;
}

/* ---- snapshot-list ---- */

/* Filter by --active (with memory), --inactive (without memory), and --disk-only. Several of them add up. */
static bool state_wanted(const struct cli *c, const char *state)
{
	bool active = option_flag(c, "active"), inactive = option_flag(c, "inactive"), disk_only = option_flag(c, "disk-only");

	if (!active && !inactive && !disk_only)
		return true;
	if (!strcmp(state, "disk-snapshot"))
		return inactive || disk_only;
	return strcmp(state, "shutoff") ? active : inactive;
}

static bool row_wanted(struct cli *c, struct json_object *all, struct json_object *o,
	struct json_object *from)
{
	unsigned below = from ? snapshot_below(all, o, from) : 0;

	if (from && (!below || (below > 1 && !option_flag(c, "descendants"))))
		return false;
	if (!state_wanted(c, state_word(o)))
		return false;
	if (option_flag(c, "roots") && parent_of(all, o))
		return false;
	if (option_flag(c, "leaves") && has_children(all, o))
		return false;
	return !option_flag(c, "no-leaves") || has_children(all, o);
}

static void rows_print(struct json_object *all, struct json_object *rows, bool with_parent)
{
	static const char *const heads[] = { "Name", "Creation Time", "State", "Parent" };
	struct table t;

	table_init(&t, heads, with_parent ? 4 : 3);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		struct json_object *o = json_object_array_get_idx(rows, i),
				   *parent = parent_of(all, o);
		char time[TIME_TEXT_BYTES];

		table_add(&t, (const char *const[]){ js_get_str_or(o, "name", ""), time_text(js_get_int(o, "time", 0), true, time), state_word(o),
			parent ? js_get_str_or(parent, "name", "") : "" });
	}
	table_finish(&t, stdout);
}

static int from_find(struct cli *c, struct json_object *all, struct json_object **ret, struct err *e)
{
	const char *name = option_value(c, "from");

	*ret = NULL;
	if (!name && !option_flag(c, "current"))
		return 0;
	*ret = name ? snapshot_find(all, name) : snapshot_current(all);
	if (*ret)
		return 0;
	return snapshot_missing(c->pos[0], name, e);
}

/* Sort parents before their children, and snapshots of one depth by name. Parents that form a circle end the way up
 * after as many steps as there are snapshots. */
static void topology_sort(struct json_object **all)
{
	size_t n = json_object_array_length(*all), *parents = must_alloc(calloc(n + 1, sizeof(*parents))),
	       *depths = must_alloc(calloc(n + 1, sizeof(*depths)));
	struct json_object *sorted = json_object_new_array();

	for (size_t i = 0; i < n; i++)
		parents[i] = parent_index(*all, json_object_array_get_idx(*all, i));
	for (size_t i = 0; i < n; i++)
		for (size_t at = parents[i]; at != NO_PARENT && depths[i] < n; at = parents[at])
			depths[i]++;
	for (size_t depth = 0; depth <= n && json_object_array_length(sorted) < n; depth++)
		for (size_t i = 0; i < n; i++)
			if (depths[i] == depth)
				json_object_array_add(sorted, json_object_get(json_object_array_get_idx(*all, i)));
	free(parents);
	free(depths);
	json_object_put(*all);
	*all = sorted;
}

static int list_print(struct cli *c, struct json_object *all, struct json_object *from)
{
	CLEANUP_JS struct json_object *rows = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);

		if (row_wanted(c, all, o, from))
			json_object_array_add(rows, json_object_get(o));
	}
	if (!cli_columns_print(c, rows))
		rows_print(all, rows, option_flag(c, "parent"));
	return CLI_OK;
}

int verb_snapshot_list(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *from = NULL;
	bool tree = option_flag(c, "tree");
	struct err e;
	int r;

	if (option_flag(c, "descendants") && !option_flag(c, "from") && !option_flag(c, "current"))
		return cli_usage(c, "--descendants needs --from or --current");
	if (tree && (option_flag(c, "name") || option_flag(c, "roots") || option_flag(c, "parent")))
		return cli_usage(c, "--tree excludes --name, --roots and --parent");
	r = snapshots_fetch_all(c, c->pos[0], &all, &e);
	if (!r)
		r = from_find(c, all, &from, &e);
	if (r < 0)
		return cli_fail(&e, "Failed to list snapshots of domain '%s'", c->pos[0]);
	if (option_flag(c, "topological"))
		topology_sort(&all);
	return tree && c->format == CLI_TABLE ? tree_print(all, from) : list_print(c, all, from);
}

/* ---- snapshot-info, snapshot-dumpxml, snapshot-current, snapshot-parent ---- */

static void numbers_print(struct json_object *all, struct json_object *o)
{
	unsigned children = 0, descendants = 0;

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		unsigned below = snapshot_below(all, json_object_array_get_idx(all, i), o);

		children += below == 1;
		descendants += below > 0;
	}
	label_print(stdout, "Children:", "%u", children);
	label_print(stdout, "Descendants:", "%u", descendants);
}

static void tags_print(struct json_object *o)
{
	struct json_object *tags = js_get_array(o, "tags");
	size_t n = tags ? json_object_array_length(tags) : 0;

	if (!n)
		return;
	printf("%-15s ", "Tags:");
	for (size_t i = 0; i < n; i++)
		printf("%s%s", i ? ", " : "", json_object_get_string(json_object_array_get_idx(tags, i)));
	printf("\n");
}

static void info_print(const char *vm, struct json_object *all, struct json_object *o)
{
	struct json_object *parent = parent_of(all, o);
	int64_t own = js_get_int(o, "own-size", -1);
	uint64_t state_bytes = (uint64_t)js_get_int(o, "vm-state-size", 0), ram_bytes = vmstate_ram_bytes(state_bytes);
	char time[TIME_TEXT_BYTES], size[24];

	label_print(stdout, "Name:", "%s", js_get_str_or(o, "name", ""));
	label_print(stdout, "Domain:", "%s", vm);
	label_print(stdout, "Current:", "%s", js_get_bool(o, "current", false) ? "yes" : "no");
	label_print(stdout, "State:", "%s", state_word(o));
	if (js_get_int(o, "disks-missing", 0))
		label_print(stdout, "Disks missing:", "%lld", (long long)js_get_int(o, "disks-missing", 0));
	if (js_get_int(o, "disks-added", 0))
		label_print(stdout, "Disks added:", "%lld (attached since; not in the snapshot)", (long long)js_get_int(o, "disks-added", 0));
	label_print(stdout, "Location:", "internal");
	label_print(stdout, "Parent:", "%s", parent ? js_get_str_or(parent, "name", "") : "-");
	numbers_print(all, o);
	label_print(stdout, "Metadata:", "yes");
	label_print(stdout, "Created:", "%s", time_text(js_get_int(o, "time", 0), true, time));
	if (js_get_str(o, "description"))
		label_print(stdout, "Description:", "%s", js_get_str_or(o, "description", ""));
	tags_print(o);
	/* the guest's RAM; the saved state also holds checksums */
	bytes_print(ram_bytes ? ram_bytes : state_bytes, size);
	label_print(stdout, "Memory:", "%s", size);
	if (own >= 0) {
		bytes_print((uint64_t)own, size);
		label_print(stdout, "Own size:", "%s", size);
	}
	printf("\n");
}

/* Find the named snapshot, or the current one if name is NULL. */
static int one_find(struct cli *c, const char *name, struct json_object **ret_all,
	struct json_object **ret_o, struct err *e)
{
	int r = snapshots_fetch_all(c, c->pos[0], ret_all, e);

	if (r < 0)
		return r;
	*ret_o = name ? snapshot_find(*ret_all, name) : snapshot_current(*ret_all);
	return *ret_o ? 0 : snapshot_missing(c->pos[0], name, e);
}

/* Add the snapshot's own size. While a job changes the snapshots, the daemon cannot tell the size, and none is
 * added. */
static void own_size_put(struct cli *c, struct json_object *o)
{
	CLEANUP_JS struct json_object *size = NULL;
	struct json_object *args = cli_vm_args(c->pos[0]);
	struct err e;

	js_put_str(args, "name", js_get_str_or(o, "name", ""));
	if (cli_execute(c, "snapshot-size", args, &size, NULL, &e) == 0)
		js_put_int(o, "own-size", js_get_int(size, "own-size", 0));
}

int verb_snapshot_info(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	const char *name = snapshot_name_arg(c);
	struct json_object *o;
	struct err e;

	if (!name == !option_flag(c, "current"))
		return cli_usage(c, "snapshot-info needs the name of a snapshot, or --current");
	if (one_find(c, name, &all, &o, &e) < 0)
		return cli_fail(&e, "Failed to get the snapshot of domain '%s'", c->pos[0]);
	own_size_put(c, o);
	if (c->format == CLI_TABLE)
		info_print(c->pos[0], all, o);
	else
		output_print(stdout, c->format, o);
	return CLI_OK;
}

/* Print a snapshot as libvirt's XML. all: has its parent, too. */
static int xml_print(struct cli *c, struct json_object *all, struct json_object *o)
{
	struct json_object *parent = parent_of(all, o);
	CLEANUP_FREE char *xml = NULL;
	struct err e;

	js_put_str(o, "parent", parent ? js_get_str(parent, "name") : NULL);
	if (xml_from_snapshot(o, &xml, &e) < 0)
		return cli_fail(&e, "Failed to get the snapshot of domain '%s'", c->pos[0]);
	puts(xml);
	return CLI_OK;
}

int verb_snapshot_dumpxml(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	const char *name = snapshot_name_arg(c);
	struct json_object *o;
	struct err e;

	if (!name)
		return cli_usage(c, "snapshot-dumpxml needs the name of a snapshot");
	if (one_find(c, name, &all, &o, &e) < 0)
		return cli_fail(&e, "Failed to get the snapshot of domain '%s'", c->pos[0]);
	return xml_print(c, all, o);
}

int verb_snapshot_current(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	struct json_object *o;
	struct err e;

	if (one_find(c, NULL, &all, &o, &e) < 0)
		return cli_fail(&e, "Failed to get the current snapshot");
	if (option_flag(c, "name"))
		printf("%s\n", js_get_str_or(o, "name", ""));
	else if (c->format == CLI_TABLE)
		return xml_print(c, all, o);
	else
		output_print(stdout, c->format, o);
	return CLI_OK;
}

int verb_snapshot_parent(struct cli *c)
{
	CLEANUP_JS struct json_object *all = NULL;
	const char *name = snapshot_name_arg(c);
	struct json_object *o, *parent;
	struct err e;
	int r;

	if (!name == !option_flag(c, "current"))
		return cli_usage(c, "snapshot-parent needs the name of a snapshot, or --current");
	r = one_find(c, name, &all, &o, &e);
	parent = r < 0 ? NULL : parent_of(all, o);
	if (!r && !parent)
		r = err_set(&e, -ENOENT, ERR_NOT_FOUND, "snapshot '%s' has no parent", js_get_str_or(o, "name", ""));
	if (r < 0)
		return cli_fail(&e, "Failed to get the parent of a snapshot of domain '%s'", c->pos[0]);
	printf("%s\n", js_get_str_or(parent, "name", ""));
	return CLI_OK;
}
