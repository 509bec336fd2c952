#include "tools/root/cache.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/hex.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define JSON_BYTES_MAX (1 * MIB)
#define WORK ".tmp"
#define KEY_DIGITS 64 /* of an image */

static bool is_key(const char *text)
{
	uint8_t digest[KEY_DIGITS / 2];

	return strlen(text) == KEY_DIGITS && hex_parse(text, digest, sizeof(digest));
}

int cache_open(struct cache *c, struct err *e)
{
	char path[PATH_MAX];
	int r;

	*c = (struct cache){ .lock = -1 };
	r = paths_cache("roots", c->path, sizeof(c->path), e);
	if (r < 0)
		return r;
	r = mkdir_all(c->path, 0700, e);
	snprintf(path, sizeof(path), "%s/lock", c->path);
	if (!r)
		c->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!r && c->lock < 0)
		r = err_set_errno(e, -errno, "%s", path);
	return r == -EROFS || r == -EACCES || r == -ENOSPC || r == -EDQUOT ? err_set(e, r, e->cls, "the cache %.300s cannot be written "
		"(%s); set XDG_CACHE_HOME to a folder that you may write to and that has space", c->path, strerror(-r)) : r;
}

void cache_close(struct cache *c)
{
	if (c->lock >= 0)
		close(c->lock);
	c->lock = -1;
}

/* ---- locks ---- */

/* The byte of a key: its first 15 digits as a number. */
static struct flock lock_of(const char *key)
{
	char digits[16];

	snprintf(digits, sizeof(digits), "%.15s", key);
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)strtoull(digits, NULL, 16), .l_len = 1 };
}

int cache_lock(struct cache *c, const char *key, struct err *e)
{
	struct flock l = lock_of(key);

	return fcntl(c->lock, F_OFD_SETLKW, &l) < 0 ? err_set_errno(e, -errno, "cannot lock %s/lock", c->path) : 0;
}

void cache_unlock(struct cache *c, const char *key)
{
	struct flock l = lock_of(key);

	l.l_type = F_UNLCK;
	fcntl(c->lock, F_OFD_SETLK, &l);
}

/* ---- work folders ---- */

static int on_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	remove(path);
	return 0;
}

static void work_path(const struct cache *c, const char *key, char ret[PATH_MAX])
{
	snprintf(ret, PATH_MAX, "%s/%.400s" WORK, c->path, key);
}

static void tree_remove(const char *path)
{
	nftw(path, on_remove, 8, FTW_DEPTH | FTW_PHYS);
}

void cache_abort(struct cache *c, const char *key)
{
	char path[PATH_MAX];

	work_path(c, key, path);
	tree_remove(path);
}

/* Remove the work of a process that was killed: nobody holds its lock. */
static void work_sweep(struct cache *c, const char *name)
{
	CLEANUP_CLOSE int fd = -1; /* a lock of this process belongs to another open file */
	struct flock l = lock_of(name);
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/lock", c->path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &l) < 0)
		return;
	snprintf(path, sizeof(path), "%s/%.400s", c->path, name);
	tree_remove(path);
}

static void cache_sweep(struct cache *c)
{
	DIR *d = opendir(c->path);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		size_t len = strlen(entry->d_name);

		if (len > strlen(WORK) && !strcmp(entry->d_name + len - strlen(WORK), WORK))
			work_sweep(c, entry->d_name);
	}
	if (d)
		closedir(d);
}

int cache_begin(struct cache *c, const char *key, char ret_path[PATH_MAX], struct err *e)
{
	cache_sweep(c);
	cache_abort(c, key);
	work_path(c, key, ret_path);
	return mkdir(ret_path, 0700) < 0 ? err_set_errno(e, -errno, "%s", ret_path) : 0;
}

/* ---- images ---- */

static void image_path(const struct cache *c, const char *key, char ret[PATH_MAX])
{
	snprintf(ret, PATH_MAX, "%s/sha256-%.64s", c->path, key);
}

/* A file that somebody has cut off, or that a crash of the host has left short, does not count. */
static void image_read(const struct cache *c, const char *key, struct json_object **ret)
{
	char folder[PATH_MAX], path[PATH_MAX + 32];
	struct stat st;
	struct err e;

	*ret = NULL;
	image_path(c, key, folder);
	snprintf(path, sizeof(path), "%s/image.json", folder);
	if (js_read(path, JSON_BYTES_MAX, ret, &e) < 0)
		return;
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, folder);
	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && js_get_int(*ret, "size", -1) == (int64_t)st.st_size) {
		js_put_str(*ret, "image", path);
		return;
	}
	json_object_put(*ret);
	*ret = NULL;
}

void cache_find(struct cache *c, const char *key, struct json_object **ret)
{
	char folder[PATH_MAX], path[PATH_MAX + 32];

	image_read(c, key, ret);
	if (!*ret)
		return;
	json_object_object_del(*ret, "source");
	image_path(c, key, folder);
	snprintf(path, sizeof(path), "%s/image.json", folder);
	utimensat(AT_FDCWD, path, (struct timespec[]){ { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } }, 0);
}

int cache_use(struct json_object *image, struct err *e)
{
	const char *path = js_get_str_or(image, "image", "");
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);

	if (fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	if (flock(fd, LOCK_SH) < 0 && errno == EINTR)
		return err_set(e, -EINTR, ERR_CANCELLED, "cancelled"); /* after other errors, no lock is possible */
	return steal_fd(&fd);
}

static int path_sync(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int cache_finish(struct cache *c, const char *key, struct json_object *image, struct err *e)
{
	char work[PATH_MAX], folder[PATH_MAX], path[PATH_MAX + 32];
	const char *text;
	struct stat st;
	int r;

	work_path(c, key, work);
	image_path(c, key, folder);
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, work);
	r = stat(path, &st) < 0 ? -errno : path_sync(path);
	if (r < 0)
		return err_set_errno(e, r, "%s", path);
	js_put_int(image, "size", (int64_t)st.st_size);
	if (c->source)
		js_put_str(image, "source", c->source);
	text = json_object_to_json_string_ext(image, JSON_C_TO_STRING_PLAIN);
	snprintf(path, sizeof(path), "%s/image.json", work);
	r = file_write_atomic(path, text, strlen(text), 0600, e);
	json_object_object_del(image, "source");
	if (r < 0)
		return r;
	tree_remove(folder); /* damaged, or else cache_find() had found it */
	if (rename(work, folder) < 0)
		return err_set_errno(e, -errno, "%s", folder);
	r = path_sync(c->path);
	if (r < 0)
		return err_set_errno(e, r, "%s", c->path);
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, folder);
	js_put_str(image, "image", path);
	return 0;
}

/* ---- names ---- */

void cache_name_get(struct cache *c, const char *name, char ret[65])
{
	CLEANUP_JS struct json_object *o = NULL;
	char path[PATH_MAX];
	const char *key;
	struct err e;

	ret[0] = 0;
	snprintf(path, sizeof(path), "%s/names/%.64s.json", c->path, name);
	if (js_read(path, JSON_BYTES_MAX, &o, &e) < 0)
		return;
	key = js_get_str(o, "key");
	if (key && is_key(key))
		snprintf(ret, 65, "%s", key);
}

int cache_name_put(struct cache *c, const char *name, const char *key, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();
	char path[PATH_MAX];
	const char *text;
	int r;

	snprintf(path, sizeof(path), "%s/names", c->path);
	r = mkdir_all(path, 0700, e);
	if (r < 0)
		return r;
	js_put_str(o, "key", key);
	if (c->source)
		js_put_str(o, "name", c->source);
	snprintf(path, sizeof(path), "%s/names/%.64s.json", c->path, name);
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	return file_write_atomic(path, text, strlen(text), 0600, e);
}

/* Call for each name of a reference.
 * see: key: of its image; path: of the file. */
static void names_each(struct cache *c, void (*see)(void *opaque, const char *key, const char *name, const char *path), void *opaque)
{
	char folder[PATH_MAX], path[PATH_MAX + NAME_MAX + 2];
	struct dirent *entry;
	struct err e;
	DIR *d;

	snprintf(folder, sizeof(folder), "%s/names", c->path);
	d = opendir(folder);
	while (d && (entry = readdir(d))) {
		CLEANUP_JS struct json_object *o = NULL;

		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (entry->d_name[0] != '.' && js_read(path, JSON_BYTES_MAX, &o, &e) == 0 && js_get_str(o, "key"))
			see(opaque, js_get_str(o, "key"), js_get_str(o, "name"), path);
	}
	if (d)
		closedir(d);
}

/* ---- all images ---- */

static void name_add(struct json_object *names, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(names); i++)
		if (!strcmp(json_object_get_string(json_object_array_get_idx(names, i)), name))
			return;
	json_object_array_add(names, json_object_new_string(name));
}

static bool is_in_use(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	return fd >= 0 && file_lock(fd) == -EBUSY;
}

/* A damaged image takes space, too. */
static void image_list(const struct cache *c, const char *key, struct json_object *list)
{
	CLEANUP_JS struct json_object *found = NULL;
	struct json_object *o, *names;
	struct stat image, description;
	char folder[PATH_MAX], path[PATH_MAX + 32], digest[KEY_DIGITS + 8];

	image_path(c, key, folder);
	snprintf(path, sizeof(path), "%s/image.json", folder);
	if (!is_key(key) || (stat(path, &description) < 0 && stat(folder, &description) < 0))
		return;
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, folder);
	if (stat(path, &image) < 0)
		image = (struct stat){ .st_mtim = description.st_mtim };
	image_read(c, key, &found);
	o = json_object_new_object();
	snprintf(digest, sizeof(digest), "sha256:%s", key);
	js_put_str(o, "digest", digest);
	js_put(o, "names", names = json_object_new_array());
	if (found && js_get_str(found, "source"))
		name_add(names, js_get_str(found, "source"));
	js_put_int(o, "size", (int64_t)image.st_size);
	js_put_int(o, "made", image.st_mtim.tv_sec);
	js_put_int(o, "used", description.st_mtim.tv_sec);
	js_put_bool(o, "in_use", is_in_use(path));
	js_put_str(o, "image", path);
	json_object_array_add(list, o);
}

static void reference_add(void *list, const char *key, const char *name, const char *path)
{
	(void)path;
	for (size_t i = 0; name && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *digest = js_get_str_or(o, "digest", "");

		if (strlen(digest) > 7 && !strcmp(digest + 7, key))
			name_add(js_get_array(o, "names"), name);
	}
}

int cache_list(struct cache *c, struct json_object **ret, struct err *e)
{
	struct dirent *entry;
	DIR *d;

	cache_sweep(c);
	d = opendir(c->path);
	if (!d)
		return err_set_errno(e, -errno, "%s", c->path);
	*ret = json_object_new_array();
	while ((entry = readdir(d)))
		if (!strncmp(entry->d_name, "sha256-", 7))
			image_list(c, entry->d_name + 7, *ret);
	closedir(d);
	names_each(c, reference_add, *ret);
	return 0;
}

static void reference_remove(void *gone, const char *key, const char *name, const char *path)
{
	(void)name;
	if (!strcmp(gone, key))
		unlink(path);
}

int cache_remove(struct cache *c, const char *key, struct err *e)
{
	char folder[PATH_MAX], work[PATH_MAX], path[PATH_MAX + 32], own[65];
	struct flock l = lock_of(key);
	CLEANUP_CLOSE int fd = -1;

	cache_sweep(c);
	image_path(c, key, folder);
	work_path(c, key, work);
	snprintf(path, sizeof(path), "%s/" CACHE_IMAGE, folder);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && (errno != ENOENT || access(folder, F_OK) < 0)) /* a damaged image may lack it */
		return err_set_errno(e, -errno, "%s", path);
	if (fcntl(c->lock, F_OFD_SETLK, &l) < 0 || (fd >= 0 && file_lock(fd) == -EBUSY))
		return err_set(e, -EBUSY, ERR_BUSY, "a run uses the image; end it first");
	tree_remove(work);
	if (rename(folder, work) < 0)
		return err_set_errno(e, -errno, "%s", folder);
	snprintf(own, sizeof(own), "%s", key);
	names_each(c, reference_remove, own);
	tree_remove(work);
	return 0;
}
