#include "tools/root/oci.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hex.h"
#include "base/util.h"
#include "tools/root/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_BYTES_MAX (4 * MIB)
#define CONFIG_BYTES_MAX (512 * KIB) /* with it, image.json is smaller than what cache.c reads back */
#define INDEX_DEPTH_MAX 4
#define PLATFORM_OS "linux"
#define PLATFORM_ARCHITECTURE "amd64"
#define TAG_KEY "org.opencontainers.image.ref.name"
#define DIGEST_PREFIX "sha256:"

static const char *const index_types[] = { "application/vnd.oci.image.index.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", NULL };
static const char *const manifest_types[] = { "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json", NULL };
static const char *const config_types[] = { "application/vnd.oci.image.config.v1+json",
	"application/vnd.docker.container.image.v1+json", NULL };
static const char *const layer_types[] = { "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd", NULL };

void image_done(struct image *i)
{
	json_object_put(i->config);
	free(i->layers);
}

static bool type_is(struct json_object *descriptor, const char *const *types)
{
	const char *type = js_get_str(descriptor, "mediaType");

	while (type && *types && strcmp(type, *types))
		types++;
	return type && *types;
}

/* ---- blobs ---- */

/* Parse a descriptor, and find its blob. Returns 0; -errno with a sentence. */
static int blob_find(struct store *s, struct json_object *descriptor, const char *what, struct layer *ret, struct err *e)
{
	const char *digest = js_get_str(descriptor, "digest");
	const size_t skip = strlen(DIGEST_PREFIX);
	char path[96];
	int r;

	if (!digest || strncmp(digest, DIGEST_PREFIX, skip) || strlen(digest) != skip + 2 * SHA256_DIGEST_SIZE ||
		!hex_parse(digest + skip, ret->digest, SHA256_DIGEST_SIZE))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the image's %s has no digest of the form sha256:HEX", what);
	snprintf(ret->name, sizeof(ret->name), "%s %s", what, digest);
	hex_print(ret->digest, SHA256_DIGEST_SIZE, path + snprintf(path, sizeof(path), "blobs/sha256/"));
	r = store_find(s, path, ret, e);
	if (!r && js_get_int(descriptor, "size", -1) != (int64_t)ret->size)
		r = err_set(e, -EIO, ERR_CORRUPT, "%s is damaged: it has %llu bytes, and the image says %lld; get the image anew", ret->name,
			(unsigned long long)ret->size, (long long)js_get_int(descriptor, "size", -1));
	return r;
}

/* Read a JSON object of a layout. blob: its digest is checked when checked is set. */
static int json_read(const struct layer *blob, bool checked, const char *name, struct json_object **ret, struct err *e)
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	CLEANUP_FREE char *text = NULL;
	int r;

	if (blob->size > JSON_BYTES_MAX)
		return err_set(e, -EFBIG, ERR_CORRUPT, "%s of the image is larger than 4 MiB", name);
	r = checked ? layer_digest(blob, digest, e) : 0;
	if (r < 0)
		return r;
	if (checked && memcmp(digest, blob->digest, sizeof(digest)))
		return err_set(e, -EIO, ERR_CORRUPT, "%s is damaged: its content does not have this digest; get the image anew", name);
	text = must_alloc(calloc(1, blob->size + 1));
	r = pread_full(blob->fd, text, blob->size, (off_t)blob->off);
	if (r < 0)
		return err_set_errno(e, r, "%s", name);
	r = js_parse(text, blob->size, name, ret, e);
	if (!r && !json_object_is_type(*ret, json_type_object))
		r = err_set(e, -EINVAL, ERR_CORRUPT, "%s of the image is no object", name);
	return r;
}

static int blob_read(struct store *s, struct json_object *descriptor, const char *what, struct layer *ret_blob, struct json_object **ret,
	struct err *e)
{
	int r = blob_find(s, descriptor, what, ret_blob, e);

	return r < 0 ? r : json_read(ret_blob, true, ret_blob->name, ret, e);
}

/* ---- index ---- */

static bool has_tag(struct json_object *descriptor, const char *tag)
{
	const char *name = js_get_str(js_get(descriptor, "annotations"), TAG_KEY);

	return name && !strcmp(name, tag);
}

/* Return whether a manifest is for this host. Without a platform, its configuration tells. */
static bool is_for_host(struct json_object *descriptor)
{
	struct json_object *platform = js_get(descriptor, "platform");

	return !platform || (!strcmp(js_get_str_or(platform, "os", ""), PLATFORM_OS) &&
		!strcmp(js_get_str_or(platform, "architecture", ""), PLATFORM_ARCHITECTURE));
}

static bool is_image(struct json_object *descriptor)
{
	return type_is(descriptor, index_types) || type_is(descriptor, manifest_types);
}

/* Fill in the tags of an index. */
static void tags_print(struct json_object *list, char *text, size_t size)
{
	size_t n = 0;

	text[0] = 0;
	for (size_t i = 0; i < json_object_array_length(list) && n < size; i++) {
		const char *tag = js_get_str(js_get(json_object_array_get_idx(list, i), "annotations"), TAG_KEY);

		if (tag)
			n += (size_t)snprintf(text + n, size - n, "%s%.60s", n ? ", " : "", tag);
	}
}

/* Choose a descriptor of an index. top: the index of the layout, in which the tag counts. */
static int index_choose(struct json_object *index, bool top, const char *tag, struct json_object **ret, struct err *e)
{
	struct json_object *list = js_get_array(index, "manifests"), *found = NULL, *other = NULL;
	unsigned n = 0;
	char tags[200];

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *d = json_object_array_get_idx(list, i);

		if (!is_image(d) || (top && tag && !has_tag(d, tag)))
			continue;
		other = d;
		if (!is_for_host(d))
			continue;
		found = found ? found : d;
		n++;
	}
	if (!other && list && tag && top) {
		tags_print(list, tags, sizeof(tags));
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the layout has no image with the tag %.100s; it has: %s", tag, *tags ? tags : "no tag");
	}
	if (other && !found)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image is for %.20s %.20s; this host runs images for " PLATFORM_OS " " PLATFORM_ARCHITECTURE,
			js_get_str_or(js_get(other, "platform"), "os", "another system"),
			js_get_str_or(js_get(other, "platform"), "architecture", "or processor"));
	if (!found)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the index of the layout names no image");
	if (top && !tag && n > 1) {
		tags_print(list, tags, sizeof(tags));
		return err_set(e, -EINVAL, ERR_INVALID, "the layout has several images; append :TAG, one of: %s", *tags ? tags : "no tag");
	}
	*ret = found;
	return 0;
}

/* Follow indexes to the manifest. Returns its descriptor's content in *ret. */
static int manifest_find(struct store *s, const char *tag, struct json_object **ret, struct image *image, struct err *e)
{
	CLEANUP_JS struct json_object *index = NULL;
	struct layer blob = { .name = "index.json" };
	struct json_object *descriptor, *next;
	int r = store_find(s, "index.json", &blob, e);

	if (!r)
		r = json_read(&blob, false, "index.json", &index, e);
	if (!r)
		r = index_choose(index, true, tag, &descriptor, e);
	for (unsigned depth = 0; !r && type_is(descriptor, index_types); depth++) {
		if (depth == INDEX_DEPTH_MAX)
			return err_set(e, -ELOOP, ERR_CORRUPT, "the indexes of the image are nested more than %d deep", INDEX_DEPTH_MAX);
		next = NULL;
		r = blob_read(s, descriptor, "index", &blob, &next, e);
		if (next) {
			json_object_put(index);
			index = next;
		}
		if (!r)
			r = index_choose(index, false, NULL, &descriptor, e);
	}
	if (!r)
		r = blob_read(s, descriptor, "manifest", &blob, ret, e);
	if (!r)
		hex_print(blob.digest, SHA256_DIGEST_SIZE, image->digest);
	return r;
}

/* ---- manifest and configuration ---- */

static int layers_find(struct store *s, struct json_object *manifest, struct image *image, struct err *e)
{
	struct json_object *list = js_get_array(manifest, "layers");
	size_t n = list ? json_object_array_length(list) : 0;
	int r = 0;

	if (!n || n > OCI_LAYERS_MAX)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the image has %zu layers; it must have 1 to %d", n, OCI_LAYERS_MAX);
	image->layers = must_alloc(calloc(n, sizeof(*image->layers)));
	for (size_t i = 0; i < n && !r; i++) {
		struct json_object *d = json_object_array_get_idx(list, i);

		if (!type_is(d, layer_types))
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image has a layer of the type %.100s, which is no tar archive",
				js_get_str_or(d, "mediaType", "unknown"));
		r = blob_find(s, d, "layer", &image->layers[i], e);
		image->n++;
	}
	return r;
}

/* Copy a list of texts. Returns false: it is something else. */
static bool texts_copy(struct json_object *from, const char *key, struct json_object *to, const char *as)
{
	struct json_object *list = js_get(from, key), *copy = json_object_new_array();

	js_put(to, as, copy);
	if (!list || json_object_is_type(list, json_type_null))
		return true;
	if (!json_object_is_type(list, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *text = js_plain_string(json_object_array_get_idx(list, i));

		if (!text)
			return false;
		json_object_array_add(copy, json_object_new_string(text));
	}
	return true;
}

static int config_copy(struct json_object *from, struct image *image, struct err *e)
{
	struct json_object *run = js_get(from, "config");
	const char *os = js_get_str_or(from, "os", PLATFORM_OS), *architecture = js_get_str_or(from, "architecture", "unknown");

	if (strcmp(os, PLATFORM_OS) || strcmp(architecture, PLATFORM_ARCHITECTURE))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image is for %.20s %.20s; this host runs images for " PLATFORM_OS " " PLATFORM_ARCHITECTURE,
			os, architecture);
	image->config = json_object_new_object();
	if (!texts_copy(run, "Entrypoint", image->config, "entrypoint") || !texts_copy(run, "Cmd", image->config, "cmd") ||
		!texts_copy(run, "Env", image->config, "env"))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the image's configuration is malformed: Entrypoint, Cmd and Env are lists of texts");
	js_put_str(image->config, "user", js_get_str_or(run, "User", ""));
	js_put_str(image->config, "working_dir", js_get_str_or(run, "WorkingDir", ""));
	if (strlen(json_object_to_json_string_ext(image->config, JSON_C_TO_STRING_PLAIN)) > CONFIG_BYTES_MAX)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the image's command and environment are larger than 512 KiB");
	return 0;
}

int oci_find(struct store *s, const char *tag, struct image *ret, struct err *e)
{
	CLEANUP_JS struct json_object *manifest = NULL, *config = NULL;
	struct layer blob = { .fd = -1 };
	int r;

	*ret = (struct image){ .config = NULL };
	r = manifest_find(s, tag, &manifest, ret, e);
	if (r < 0)
		return r;
	if (!type_is(js_get(manifest, "config"), config_types))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the manifest describes no container image, but %.100s",
			js_get_str_or(js_get(manifest, "config"), "mediaType", "something else"));
	r = blob_read(s, js_get(manifest, "config"), "configuration", &blob, &config, e);
	if (!r)
		r = config_copy(config, ret, e);
	return r < 0 ? r : layers_find(s, manifest, ret, e);
}
