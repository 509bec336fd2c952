/* clone_seed: gives clones seed images of their own (clone --new-seed). Such a seed has the content of the source's
 * seed, but a new instance-id, so that cloud-init configures the clone at its next start, and the clone's host name. */
#ifndef CAIRN_TOOLS_CLONE_SEED_H
#define CAIRN_TOOLS_CLONE_SEED_H

#include <stdbool.h>

struct cli;
struct err;
struct json_object;

/* Settings that clones inherit from their source. */
struct clone_seed {
	char id[64];		     /* of the disk; "": the source has no seed */
	char path[4096];	     /* of the source's image */
	struct json_object *files;   /* owned */
};

/* Find and read the seed of a VM: its first read-only disk with cloud-init's label. Returns 0; -ENOENT; -errno. */
int clone_seed_find(struct cli *c, const char *vm, struct clone_seed *ret, struct err *e);
void clone_seed_done(struct clone_seed *s);
/* Refuse a clone whose seed's file exists. Returns 0; -EEXIST. */
int clone_seed_check(const struct clone_seed *s, const char *clone, struct err *e);
/* Write the clone's image, NAME-DISK.iso beside the source's, and name it in the clone's definition.
 * keeps_name: leave the host name. Returns 0 or -errno. */
int clone_seed_make(struct cli *c, const struct clone_seed *s, const char *clone, bool keeps_name, struct err *e);

#endif
