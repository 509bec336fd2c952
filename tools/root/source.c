#include "tools/root/source.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/root/cache.h"
#include "tools/root/child.h"
#include "tools/root/folder.h"
#include "tools/root/merge.h"
#include "tools/root/oci.h"
#include "tools/root/squash.h"
#include "tools/root/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES (2 * SHA256_DIGEST_SIZE + 1)

#define REGISTRY "docker://"

static const char *const skopeo_transports[] = { REGISTRY, "docker-archive:", "docker-daemon:", "containers-storage:", "dir:", "ostree:" };

/* The source of an image: layers, or a folder. */
struct source {
	struct merge_input in;
	const char *folder; /* NULL: layers */
	bool many_alike; /* of a folder; see size_counts.h */
	struct json_object *config; /* borrowed; NULL: none */
};

/* ---- make ---- */

static struct json_object *description_new(const struct source *s, const char *key)
{
	struct json_object *o = json_object_new_object(), *config = s->config;
	char digest[KEY_BYTES + 8];

	snprintf(digest, sizeof(digest), "sha256:%s", key);
	js_put_str(o, "digest", digest);
	js_put(o, "config", config ? json_object_get(config) : json_object_new_object());
	return o;
}

static void cache_error(const struct cache *c, int r, struct err *e)
{
	if (r == -ENOSPC || r == -EDQUOT)
		err_set(e, r, ERR_NO_SPACE, "the cache %.300s is full; remove images with cairn image-remove, or set XDG_CACHE_HOME to a folder with more space",
			c->path);
	if (r == -EINTR)
		err_set(e, r, ERR_CANCELLED, "cancelled");
}

static int image_make(struct cache *c, const char *key, const struct source *s, struct json_object **ret, struct err *e)
{
	char work[PATH_MAX], path[PATH_MAX + 32];
	int r = cache_begin(c, key, work, e);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, work);
	*ret = description_new(s, key);
	r = s->folder ? squash_folder(s->folder, s->many_alike, path, e) : squash_layers(&s->in, path, e);
	if (!r)
		r = cache_finish(c, key, *ret, e);
	cache_error(c, r, e);
	if (r < 0) {
		cache_abort(c, key);
		json_object_put(*ret);
		*ret = NULL;
	}
	return r;
}

/* Lock a key, and find its image or make it. */
static int image_get(struct cache *c, const char *key, const struct source *s, struct json_object **ret, struct err *e)
{
	int r = cache_lock(c, key, e);

	if (r < 0)
		return r;
	cache_find(c, key, ret);
	return *ret ? 0 : image_make(c, key, s, ret, e);
}

/* ---- kinds of sources ---- */

static int store_make(struct cache *c, struct store *store, const char *tag, const struct source_options *o, struct json_object **ret,
	struct err *e)
{
	struct image image;
	int r = oci_find(store, tag, &image, e);

	if (!r)
		r = image_get(c, image.digest,
			&(struct source){ .in = { image.layers, image.n, true, o->files_max }, .config = image.config }, ret, e);
	image_done(&image);
	return r;
}

static int tar_make(struct cache *c, const char *path, const struct source_options *o, struct json_object **ret, struct err *e)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct layer l = { .fd = fd };
	char key[KEY_BYTES];
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "%s", path);
	l.size = (uint64_t)st.st_size;
	snprintf(l.name, sizeof(l.name), "%s", path);
	r = layer_digest(&l, l.digest, e);
	if (r < 0)
		return r;
	hex_print(l.digest, SHA256_DIGEST_SIZE, key);
	return image_get(c, key, &(struct source){ .in = { &l, 1, false, o->files_max } }, ret, e);
}

static int folder_make(struct cache *c, const char *path, const struct source_options *o, struct json_object **ret, struct err *e)
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	char key[KEY_BYTES];
	bool many_alike;
	int r = folder_digest(path, o->files_max, digest, &many_alike, e);

	if (r < 0)
		return r;
	hex_print(digest, SHA256_DIGEST_SIZE, key);
	return image_get(c, key, &(struct source){ .folder = path, .many_alike = many_alike }, ret, e);
}

/* Split PATH:TAG. A file of the whole name wins. Returns the tag, or NULL. */
static const char *tag_split(char *name)
{
	char *colon = strrchr(name, ':');

	if (!colon || strchr(colon, '/') || access(name, F_OK) == 0)
		return NULL;
	*colon = 0;
	return colon + 1;
}

static int oci_make(struct cache *c, bool is_archive, const char *name, const struct source_options *o, struct json_object **ret,
	struct err *e)
{
	char path[PATH_MAX];
	struct store *store;
	const char *tag;
	int r;

	if (strlen(name) >= sizeof(path))
		return err_set_errno(e, -ENAMETOOLONG, "the name of the image");
	snprintf(path, sizeof(path), "%s", name);
	tag = tag_split(path);
	r = is_archive ? store_open_archive(path, &store, e) : store_open_folder(path, &store, e);
	if (r < 0)
		return r;
	r = store_make(c, store, tag, o, ret, e);
	store_free(store);
	return r;
}

/* ---- images that skopeo fetches ---- */

static int skopeo_run(const char *reference, const char *folder, bool insecure, struct err *e)
{
	char to[PATH_MAX + 32];
	struct child c;
	int r;
	char *argv[] = { (char *)"skopeo", (char *)"--override-os", (char *)"linux", (char *)"--override-arch", (char *)"amd64", (char *)"copy",
		(char *)"--quiet", (char *)(insecure ? "--src-tls-verify=false" : "--src-tls-verify=true"), (char *)reference, to, NULL };

	snprintf(to, sizeof(to), "oci:%s:root", folder);
	if (!strncmp(reference, "docker-archive:", 15) || strncmp(reference, "docker", 6))
		memmove(&argv[7], &argv[8], 3 * sizeof(*argv)); /* the option is for registries only */
	r = child_start(&c, "skopeo", argv, -1, -1, e);
	if (!r)
		r = child_wait(&c, e);
	child_done(&c);
	return r;
}

static int fetched_make(struct cache *c, const char *name, const char *folder, const struct source_options *o, struct json_object **ret,
	struct err *e)
{
	struct store *store;
	const char *digest;
	int r = store_open_folder(folder, &store, e);

	if (r < 0)
		return r;
	r = store_make(c, store, "root", o, ret, e);
	store_free(store);
	digest = r ? NULL : js_get_str(*ret, "digest");
	return digest ? cache_name_put(c, name, digest + strlen("sha256:"), e) : r;
}

/* Find the image that a reference meant when it was fetched. name: of the reference. */
static int fetched_find(struct cache *c, const char *name, struct json_object **ret, struct err *e)
{
	char key[KEY_BYTES];
	int r;

	cache_name_get(c, name, key);
	r = *key ? cache_lock(c, key, e) : 0;
	if (r < 0 || !*key)
		return r;
	cache_find(c, key, ret);
	if (!*ret)
		cache_unlock(c, key); /* a fetch locks its name first, and then the key */
	return 0;
}

static int fetch_make(struct cache *c, const char *reference, const struct source_options *o, struct json_object **ret, struct err *e)
{
	uint8_t digest[SHA256_DIGEST_SIZE];
	char name[KEY_BYTES], work[PATH_MAX];
	struct sha256_ctx sha;
	/* A local image may be another one since: only its digest tells. */
	bool is_known = !o->pull && !strncmp(reference, REGISTRY, strlen(REGISTRY));
	int r = 0;

	sha256_init(&sha);
	sha256_update(&sha, strlen(reference), (const uint8_t *)reference);
	sha256_digest(&sha, sizeof(digest), digest);
	hex_print(digest, sizeof(digest), name);
	if (is_known)
		r = fetched_find(c, name, ret, e);
	if (r < 0 || *ret)
		return r;
	r = cache_lock(c, name, e);
	if (!r && is_known)
		r = fetched_find(c, name, ret, e); /* another process has fetched it meanwhile */
	if (r < 0 || *ret)
		return r;
	r = cache_begin(c, name, work, e);
	if (r < 0)
		return r;
	r = skopeo_run(reference, work, o->insecure, e);
	cache_error(c, r, e);
	if (!r)
		r = fetched_make(c, name, work, o, ret, e);
	cache_abort(c, name);
	return r;
}

static int name_make(struct cache *c, const char *name, const struct source_options *o, struct json_object **ret, struct err *e)
{
	char reference[PATH_MAX];

	if (name[0] == '/' || name[0] == '.')
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "%s does not exist", name);
	snprintf(reference, sizeof(reference), REGISTRY "%s", name);
	return fetch_make(c, reference, o, ret, e);
}

static int path_make(struct cache *c, const char *path, bool is_folder, const struct source_options *o, struct json_object **ret,
	struct err *e)
{
	char layout[PATH_MAX + 32];
	struct store *store;
	int r;

	snprintf(layout, sizeof(layout), "%s/oci-layout", path);
	if (is_folder && access(layout, F_OK) < 0)
		return folder_make(c, path, o, ret, e);
	r = is_folder ? store_open_folder(path, &store, e) : store_open_archive(path, &store, e);
	if (r == -ENOENT && !is_folder)
		return tar_make(c, path, o, ret, e);
	if (r < 0)
		return r;
	r = store_make(c, store, NULL, o, ret, e);
	store_free(store);
	return r;
}

static int kind_make(struct cache *c, const char *name, const struct source_options *o, struct json_object **ret, struct err *e)
{
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(skopeo_transports); i++)
		if (!strncmp(name, skopeo_transports[i], strlen(skopeo_transports[i])))
			return fetch_make(c, name, o, ret, e);
	if (!strncmp(name, "oci:", 4))
		return oci_make(c, false, name + 4, o, ret, e);
	if (!strncmp(name, "oci-archive:", 12))
		return oci_make(c, true, name + 12, o, ret, e);
	if (stat(name, &st) == 0 && name[0] != '.' && !strchr(name, '/'))
		return err_set(e, -EINVAL, ERR_INVALID, "%s is a file or folder here, and may be an image of a registry; name the former ./%s or the latter " REGISTRY "%s",
			name, name, name);
	if (stat(name, &st) == 0)
		return path_make(c, name, S_ISDIR(st.st_mode), o, ret, e);
	return name_make(c, name, o, ret, e);
}

int source_make(struct cache *c, const char *name, const struct source_options *o, struct json_object **ret, struct err *e)
{
	CLEANUP_FREE char *path = realpath(name, NULL);
	const char *known = path ? path : !strncmp(name, "docker://", 9) ? name + 9 : name;
	int r;

	*ret = NULL;
	c->source = utf8_is_clean(known) ? known : NULL;
	r = kind_make(c, name, o, ret, e);
	c->source = NULL;
	return r;
}
