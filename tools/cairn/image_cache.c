#include "tools/cairn/image_cache.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/shell_word.h"
#include "base/size.h"
#include "base/util.h"
#include "tools/cairn/kept_layer.h"
#include "tools/cairn/root_program.h"
#include "tools/cairn/warm_state.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define BUDGET_BYTES (20 * GIB)

/* ---- images ---- */

/* Returns the bytes that the states of an image's guests take. states: all. */
static uint64_t states_bytes(struct json_object *image, const struct warm_state_info *states, size_t n)
{
	uint64_t bytes = 0;
	struct stat st;

	if (stat(js_get_str_or(image, "image", ""), &st) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		bytes += warm_state_has_file(states[i].name, &st) ? states[i].bytes : 0;
	return bytes;
}

static int use_compare(const void *a, const void *b)
{
	int64_t x = js_get_int(*(struct json_object *const *)a, "used", 0), y = js_get_int(*(struct json_object *const *)b, "used", 0);

	return x < y ? 1 : x > y ? -1 : 0;
}

/* As image_cache_list(), in any order and without the sizes of states, for which each state would be read. */
static int images_find(struct json_object **ret, struct err *e)
{
	char *const argv[] = { (char *)"cairn-root", (char *)"--list", NULL };
	int r = root_program_run(argv, "the images in the cache", ret, e);

	if (r < 0)
		return r;
	if (!json_object_is_type(*ret, json_type_array)) {
		json_object_put(*ret);
		return err_set(e, -EPROTO, ERR_GENERIC, "cairn-root is of another version");
	}
	return 0;
}

int image_cache_list(struct json_object **ret, struct err *e)
{
	CLEANUP_FREE struct warm_state_info *states = NULL;
	size_t n = warm_states_list(&states);
	int r = images_find(ret, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < json_object_array_length(*ret); i++) {
		struct json_object *image = json_object_array_get_idx(*ret, i);

		js_put_uint(image, "states_size", states_bytes(image, states, n));
	}
	json_object_array_sort(*ret, use_compare);
	return 0;
}

/* A layer needs the image that it was made on. Returns 0; -EBUSY with a sentence. */
static int layers_check(struct json_object *image, struct err *e)
{
	const char *digest = js_get_str_or(image, "digest", "");
	CLEANUP_JS struct json_object *layers = NULL;
	int r = kept_layers_list(&layers, e);

	for (size_t i = 0; !r && i < json_object_array_length(layers); i++) {
		struct json_object *o = json_object_array_get_idx(layers, i);
		const char *half = js_get_str_or(o, "digest", "?"), *name = js_get_str_or(o, "name", "");

		if (!strncmp(digest, half, strlen(half)))
			return err_set(e, -EBUSY, ERR_BUSY, "the layer %s needs the image; remove that first: cairn image-remove --kept %s", name, shell_word(name).s);
	}
	return r;
}

int image_cache_remove(struct json_object *image, struct err *e)
{
	char *const argv[] = { (char *)"cairn-root", (char *)"--remove", (char *)js_get_str_or(image, "digest", ""), NULL };
	CLEANUP_FREE struct warm_state_info *states = NULL;
	size_t n = warm_states_list(&states);
	struct stat st;
	bool known = stat(js_get_str_or(image, "image", ""), &st) == 0;
	int r = layers_check(image, e);

	if (!r)
		r = root_program_run(argv, js_get_str_or(image, "digest", ""), NULL, e);
	for (size_t i = 0; !r && known && i < n; i++)
		if (warm_state_has_file(states[i].name, &st))
			warm_state_remove(states[i].name);
	return r;
}

unsigned image_cache_remove_states(int64_t before_s)
{
	CLEANUP_FREE struct warm_state_info *states = NULL;
	size_t n = warm_states_list(&states);
	unsigned gone = 0;

	for (size_t i = 0; i < n; i++)
		if (states[i].used_s < before_s) {
			warm_state_remove(states[i].name);
			gone++;
		}
	return gone;
}

/* ---- the budget ---- */

/* An image, or a state. */
struct item {
	int64_t used_s;
	uint64_t bytes;
	struct json_object *image; /* borrowed; NULL: a state */
	const char *state;
};

static int item_compare(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return x->used_s < y->used_s ? -1 : x->used_s > y->used_s;
}

static uint64_t budget_bytes(void)
{
	const char *text = getenv("CAIRN_CACHE_MAX");
	uint64_t bytes = BUDGET_BYTES;
	char folder[PATH_MAX];
	struct statvfs fs;
	struct err e;

	if (text && *text && size_parse(text, 1, &bytes) == 0)
		return bytes;
	if (text && *text)
		fprintf(stderr, "warning: CAIRN_CACHE_MAX must be a size such as 20G, not \"%.40s\"\n", text);
	if (paths_cache("", folder, sizeof(folder), &e) == 0 && statvfs(folder, &fs) == 0)
		bytes = MIN(bytes, (uint64_t)fs.f_blocks * fs.f_frsize / 2);
	return bytes;
}

static bool item_remove(const struct item *item)
{
	struct err e;
	int r = 0;

	if (item->image)
		r = image_cache_remove(item->image, &e);
	else
		warm_state_remove(item->state);
	if (r < 0 && e.cls != ERR_BUSY)
		fprintf(stderr, "warning: %s\n", e.msg);
	return !r;
}

void image_cache_limit(void)
{
	CLEANUP_FREE struct warm_state_info *states = NULL;
	CLEANUP_JS struct json_object *images = NULL;
	size_t nstates = warm_states_list(&states), n = 0;
	uint64_t most = budget_bytes(), all = 0;
	CLEANUP_FREE struct item *items = NULL;
	struct err e;

	if (images_find(&images, &e) < 0)
		return;
	items = must_alloc(calloc(nstates + json_object_array_length(images) + 1, sizeof(*items)));
	for (size_t i = 0; i < nstates; i++, n++)
		items[n] = (struct item){ states[i].used_s, states[i].bytes, NULL, states[i].name };
	for (size_t i = 0; i < json_object_array_length(images); i++, n++) {
		struct json_object *o = json_object_array_get_idx(images, i);

		items[n] = (struct item){ js_get_int(o, "used", 0), (uint64_t)js_get_int(o, "size", 0), o, NULL };
	}
	qsort(items, n, sizeof(*items), item_compare);
	for (size_t i = 0; i < n; i++)
		all += items[i].bytes;
	for (size_t i = 0; i < n && all > most; i++) {
		if (items[i].image && js_get_bool(items[i].image, "in_use", true))
			continue;
		all -= item_remove(&items[i]) ? items[i].bytes : 0;
	}
}
