/* pool: folders for images that have a name. The daemon keeps the names, and works on the images in the folders, the
 * volumes, with the rights of the user. */
#ifndef CAIRN_TOOLS_POOL_H
#define CAIRN_TOOLS_POOL_H

#include <stdint.h>

struct cli;
struct err;
struct json_object;

/* Write a size as virsh does: "1.50 GiB". */
#define VOLUME_SIZE_TEXT 24
const char *volume_size_text(uint64_t bytes, char buf[VOLUME_SIZE_TEXT]);

/* Fetch all pools. *ret: an array; owned by the caller. Returns 0 or -errno. */
int pools_fetch(struct cli *c, struct json_object **ret, struct err *e);
/* Find a pool. *ret: its entry in query-pools; owned by the caller. Returns 0; -ENOENT; -errno. */
int pool_find_name(struct cli *c, const char *name, struct json_object **ret, struct err *e);
/* Fetch all volumes of a pool. *ret: an array; owned by the caller. Returns 0 or -errno. */
int volumes_fetch(struct cli *c, const char *pool, struct json_object **ret, struct err *e);

/* Print "growth" and "days-left" of an answer, those that are there. */
void growth_print(struct json_object *o);

#endif
