#include "tools/share/nodes.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <unistd.h>

#define NODES_FIRST 64
#define NONE UINT32_MAX

/* An id has the slot's generation above its number. The root's is 1 (FUSE_ROOT_ID), and 0 is no id. */
static uint64_t id_of(uint32_t slot, uint32_t generation)
{
	return (uint64_t)generation << 32 | (slot + 1);
}

static uint32_t slot_of(uint64_t id)
{
	return (uint32_t)id - 1; /* NONE for 0, which no table has */
}

/* ---- nodes ---- */

static uint32_t *bucket_of(const struct nodes *t, dev_t dev, ino_t ino)
{
	uint64_t h = (ino ^ (dev * 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;

	return &t->buckets[h >> 32 & (t->nbuckets - 1)];
}

static void hash_insert(struct nodes *t, uint32_t slot)
{
	uint32_t *bucket = bucket_of(t, t->list[slot].dev, t->list[slot].ino);

	t->list[slot].next = *bucket;
	*bucket = slot + 1;
}

static void hash_remove(struct nodes *t, uint32_t slot)
{
	uint32_t *at = bucket_of(t, t->list[slot].dev, t->list[slot].ino);

	while (*at != slot + 1)
		at = &t->list[*at - 1].next;
	*at = t->list[slot].next;
}

static uint32_t hash_find(const struct nodes *t, const struct stat *st)
{
	uint32_t at = *bucket_of(t, st->st_dev, st->st_ino);

	while (at && (t->list[at - 1].dev != st->st_dev || t->list[at - 1].ino != st->st_ino))
		at = t->list[at - 1].next;
	return at ? at - 1 : NONE;
}

static int nodes_grow(struct nodes *t)
{
	uint32_t cap = MIN(t->cap ? t->cap * 2 : NODES_FIRST, t->max), nbuckets = t->nbuckets ? t->nbuckets : 1;
	struct node *list;
	uint32_t *buckets;

	if (cap == t->cap)
		return -ENFILE;
	while (nbuckets < cap)
		nbuckets *= 2;
	list = reallocarray(t->list, cap, sizeof(*list));
	if (!list)
		return -ENOMEM;
	t->list = list;
	buckets = calloc(nbuckets, sizeof(*buckets));
	if (!buckets)
		return -ENOMEM;
	free(t->buckets);
	t->buckets = buckets;
	t->nbuckets = nbuckets;
	t->cap = cap;
	for (uint32_t i = 0; i < t->n; i++)
		if (t->list[i].fd >= 0)
			hash_insert(t, i);
	return 0;
}

/* Returns a slot's number; -ENFILE; -ENOMEM. */
static int64_t slot_take(struct nodes *t)
{
	uint32_t slot = t->n;
	int r;

	if (t->free) {
		slot = t->free - 1;
		t->free = t->list[slot].next;
		return slot;
	}
	/* No slot is free, so no link of a free slot gets lost. */
	r = t->n == t->cap ? nodes_grow(t) : 0;
	if (r < 0)
		return r;
	t->list[slot] = (struct node){ .fd = -1 };
	t->n++;
	return slot;
}

static void node_drop(struct nodes *t, uint32_t slot)
{
	struct node *n = &t->list[slot];

	hash_remove(t, slot);
	close(n->fd);
	n->fd = -1;
	n->generation++;
	n->next = t->free;
	t->free = slot + 1;
}

struct node *node_get(struct nodes *t, uint64_t id)
{
	uint32_t slot = slot_of(id);

	if (slot >= t->n || t->list[slot].fd < 0 || t->list[slot].generation != id >> 32)
		return NULL;
	return &t->list[slot];
}

int node_add(struct nodes *t, int fd, uint64_t *ret_id, struct stat *ret_st)
{
	int64_t slot;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	slot = t->n ? hash_find(t, &st) : NONE;
	if (slot != NONE) {
		close(fd);
	} else {
		slot = slot_take(t);
		if (slot < 0) {
			close(fd);
			return (int)slot;
		}
		t->list[slot] = (struct node){ .fd = fd, .type = st.st_mode & S_IFMT, .dev = st.st_dev, .ino = st.st_ino,
			.generation = t->list[slot].generation };
		hash_insert(t, (uint32_t)slot);
	}
	t->list[slot].lookups++;
	*ret_id = id_of((uint32_t)slot, t->list[slot].generation);
	*ret_st = st;
	return 0;
}

void node_forget(struct nodes *t, uint64_t id, uint64_t lookups)
{
	struct node *n = node_get(t, id);

	if (!n || id == FUSE_ROOT_ID)
		return;
	n->lookups -= MIN(n->lookups, lookups);
	if (!n->lookups)
		node_drop(t, slot_of(id));
}

/* ---- handles ---- */

int handle_add(struct nodes *t, int fd, bool is_folder, uint64_t *ret_id)
{
	for (uint32_t i = 0; i < t->handles_max; i++) {
		struct handle *h = &t->handles[i];

		if (h->fd >= 0)
			continue;
		h->fd = fd;
		h->is_folder = is_folder;
		*ret_id = id_of(i, h->generation);
		return 0;
	}
	close(fd);
	return -ENFILE;
}

int handle_fd(const struct nodes *t, uint64_t id, bool is_folder)
{
	uint32_t slot = slot_of(id);
	const struct handle *h = slot < t->handles_max ? &t->handles[slot] : NULL;

	return h && h->fd >= 0 && h->generation == id >> 32 && h->is_folder == is_folder ? h->fd : -EBADF;
}

int handle_close(struct nodes *t, uint64_t id)
{
	uint32_t slot = slot_of(id);

	if (handle_fd(t, id, true) < 0 && handle_fd(t, id, false) < 0)
		return -EBADF;
	close(t->handles[slot].fd);
	t->handles[slot].fd = -1;
	t->handles[slot].generation++;
	return 0;
}

/* ---- both ---- */

int nodes_init(struct nodes *t, int root, uint32_t max, uint32_t handles_max)
{
	struct stat st;
	uint64_t id;

	*t = (struct nodes){ .max = max, .handles_max = handles_max };
	t->handles = calloc(handles_max, sizeof(*t->handles));
	if (!t->handles) {
		close(root);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < handles_max; i++)
		t->handles[i].fd = -1;
	return node_add(t, root, &id, &st);
}

void nodes_reset(struct nodes *t)
{
	for (uint32_t i = 1; i < t->n; i++)
		if (t->list[i].fd >= 0)
			node_drop(t, i);
	for (uint32_t i = 0; i < t->handles_max; i++)
		if (t->handles[i].fd >= 0)
			handle_close(t, id_of(i, t->handles[i].generation));
}
