/* image-list and image-remove: the images in the cache of `cairn run`, and its kept layers. */
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/image_cache.h"
#include "tools/cairn/kept_layer.h"
#include "tools/cairn/output.h"
#include "tools/cairn/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_SHOWN 12	/* digits */
#define DIGEST_LEAST 6	/* digits that name an image */
#define NAMES_TEXT 512
#define DAY_S 86400
#define DAYS_MAX 100000

/* ---- list ---- */

static const char *names_text(struct json_object *image, char buf[NAMES_TEXT])
{
	struct json_object *names = js_get_array(image, "names");
	size_t n = 0;

	buf[0] = 0;
	for (size_t i = 0; names && i < json_object_array_length(names) && n < NAMES_TEXT; i++)
		n += (size_t)snprintf(buf + n, NAMES_TEXT - n, "%s%s", i ? ", " : "", json_object_get_string(json_object_array_get_idx(names, i)));
	return *buf ? buf : "-";
}

/* Returns the digits of the digest. */
static const char *digits_of(struct json_object *image)
{
	const char *digest = js_get_str_or(image, "digest", ""), *colon = strchr(digest, ':');

	return colon ? colon + 1 : digest;
}

static void rows_print(struct json_object *all)
{
	static const char *const heads[] = { "Image", "Digest", "Size", "States", "Last used", "In use" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char names[NAMES_TEXT], digits[DIGEST_SHOWN + 1], size[VOLUME_SIZE_TEXT], states[VOLUME_SIZE_TEXT], used[TIME_TEXT_BYTES];

		snprintf(digits, sizeof(digits), "%s", digits_of(o));
		table_add(&t, (const char *const[]){ names_text(o, names), digits, volume_size_text((uint64_t)js_get_int(o, "size", 0), size),
					  volume_size_text((uint64_t)js_get_int(o, "states_size", 0), states),
					  time_text(js_get_int(o, "used", 0) * (int64_t)CLOCK_NS_PER_S, false, used),
					  js_get_bool(o, "in_use", false) ? "yes" : "no" });
	}
	table_finish(&t, stdout);
}

static void layers_print(struct json_object *all)
{
	static const char *const heads[] = { "Layer", "Image", "Size", "Last used", "In use" };
	struct table t;

	table_init(&t, heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		char digits[DIGEST_SHOWN + 1], size[VOLUME_SIZE_TEXT], used[TIME_TEXT_BYTES];

		snprintf(digits, sizeof(digits), "%s", digits_of(o));
		table_add(&t, (const char *const[]){ js_get_str_or(o, "name", ""), digits, volume_size_text((uint64_t)js_get_int(o, "size", 0), size),
					  time_text(js_get_int(o, "used", 0) * (int64_t)CLOCK_NS_PER_S, false, used),
					  js_get_bool(o, "in_use", false) ? "yes" : "no" });
	}
	table_finish(&t, stdout);
}

int verb_image_list(struct cli *c)
{
	bool kept = option_flag(c, "kept");
	CLEANUP_JS struct json_object *all = NULL;
	struct err e;

	if ((kept ? kept_layers_list(&all, &e) : image_cache_list(&all, &e)) < 0)
		return cli_fail(&e, "Failed to list %s", kept ? "layers" : "images");
	if (c->format != CLI_TABLE)
		output_print(stdout, c->format, all);
	else if (kept)
		layers_print(all);
	else
		rows_print(all);
	return CLI_OK;
}

/* ---- remove ---- */

static bool has_name(struct json_object *image, const char *name)
{
	struct json_object *names = js_get_array(image, "names");

	for (size_t i = 0; names && i < json_object_array_length(names); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(names, i)), name))
			return true;
	return false;
}

static bool has_digits(struct json_object *image, const char *name)
{
	const char *digits = strncmp(name, "sha256:", 7) ? name : name + 7;

	return strlen(digits) >= DIGEST_LEAST && !strncmp(digits_of(image), digits, strlen(digits));
}

/* Find the image that the user names. Returns it, borrowed; NULL with a sentence. */
static struct json_object *image_find(struct json_object *all, const char *name, struct err *e)
{
	CLEANUP_FREE char *path = realpath(name, NULL);
	const char *known = path ? path : !strncmp(name, "docker://", 9) ? name + 9 : name;
	struct json_object *found = NULL;

	for (size_t i = 0; i < json_object_array_length(all); i++)
		if (has_name(json_object_array_get_idx(all, i), known))
			return json_object_array_get_idx(all, i);
	for (size_t i = 0; i < json_object_array_length(all); i++) {
		if (!has_digits(json_object_array_get_idx(all, i), name))
			continue;
		if (found) {
			err_set(e, -EINVAL, ERR_INVALID, "several digests begin with %s; give more digits", name);
			return NULL;
		}
		found = json_object_array_get_idx(all, i);
	}
	if (!found)
		err_set(e, -ENOENT, ERR_NOT_FOUND, "the cache has no image %.200s; see cairn image-list; layers of run --keep need --kept", name);
	return found;
}

static const char *image_name(struct json_object *image, char buf[NAMES_TEXT])
{
	return strcmp(names_text(image, buf), "-") ? buf : js_get_str_or(image, "digest", "");
}

static int named_remove(struct cli *c, struct json_object *all)
{
	bool kept = option_flag(c, "kept");
	int worst = CLI_OK, r;

	for (size_t i = 0; i < c->npos; i++) {
		const char *name = c->pos[i];
		struct json_object *image;
		struct err e;

		if (kept)
			r = kept_layer_remove(name, &e);
		else
			r = (image = image_find(all, name, &e)) ? image_cache_remove(image, &e) : -ENOENT;
		if (r < 0)
			worst = cli_fail(&e, "Failed to remove %s %s", kept ? "layer" : "image", name);
		else
			say("%s %s removed\n", kept ? "Layer" : "Image", name);
	}
	return worst;
}

/* Remove the images, or layers, that were last used before a time, but those that are needed. */
static int old_remove(struct cli *c, struct json_object *all, int64_t before_s)
{
	const char *kind = option_flag(c, "kept") ? "Layer" : "Image";
	unsigned states, looked_at = 0;
	int worst = CLI_OK, r;

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *o = json_object_array_get_idx(all, i);
		const char *layer = js_get_str(o, "name");
		char buf[NAMES_TEXT];
		struct err e;

		if (js_get_int(o, "used", 0) >= before_s)
			continue;
		looked_at++;
		r = layer ? kept_layer_remove(layer, &e) : image_cache_remove(o, &e);
		layer = layer ? layer : image_name(o, buf);
		if (!r)
			say("%s %s removed\n", kind, layer);
		else if (e.cls == ERR_BUSY)
			say("%s %s stays: %s\n", kind, layer, e.msg);
		else
			worst = cli_fail(&e, "Failed to remove %s", layer);
	}
	states = option_flag(c, "kept") ? 0 : image_cache_remove_states(before_s);
	if (states)
		say("%u saved state%s removed\n", states, states == 1 ? "" : "s");
	if (!looked_at && !states)
		say("Nothing to remove\n");
	return worst;
}

int verb_image_remove(struct cli *c)
{
	const char *days = option_value(c, "unused-for");
	bool kept = option_flag(c, "kept");
	CLEANUP_JS struct json_object *all = NULL;
	int64_t before_s = INT64_MAX;
	struct err e;

	if ((c->npos > 0) + !!days + option_flag(c, "all") != 1)
		return cli_usage(c, "image-remove needs %s, or --unused-for, or --all", kept ? "layers" : "images");
	if (days && (!*days || days[strspn(days, "0123456789")] || strlen(days) > 6 || atoi(days) > DAYS_MAX))
		return cli_usage(c, "--unused-for must be a number of days from 0 to %d, not \"%s\"", DAYS_MAX, days);
	if (days)
		before_s = (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S) - (int64_t)atoi(days) * DAY_S;
	if ((kept ? kept_layers_list(&all, &e) : image_cache_list(&all, &e)) < 0)
		return cli_fail(&e, "Failed to list %s", kept ? "layers" : "images");
	return c->npos ? named_remove(c, all) : old_remove(c, all, before_s);
}
