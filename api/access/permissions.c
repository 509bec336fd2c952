#include "api/access/permissions.h"
#include "api/definition/definition.h"
#include "api/schema/schema.h"
#include "api/store/store.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Stores the table when nobody waits for it, and again after a failure: a revoked permission must not come back with
 * the next daemon. */
struct permissions_writer {
	struct store_work work;
	struct permissions *p;
	struct store *store;
	struct loop_timer *retry, *uses;
	bool busy, again; /* again: the table has changed since the write under way */
	uint64_t wait_ns;
};

static void writer_free(struct permissions_writer *w)
{
	if (!w)
		return;
	loop_timer_free(w->retry);
	loop_timer_free(w->uses);
	free(w);
}

void permissions_done(struct permissions *p)
{
	for (size_t i = 0; i < p->n; i++)
		free(p->list[i].vm);
	free(p->list);
	writer_free(p->writer);
	*p = (struct permissions){ 0 };
}

/* ---- looking up roles ---- */

bool permission_is_about(const struct permission *p, const struct peer *who)
{
	return p->is_group ? peer_is_in_group(who, p->id) : p->id == who->uid;
}

/* Whether this is the user's entry for the role creator. It never gets another role. */
static bool is_creators(const struct permission *e)
{
	return e->promised == ROLE_CREATOR;
}

/* uuid: NULL: all VMs. */
static bool is_for(const struct permission *e, const uint8_t *uuid)
{
	return e->vm ? uuid && uuid_is_set(e->uuid) && !memcmp(e->uuid, uuid, sizeof(e->uuid)) : !uuid;
}

enum role permissions_role(const struct permissions *p, const struct peer *who, const uint8_t *uuid)
{
	enum role role = ROLE_NONE;

	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];

		if (!is_creators(e) && e->role > role && (!e->vm || is_for(e, uuid)) && permission_is_about(e, who))
			role = e->role;
	}
	return role;
}

bool permissions_creates(const struct permissions *p, const struct peer *who)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].role == ROLE_CREATOR && permission_is_about(&p->list[i], who))
			return true;
	return false;
}

size_t permissions_ids(const struct permissions *p, const uint8_t uuid[16], enum role role, bool groups, uint32_t *ids)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];

		if (e->is_group == groups && e->role >= role && (!e->vm || is_for(e, uuid)))
			ids[n++] = e->id;
	}
	return n;
}

bool permissions_know(const struct permissions *p, const struct peer *who)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].role && permission_is_about(&p->list[i], who))
			return true;
	return false;
}

/* Mix the bits of a number (splitmix64, https://prng.di.unimi.it/splitmix64.c). */
static uint64_t bits_mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

uint64_t permissions_mark(const struct permissions *p, const struct peer *who)
{
	uint64_t mark = 0;

	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].role && permission_is_about(&p->list[i], who))
			mark += bits_mix(p->list[i].serial * (ROLE_ADMIN + 1) + p->list[i].role);
	return mark;
}

/* ---- changing permissions ---- */

static bool is_entry_of(const struct permission *e, const struct permission_vm *vm)
{
	if (!vm || vm->uuid)
		return is_for(e, vm ? vm->uuid : NULL);
	return e->vm && !strcmp(e->vm, vm->name);
}

static void remove_at(struct permissions *p, size_t i)
{
	free(p->list[i].vm);
	p->n--;
	memmove(&p->list[i], &p->list[i + 1], (p->n - i) * sizeof(*p->list));
}

static int permission_add(struct permissions *p, const struct permission *e, const struct permission_vm *vm)
{
	struct permission *more;
	char *copy = NULL;

	if (p->n == PERMISSIONS_MAX)
		return -ENOSPC;
	more = reallocarray(p->list, p->n + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->list = more;
	if (vm && !(copy = strdup(vm->name)))
		return -ENOMEM;
	p->list[p->n] = *e;
	p->list[p->n].origin = p->list[p->n].promised_origin = (struct permission_origin){ .by = (uid_t)-1 };
	p->list[p->n].vm = copy;
	p->list[p->n].serial = ++p->serial;
	if (vm && vm->uuid)
		memcpy(p->list[p->n].uuid, vm->uuid, sizeof(e->uuid));
	p->n++;
	return 0;
}

static struct permission *entry_find(const struct permissions *p, bool is_group, uid_t id, bool creates, const struct permission_vm *vm)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].is_group == is_group && p->list[i].id == id && is_creators(&p->list[i]) == creates && is_entry_of(&p->list[i], vm))
			return &p->list[i];
	return NULL;
}

static struct permission *entry_of_serial(const struct permissions *p, uint64_t serial)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].serial == serial)
			return &p->list[i];
	return NULL;
}

static bool sees_too(const struct permissions *p, const struct permission *who, const uint8_t *uuid)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct permission *e = &p->list[i];

		if (e->is_group == who->is_group && e->id == who->id && e->role >= ROLE_VIEWER && (!e->vm || is_for(e, uuid)))
			return true;
	}
	return false;
}

bool permissions_seen_together(const struct permissions *p, const uint8_t a[16], const uint8_t b[16])
{
	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].vm && is_for(&p->list[i], a) && !sees_too(p, &p->list[i], b))
			return false;
	return true;
}

int permissions_set(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role role)
{
	struct permission *e = entry_find(p, is_group, id, role == ROLE_CREATOR, vm);

	if (!e)
		return permission_add(p, &(struct permission){ .is_group = is_group, .id = id, .role = role, .promised = role }, vm);
	e->role = e->promised = role;
	return 0;
}

int permissions_remove(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role only)
{
	size_t had = p->n;

	for (size_t i = p->n; i-- > 0;) {
		const struct permission *e = &p->list[i];

		if (e->is_group == is_group && e->id == id && is_entry_of(e, vm) && (only == ROLE_NONE || e->role == only || e->promised == only))
			remove_at(p, i);
	}
	return p->n < had ? 0 : -ENOENT;
}

int permissions_promise(struct permissions *p, bool is_group, uid_t id, const struct permission_vm *vm, enum role role,
	const struct permission_origin *from, uint64_t *ret_serial)
{
	struct permission *e = entry_find(p, is_group, id, role == ROLE_CREATOR, vm);
	int r = 0;

	if (!e)
		r = permission_add(p, &(struct permission){ .is_group = is_group, .id = id }, vm);
	if (r < 0)
		return r;
	e = e ? e : &p->list[p->n - 1];
	if (e->promised != role)
		e->promised_origin = *from;
	e->role = MIN(e->role, role);
	e->promised = role;
	e->made = false;
	e->promises++;
	*ret_serial = e->serial;
	return 0;
}

void permissions_promise_end(struct permissions *p, uint64_t serial, enum role role, bool stored)
{
	struct permission *e = entry_of_serial(p, serial);

	if (!e || !e->promises)
		return;
	e->promises--;
	/* Another client may have lowered the role meanwhile. */
	if (stored)
		e->role = MAX(e->role, MIN(role, e->promised));
	else if (!e->promises)
		e->promised = e->role;
	if (stored && e->role == e->promised)
		e->origin = e->promised_origin;
	else if (!e->promises)
		e->promised_origin = e->origin;
	if (!e->promises && e->role == ROLE_NONE)
		remove_at(p, (size_t)(e - p->list));
}

/* Check the limits of the entries that creators get. Returns 0; -EDQUOT; -ENOSPC. */
static int created_check(const struct permissions *p, uid_t uid)
{
	size_t all = 0, own = 0;

	for (size_t i = 0; i < p->n; i++) {
		all += p->list[i].made;
		own += p->list[i].made && p->list[i].id == uid;
	}
	return own >= PERMISSIONS_CREATOR_MAX ? -EDQUOT : all >= PERMISSIONS_CREATED_MAX ? -ENOSPC : 0;
}

int permissions_reserve(struct permissions *p, uid_t uid, const struct permission_vm *vm, uint64_t *ret_serial)
{
	int r = created_check(p, uid);

	if (!r)
		r = permission_add(p, &(struct permission){ .id = uid, .made = true, .promises = 1 }, vm);
	if (r < 0)
		return r;
	*ret_serial = p->serial;
	return 0;
}

void permissions_promise_reserved(struct permissions *p, uint64_t serial, const struct permission_origin *from)
{
	struct permission *e = entry_of_serial(p, serial);

	if (!e)
		return;
	e->promised = ROLE_ADMIN;
	e->promised_origin = *from;
}

bool permissions_remove_vm(struct permissions *p, const uint8_t uuid[16])
{
	size_t had = p->n;

	for (size_t i = p->n; i--;)
		if (p->list[i].vm && is_for(&p->list[i], uuid))
			remove_at(p, i);
	return p->n != had;
}

bool permissions_prune(struct permissions *p, bool (*there)(void *opaque, const struct permission *e), void *opaque)
{
	size_t had = p->n;

	for (size_t i = p->n; i--;)
		if (p->list[i].vm && !there(opaque, &p->list[i]))
			remove_at(p, i);
	return p->n != had;
}

bool permissions_find_vms(struct permissions *p, const uint8_t *(*find)(void *opaque, const char *name), void *opaque)
{
	bool any = false;

	for (size_t i = p->n; i--;) {
		struct permission *e = &p->list[i];
		const uint8_t *uuid;

		if (!e->vm || uuid_is_set(e->uuid))
			continue;
		uuid = find(opaque, e->vm);
		if (!uuid)
			continue;
		memcpy(e->uuid, uuid, sizeof(e->uuid));
		any = true;
	}
	return any;
}

void permissions_promote(struct permissions *p, const uint8_t uuid[16], const char *name, const uint8_t left[16], const uint8_t old[16],
	const char *old_name, struct json_object *roles)
{
	const struct permission_vm copy = { old_name, old };
	size_t n;

	permissions_remove_vm(p, left);
	permissions_remove_vm(p, old);
	n = p->n;
	for (size_t i = 0; i < n; i++) {
		struct permission *e = &p->list[i], also;

		if (!e->vm || !is_for(e, uuid))
			continue;
		free(e->vm);
		e->vm = must_alloc(strdup(name));
		/* Without `made`, a creator could exceed the limits of created_check() by promotions. */
		also = (struct permission){ .is_group = e->is_group, .id = e->id, .made = e->made, .role = e->role, .promised = e->role };
		if (!roles && e->role && permission_add(p, &also, &copy) < 0)
			log_warn("promote", "VM '%s' does not get a role of VM '%s': there are too many", old_name, name);
	}
	permissions_load(p, roles);
}

void permissions_rename_vm(struct permissions *p, const char *old, const char *name)
{
	for (size_t i = 0; i < p->n; i++) {
		char *copy;

		if (!p->list[i].vm || strcmp(p->list[i].vm, old))
			continue;
		copy = strdup(name);
		if (!copy)
			abort();
		free(p->list[i].vm);
		p->list[i].vm = copy;
	}
}

/* ---- roles' names; loading and storing permissions ---- */

enum role permissions_role_from_word(const char *word, bool of_vm)
{
	for (unsigned r = of_vm ? ROLE_VIEWER : ROLE_CREATOR; word && r <= ROLE_ADMIN; r++)
		if (!strcmp(of_vm ? role_name_of_vm(r) : role_name(r), word))
			return r;
	return ROLE_NONE;
}

/* An entry without a uuid gets an empty one, which permissions_find_vms() completes. */
static void uuid_put(struct json_object *o, const struct permission *e)
{
	char text[UUID_TEXT];

	uuid_print(e->uuid, text);
	js_put_str(o, VM_UUID_KEY, uuid_is_set(e->uuid) ? text : "");
}

static struct json_object *entry_to_json(const struct permission *e, enum role role)
{
	struct json_object *o;

	if (role == ROLE_NONE)
		return NULL;
	o = json_object_new_object();
	js_put_int(o, e->is_group ? "group" : "user", e->id);
	js_put_str(o, "role", e->vm ? role_name_of_vm(role) : role_name(role));
	js_put_str(o, "vm", e->vm);
	if (e->vm)
		uuid_put(o, e);
	return o;
}

static void origin_put(struct json_object *o, const struct permission_origin *from)
{
	if (from->since_ns)
		js_put_int(o, "since", from->since_ns);
	if (from->by != (uid_t)-1)
		js_put_int(o, "by", from->by);
}

struct json_object *permission_to_json(const struct permission *e)
{
	return entry_to_json(e, e->role);
}

struct json_object *permission_to_review(const struct permissions *p, const struct permission *e, int64_t now_ns)
{
	struct json_object *o = permission_to_json(e);

	if (!o)
		return NULL;
	origin_put(o, &e->origin);
	if (e->used_ns)
		js_put_int(o, "last-used", e->used_ns);
	js_put_int(o, "unused", permission_unused_ns(p, e, now_ns));
	return o;
}

/* Add the entry as it is in the file, with the role that is in effect once it is stored. */
static void entry_store(const struct permission *e, struct json_object *list)
{
	struct json_object *o = entry_to_json(e, e->promised);

	if (!o)
		return;
	origin_put(o, &e->promised_origin);
	if (e->used_ns)
		js_put_int(o, "used", e->used_ns);
	if (e->made)
		js_put_bool(o, "made", true);
	json_object_array_add(list, o);
}

struct json_object *permissions_of_vm(const struct permissions *p, const uint8_t uuid[16])
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < p->n; i++)
		if (p->list[i].vm && is_for(&p->list[i], uuid))
			entry_store(&p->list[i], list);
	return list;
}

struct json_object *permissions_to_file(const struct permissions *p)
{
	struct json_object *file = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < p->n; i++)
		entry_store(&p->list[i], list);
	js_put(file, "permissions", list);
	if (p->uses_since_ns)
		js_put_int(file, "uses-since", p->uses_since_ns);
	return file;
}

static void history_load(struct permission *e, struct json_object *o)
{
	int64_t by = js_get_int(o, "by", -1);

	e->origin.since_ns = MAX(js_get_int(o, "since", 0), 0);
	e->origin.by = by >= 0 && by < UINT32_MAX ? (uid_t)by : (uid_t)-1;
	e->promised_origin = e->origin;
	e->used_ns = MAX(js_get_int(o, "used", 0), 0);
	e->made = e->vm && !e->is_group && js_get_bool(o, "made", false);
}

/* Get the role of an entry. Returns 0; -EINVAL; -ENOTSUP: it may be a role of a newer Cairn. */
static int entry_role(struct json_object *o, bool of_vm, enum role *ret, struct err *e)
{
	const char *word = js_get_str(o, "role");

	*ret = permissions_role_from_word(word, of_vm);
	if (*ret != ROLE_NONE)
		return 0;
	if (word && permissions_role_from_word(word, !of_vm) == ROLE_NONE)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "\"%.40s\" is no role that this Cairn knows; correct it if no newer Cairn "
			"wrote it", word);
	return err_set(e, -EINVAL, ERR_CORRUPT, "an entry has no valid role");
}

/* Returns 0; -EINVAL; -ENOTSUP: as entry_role(). On errors nothing has changed. */
static int entry_load(struct permissions *p, struct json_object *o, struct err *e)
{
	const char *vm = js_get_str(o, "vm"), *uuid = js_get_str(o, VM_UUID_KEY);
	struct permission_vm of = { .name = vm };
	uint8_t bytes[16];
	int64_t user = js_get_int(o, "user", -1), group = js_get_int(o, "group", -1), id = MAX(user, group);
	enum role role;
	int r;

	/* A "vm" that is not a string must not become an entry for all VMs. */
	if (id < 0 || id >= UINT32_MAX || (js_get(o, "vm") && !vm) || !vm != !uuid)
		return err_set(e, -EINVAL, ERR_CORRUPT, "an entry has no valid user or group, or no valid VM");
	if (uuid && *uuid) {
		if (uuid_parse(uuid, bytes) < 0)
			return err_set(e, -EINVAL, ERR_CORRUPT, "\"%.60s\" is not a UUID", uuid);
		of.uuid = bytes;
	}
	r = entry_role(o, vm, &role, e);
	if (r < 0)
		return r;
	r = permissions_set(p, group >= 0, (uid_t)id, vm ? &of : NULL, role);
	if (r == -ENOMEM)
		abort(); /* otherwise the next change would remove the entry */
	if (r < 0)
		return err_set(e, -EINVAL, ERR_CORRUPT, "there are more than %u entries", PERMISSIONS_MAX);
	history_load(entry_find(p, group >= 0, (uid_t)id, role == ROLE_CREATOR, vm ? &of : NULL), o);
	return 0;
}

void permissions_load(struct permissions *p, struct json_object *list)
{
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++)
		entry_load(p, json_object_array_get_idx(list, i), NULL);
}

/* Load all entries, or none if one is invalid. Returns as permissions_load_file(). */
static int entries_load(struct permissions *p, struct json_object *list, struct err *e)
{
	int r = list ? 0 : err_set(e, -EINVAL, ERR_CORRUPT, "it has no list of permissions");

	for (size_t i = 0; !r && i < json_object_array_length(list); i++)
		r = entry_load(p, json_object_array_get_idx(list, i), e);
	while (r < 0 && p->n)
		remove_at(p, p->n - 1);
	return r;
}

int permissions_load_file(struct permissions *p, struct json_object *file, struct err *e)
{
	int r = file ? entries_load(p, js_get_array(file, "permissions"), e) : 0;

	p->uses_since_ns = r < 0 ? 0 : MAX(js_get_int(file, "uses-since", 0), 0);
	if (p->uses_since_ns)
		return r;
	p->uses_since_ns = (int64_t)clock_realtime_ns();
	p->uses_unsaved = true;
	return r;
}

/* ---- storing the table ---- */

#define RETRY_FIRST_NS 1000000000ULL
#define RETRY_LONGEST_NS (60 * 1000000000ULL)

#define USES_WAIT_NS (3600 * 1000000000ULL) /* between two writes that only store uses */

/* w: NULL: nobody waits, and a failure does not matter. */
static void table_write(struct permissions *p, struct store *s, struct store_work *w)
{
	CLEANUP_JS struct json_object *o = permissions_to_file(p);

	store_put(s, NULL, PERMISSIONS_FILE, o, w ? STORE_WITH_WORK : STORE_EVENTUALLY, w, NULL);
	p->uses_unsaved = false;
}

static void uses_store(void *opaque)
{
	struct permissions_writer *w = opaque;

	permissions_finish(w->p, w->store);
}

static void writer_go(void *opaque)
{
	struct permissions_writer *w = opaque;

	w->busy = true;
	w->again = false;
	table_write(w->p, w->store, &w->work);
}

static void writer_done(struct store_work *work)
{
	struct permissions_writer *w = container_of(work, struct permissions_writer, work);

	w->busy = false;
	if (!work->r) {
		w->wait_ns = RETRY_FIRST_NS;
		if (w->again)
			writer_go(w);
		return;
	}
	if (work->r == -ENOTSUP) /* a newer Cairn's file stays as it is */
		return;
	log_error("permissions", "they are not stored, and the daemon tries again in %u s: %s",
		(unsigned)(w->wait_ns / 1000000000ULL), work->e.msg);
	loop_timer_arm(w->retry, loop_now_ns() + w->wait_ns);
	w->wait_ns = MIN(2 * w->wait_ns, RETRY_LONGEST_NS);
}

static struct permissions_writer *writer_of(struct permissions *p, struct loop *l, struct store *s)
{
	struct permissions_writer *w = p->writer;

	if (w)
		return w;
	w = must_alloc(calloc(1, sizeof(*w)));
	*w = (struct permissions_writer){ .work = { .loop = l, .done = writer_done }, .p = p, .store = s,
		.wait_ns = RETRY_FIRST_NS };
	if (loop_timer_new(l, writer_go, w, &w->retry) < 0 || loop_timer_new(l, uses_store, w, &w->uses) < 0)
		abort();
	p->writer = w;
	return w;
}

void permissions_store(struct permissions *p, struct loop *l, struct store *s, struct store_work *w)
{
	struct permissions_writer *own;

	if (w) {
		table_write(p, s, w);
	} else if (p->finished) {
		return;
	} else {
		own = writer_of(p, l, s);
		loop_timer_disarm(own->retry);
		if (own->busy)
			own->again = true;
		else
			writer_go(own);
	}
	if (p->changed)
		p->changed(p->opaque);
}

/* ---- uses of permissions ---- */

void permissions_note_use(struct permissions *p, struct loop *l, struct store *s, const struct peer *who, const uint8_t *uuid,
	enum role role, bool lists)
{
	int64_t now = (int64_t)clock_realtime_ns();
	bool any = false;

	for (size_t i = 0; i < p->n; i++) {
		struct permission *e = &p->list[i];

		if (is_creators(e) != (role == ROLE_CREATOR) || !permission_is_about(e, who) ||
			!((!e->vm || is_for(e, uuid)) ? e->role >= role : lists && e->role == ROLE_VIEWER))
			continue;
		e->used_ns = now;
		any = true;
	}
	if (any && !p->uses_unsaved)
		loop_timer_arm(writer_of(p, l, s)->uses, loop_now_ns() + USES_WAIT_NS);
	p->uses_unsaved |= any;
}

void permissions_finish(struct permissions *p, struct store *s)
{
	if (p->uses_unsaved && p->n)
		table_write(p, s, NULL);
	p->finished = true;
}

int64_t permission_unused_ns(const struct permissions *p, const struct permission *e, int64_t now_ns)
{
	return MAX(now_ns - MAX(MAX(e->used_ns, e->origin.since_ns), p->uses_since_ns), 0);
}
