/* fake_tree: the snapshots of fake_vm. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_TREE_H
#define CAIRN_TESTS_HELPERS_FAKE_TREE_H

#include "vmm/vm_msg.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SNAPSHOTS_MAX 256

struct tree {
	uint32_t n, next_id;
	struct vm_snapshot_info list[SNAPSHOTS_MAX];
};

/* Find a snapshot by name or id; "": the current one. */
static struct vm_snapshot_info *tree_find(struct tree *t, const char *name)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (*name ? !strcmp(t->list[i].name, name) || !strcmp(t->list[i].id, name) :
			    t->list[i].current)
			return &t->list[i];
	return NULL;
}

/* Send the page that begins at index `from`. */
static void tree_send(int sock, uint16_t version, const struct tree *t, uint32_t from, uint64_t seq)
{
	static struct vm_snapshots s;

	memset(&s, 0, sizeof(s));
	s.total = t->n;
	s.from = from;
	for (uint32_t i = from; i < t->n && s.n < VM_SNAPSHOTS_PER_MESSAGE; i++)
		s.list[s.n++] = t->list[i];
	channel_send(sock, version, VM_MSG_SNAPSHOTS, seq, &s, offsetof(struct vm_snapshots, list) + s.n * sizeof(s.list[0]), NULL, 0);
}

static void current_set(struct tree *t, struct vm_snapshot_info *s)
{
	for (uint32_t i = 0; i < t->n; i++)
		t->list[i].current = 0;
	if (s)
		s->current = 1;
}

#endif
