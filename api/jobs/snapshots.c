#include "api/jobs/snapshots.h"
#include "api/definition/definition.h"
#include "api/jobs/job.h"
#include "api/vm/offline_process.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)
#define LIST_TIMEOUT_NS (30 * 1000000000ULL)

void snapshots_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	snapshots_request_fds(vm, type, body, len, NULL, 0, timeout_ns, done, opaque);
}

void snapshots_request_fds(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, const int *fds,
	unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	snapshots_request_with(vm, type, body, len, NULL, fds, nfds, timeout_ns, done, opaque);
}

void snapshots_request_with(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	if (vm->proc && vm_state_is_active(vm->state))
		vm_process_request_with(vm->proc, type, body, len, file, fds, nfds, timeout_ns, done, opaque);
	else
		offline_request_with(vm, type, body, len, file, fds, nfds, timeout_ns, done, opaque);
}

static void cancel_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_info("job", "not cancelled: %s", e->msg);
}

void snapshots_cancel(struct job *j)
{
	snapshots_request(j->vm, VM_MSG_CANCEL, NULL, 0, CANCEL_TIMEOUT_NS, cancel_answered, NULL);
}

/* ---- one snapshot ---- */

static const char *snapshot_state_word(const struct vm_snapshot_info *i)
{
	static const char *const words[] = { "shutoff", "running", "paused" };

	if (i->state == VM_SNAPSHOT_SHUTOFF && i->disks_only)
		return "disk-snapshot";
	return words[i->state < ARRAY_SIZE(words) ? i->state : 0];
}

static bool tag_next(const char **at, const char **ret_tag, size_t *ret_len)
{
	*at += strspn(*at, ",");
	*ret_tag = *at;
	*ret_len = strcspn(*at, ",");
	*at += *ret_len;
	return *ret_len > 0;
}

static bool tags_have(const char *tags, const char *tag)
{
	const char *at = tags, *t;
	size_t len;

	while (tag_next(&at, &t, &len))
		if (len == strlen(tag) && !memcmp(t, tag, len))
			return true;
	return false;
}

bool snapshot_has_tag(const struct vm_snapshot_info *i, const char *tag)
{
	return tags_have(i->tags, tag);
}

static bool is_uuid_of(const struct vm *vm, const uint8_t uuid[16])
{
	bool is = !memcmp(vm->def->uuid, uuid, 16);

	for (size_t i = 0; i < VM_FORMER_MAX && !is; i++)
		is = !memcmp(vm->former[i], uuid, 16);
	return is;
}

/* Return whether the tag names a VM whose backup the snapshot is of. Sets *ret_is_this: that is this VM. */
static bool tag_names_vm(const char *tag, size_t len, const struct vm *vm, bool *ret_is_this)
{
	const size_t prefix = strlen(SNAPSHOT_TAG_BACKUP_OF);
	char text[UUID_TEXT] = "";
	uint8_t uuid[16];

	if (len < prefix || memcmp(tag, SNAPSHOT_TAG_BACKUP_OF, prefix) != 0)
		return false;
	if (len - prefix < sizeof(text))
		memcpy(text, tag + prefix, len - prefix);
	*ret_is_this = uuid_parse(text, uuid) == 0 && uuid_is_set(uuid) && is_uuid_of(vm, uuid);
	return true;
}

/* Return whether the snapshot, if it is a backup's, can be of this VM's backup: a copy of an image has the tags of the
 * image. */
static bool tags_may_be_of(const struct vm *vm, const char *tags)
{
	bool is_this = true, names = false;
	const char *at = tags, *t;
	size_t len;

	while (!names && tag_next(&at, &t, &len))
		names = tag_names_vm(t, len, vm, &is_this);
	return is_this;
}

bool snapshot_tags_are_backup(const struct vm *vm, const char *tags)
{
	return tags_have(tags, SNAPSHOT_TAG_BACKUP) && tags_have(tags, SNAPSHOT_TAG_KEEP) && tags_may_be_of(vm, tags);
}

void snapshot_tags_put_vm(const struct vm *vm, char tags[VM_SNAPSHOT_TAGS_MAX + 1])
{
	char uuid[UUID_TEXT];
	size_t len = strlen(tags);

	uuid_print(vm->def->uuid, uuid);
	if (snapshot_tags_are_backup(vm, tags) && !strstr(tags, SNAPSHOT_TAG_BACKUP_OF) && len + 1 + strlen(SNAPSHOT_TAG_BACKUP_OF) + strlen(uuid) <= VM_SNAPSHOT_TAGS_MAX)
		snprintf(tags + len, VM_SNAPSHOT_TAGS_MAX + 1 - len, "," SNAPSHOT_TAG_BACKUP_OF "%s", uuid);
}

/* A snapshot without the tag "keep" whose description is a path is a backup's, too: somebody has removed the tag, and
 * the servers in that folder are still there. */
static bool is_backup(const struct vm *vm, const struct vm_snapshot_info *i)
{
	return tags_have(i->tags, SNAPSHOT_TAG_BACKUP) && (tags_have(i->tags, SNAPSHOT_TAG_KEEP) || i->description[0] == '/') &&
		tags_may_be_of(vm, i->tags);
}

struct json_object *snapshot_to_json(const struct vm *vm, const struct vm_snapshot_info *i)
{
	struct json_object *o = json_object_new_object(), *tags = json_object_new_array();
	const char *at = i->tags, *t;
	size_t len;

	js_put_str(o, "id", i->id);
	if (i->parent[0])
		js_put_str(o, "parent", i->parent);
	js_put_str(o, "name", i->name);
	if (i->description[0])
		js_put_str(o, "description", i->description);
	while (tag_next(&at, &t, &len))
		json_object_array_add(tags, json_object_new_string_len(t, (int)len));
	js_put(o, "tags", tags);
	js_put_str(o, "state", snapshot_state_word(i));
	if (i->disks_missing)
		js_put_uint(o, "disks-missing", i->disks_missing);
	if (i->disks_added)
		js_put_uint(o, "disks-added", i->disks_added);
	js_put_bool(o, "current", i->current);
	if (vm && is_backup(vm, i))
		js_put_bool(o, "backup", true);
	js_put_uint(o, "time", i->realtime_ns);
	js_put_uint(o, "vm-clock", i->vm_clock_ns);
	js_put_uint(o, "vm-state-size", i->vm_state_bytes);
	js_put_uint(o, "disk-size", i->disk_bytes);
	return o;
}

/* ---- the list ---- */

struct fetch {
	struct vm *vm;
	struct snapshots s;
	size_t total;
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e);
	void *opaque;
};

struct by_id {
	const char *id;
	size_t i;
};

static int by_id_compare(const void *a, const void *b)
{
	return strcmp(((const struct by_id *)a)->id, ((const struct by_id *)b)->id);
}

static int parents_find(struct snapshots *s)
{
	struct by_id *ids = calloc(s->n + 1, sizeof(*ids));

	s->parent = calloc(s->n + 1, sizeof(*s->parent));
	if (!ids || !s->parent) {
		free(ids);
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->n; i++)
		ids[i] = (struct by_id){ s->list[i].id, i };
	qsort(ids, s->n, sizeof(*ids), by_id_compare);
	for (size_t i = 0; i < s->n; i++) {
		struct by_id want = { s->list[i].parent, 0 };
		struct by_id *p = want.id[0] ?
			bsearch(&want, ids, s->n, sizeof(*ids), by_id_compare) : NULL;

		s->parent[i] = p ? p->i : SNAPSHOT_NO_PARENT;
		want.id = s->list[i].name;
		p = bsearch(&want, ids, s->n, sizeof(*ids), by_id_compare);
		s->names_are_ids |= p && p->i != i;
	}
	free(ids);
	return 0;
}

static void fetch_end(struct fetch *f, int r, const struct err *e)
{
	struct err no_memory;

	if (!r && parents_find(&f->s) < 0) {
		r = err_set_errno(&no_memory, -ENOMEM, "snapshots");
		e = &no_memory;
	}
	f->done(f->opaque, r, r ? NULL : &f->s, e);
	free(f->s.list);
	free(f->s.parent);
	free(f);
}

static void page_want(struct fetch *f);

static int page_add(struct fetch *f, const struct vm_snapshots *page, struct err *e)
{
	struct vm_snapshot_info *more;

	if (page->from != f->s.n || f->s.n + page->n > SNAPSHOTS_MAX)
		return err_set(e, -E2BIG, ERR_UNSUPPORTED, "VM '%s' has more than %d snapshots",
			f->vm->def->name, SNAPSHOTS_MAX);
	more = reallocarray(f->s.list, f->s.n + page->n + 1, sizeof(*more));
	if (!more)
		return err_set_errno(e, -ENOMEM, "snapshots");
	f->s.list = more;
	memcpy(&more[f->s.n], page->list, page->n * sizeof(*more));
	f->s.n += page->n;
	f->total = page->total;
	return 0;
}

static void page_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct fetch *f = opaque;
	struct err why;

	if (!r)
		quota_snapshots_set(f->vm, a->snapshots->total);
	if (!r && f->s.n && a->snapshots->total != f->total) { /* a snapshot was deleted or made: begin again */
		f->s.n = 0;
		page_want(f);
		return;
	}
	if (!r)
		r = page_add(f, a->snapshots, &why);
	else
		why = *e;
	if (!r && a->snapshots->n && f->s.n < a->snapshots->total)
		page_want(f);
	else
		fetch_end(f, r, &why);
}

static void page_want(struct fetch *f)
{
	struct vm_snapshot_list l = { .from = (uint32_t)f->s.n };

	snapshots_request(f->vm, VM_MSG_SNAPSHOT_LIST, &l, sizeof(l), LIST_TIMEOUT_NS, page_done, f);
}

void snapshots_fetch(struct vm *vm,
	void (*done)(void *opaque, int r, const struct snapshots *s, const struct err *e), void *opaque)
{
	struct fetch *f = calloc(1, sizeof(*f));

	if (!f)
		abort(); /* otherwise done() would never be called */
	f->vm = vm;
	f->done = done;
	f->opaque = opaque;
	page_want(f);
}

int snapshots_check_backup(const struct snapshots *s, const struct vm *vm, struct err *e)
{
	const char *name = vm->def->name;

	for (size_t i = 0; i < s->n; i++)
		if (snapshot_tags_are_backup(vm, s->list[i].tags))
			return err_set(e, -EBUSY, ERR_BUSY, "a backup of domain '%s' is under way (snapshot %.100s); end it with: cairn "
				"domjobabort %s", name, s->list[i].name, shell_word(name).s);
	return 0;
}

struct count {
	struct vm *vm;
	void (*done)(void *opaque, int r, const struct err *e);
	void *opaque;
};

static void count_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct count *c = opaque;
	static const struct err none;

	if (!r)
		quota_snapshots_set(c->vm, a->snapshots->total);
	c->done(c->opaque, 0, e ? e : &none);
	free(c);
}

static void count_fetched(void *opaque, int r, const struct snapshots *s, const struct err *why)
{
	struct count *c = opaque;
	struct err e = { 0 };

	(void)why;
	c->done(c->opaque, r ? 0 : snapshots_check_backup(s, c->vm, &e), &e);
	free(c);
}

void snapshots_count(struct vm *vm, bool backup, void (*done)(void *opaque, int r, const struct err *e), void *opaque)
{
	static const struct vm_snapshot_list first = { 0 };
	struct count *c = must_alloc(calloc(1, sizeof(*c)));

	*c = (struct count){ vm, done, opaque };
	if (backup)
		snapshots_fetch(vm, count_fetched, c);
	else
		snapshots_request(vm, VM_MSG_SNAPSHOT_LIST, &first, sizeof(first), LIST_TIMEOUT_NS, count_done, c);
}

/* ---- the tree ---- */

int snapshots_find(const struct snapshots *s, const char *vm, const char *name, size_t *ret_i,
	struct err *e)
{
	for (size_t i = 0; i < s->n; i++)
		if (name[0] ? !strcmp(s->list[i].name, name) : s->list[i].current) {
			*ret_i = i;
			return 0;
		}
	for (size_t i = 0; name[0] && i < s->n; i++)
		if (!strcmp(s->list[i].id, name)) {
			*ret_i = i;
			return 0;
		}
	if (!name[0])
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "domain '%s' has no current snapshot", vm);
	return err_set(e, -ENOENT, ERR_NOT_FOUND,
		"VM '%.200s' has no snapshot '%.200s'. Next: cairn snapshot-list %s", vm, name, shell_word(vm).s);
}

/* Take at most n steps, because the parents may form a cycle. */
bool snapshots_descends(const struct snapshots *s, size_t i, size_t above)
{
	for (size_t steps = 0; steps < s->n; steps++) {
		i = s->parent[i];
		if (i == SNAPSHOT_NO_PARENT)
			return false;
		if (i == above)
			return true;
	}
	return false;
}

const char *snapshots_handle(const struct snapshots *s, size_t i)
{
	for (size_t k = 0; s->names_are_ids && k < s->n; k++)
		if (k != i && !strcmp(s->list[k].name, s->list[i].id))
			return s->list[i].name;
	return s->list[i].id;
}
