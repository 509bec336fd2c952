/* Handlers of snapshots. */
#include "api/commands/command.h"
#include "api/jobs/group_snapshot.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/jobs/snapshot_diff.h"
#include "api/jobs/snapshot_job.h"
#include "api/jobs/snapshots.h"
#include "api/vm/image_users.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/wire/json.h"
#include "base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LIST_TIMEOUT_NS (30 * 1000000000ULL)
#define SET_TIMEOUT_NS (30 * 1000000000ULL)

/* Check that the VM is free for an operation that changes its images. */
static int free_check(const struct vm *vm, const char *what, struct err *e)
{
	int r = vm_check_claim(vm, VM_CLAIM_SNAPSHOTS, what, e);

	return r || vm_state_is_active(vm->state) ? r : image_check_writable(vm, what, e);
}

/* ---- arguments ---- */

/* Read a text argument. If it is absent, `into` keeps its value. needed: an empty text is an error. */
static int arg_text(struct call *c, const char *key, bool needed, char *into, size_t size,
	struct err *e)
{
	const char *s = js_get_str(c->args, key);

	if (!s)
		return 0;
	if (strlen(s) >= size || (needed && !*s))
		return err_set(e, -EINVAL, ERR_INVALID, "%s: %s%zu bytes", key,
			needed ? "1 to " : "at most ", size - 1);
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(e, -EINVAL, ERR_INVALID,
				"%s: must be one line without control characters", key);
	snprintf(into, size, "%s", s);
	return 0;
}

static int tag_check(const char *tag, struct err *e)
{
	bool good = tag && *tag;

	for (const char *p = tag; good && *p; p++)
		good = isalnum((unsigned char)*p) || strchr("-_.:=", *p);
	return good ? 0 :
		err_set(e, -EINVAL, ERR_INVALID, "tags: \"%.40s\" is not a tag; use letters, digits and \"-_.:=\"",
			tag ? tag : "");
}

static int arg_tags(struct call *c, char into[VM_SNAPSHOT_TAGS_MAX + 1], struct err *e)
{
	struct json_object *list = js_get_array(c->args, "tags");
	size_t n = 0;

	into[0] = 0;
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		const char *tag = js_plain_string(json_object_array_get_idx(list, i));
		int r = tag_check(tag, e);

		if (r < 0)
			return r;
		if (n + !!i + strlen(tag) > VM_SNAPSHOT_TAGS_MAX)
			return err_set(e, -EINVAL, ERR_INVALID, "tags: have more than %d bytes together, with a comma between two",
				VM_SNAPSHOT_TAGS_MAX);
		n += (size_t)snprintf(into + n, VM_SNAPSHOT_TAGS_MAX + 1 - n, "%s%s", i ? "," : "", tag);
	}
	return 0;
}

/* Read the argument `disk`, and check it before the VM is stopped for the revert. */
static int arg_disk(struct call *c, struct snapshot_revert *opts, struct err *e)
{
	const char *id = js_get_str(c->args, "disk");
	const struct definition *d = c->vm->def;

	if (!id)
		return 0;
	if (!opts->disks_only)
		return err_set(e, -EINVAL, ERR_INVALID,
			"disk: a single disk can only be reverted without memory; add disks-only");
	for (uint32_t i = 0; i < d->ndisks; i++) {
		if (strcmp(d->disks[i].id, id))
			continue;
		if (d->disks[i].read_only || d->disks[i].layers[0].format != DEFINITION_FORMAT_QCOW2)
			return err_set(e, -EINVAL, ERR_INVALID, "disk: %s is %s; it has no snapshots", id,
				d->disks[i].read_only ? "read-only" : "raw");
		snprintf(opts->disk, sizeof(opts->disk), "%s", id);
		return 0;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "VM '%.200s' has no disk '%.40s'", d->name, id);
}

/* ---- jobs ---- */

static void job_answer(struct call *c, int r, struct job *j, const struct err *e)
{
	if (r < 0)
		call_fail(c, e);
	else
		call_return_job(c, j);
}

/* Take name and description of the snapshots of n VMs. As in virsh, the default name is the time in seconds: such names
 * sort by time. Within one second, the names of a VM's snapshots count up. */
static int arg_names(struct call *c, struct vm *const *vms, size_t n, struct vm_snapshot_create *body, struct err *e)
{
	bool given = js_get(c->args, "name");
	int64_t now_s = time(NULL);
	int r;

	for (size_t i = 0; i < n && !given; i++)
		now_s = MAX(now_s, vms[i]->snapshot_named_s + 1);
	for (size_t i = 0; i < n && !given; i++)
		vms[i]->snapshot_named_s = now_s;
	snprintf(body->name, sizeof(body->name), "%lld", (long long)now_s);
	r = arg_text(c, "name", true, body->name, sizeof(body->name), e);
	return r < 0 ? r : arg_text(c, "description", false, body->description, sizeof(body->description), e);
}

static int quiesce_check(const struct vm *vm, bool quiesce, struct err *e)
{
	if (!quiesce || vm_state_is_active(vm->state))
		return 0;
	return err_set(e, -EPERM, ERR_WRONG_STATE, "VM '%s' is %s, so there is nothing to quiesce; omit quiesce", vm->def->name,
		vm_state_name(vm->state));
}

void command_snapshot_create(struct call *c)
{
	struct vm_snapshot_create body = { .disks_only = js_get_bool(c->args, "disks-only", false),
		.halt = js_get_bool(c->args, "halt", false),
		.quiesce = js_get_bool(c->args, "quiesce", false) };
	int64_t rate = js_get_int(c->args, "rate", 0);
	struct job_name called = { .id = js_get_str(c->args, "job-id") };
	struct job *j = NULL;
	struct err e;
	int r = free_check(c->vm, "take a snapshot", &e);

	if (!r)
		r = arg_names(c, &c->vm, 1, &body, &e);
	if (!r)
		r = arg_tags(c, body.tags, &e);
	if (!r)
		r = quiesce_check(c->vm, body.quiesce, &e);
	if (!r && rate < 0)
		r = err_set(&e, -EINVAL, ERR_INVALID, "rate: must not be negative; give bytes a second, or 0 for no "
			"limit");
	body.rate_bytes_per_s = (uint64_t)rate;
	snapshot_tags_put_vm(c->vm, body.tags);
	if (!r)
		r = snapshot_create(c->vm, &body, &called, &j, &e);
	job_answer(c, r, j, &e);
}

/* ---- snapshots of a group ---- */

/* Find a VM of the group. A client without the command's role for the VM gets the same error as for a missing VM. */
static int group_find(struct call *c, const char *name, struct vm **ret_vm, struct err *e)
{
	struct vm *vm = name ? vm_find(c->host, name) : NULL;
	const uint8_t *uuid = vm ? vm->def->uuid : NULL;

	if (!name)
		return err_set(e, -EINVAL, ERR_INVALID, "vms: must be a list of names");
	if (call_role_for(c, uuid) < c->command->role)
		return err_set(e, -EPERM, ERR_PERMISSION, "%s requires the role %s for VM '%.100s'; an admin can change your role with cairn grant",
			c->command->name, role_name_of_vm(c->command->role), name);
	if (!vm)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no VM '%.255s'. Next: cairn list --all", name);
	*ret_vm = vm;
	return 0;
}

static int group_vm_check(const struct vm *vm, bool quiesce, struct err *e)
{
	int r = vm_state_check(vm->def->name, vm->state, VM_ASK_SNAPSHOT, e);

	if (!r)
		r = free_check(vm, "take a snapshot", e);
	if (!r && vm_state_is_active(vm->state))
		r = vm_compat_check_live(vm, VM_KNOWS_GROUPS, e);
	return r < 0 ? r : quiesce_check(vm, quiesce, e);
}

int command_group_find(struct call *c, struct vm **vms, size_t *ret_n, struct err *e)
{
	struct json_object *list = js_get_array(c->args, "vms");
	size_t n = json_object_array_length(list);
	int r = 0;

	if (!n || n > GROUP_VMS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "vms: names %zu VMs; give 1 to %d", n, GROUP_VMS_MAX);
	for (size_t i = 0; i < n && !r; i++) {
		r = group_find(c, js_plain_string(json_object_array_get_idx(list, i)), &vms[i], e);
		for (size_t k = 0; k < i && !r; k++)
			if (vms[k] == vms[i])
				r = err_set(e, -EINVAL, ERR_INVALID, "vms: VM '%.200s' is there twice; name each VM once", vms[i]->def->name);
	}
	*ret_n = n;
	return r;
}

void command_group_snapshot(struct call *c)
{
	struct vm_snapshot_create body = { .quiesce = js_get_bool(c->args, "quiesce", false) };
	struct vm *vms[GROUP_VMS_MAX];
	char id[GROUP_ID_TEXT];
	struct job *j = NULL;
	struct err e;
	size_t n = 0;
	int r = command_group_find(c, vms, &n, &e);

	for (size_t i = 0; i < n && !r; i++)
		r = group_vm_check(vms[i], body.quiesce, &e);
	if (!r)
		r = arg_names(c, vms, n, &body, &e);
	if (!r)
		r = group_id_make(id, &e);
	if (!r)
		r = group_snapshot_begin(vms, n, id, &body, js_get_str(c->args, "job-id"), c, &j, &e);
	job_answer(c, r, j, &e);
}

void command_snapshot_delete(struct call *c)
{
	const char *children = js_get_str(c->args, "children");
	enum snapshot_victims victims = SNAPSHOT_ALONE;
	char name[VM_SNAPSHOT_NAME_MAX + 1] = "";
	struct job_name called = { .id = js_get_str(c->args, "job-id") };
	struct job *j = NULL;
	struct err e;
	int r = free_check(c->vm, "delete the snapshot", &e);

	if (children)
		victims = strcmp(children, "too") ? SNAPSHOT_CHILDREN_ONLY : SNAPSHOT_WITH_CHILDREN;
	if (!r)
		r = arg_text(c, "name", false, name, sizeof(name), &e);
	if (!r)
		r = snapshot_delete(c->vm, name, victims, js_get_bool(c->args, "dry-run", false), &called, &j, &e);
	job_answer(c, r, j, &e);
}

void command_snapshot_revert(struct call *c)
{
	struct snapshot_revert opts = { .then = save_then_asked(c),
		.disks_only = js_get_bool(c->args, "disks-only", false),
		.eager = js_get_bool(c->args, "eager", false),
		.verify = js_get_bool(c->args, "verify", false), .look_only = js_get_bool(c->args, "dry-run", false) };
	struct job_name called = { .id = js_get_str(c->args, "job-id") };
	struct job *j = NULL;
	struct err e;
	int r = free_check(c->vm, "revert it", &e);

	if (!r)
		r = arg_text(c, "name", false, opts.name, sizeof(opts.name), &e);
	if (!r)
		r = arg_disk(c, &opts, &e);
	if (!r)
		r = snapshot_revert(c->vm, &opts, &called, &j, &e);
	job_answer(c, r, j, &e);
}

/* ---- without a job ---- */

static void snapshots_ask(struct call *c, enum vm_msg_type type, const void *body, size_t len, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e))
{
	c->on_images = true;
	snapshots_request(c->vm, type, body, len, timeout_ns, done, c);
}

void command_snapshot_set(struct call *c)
{
	struct vm_snapshot_set body = { .set_description = js_get_str(c->args, "description") != NULL,
		.set_tags = js_get_array(c->args, "tags") != NULL };
	struct err e;
	int r = free_check(c->vm, "change the snapshot", &e);

	if (!r)
		r = arg_text(c, "name", true, body.name, sizeof(body.name), &e);
	if (!r)
		r = arg_text(c, "new-name", true, body.new_name, sizeof(body.new_name), &e);
	if (!r)
		r = arg_text(c, "description", false, body.description, sizeof(body.description), &e);
	if (!r)
		r = arg_tags(c, body.tags, &e);
	if (r < 0)
		call_fail(c, &e);
	else
		snapshots_ask(c, VM_MSG_SNAPSHOT_SET, &body, sizeof(body), SET_TIMEOUT_NS, command_answered);
}

static void size_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	const struct vm_snapshots *s = a->snapshots;
	struct json_object *o;
	struct err why;

	if (!r && (s->n != 1 || s->list[0].own_bytes > INT64_MAX)) {
		r = err_set(&why, -EPROTO, ERR_GENERIC, "the VM's process sent an unexpected answer");
		e = &why;
	}
	if (r < 0) {
		call_fail(opaque, e);
		return;
	}
	o = json_object_new_object();
	js_put_uint(o, "own-size", s->list[0].own_bytes);
	call_return(opaque, o);
}

void command_snapshot_size(struct call *c)
{
	struct vm_snapshot_name body = { "" };
	struct err e;
	int r = vm_check_claim(c->vm, VM_CLAIM_READ, "read its snapshots", &e);

	if (!r)
		r = arg_text(c, "name", true, body.name, sizeof(body.name), &e);
	if (r < 0)
		call_fail(c, &e);
	else
		snapshots_ask(c, VM_MSG_SNAPSHOT_SIZE, &body, sizeof(body), SNAPSHOT_SIZE_TIMEOUT_NS, size_done);
}

static uint64_t key_of(const struct vm_snapshot_info *s)
{
	return strtoull(s->id, NULL, 10);
}

/* Return a page: as many of n snapshots as fit. at: the index of the first one in the list. total: of the list. */
static void list_return(struct call *c, const struct vm_snapshot_info *s, size_t n, size_t at, size_t total)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	size_t bytes = 0, i = 0;

	for (; i < n && bytes < COMMAND_PAGE_BYTES; i++) {
		json_object_array_add(list, snapshot_to_json(c->vm, &s[i]));
		/* A non-ASCII byte may take six bytes in the answer. */
		bytes += 300 + 6 * (strlen(s[i].name) + strlen(s[i].description) + strlen(s[i].tags));
	}
	js_put(o, "snapshots", list);
	/* An image of another program may have any texts as ids. */
	if (i && at + i < total)
		js_put_uint(o, "next", key_of(&s[i - 1]) && key_of(&s[i - 1]) < COMMAND_PAGE_KEYS ? COMMAND_PAGE_KEYS + key_of(&s[i - 1]) : at + i);
	call_return(c, o);
}

static void list_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	const struct vm_snapshots *s = a->snapshots;
	struct call *c = opaque;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	if (c->vm)
		quota_snapshots_set(c->vm, s->total);
	list_return(c, s->list, s->n, s->from, s->total);
}

/* Return the index of the first snapshot behind that with the key, which may be gone: new snapshots get higher ids. */
static size_t place_behind(const struct snapshots *s, uint64_t key)
{
	size_t i = s->n;

	while (i && key_of(&s->list[i - 1]) != key)
		i--;
	if (i)
		return i;
	while (i < s->n && key_of(&s->list[i]) < key)
		i++;
	return i;
}

static void all_fetched(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct call *c = opaque;
	size_t at;

	if (r < 0) {
		call_fail(c, e);
		return;
	}
	at = place_behind(s, (uint64_t)(js_get_int(c->args, "from", 0) - COMMAND_PAGE_KEYS));
	list_return(c, s->list + at, s->n - at, at, s->n);
}

void command_snapshot_list(struct call *c)
{
	int64_t from = js_get_int(c->args, "from", 0);
	struct vm_snapshot_list body = { .from = (uint32_t)from };
	struct vm *vm = c->vm;
	struct err e;
	int r = 0;

	if (from < 0 || (from > UINT32_MAX && from < COMMAND_PAGE_KEYS))
		r = err_set(&e, -EINVAL, ERR_INVALID, "from: is out of range");
	if (!r)
		r = vm_check_claim(vm, VM_CLAIM_READ, "read its snapshots", &e);
	if (r < 0)
		call_fail(c, &e);
	else if (from >= COMMAND_PAGE_KEYS) {
		c->on_images = true;
		snapshots_fetch(vm, all_fetched, c);
	} else
		snapshots_ask(c, VM_MSG_SNAPSHOT_LIST, &body, sizeof(body), LIST_TIMEOUT_NS, list_done);
}

/* ---- differences ---- */

void command_snapshot_diff(struct call *c)
{
	struct job *j;
	struct err e;
	int r = snapshot_diff_begin(c->vm, SNAPSHOT_DIFF, c->args, &j, &e);

	job_answer(c, r, j, &e);
}

void command_snapshot_diff_files(struct call *c)
{
	struct job *j;
	struct err e;
	int r = snapshot_diff_begin(c->vm, SNAPSHOT_DIFF_FILES, c->args, &j, &e);

	job_answer(c, r, j, &e);
}
