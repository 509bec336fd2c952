#include "api/policy/web_hook.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/policy/timetable.h"
#include "api/wire/json.h"
#include "api/wire/peer.h"
#include "base/base64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/public_address.h"
#include "base/util.h"
#include "base/uuid.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sysexits.h>

#define RETRY_S 2 /* before the second try; each further one waits twice as long */
#define SECRET_PREFIX "whsec_" /* the rest is a key in base64, of these lengths (Standard Webhooks) */
#define KEY_BYTES_MIN 24
#define KEY_BYTES_MAX 64
#define SECRET_BYTES 32 /* of a new key */

static const char *const words[WEB_HOOK_EVENTS] = { "started", "stopped", "crashed", "snapshot", "schedule", "threshold", "disk-space" };

const char *web_hook_word(unsigned i)
{
	return i < WEB_HOOK_EVENTS ? words[i] : NULL;
}

int web_hook_index(const char *word)
{
	for (unsigned i = 0; word && i < WEB_HOOK_EVENTS; i++)
		if (!strcmp(words[i], word))
			return (int)i;
	return -1;
}

/* ---- checks ---- */

int web_hook_check_name(const char *name, struct err *e)
{
	if (timetable_name_is_good(name))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "name: \"%.80s\" is no name of a web hook; give up to %d letters, digits, '.', '_' and '-', such as chat",
		name, WEB_HOOK_NAME_MAX);
}

/* Check a host that cairn-webhook would refuse at each delivery. It looks other names up then. */
static int host_check_public(const char *at, size_t len, struct err *e)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	char host[64];
	bool is_public = true;

	if (len >= sizeof(host))
		return 0;
	memcpy(host, at, len);
	host[len] = 0;
	if (inet_aton(host, &v4.sin_addr))
		is_public = address_is_public((const struct sockaddr *)&v4);
	else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
		is_public = address_is_public((const struct sockaddr *)&v6);
	if (is_public && strcasecmp(host, "localhost") != 0)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "url: %s is no public address; only an admin may name others, with: cairn web-hook --private", host);
}

/* cairn-webhook parses the URL. This is for errors that users see at once. */
int web_hook_check_url(const char *url, bool is_private, struct err *e)
{
	size_t scheme = !strncmp(url, "https://", 8) ? 8 : !strncmp(url, "http://", 7) ? 7 : 0, host = strcspn(url + scheme, "/?#");

	if (!scheme)
		return err_set(e, -EINVAL, ERR_INVALID, "url: must begin with https:// or http://");
	if (strlen(url) > WEB_HOOK_URL_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "url: is %zu bytes long; at most %d", strlen(url), WEB_HOOK_URL_MAX);
	for (const char *c = url; *c; c++)
		if (*c <= ' ' || *c > '~' || strchr("\"<>\\^`{|}", *c))
			return err_set(e, -EINVAL, ERR_INVALID, "url: has a character that no URL may have; write it as %%XX");
	if (!host || url[scheme] == ':')
		return err_set(e, -EINVAL, ERR_INVALID, "url: names no host");
	if (memchr(url + scheme, '@', host))
		return err_set(e, -EINVAL, ERR_INVALID, "url: must have no user and password; the receiver checks the signature");
	if (is_private)
		return 0;
	if (url[scheme] == '[')
		return host_check_public(url + scheme + 1, strcspn(url + scheme + 1, "]/?#"), e);
	return host_check_public(url + scheme, strcspn(url + scheme, ":/?#"), e);
}

/* A stored secret of an earlier version may be any text: cairn-webhook takes one that is not base64 as it is. */
static int secret_check_text(const char *secret, struct err *e)
{
	size_t len = strlen(secret);

	if (len < WEB_HOOK_SECRET_MIN || len > WEB_HOOK_SECRET_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "secret: is %zu bytes long; give %d to %d, or none, and Cairn makes one", len, WEB_HOOK_SECRET_MIN,
			WEB_HOOK_SECRET_MAX);
	for (const char *c = secret; *c; c++)
		if (*c <= ' ' || *c > '~')
			return err_set(e, -EINVAL, ERR_INVALID, "secret: must be one line of ASCII without blanks");
	return 0;
}

int web_hook_check_secret(const char *secret, struct err *e)
{
	CLEANUP_FREE char *key = NULL;
	size_t len = 0;
	int r = secret_check_text(secret, e);

	if (r < 0 || strncmp(secret, SECRET_PREFIX, strlen(SECRET_PREFIX)) != 0)
		return r;
	key = base64_decode(secret + strlen(SECRET_PREFIX), &len);
	if (key && len >= KEY_BYTES_MIN && len <= KEY_BYTES_MAX)
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "secret: what follows " SECRET_PREFIX " must be the base64 of %d to %d bytes, with its final '='; make one "
		"with: openssl rand -base64 %d", KEY_BYTES_MIN, KEY_BYTES_MAX, SECRET_BYTES);
}

static void random_fill(void *p, size_t n)
{
	if (getrandom(p, n, 0) != (ssize_t)n)
		abort();
}

char *web_hook_secret_new(void)
{
	uint8_t bytes[SECRET_BYTES];
	char *code, *secret;

	random_fill(bytes, sizeof(bytes));
	code = must_alloc(base64_encode(bytes, sizeof(bytes)));
	if (asprintf(&secret, SECRET_PREFIX "%s", code) < 0)
		abort();
	free(code);
	return secret;
}

/* ---- the queue ---- */

static void web_delivery_free(struct web_delivery *d)
{
	if (!d)
		return;
	free(d->body);
	free(d);
}

void web_hook_free(struct web_hook *w)
{
	struct web_delivery *d;

	if (!w)
		return;
	while ((d = w->first)) {
		w->first = d->next;
		if (d->done)
			d->done(d->opaque, false, "the web hook was removed or replaced");
		web_delivery_free(d);
	}
	free(w->url);
	free(w->secret);
	free(w->maker);
	free(w);
}

/* Return the event with its type, as text that the caller owns. */
static char *body_make(const char *type, struct json_object *event)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put_str(o, "type", type);
	json_object_object_foreach(event, key, member)
		js_put(o, key, json_object_get(member));
	return must_alloc(strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)));
}

static void delivery_append(struct web_hook *w, struct web_delivery *d)
{
	struct web_delivery **end = &w->first;

	while (*end)
		end = &(*end)->next;
	*end = d;
	w->nwaiting++;
}

struct web_delivery *web_hook_add(struct web_hook *w, const char *type, struct json_object *event, int64_t now_s)
{
	struct web_delivery *d;
	uint8_t bytes[16];

	if (w->nwaiting >= WEB_HOOK_QUEUE_MAX) {
		w->dropped++;
		return NULL;
	}
	d = must_alloc(calloc(1, sizeof(*d)));
	random_fill(bytes, sizeof(bytes));
	memcpy(d->id, "msg_", 4);
	hex_print(bytes, sizeof(bytes), d->id + 4);
	d->body = body_make(type, event);
	d->due_s = now_s;
	delivery_append(w, d);
	return d;
}

struct web_delivery *web_hook_next(const struct web_hook *w)
{
	struct web_delivery *found = NULL;

	for (struct web_delivery *d = w->first; d && !w->busy; d = d->next)
		if (!found || d->due_s < found->due_s)
			found = d;
	return found;
}

int64_t web_hook_due_s(const struct web_hook *w, const struct web_delivery *d)
{
	return d->done ? d->due_s : MAX(d->due_s, w->rest_until_s);
}

/* Return the time between a try and the next one, after so many that have failed. */
static int64_t wait_s(unsigned failed, int64_t most)
{
	return MIN((int64_t)RETRY_S << (failed - 1), most);
}

/* A server that is down or hangs gets ever fewer tries, of whatever event. */
static void rest_set(struct web_hook *w, bool again, int64_t now_s)
{
	w->fails = again ? MIN(w->fails + 1, 20) : 0;
	w->rest_until_s = again ? now_s + wait_s(w->fails, WEB_HOOK_REST_MAX_S) : 0;
}

static void delivery_remove(struct web_hook *w, struct web_delivery *d)
{
	struct web_delivery **at = &w->first;

	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	w->nwaiting--;
	web_delivery_free(d);
}

void web_hook_drop(struct web_hook *w, struct web_delivery *d)
{
	w->dropped++;
	delivery_remove(w, d);
}

void web_hook_tried(struct web_hook *w, struct web_delivery *d, int status, const char *outcome, int64_t now_s)
{
	snprintf(w->last, sizeof(w->last), "%s", outcome);
	w->last_s = now_s;
	w->busy = false;
	rest_set(w, status == EX_TEMPFAIL, now_s);
	if (d->done) {
		d->done(d->opaque, !status, outcome);
	} else if (status == EX_TEMPFAIL && ++d->tries < WEB_HOOK_TRIES_MAX) {
		d->due_s = now_s + wait_s(d->tries, WEB_HOOK_RETRY_MAX_S);
		return;
	} else if (status) {
		w->failed++;
	} else {
		w->delivered++;
	}
	delivery_remove(w, d);
}

/* ---- files ---- */

struct json_object *web_hook_to_json(const struct web_hook *w)
{
	struct json_object *o = json_object_new_object(), *events = json_object_new_array();

	js_put_str(o, "name", w->name);
	if (w->of_vm)
		js_put_uuid(o, "vm-uuid", w->uuid);
	js_put_str(o, "url", w->url);
	js_put_str(o, "secret", w->secret);
	for (unsigned i = 0; i < WEB_HOOK_EVENTS; i++)
		if (w->events & 1u << i)
			json_object_array_add(events, json_object_new_string(words[i]));
	js_put(o, "events", events);
	if (w->is_private)
		js_put_bool(o, "private", true);
	js_put_int(o, "uid", w->uid);
	if (w->maker)
		js_put(o, "maker", rights_to_json(w->maker));
	return o;
}

static int parts_parse(struct web_hook *w, struct json_object *o, struct err *e)
{
	const char *name = js_get_str_or(o, "name", ""), *uuid = js_get_str(o, "vm-uuid"), *url = js_get_str_or(o, "url", ""),
		   *secret = js_get_str_or(o, "secret", "");
	struct json_object *events = js_get_array(o, "events"), *maker = js_get(o, "maker");
	int64_t uid = js_get_int(o, "uid", -1);

	for (size_t i = 0; events && i < json_object_array_length(events); i++) {
		int index = web_hook_index(js_plain_string(json_object_array_get_idx(events, i)));

		w->events |= index < 0 ? 0 : 1u << index;
	}
	w->of_vm = uuid != NULL;
	w->is_private = js_get_bool(o, "private", false);
	w->uid = (uid_t)uid;
	if (uid < 0 || uid >= UINT32_MAX || !w->events || (uuid && uuid_parse(uuid, w->uuid) < 0) || (!maker && !uid_is_root_or_own(w->uid)))
		return -EINVAL;
	if (web_hook_check_name(name, e) < 0 || web_hook_check_url(url, true, e) < 0 || secret_check_text(secret, e) < 0 ||
		(maker && (rights_parse(maker, &w->maker, e) < 0 || w->maker->uid != w->uid)))
		return -EINVAL;
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->url = must_alloc(strdup(url));
	w->secret = must_alloc(strdup(secret));
	return 0;
}

struct web_hook *web_hook_from_json(struct json_object *o)
{
	struct web_hook *w = must_alloc(calloc(1, sizeof(*w)));
	struct err e;

	if (parts_parse(w, o, &e) == 0)
		return w;
	web_hook_free(w);
	return NULL;
}

struct json_object *web_hook_progress_to_json(const struct web_hook *w)
{
	struct json_object *o = json_object_new_object(), *queue = json_object_new_array();

	js_put_str(o, "name", w->name);
	if (w->of_vm)
		js_put_uuid(o, "vm-uuid", w->uuid);
	js_put_uint(o, "delivered", w->delivered);
	js_put_uint(o, "failed", w->failed);
	js_put_uint(o, "dropped", w->dropped);
	js_put_int(o, "last_s", w->last_s);
	js_put_str(o, "last", w->last);
	for (const struct web_delivery *d = w->first; d; d = d->next) {
		struct json_object *one;

		if (d->done)
			continue;
		one = json_object_new_object();
		js_put_str(one, "id", d->id);
		js_put_str(one, "body", d->body);
		js_put_int(one, "tries", d->tries);
		js_put_int(one, "due_s", d->due_s);
		json_object_array_add(queue, one);
	}
	js_put(o, "queue", queue);
	return o;
}

void web_hook_progress_from_json(struct web_hook *w, struct json_object *o)
{
	struct json_object *queue = js_get_array(o, "queue");

	w->delivered = (uint64_t)MAX(js_get_int(o, "delivered", 0), 0);
	w->failed = (uint64_t)MAX(js_get_int(o, "failed", 0), 0);
	w->dropped = (uint64_t)MAX(js_get_int(o, "dropped", 0), 0);
	w->last_s = js_get_time_s(o, "last_s");
	snprintf(w->last, sizeof(w->last), "%s", js_get_str_or(o, "last", ""));
	for (size_t i = 0; queue && i < json_object_array_length(queue); i++) {
		struct json_object *one = json_object_array_get_idx(queue, i);
		const char *id = js_get_str_or(one, "id", ""), *body = js_get_str(one, "body");
		struct web_delivery *d;

		if (!*id || strlen(id) >= sizeof(d->id) || strspn(id, "msg_0123456789abcdef") != strlen(id) || !body || w->nwaiting >= WEB_HOOK_QUEUE_MAX)
			continue;
		d = must_alloc(calloc(1, sizeof(*d)));
		snprintf(d->id, sizeof(d->id), "%s", id);
		d->body = must_alloc(strdup(body));
		d->tries = (unsigned)MIN(MAX(js_get_int(one, "tries", 0), 0), WEB_HOOK_TRIES_MAX - 1);
		d->due_s = js_get_int(one, "due_s", 0);
		delivery_append(w, d);
	}
}
