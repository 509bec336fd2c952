#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/egress.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AUTHORS "authors"

/* ---- keys that depend on rights ---- */

/* Permissions of a claim beyond the least ones. An edit that adds one of these gains something. */
enum { GAIN_WRITE = 1, GAIN_HOST = 2, GAIN_WORLD = 4, GAIN_READ = 8 /* by the guest */, GAIN_SPOOF = 16, GAIN_PEERS = 32, GAIN_LISTEN = 64 };

struct claim {
	char *key; /* owned */
	char *limits; /* owned: a change gains something: egress rules, or where a screen is shown; NULL: none */
	unsigned gains;
};

struct claims {
	struct claim *list; /* owned */
	size_t n;
};

static void claims_done(struct claims *c)
{
	for (size_t i = 0; i < c->n; i++) {
		free(c->list[i].key);
		free(c->list[i].limits);
	}
	free(c->list);
}

static struct claim *claim_find(const struct claims *c, const char *key)
{
	for (size_t i = 0; i < c->n; i++)
		if (!strcmp(c->list[i].key, key))
			return &c->list[i];
	return NULL;
}

static void claim_add(struct claims *c, const char *key, unsigned gains)
{
	struct claim *same = key ? claim_find(c, key) : NULL;

	if (same)
		same->gains |= gains;
	if (!key || same)
		return;
	c->list = must_alloc(reallocarray(c->list, c->n + 1, sizeof(*c->list)));
	c->list[c->n++] = (struct claim){ .key = must_alloc(strdup(key)), .gains = gains };
}

/* Return whether a claim permits more than the earlier one. */
static bool claim_gains(const struct claim *before, const struct claim *c)
{
	return c->gains & ~before->gains || (before->limits && (!c->limits || strcmp(c->limits, before->limits) != 0));
}

static void disk_claims(struct claims *c, const struct definition_disk *d)
{
	for (unsigned k = 0; k < d->nlayers; k++) {
		unsigned gains = GAIN_READ | (k || d->read_only ? 0 : GAIN_WRITE);

		claim_add(c, d->layers[k].path, gains);
		claim_add(c, d->layers[k].data_file, gains);
	}
}

/* No path begins with a word, so these keys differ from those of files. */
#define KEY_BYTES 96

static void interface_key(const struct definition_interface *n, char key[KEY_BYTES])
{
	if (n->type != DEFINITION_USER)
		snprintf(key, KEY_BYTES, "%s %s", n->type == DEFINITION_BRIDGE ? "bridge" : "network", n->source);
	else
		snprintf(key, KEY_BYTES, "user %s", n->id);
}

static void interface_claims(struct claims *c, const struct definition_interface *n)
{
	char key[KEY_BYTES], forward[DEFINITION_FORWARD_TEXT];
	unsigned gains = (n->user.host_loopback ? GAIN_HOST : 0) | (n->user.restricted ? 0 : GAIN_WORLD) |
		(n->clean_traffic ? 0 : GAIN_SPOOF) | (n->isolated ? 0 : GAIN_PEERS);

	interface_key(n, key);
	claim_add(c, key, gains);
	if (n->egress)
		claim_find(c, key)->limits = must_alloc(egress_print(n->egress));
	for (uint32_t i = 0; i < n->user.nforwards; i++) {
		definition_forward_print(&n->user.forwards[i], forward);
		claim_add(c, forward, 0);
	}
}

static void setting_key(const char *setting, uint32_t value, char key[KEY_BYTES])
{
	snprintf(key, KEY_BYTES, "%s %u", setting, value);
}

static void setting_claim(struct claims *c, const char *setting, uint32_t value)
{
	char key[KEY_BYTES];

	setting_key(setting, value, key);
	claim_add(c, key, 0);
}

/* The author of the socket, or else of the password's file, listens for clients, and reads that file (vnc_add()). */
static void screen_claims(struct claims *c, const struct definition *d)
{
	const char *shown = d->vnc.path ?: d->vnc.password_file;
	char **limits;

	if (!shown)
		return;
	claim_add(c, shown, GAIN_LISTEN);
	limits = &claim_find(c, shown)->limits;
	if (asprintf(limits, "%s %u %s", d->vnc.address, d->vnc.port, d->vnc.password_file ?: "") < 0)
		must_alloc(*limits = NULL);
}

static void claims_make(struct claims *c, const struct definition *d)
{
	*c = (struct claims){ 0 };
	claim_add(c, d->kernel, GAIN_READ);
	claim_add(c, d->initrd, GAIN_READ);
	claim_add(c, d->loader, GAIN_READ);
	claim_add(c, d->nvram_template, GAIN_READ);
	claim_add(c, d->vsock_path, GAIN_WRITE);
	screen_claims(c, d);
	for (uint32_t i = 0; i < d->nshares; i++)
		claim_add(c, d->shares[i].path, d->shares[i].read_only ? 0 : GAIN_WRITE);
	for (uint32_t i = 0; i < d->ndisks; i++)
		disk_claims(c, &d->disks[i]);
	for (uint32_t i = 0; i < d->ninterfaces; i++)
		interface_claims(c, &d->interfaces[i]);
	setting_claim(c, "order", d->order);
	setting_claim(c, "start_delay", d->start_delay_s);
	setting_claim(c, "deadline", d->shutdown_deadline_s);
	setting_claim(c, "memory", (uint32_t)(d->ram_bytes >> 20));
	setting_claim(c, "vcpus", definition_vcpus_max(d));
	if (d->cpu_shares)
		setting_claim(c, "cpu_shares", d->cpu_shares);
	if (d->balance.shares_max)
		setting_claim(c, "balance_shares", d->balance.shares_max);
}

/* ---- looking up authors ---- */

const struct rights *author_of(const struct definition *d, const char *path)
{
	for (uint32_t i = 0; i < d->nauthors; i++)
		if (!strcmp(d->authors[i].key, path))
			return d->authors[i].rights;
	return d->rights;
}

const struct rights *author_of_forward(const struct definition *d, const struct definition_forward *f)
{
	char key[DEFINITION_FORWARD_TEXT];

	definition_forward_print(f, key);
	return author_of(d, key);
}

const struct rights *author_of_interface(const struct definition *d, const struct definition_interface *n)
{
	char key[KEY_BYTES];

	interface_key(n, key);
	return author_of(d, key);
}

const struct rights *author_of_setting(const struct definition *d, const char *setting, uint32_t value)
{
	char key[KEY_BYTES];

	setting_key(setting, value, key);
	return author_of(d, key);
}

bool authors_are_daemon(const struct definition *d)
{
	/* The list has only authors other than the definer. */
	return !d->rights && !d->nauthors;
}

bool authors_are_user(const struct definition *d, uid_t uid)
{
	return d->rights && d->rights->uid == uid && !d->nauthors;
}

int authors_of_disks(const struct definition *d, const struct rights **ret, struct err *e)
{
	const struct definition_disk *first = NULL;

	*ret = d->rights;
	for (uint32_t i = 0; i < d->ndisks; i++) {
		const struct definition_disk *disk = &d->disks[i];
		const struct rights *author;

		if (disk->read_only)
			continue;
		author = author_of(d, disk->layers[0].path);
		if (first && !rights_are_same(author, *ret))
			return err_set(e, -EPERM, ERR_PERMISSION,
				"disks %s and %s: users %u and %u added them, and this needs a single user's rights to both; "
				"detach one of them first", first->id, disk->id, rights_uid(*ret), rights_uid(author));
		first = disk;
		*ret = author;
	}
	return 0;
}

/* ---- setting authors ---- */

static struct rights *copied(const struct rights *r)
{
	struct rights *copy;

	return rights_copy(r, &copy) < 0 ? must_alloc(NULL) : copy;
}

/* rights: copied. */
static void author_add(struct definition *d, const char *key, const struct rights *rights)
{
	d->authors = must_alloc(reallocarray(d->authors, d->nauthors + 1, sizeof(*d->authors)));
	d->authors[d->nauthors++] = (struct definition_author){ must_alloc(strdup(key)), copied(rights) };
}

/* Return the editor's rights if they are those of the same user: the groups may have changed. */
static const struct rights *refreshed(const struct rights *r, const struct rights *editor)
{
	return r && editor && r->uid == editor->uid ? editor : r;
}

void authors_inherit(struct definition *d, const struct definition *old)
{
	CLEANUP_FREE struct rights *editor = d->rights;
	struct claims is, was;

	d->rights = copied(refreshed(old->rights, editor));
	claims_make(&is, d);
	claims_make(&was, old);
	for (size_t i = 0; i < is.n; i++) {
		const struct claim *c = &is.list[i], *before = claim_find(&was, c->key);
		bool keeps = before && (!editor || !claim_gains(before, c));
		const struct rights *author = keeps ? refreshed(author_of(old, c->key), editor) : editor;

		if (!rights_are_same(author, d->rights))
			author_add(d, c->key, author);
	}
	claims_done(&is);
	claims_done(&was);
}

static bool has_author(const struct definition *d, const char *key)
{
	for (uint32_t i = 0; i < d->nauthors; i++)
		if (!strcmp(d->authors[i].key, key))
			return true;
	return false;
}

void authors_clone(const struct definition *source, struct definition *clone)
{
	const struct rights *definer;
	struct claims is, was;
	struct err e;

	if (authors_of_disks(source, &definer, &e) < 0)
		definer = source->rights;
	clone->rights = copied(definer);
	for (uint32_t i = 0; i < source->ndisks && i < clone->ndisks; i++) {
		const struct rights *author = author_of(source, source->disks[i].layers[0].path);

		if (!clone->disks[i].read_only && !rights_are_same(author, definer))
			author_add(clone, clone->disks[i].layers[0].path, author);
	}
	claims_make(&is, clone);
	claims_make(&was, source);
	for (size_t i = 0; i < is.n; i++) {
		const struct claim *before = claim_find(&was, is.list[i].key);
		const struct rights *author = author_of(source, is.list[i].key);

		if (before && !claim_gains(before, &is.list[i]) && !rights_are_same(author, definer) &&
			!has_author(clone, is.list[i].key))
			author_add(clone, is.list[i].key, author);
	}
	claims_done(&is);
	claims_done(&was);
}

void authors_copy(const struct definition *from, struct definition *to)
{
	to->rights = copied(from->rights);
	for (uint32_t i = 0; i < from->nauthors; i++)
		author_add(to, from->authors[i].key, from->authors[i].rights);
}

void authors_restore(struct definition *d, const struct definition *now, const struct definition *before)
{
	struct claims is, was;

	d->rights = copied(now->rights);
	claims_make(&is, d);
	claims_make(&was, now);
	for (size_t i = 0; i < is.n; i++) {
		const struct claim *c = &is.list[i], *same = claim_find(&was, c->key);
		const struct rights *author = author_of(same && !claim_gains(same, c) ? now : before, c->key);

		if (!rights_are_same(author, d->rights))
			author_add(d, c->key, author);
	}
	claims_done(&is);
	claims_done(&was);
}

/* ---- JSON ---- */

void authors_put(struct json_object *definition, const struct definition *d)
{
	struct json_object *list;

	if (d->rights)
		rights_put(definition, d->rights);
	if (!d->nauthors)
		return;
	list = json_object_new_array();
	for (uint32_t i = 0; i < d->nauthors; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "of", d->authors[i].key);
		if (d->authors[i].rights)
			rights_put(o, d->authors[i].rights);
		json_object_array_add(list, o);
	}
	js_put(definition, AUTHORS, list);
}

static void member_move(struct json_object *from, struct json_object *to, const char *key)
{
	struct json_object *o;

	if (!json_object_is_type(from, json_type_object) || !json_object_object_get_ex(from, key, &o))
		return;
	js_put(to, key, json_object_get(o));
	json_object_object_del(from, key);
}

struct json_object *authors_cut(struct json_object *definition)
{
	struct json_object *o = json_object_new_object();

	member_move(definition, o, RIGHTS_KEY);
	member_move(definition, o, AUTHORS);
	return o;
}

static int author_load(struct definition *d, struct json_object *o, struct err *e)
{
	CLEANUP_FREE struct rights *rights = NULL;
	const char *of = js_get_str(o, "of");
	int r = rights_take(o, &rights, e);

	if (r < 0)
		return r;
	if (!of)
		return err_set(e, -EINVAL, ERR_CORRUPT, AUTHORS ": is malformed");
	author_add(d, of, rights);
	return 0;
}

int authors_load(struct definition *d, struct json_object *cut, struct err *e)
{
	struct json_object *list = js_get(cut, AUTHORS);
	int r = rights_take(cut, &d->rights, e);

	if (!r && json_object_object_get_ex(cut, AUTHORS, NULL) && !json_object_is_type(list, json_type_array))
		r = err_set(e, -EINVAL, ERR_CORRUPT, AUTHORS ": is malformed");
	for (size_t i = 0; !r && list && i < json_object_array_length(list); i++)
		r = author_load(d, json_object_array_get_idx(list, i), e);
	return r;
}

int authors_parse_stored(struct json_object *o, struct definition **ret_d, struct err *e)
{
	CLEANUP_JS struct json_object *authors = authors_cut(o);
	struct definition *d = NULL;
	int r = definition_parse_stored(o, &d, e);

	if (!r)
		r = authors_load(d, authors, e);
	if (r < 0)
		definition_free(d);
	else
		*ret_d = d;
	return r;
}

int authors_definition_copy(const struct definition *d, struct definition **ret_d, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(d);

	authors_put(o, d);
	return authors_parse_stored(o, ret_d, e);
}
