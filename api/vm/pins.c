#include "api/vm/pins.h"
#include "api/definition/definition.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/hex.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/pin_name.h"
#include "base/ratelimit.h"
#include "base/util.h"
#include "base/uuid.h"

#include <stdlib.h>
#include <string.h>

#define OWNER_UNKNOWN ((uid_t)-1)

struct row {
	char *overlay; /* owned; NULL: none, the pin is due for deletion */
	char *image;   /* owned */
	uint8_t id[VM_PIN_ID_BYTES];
	/* The overlay reads the pin `id` or the pin `other`; the process that makes it has not reported which. Then
	 * `id`
	 * is the older pin: an earlier Cairn reads only `id` from the file, and deletes no pin that is not there. */
	bool either;
	uint8_t other[VM_PIN_ID_BYTES];
	/* The number of the overlay among those that this daemon's forks have made; 0: another one. Of a pin that is
	 * due: that of its last overlay; 0: no further fork may share the pin. */
	uint64_t order;
	uint64_t since_ns; /* the pin is due since then */
	bool kept; /* the pin is never deleted, because an overlay that the list does not have may read it */
	const struct vm *asked; /* VM whose process was asked to delete the pin; only compared. NULL: none */
	uid_t owner; /* the user whose file the overlay is, or was; OWNER_UNKNOWN: an earlier Cairn stored the row */
	uint64_t added; /* rises with each row of the list; the rows of the file are the first */
};

struct rows {
	struct row *list;
	size_t n, cap;
	uint64_t added; /* number of rows added so far */
};

struct pins {
	struct rows used; /* sorted by overlay */
	struct rows due;  /* pins to delete */
	uint64_t made; /* number of overlays that forks have made so far */
	bool incomplete; /* the list was lost or damaged, and overlays may be missing */
	bool unsaved; /* the last pins_store() has failed */
	struct ratelimit dropped_log;
};

static void row_done(struct row *r)
{
	free(r->overlay);
	free(r->image);
}

static struct row *row_insert(struct rows *l, size_t at, const char *overlay, const char *image, const uint8_t *id)
{
	struct row *r;

	if (l->n == l->cap) {
		l->cap = MAX(2 * l->cap, 16u);
		l->list = must_alloc(realloc(l->list, l->cap * sizeof(*l->list)));
	}
	r = &l->list[at];
	memmove(r + 1, r, (l->n++ - at) * sizeof(*r));
	*r = (struct row){ .overlay = overlay ? must_alloc(strdup(overlay)) : NULL, .image = must_alloc(strdup(image)),
		.owner = OWNER_UNKNOWN, .added = ++l->added };
	memcpy(r->id, id, sizeof(r->id));
	return r;
}

static void row_remove(struct rows *l, size_t at)
{
	row_done(&l->list[at]);
	l->n--;
	memmove(&l->list[at], &l->list[at + 1], (l->n - at) * sizeof(*l->list));
}

/* Return the index of the first row whose overlay does not sort before `overlay`. */
static size_t place_of(const struct rows *l, const char *overlay)
{
	size_t from = 0, to = l->n;

	while (from < to) {
		size_t mid = from + (to - from) / 2;

		if (strcmp(l->list[mid].overlay, overlay) < 0)
			from = mid + 1;
		else
			to = mid;
	}
	return from;
}

static struct row *row_find(const struct rows *l, const char *overlay)
{
	size_t at = place_of(l, overlay);

	return at < l->n && !strcmp(l->list[at].overlay, overlay) ? &l->list[at] : NULL;
}

static bool row_may_read(const struct row *r, const uint8_t *id)
{
	return !memcmp(r->id, id, VM_PIN_ID_BYTES) || (r->either && !memcmp(r->other, id, VM_PIN_ID_BYTES));
}

/* Return the index of a row with the id; l->n: none. */
static size_t id_find(const struct rows *l, const uint8_t *id)
{
	size_t i = 0;

	while (i < l->n && !row_may_read(&l->list[i], id))
		i++;
	return i;
}

/* ---- rows that no VM has ---- */

/* Put the paths of the definition's layers to `to`, borrowed; NULL: only count them. def: NULL: none. */
static size_t layers_put(const struct definition *def, const char **to)
{
	size_t n = 0;

	for (uint32_t i = 0; def && i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++)
			if (def->disks[i].layers[k].path && to)
				to[n++] = def->disks[i].layers[k].path;
			else
				n += def->disks[i].layers[k].path != NULL;
	return n;
}

/* Also the definition that a VM gets back if a change of its disks fails. */
static size_t paths_put(const struct vm_host *host, const char **to)
{
	size_t n = 0;

	for (size_t i = 0; i < host->nvms; i++) {
		const struct definition *all[] = { host->vms[i]->def, host->vms[i]->live, host->vms[i]->disk_change.before };

		for (size_t k = 0; k < ARRAY_SIZE(all); k++)
			n += layers_put(all[k], to ? to + n : NULL);
	}
	return n;
}

static int paths_compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Return the sorted paths of all layers of all VMs. The caller frees the list; the paths are borrowed. */
static const char **paths_of_vms(const struct vm_host *host, size_t *ret_n)
{
	const char **list = must_alloc(calloc(paths_put(host, NULL) + 1, sizeof(*list)));

	*ret_n = paths_put(host, list);
	qsort(list, *ret_n, sizeof(*list), paths_compare);
	return list;
}

/* A row that no VM has. */
struct unused {
	uid_t owner;
	uint64_t added;
	size_t at; /* index of the row */
	size_t bytes; /* of its paths */
	bool excess;
};

static size_t row_bytes(const struct row *r)
{
	return strlen(r->image) + (r->overlay ? strlen(r->overlay) : 0);
}

static int unused_compare(const void *a, const void *b)
{
	const struct unused *x = a, *y = b;

	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	return x->added < y->added ? -1 : x->added > y->added;
}

static int excess_compare(const void *a, const void *b)
{
	const struct unused *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

/* Let *ret be the rows that no VM has, for each owner the oldest of those above PINS_UNUSED_MAX and PINS_UNUSED_BYTES,
 * sorted by index. *ret: owned by the caller. Returns their number. */
static size_t excess_find(const struct vm_host *host, const struct rows *l, struct unused **ret)
{
	size_t npaths, n = 0, excess = 0;
	const char **paths = paths_of_vms(host, &npaths);
	struct unused *all = must_alloc(calloc(l->n, sizeof(*all)));

	for (size_t i = 0; i < l->n; i++) {
		const struct row *r = &l->list[i];
		const char *path = r->overlay ? r->overlay : r->image;

		if (!bsearch(&path, paths, npaths, sizeof(*paths), paths_compare))
			all[n++] = (struct unused){ .owner = r->owner, .added = r->added, .at = i, .bytes = row_bytes(r) };
	}
	free(paths);
	qsort(all, n, sizeof(*all), unused_compare);
	for (size_t i = n, rows = 0, bytes = 0; i--;) {
		rows = i + 1 < n && all[i + 1].owner == all[i].owner ? rows + 1 : 1;
		bytes = all[i].bytes + (rows > 1 ? bytes : 0);
		all[i].excess = rows > PINS_UNUSED_MAX || bytes > PINS_UNUSED_BYTES;
	}
	for (size_t i = 0; i < n; i++)
		if (all[i].excess)
			all[excess++] = all[i];
	qsort(all, excess, sizeof(*all), excess_compare);
	*ret = all;
	return excess;
}

static int id_compare(const void *a, const void *b)
{
	return memcmp(a, b, VM_PIN_ID_BYTES);
}

static bool ids_have(uint8_t (*ids)[VM_PIN_ID_BYTES], size_t n, const uint8_t *id)
{
	return bsearch(id, ids, n, sizeof(*ids), id_compare);
}

/* Let no row of these pins make them due, and no further fork share them. ids: sorted. */
static void pins_keep(struct pins *p, uint8_t (*ids)[VM_PIN_ID_BYTES], size_t n)
{
	for (size_t i = 0; n && i < p->used.n; i++) {
		struct row *r = &p->used.list[i];

		if (!ids_have(ids, n, r->id) && (!r->either || !ids_have(ids, n, r->other)))
			continue;
		r->kept = true;
		r->order = 0;
	}
}

static void drop_log(struct pins *p, const struct row *r)
{
	char text[2 * VM_PIN_ID_BYTES + 1];

	if (!log_ratelimit_pass(&p->dropped_log))
		return;
	hex_print(r->id, sizeof(r->id), text);
	log_warn("pins", "%s: user %u has too many disks of clones that no VM has, so " PINS_FILE " forgets %s; the pin "
		PIN_NAME_IN_IMAGE "%s stays", r->image, r->owner, r->overlay ? r->overlay : "a pin that is due", text);
}

/* Remove rows in one pass, since an old list may be long. excess: sorted by index. */
static void rows_drop(struct pins *p, struct rows *l, const struct unused *excess, size_t n)
{
	uint8_t (*ids)[VM_PIN_ID_BYTES] = must_alloc(calloc(2 * n, sizeof(*ids)));
	size_t nids = 0, left = 0, next = 0;

	for (size_t i = 0; i < l->n; i++) {
		struct row *r = &l->list[i];

		if (next == n || excess[next].at != i) {
			l->list[left++] = *r;
			continue;
		}
		next++;
		drop_log(p, r);
		if (r->overlay)
			memcpy(ids[nids++], r->id, sizeof(*ids));
		if (r->overlay && r->either)
			memcpy(ids[nids++], r->other, sizeof(*ids));
		row_done(r);
	}
	l->n = left;
	qsort(ids, nids, sizeof(*ids), id_compare);
	pins_keep(p, ids, nids);
	free(ids);
}

static void rows_limit(struct vm_host *host, struct rows *l)
{
	struct unused *excess;
	size_t n, bytes = 0;

	for (size_t i = 0; i < l->n; i++)
		bytes += row_bytes(&l->list[i]);
	if (l->n <= PINS_UNUSED_MAX && bytes <= PINS_UNUSED_BYTES)
		return;
	n = excess_find(host, l, &excess);
	if (n)
		rows_drop(host->pins, l, excess, n);
	free(excess);
}

/* ---- loading and storing the list ---- */

static struct json_object *rows_to_json(const struct rows *l)
{
	struct json_object *all = json_object_new_array();

	for (size_t i = 0; i < l->n; i++) {
		struct json_object *o = json_object_new_object();

		js_put_uuid(o, "pin", l->list[i].id);
		if (l->list[i].either)
			js_put_uuid(o, "or", l->list[i].other);
		js_put_str(o, "image", l->list[i].image);
		js_put_str(o, "overlay", l->list[i].overlay);
		if (l->list[i].kept)
			js_put_bool(o, "kept", true);
		if (l->list[i].owner != OWNER_UNKNOWN)
			js_put_uint(o, "owner", l->list[i].owner);
		json_object_array_add(all, o);
	}
	return all;
}

int pins_store(struct vm_host *host, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	struct err own;
	int r;

	rows_limit(host, &host->pins->used);
	rows_limit(host, &host->pins->due);
	vm_observers_each(x, host)
		if ((*x)->pins_changed)
			(*x)->pins_changed(host);
	if (store_is_newer(host->store, PINS_FILE))
		return 0;
	js_put(o, "used", rows_to_json(&host->pins->used));
	js_put(o, "due", rows_to_json(&host->pins->due));
	if (host->pins->incomplete)
		js_put_bool(o, "incomplete", true);
	r = store_put(host->store, NULL, PINS_FILE, o, STORE_SOON, NULL, &own);
	if (r < 0)
		log_error("pins", "%s is not kept: %s", PINS_FILE, own.msg);
	if (r < 0 && e)
		*e = own;
	host->pins->unsaved = r < 0;
	return r;
}

bool pins_are_unsaved(const struct vm_host *host)
{
	return host->pins->unsaved;
}

/* Load a row if it is valid. due: see rows_load(). */
static void row_load(struct json_object *o, bool due, struct rows *l)
{
	const char *id = js_get_str(o, "pin"), *either = js_get_str(o, "or"), *image = js_get_str(o, "image"),
		   *overlay = js_get_str(o, "overlay");
	uint8_t bytes[VM_PIN_ID_BYTES], other[VM_PIN_ID_BYTES] = { 0 };
	int64_t owner = js_get_int(o, "owner", -1);
	struct row *r;

	if (!id || uuid_parse(id, bytes) < 0 || (either && uuid_parse(either, other) < 0) || !image || !overlay != due ||
		(overlay && row_find(l, overlay)))
		return;
	r = row_insert(l, due ? l->n : place_of(l, overlay), overlay, image, bytes);
	r->kept = js_get_bool(o, "kept", false);
	r->either = either && !due;
	r->owner = owner >= 0 && owner < OWNER_UNKNOWN ? (uid_t)owner : OWNER_UNKNOWN;
	memcpy(r->other, other, sizeof(other));
}

/* Load the valid rows of a JSON array. due: the rows are about pins to delete, and have no overlay. Returns whether the
 * array exists and all rows are valid. */
static bool rows_load(struct json_object *all, bool due, struct rows *l)
{
	size_t n = all ? json_object_array_length(all) : 0;

	for (size_t i = 0; i < n; i++)
		row_load(json_object_array_get_idx(all, i), due, l);
	return all && l->n == n;
}

/* Of the pins that are due for deletion, drop those that an overlay reads. */
static void due_check(struct pins *p)
{
	for (size_t i = p->due.n; i--;)
		if (id_find(&p->used, p->due.list[i].id) < p->used.n)
			row_remove(&p->due, i);
}

static void due_remove(struct pins *p, const uint8_t *id)
{
	size_t i;

	while ((i = id_find(&p->due, id)) < p->due.n)
		row_remove(&p->due, i);
}

static void rows_clear(struct rows *l)
{
	while (l->n)
		row_done(&l->list[--l->n]);
}

/* Mark all pins as never to be deleted, and drop the pins that are due for deletion: overlays of missing rows may
 * read any pin. */
static void keep_all(struct pins *p)
{
	rows_clear(&p->due);
	for (size_t i = 0; i < p->used.n; i++)
		p->used.list[i].kept = true;
}

void pins_load(struct vm_host *host)
{
	CLEANUP_JS struct json_object *o = store_load_file(host->store, NULL, PINS_FILE);
	struct pins *p = must_alloc(calloc(1, sizeof(*p)));
	bool whole = rows_load(js_get_array(o, "used"), false, &p->used);

	whole = rows_load(js_get_array(o, "due"), true, &p->due) && whole;
	host->pins = p;
	due_check(p);
	p->incomplete = js_get_bool(o, "incomplete", false);
	if (whole || store_is_newer(host->store, PINS_FILE))
		return;
	p->incomplete = true;
	keep_all(p);
	if (o)
		store_set_aside(host->store, PINS_FILE, "it has malformed rows");
}

bool pins_are_incomplete(const struct vm_host *host)
{
	return host->pins->incomplete;
}

void pins_set_complete(struct vm_host *host, bool complete)
{
	host->pins->incomplete = !complete;
}

static void rows_free(struct rows *l)
{
	rows_clear(l);
	free(l->list);
}

void pins_free(struct pins *p)
{
	if (!p)
		return;
	rows_free(&p->used);
	rows_free(&p->due);
	free(p);
}

/* ---- rows of overlays ---- */

void pins_add(struct vm_host *host, const char *overlay, const char *image, const uint8_t id[VM_PIN_ID_BYTES])
{
	struct rows *l = &host->pins->used;

	pins_remove(host, overlay);
	row_insert(l, place_of(l, overlay), overlay, image, id)->order = ++host->pins->made;
	due_remove(host->pins, id);
}

/* Return the row of the list that has the greatest order among those of the image; NULL: none has an order. */
static struct row *row_newest(const struct rows *l, const char *image)
{
	struct row *newest = NULL;

	/* An overlay that was loaded or found has order 0: a process may still be asked to delete its pin, or the pin
	 * is kept. */
	for (size_t i = 0; i < l->n; i++)
		if (l->list[i].order > (newest ? newest->order : 0) && !l->list[i].either && !strcmp(l->list[i].image, image))
			newest = &l->list[i];
	return newest;
}

/* Return whether the pin, which is due, waits for a further fork. */
static bool row_waits(const struct vm_host *host, const struct row *r)
{
	const struct row *used;

	if (!r->order || loop_now_ns() >= r->since_ns + host->pins_wait_ns || row_newest(&host->pins->due, r->image) != r)
		return false;
	used = row_newest(&host->pins->used, r->image);
	return !used || used->order < r->order;
}

bool pins_newest(const struct vm_host *host, const char *image, uint8_t ret_id[VM_PIN_ID_BYTES])
{
	const struct row *r = row_newest(&host->pins->due, image);

	if (!r || !row_waits(host, r))
		r = row_newest(&host->pins->used, image);
	if (r)
		memcpy(ret_id, r->id, VM_PIN_ID_BYTES);
	return r;
}

void pins_add_either(struct vm_host *host, const char *overlay, const char *image, const uint8_t earlier[VM_PIN_ID_BYTES],
	const uint8_t made[VM_PIN_ID_BYTES])
{
	struct row *r;

	pins_add(host, overlay, image, earlier);
	r = row_find(&host->pins->used, overlay);
	r->either = true;
	memcpy(r->other, made, sizeof(r->other));
}

void pins_set_owner(struct vm_host *host, const char *overlay, uid_t owner)
{
	struct row *r = row_find(&host->pins->used, overlay);

	if (r)
		r->owner = owner;
}

void pins_copy(struct vm_host *host, const char *overlay, const char *copy)
{
	struct row *r = row_find(&host->pins->used, overlay), was;

	if (!r)
		return;
	was = *r;
	was.image = must_alloc(strdup(r->image)); /* the insertion may move the list */
	if (was.either)
		pins_add_either(host, copy, was.image, was.id, was.other);
	else
		pins_add(host, copy, was.image, was.id);
	r = row_find(&host->pins->used, copy);
	r->kept = was.kept;
	r->order = was.order;
	r->owner = was.owner;
	free(was.image);
}

bool pins_add_found(struct vm_host *host, const char *overlay, const char *image, const uint8_t id[VM_PIN_ID_BYTES])
{
	struct rows *l = &host->pins->used, *due = &host->pins->due;
	const struct row *r = row_find(l, overlay);
	size_t at = id_find(l, id);
	bool kept = at < l->n ? l->list[at].kept : id_find(due, id) == due->n;

	if (r && !strcmp(r->image, image) && row_may_read(r, id))
		return false;
	pins_replace(host, overlay);
	row_insert(l, place_of(l, overlay), overlay, image, id)->kept = kept || host->pins->incomplete;
	due_remove(host->pins, id);
	return true;
}

static void kept_log(const char *image, const uint8_t *id)
{
	char text[2 * VM_PIN_ID_BYTES + 1];

	hex_print(id, VM_PIN_ID_BYTES, text);
	log_warn("pins", "%s: the pin " PIN_NAME_IN_IMAGE "%s stays, because " PINS_FILE " was lost or damaged once or got too long, or somebody "
		"copied a clone's image, and the disk of an unknown clone may read the pin; if there is none, shut the image's VM down and use qemu-img "
		"snapshot -d", image, text);
}

/* The row `was` names the pin no more. order: the row's if a further fork may share the pin, else 0. */
static void id_release(struct pins *p, const struct row *was, const uint8_t *id, uint64_t order)
{
	struct row *r;

	if (id_find(&p->used, id) < p->used.n)
		return;
	if (was->kept) {
		kept_log(was->image, id);
		return;
	}
	r = row_insert(&p->due, p->due.n, NULL, was->image, id);
	r->order = order;
	r->owner = was->owner;
	r->since_ns = loop_now_ns();
}

void pins_resolve(struct vm_host *host, const uint8_t made[VM_PIN_ID_BYTES], bool is_made)
{
	struct rows *l = &host->pins->used;

	for (size_t i = 0; i < l->n; i++) {
		struct row *r = &l->list[i], was = *r;

		if (!r->either || memcmp(r->other, made, VM_PIN_ID_BYTES) != 0)
			continue;
		r->either = false;
		if (!is_made)
			continue;
		memcpy(r->id, made, sizeof(r->id));
		id_release(host->pins, &was, was.id, 0);
	}
}

bool pins_remove(struct vm_host *host, const char *overlay)
{
	struct pins *p = host->pins;
	struct row *r = p ? row_find(&p->used, overlay) : NULL;
	CLEANUP_FREE char *image = NULL;
	struct row was;

	if (!r)
		return false;
	was = *r;
	was.image = image = STEAL_PTR(r->image);
	row_remove(&p->used, (size_t)(r - p->used.list));
	id_release(p, &was, was.id, was.either ? 0 : was.order);
	if (was.either)
		id_release(p, &was, was.other, 0);
	return true;
}

bool pins_replace(struct vm_host *host, const char *overlay)
{
	struct pins *p = host->pins;
	const struct row *r = p ? row_find(&p->used, overlay) : NULL;
	uint8_t ids[2][VM_PIN_ID_BYTES];
	size_t n = 0;

	if (!r)
		return false;
	memcpy(ids[n++], r->id, sizeof(*ids));
	if (r->either)
		memcpy(ids[n++], r->other, sizeof(*ids));
	qsort(ids, n, sizeof(*ids), id_compare);
	pins_keep(p, ids, n);
	return pins_remove(host, overlay);
}

bool pins_remove_image(struct vm_host *host, const char *image)
{
	struct rows *l = &host->pins->due;
	size_t n = l->n;

	for (size_t i = l->n; i--;)
		if (!strcmp(l->list[i].image, image))
			row_remove(l, i);
	return l->n < n;
}

bool pins_has_overlay(const struct vm_host *host, const char *path)
{
	return host->pins && row_find(&host->pins->used, path);
}

bool pins_has_any(const struct vm_host *host)
{
	return host->pins && host->pins->used.n;
}

static void use_add(struct pin_use *all, size_t *n, const uint8_t *id, unsigned overlays)
{
	size_t i = 0;

	while (i < *n && memcmp(all[i].id, id, sizeof(all[i].id)))
		i++;
	if (i == *n) {
		all[i] = (struct pin_use){ .overlays = 0 };
		memcpy(all[i].id, id, sizeof(all[i].id));
		(*n)++;
	}
	all[i].overlays += overlays;
}

size_t pins_of_image(const struct vm_host *host, const char *image, struct pin_use **ret)
{
	const struct rows *used = &host->pins->used, *due = &host->pins->due;
	size_t n = 0;

	*ret = must_alloc(calloc(2 * used->n + due->n + 1, sizeof(**ret)));
	for (size_t i = 0; i < used->n; i++) {
		if (strcmp(used->list[i].image, image))
			continue;
		use_add(*ret, &n, used->list[i].id, 1);
		if (used->list[i].either)
			use_add(*ret, &n, used->list[i].other, 1);
	}
	for (size_t i = 0; i < due->n; i++)
		if (!strcmp(due->list[i].image, image))
			use_add(*ret, &n, due->list[i].id, 0);
	return n;
}

/* ---- pins to delete ---- */

bool pins_are_asked(const struct vm_host *host, const struct vm *by)
{
	const struct rows *l = &host->pins->due;
	size_t i = 0;

	while (i < l->n && l->list[i].asked != by)
		i++;
	return i < l->n;
}

bool pins_are_due(const struct vm_host *host)
{
	const struct rows *l = &host->pins->due;
	size_t i = 0;

	while (i < l->n && (l->list[i].asked || row_waits(host, &l->list[i])))
		i++;
	return i < l->n;
}

bool pins_idle(const struct vm_host *host, const char *image, uint8_t ret_id[VM_PIN_ID_BYTES])
{
	const struct row *r = row_newest(&host->pins->due, image);

	if (!r || !row_waits(host, r))
		return false;
	memcpy(ret_id, r->id, VM_PIN_ID_BYTES);
	return true;
}

void pins_idle_end(struct vm_host *host, const char *image)
{
	struct rows *l = &host->pins->due;

	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->list[i].image, image))
			l->list[i].order = 0;
}

uint64_t pins_idle_until(const struct vm_host *host)
{
	const struct rows *l = &host->pins->due;
	uint64_t first = 0;

	for (size_t i = 0; i < l->n; i++) {
		uint64_t until = l->list[i].since_ns + host->pins_wait_ns;

		if (row_waits(host, &l->list[i]) && (!first || until < first))
			first = until;
	}
	return first;
}

bool pins_has_image(const struct vm_host *host, const char *path)
{
	const struct rows *used = &host->pins->used, *due = &host->pins->due;
	bool any = false;

	for (size_t i = 0; i < used->n && !any; i++)
		any = !strcmp(used->list[i].image, path);
	for (size_t i = 0; i < due->n && !any; i++)
		any = !strcmp(due->list[i].image, path) && !row_waits(host, &due->list[i]);
	return any;
}

unsigned pins_ask(struct vm_host *host, const char *image, const struct vm *by, uint8_t (*ret_ids)[VM_PIN_ID_BYTES],
	unsigned max)
{
	struct rows *l = &host->pins->due;
	unsigned n = 0;

	for (size_t i = 0; i < l->n && n < max; i++) {
		if (l->list[i].asked || strcmp(l->list[i].image, image) || row_waits(host, &l->list[i]))
			continue;
		l->list[i].asked = by;
		l->list[i].order = 0;
		memcpy(ret_ids[n++], l->list[i].id, VM_PIN_ID_BYTES);
	}
	return n;
}

void pins_answered(struct vm_host *host, const struct vm *by, bool deleted)
{
	struct rows *l = &host->pins->due;

	for (size_t i = l->n; i--;) {
		if (l->list[i].asked != by)
			continue;
		l->list[i].asked = NULL;
		if (deleted)
			row_remove(l, i);
	}
	if (deleted)
		pins_store(host, NULL);
}
