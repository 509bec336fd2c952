/* cache: the folder of finished images, $XDG_CACHE_HOME/cairn/roots, with a folder for each image:
 *
 *   sha256-HEX/root.squashfs, image.json   a finished image
 *   KEY.tmp                                work of a process that holds the lock of KEY
 *   lock                                   has one byte to lock for each KEY
 *   names/HEX.json                         which image a reference meant when it was fetched
 *
 * The time of change of image.json is that of the image's last use. A run holds a lock (flock) of root.squashfs, which
 * cairn-root takes while it holds the lock of the key: only who holds that removes an image.
 *
 * A key is a text of hexadecimal digits. Locks end with their process, and the next process that makes, lists or
 * removes images removes work that no process holds.
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_CACHE_H
#define CAIRN_TOOLS_ROOT_CACHE_H

#include <limits.h>

struct err;
struct json_object;

struct cache {
	char path[PATH_MAX - 512];
	int lock; /* fd */
	const char *source; /* the user's name of the image, for the description of a new one; borrowed; NULL: none */
};

#define CACHE_IMAGE "root.squashfs"

/* Open the folder; make it if it is missing. Returns 0; -errno with a sentence. */
int cache_open(struct cache *c, struct err *e);
void cache_close(struct cache *c);
/* Lock a key until cache_close(), or the end of the process. Waits for another maker. Returns 0; -EINTR; -errno. */
int cache_lock(struct cache *c, const char *key, struct err *e);
void cache_unlock(struct cache *c, const char *key);
/* Look for a finished image, and note its use. The process holds the key's lock.
 * *ret: its description; owned; NULL: there is none. */
void cache_find(struct cache *c, const char *key, struct json_object **ret);
/* Open a finished image, and lock it as a run does. The process holds the key's lock.
 * image: from cache_find() or cache_finish().
 * Returns an fd that the caller owns: the image stays in the cache while it or a duplicate is open, in any process.
 * -errno with a sentence. */
int cache_use(struct json_object *image, struct err *e);
/* Make an empty work folder for a key whose lock the process holds. Returns 0; -errno with a sentence. */
int cache_begin(struct cache *c, const char *key, char ret_path[PATH_MAX], struct err *e);
/* Write the description, and make the work folder with it and CACHE_IMAGE the image of the key.
 * Returns 0; -errno with a sentence. */
int cache_finish(struct cache *c, const char *key, struct json_object *image, struct err *e);
/* Remove the work folder. */
void cache_abort(struct cache *c, const char *key);
/* Read, or write, the key of the image that a reference means.
 * name: hexadecimal digits. *ret: 64 digits, "": unknown. */
void cache_name_get(struct cache *c, const char *name, char ret[65]);
int cache_name_put(struct cache *c, const char *name, const char *key, struct err *e);

/* List the images, also damaged ones, which have no source's name: an array of digest, names, size, made and used
 * (seconds since 1970), in_use, image. The caller owns *ret. Returns 0; -errno with a sentence. */
int cache_list(struct cache *c, struct json_object **ret, struct err *e);
/* Remove an image. Returns 0; -ENOENT; -EBUSY: a run uses it, or a process makes it anew; -errno with a sentence. */
int cache_remove(struct cache *c, const char *key, struct err *e);

#endif
