/* pool: folders for images that have a name, and the images in them (volumes). The daemon only keeps the names of the
 * folders; all work on files is done here, with the rights of the user. */
#ifndef CAIRN_TOOLS_POOL_H
#define CAIRN_TOOLS_POOL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct cli;
struct err;
struct json_object;

struct volume {
	char format[8]; /* raw or qcow2 */
	uint64_t capacity_bytes, allocation_bytes;
	char backing[PATH_MAX]; /* path of the backing file, as the image names it; "": none */
};

struct pool_space {
	uint64_t capacity_bytes, available_bytes;
};

/* Write a size as virsh does: "1.50 GiB". */
#define VOLUME_SIZE_TEXT 24
const char *volume_size_text(uint64_t bytes, char buf[VOLUME_SIZE_TEXT]);

/* Find the folder of a pool, and check that it exists. Returns 0; -ENOENT; -ENOTDIR; -errno. */
int pool_target(struct cli *c, const char *name, char path[PATH_MAX], struct err *e);
/* The same. *ret: what query-pools says of the pool; owned by the caller. */
int pool_find_path(struct cli *c, const char *name, char path[PATH_MAX], struct json_object **ret, struct err *e);
/* Look at a folder's file system. Returns 0 or -errno. */
int pool_look(const char *path, struct pool_space *ret, struct err *e);
/* Look at a file without running another program. Returns 0; -EINVAL: it is no regular file; -errno. */
int volume_look(const char *path, struct volume *ret, struct err *e);
/* Call found() for each volume of a folder, by name: its regular files whose names begin with no dot. Returns 0 or
 * -errno. */
int volumes_each(const char *folder, void (*found)(void *opaque, const char *name, const char *path), void *opaque, struct err *e);
/* Return the path of a volume: `which` is its name in the pool of --pool, or an absolute path. Returns 0; -errno. */
int volume_path(struct cli *c, const char *which, char path[PATH_MAX], struct err *e);
/* Whether the text can be the name of a volume. */
bool volume_name_is_good(const char *name);
/* Check that no VM and no volume of the same folder uses the file. Returns 0; -EBUSY; -errno. */
int volume_check_unused(struct cli *c, const char *path, struct err *e);

/* Print "growth" and "days-left" of an answer, those that are there. */
void growth_print(struct json_object *o);

#endif
