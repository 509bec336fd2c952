/* nodes: the files and folders that the guest knows, and those that it has open. A node is an O_PATH fd, so it stays
 * the same file when its name changes or is removed; its number is the guest's node id. Both tables have a limit,
 * since the guest fills them. A number that the guest makes up is found in neither. */
#ifndef CAIRN_TOOLS_SHARE_NODES_H
#define CAIRN_TOOLS_SHARE_NODES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct node {
	int fd; /* O_PATH; -1: the slot is free */
	mode_t type; /* S_IFMT */
	uint32_t generation;
	uint32_t next; /* in the hash chain or in the list of free slots: index + 1; 0: the last */
	uint64_t lookups; /* references of the guest */
	dev_t dev;
	ino_t ino;
};

struct handle {
	int fd; /* -1: the slot is free */
	bool is_folder;
	uint32_t generation;
};

struct nodes {
	struct node *list; /* owned; list[0] is the shared folder itself */
	uint32_t n, cap, max, free;
	uint32_t *buckets; /* owned: index + 1 of the first node */
	uint32_t nbuckets; /* power of two */
	struct handle *handles; /* owned */
	uint32_t handles_max;
};

/* root: an O_PATH fd of the folder; taken. max: the most nodes and handles. Returns 0; -ENOMEM; -errno. */
int nodes_init(struct nodes *t, int root, uint32_t max, uint32_t handles_max);
/* Remove all nodes but the root, and close all handles. */
void nodes_reset(struct nodes *t);
/* Return the node of an id, valid until the next node is added; NULL: the guest does not know such a node. */
struct node *node_get(struct nodes *t, uint64_t id);
/* Find or add the node of a file, and count a reference.
 * fd: O_PATH; taken. *ret_id, *ret_st: set on success. Returns 0; -ENFILE: too many; -errno. */
int node_add(struct nodes *t, int fd, uint64_t *ret_id, struct stat *ret_st);
/* The guest drops references. */
void node_forget(struct nodes *t, uint64_t id, uint64_t lookups);

/* Add an open file. fd: taken. Returns 0; -ENFILE: too many. */
int handle_add(struct nodes *t, int fd, bool is_folder, uint64_t *ret_id);
/* Return the fd of a handle of this kind; -EBADF: there is none. */
int handle_fd(const struct nodes *t, uint64_t id, bool is_folder);
/* Close a handle. Returns 0; -EBADF. */
int handle_close(struct nodes *t, uint64_t id);

#endif
