/* fake_tree: the snapshots of fake_vm. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_TREE_H
#define CAIRN_TESTS_HELPERS_FAKE_TREE_H

#include "vmm/vm_msg.h"

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

static void current_set(struct tree *t, struct vm_snapshot_info *s)
{
	for (uint32_t i = 0; i < t->n; i++)
		t->list[i].current = 0;
	if (s)
		s->current = 1;
}

#endif
