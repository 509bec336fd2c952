#include "api/store/store_version.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>

#define LIFTS_MAX 1

/* Upgrade an object from one version to the next. Returns 0; -EINVAL. The upgrades use the words and numbers of the old
 * versions as literals, since today's constants may change. */
typedef int lift(struct json_object *o, struct err *e);

/* Version 1 has the `then` of a planned shutdown as the number of its enum; version 2 has its word. */
static int state_1(struct json_object *o, struct err *e)
{
	static const char *const thens[] = { "leave", "destroy", "save" };
	struct json_object *plan = js_get(o, "shutdown");
	int64_t then = js_get_int(plan, "then", 0);

	if (!plan)
		return 0;
	if (!json_object_is_type(plan, json_type_object) || then < 0 || then >= (int64_t)ARRAY_SIZE(thens))
		return err_set(e, -EINVAL, ERR_CORRUPT, "its planned shutdown is invalid");
	js_put_str(plan, "then", thens[then]);
	return 0;
}

/* Version 1 has the name of a VM; version 2 also has its UUID, which is empty until the daemon knows the VMs
 * (api/access/permissions.h). */
static int permissions_1(struct json_object *o, struct err *e)
{
	struct json_object *list = js_get_array(o, "permissions");

	(void)e;
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *entry = json_object_array_get_idx(list, i);

		if (json_object_is_type(entry, json_type_object) && js_get(entry, "vm"))
			js_put_str(entry, "vm-uuid", "");
	}
	return 0;
}

static const struct kind {
	const char *file;
	int64_t version;
	bool of_vm; /* true: in a VM's folder; false: beside the VMs' folder */
	lift *lifts[LIFTS_MAX]; /* [n - 1]: upgrades version n to n + 1 */
} kinds[] = {
	{ "definition.json", 1, true, { NULL } },
	{ "state.json", 2, true, { state_1 } },
	{ "schedule.json", 1, true, { NULL } },
	{ "timetable.json", 1, true, { NULL } },
	{ "thresholds.json", 1, true, { NULL } },
	{ "space.json", 1, true, { NULL } },
	{ "autostart.json", 1, true, { NULL } },
	{ "template.json", 1, true, { NULL } },
	{ "transient.json", 1, true, { NULL } },
	{ "undefine.json", 1, true, { NULL } },
	{ "imported.json", 1, true, { NULL } },
	{ "devices.json", 1, true, { NULL } },
	{ "promote.json", 1, true, { NULL } },
	{ "promoted.json", 1, true, { NULL } },
	{ STORE_RENAMED, 1, true, { NULL } }, /* a definition */
	{ "permissions.json", 2, false, { permissions_1 } },
	{ "approvals.json", 1, false, { NULL } },
	{ "jobs.json", 1, false, { NULL } },
	{ "boot.json", 1, false, { NULL } },
	{ "clock.json", 1, false, { NULL } },
	{ "pins.json", 1, false, { NULL } },
};

/* Return the kind of the file. A file that is not in the table, such as a batch's (api/jobs/batch.h), has version 1. */
static const struct kind *kind_of(const char *path)
{
	static const struct kind first = { "", 1, false, { NULL } };
	const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].file, file))
			return &kinds[i];
	return &first;
}

int64_t store_version(const char *path)
{
	return kind_of(path)->version;
}

int64_t store_version_lift(const char *path, struct json_object *o, struct err *e)
{
	const struct kind *k = kind_of(path);
	int64_t had = js_get_int(o, "version", 0);

	if (had < 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the file has no version");
	if (had > k->version)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "a newer Cairn wrote the file: it has version %lld, and "
			"this Cairn knows up to %lld",
			(long long)had, (long long)k->version);
	for (int64_t v = had; v < k->version; v++) {
		int r = k->lifts[v - 1](o, e);

		if (r < 0)
			return r;
	}
	js_put_int(o, "version", k->version);
	return had;
}

const char *store_version_of_vm(unsigned i)
{
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		if (kinds[k].of_vm && !i--)
			return kinds[k].file;
	return NULL;
}
