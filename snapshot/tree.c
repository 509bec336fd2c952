#include "snapshot/tree.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TREE_MAGIC 0x314e5243u
#define TREE_FIXED_BYTES 28u

_Static_assert(TREE_FIXED_BYTES + TREE_TAGS_MAX + TREE_DESCRIPTION_MAX + 4 <= BLOCK_SNAPSHOT_EXTRA_MAX,
	"a node's data fits an entry");

void tree_encode(const struct tree_data *d, struct block_snapshot_info *info)
{
	struct cursor c = cursor_over(info->extra, sizeof(info->extra));
	size_t tags = strnlen(d->tags, TREE_TAGS_MAX);
	size_t text = strnlen(d->description, TREE_DESCRIPTION_MAX);

	info->extra_bytes = TREE_FIXED_BYTES + tags + text + 4;
	cursor_put_le32(&c, TREE_MAGIC);
	cursor_put_le16(&c, (uint16_t)info->extra_bytes);
	cursor_put_u8(&c, d->state);
	cursor_put_u8(&c, 0);
	cursor_put_le64(&c, d->parent);
	cursor_put_le64(&c, d->serial);
	cursor_put_le16(&c, (uint16_t)tags);
	cursor_put_le16(&c, (uint16_t)text);
	cursor_put_bytes(&c, d->tags, tags);
	cursor_put_bytes(&c, d->description, text);
	cursor_put_le32(&c, crc32c(0, info->extra, info->extra_bytes - 4));
}

bool tree_decode(const struct block_snapshot_info *info, struct tree_data *ret)
{
	struct cursor c = cursor_over((void *)info->extra, info->extra_bytes);
	struct tree_data d = { 0 };
	size_t bytes, tags, text;

	memset(ret, 0, sizeof(*ret));
	ret->state = info->vm_state_bytes ? TREE_RUNNING : TREE_SHUTOFF;
	if (cursor_le32(&c) != TREE_MAGIC)
		return false;
	bytes = cursor_le16(&c);
	d.state = cursor_u8(&c);
	cursor_u8(&c);
	d.parent = cursor_le64(&c);
	d.serial = cursor_le64(&c);
	tags = cursor_le16(&c);
	text = cursor_le16(&c);
	if (!cursor_ok(&c) || tags > TREE_TAGS_MAX || text > TREE_DESCRIPTION_MAX ||
		bytes != TREE_FIXED_BYTES + tags + text + 4 || bytes > info->extra_bytes ||
		d.state > TREE_PAUSED)
		return false;
	cursor_bytes(&c, d.tags, tags);
	cursor_bytes(&c, d.description, text);
	if (cursor_le32(&c) != crc32c(0, info->extra, bytes - 4))
		return false;
	*ret = d;
	return true;
}

int tree_build(const struct block_snapshot_info *list, size_t n, struct tree *ret)
{
	struct tree_node *nodes = calloc(n + 1, sizeof(*nodes));

	if (!nodes)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		nodes[i].info = list[i];
		nodes[i].ours = tree_decode(&list[i], &nodes[i].data);
	}
	*ret = (struct tree){ .nodes = nodes, .n = n };
	return 0;
}

void tree_done(struct tree *t)
{
	free(t->nodes);
	*t = (struct tree){ 0 };
}

uint64_t tree_id(const struct tree_node *n)
{
	return strtoull(n->info.id, NULL, 10);
}

struct tree_node *tree_find_id(const struct tree *t, uint64_t id)
{
	for (size_t i = 0; id && i < t->n; i++)
		if (tree_id(&t->nodes[i]) == id)
			return &t->nodes[i];
	return NULL;
}

struct tree_node *tree_find(const struct tree *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->nodes[i].info.name, name))
			return &t->nodes[i];
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->nodes[i].info.id, name))
			return &t->nodes[i];
	return NULL;
}

struct tree_node *tree_current(const struct tree *t)
{
	struct tree_node *best = NULL;

	for (size_t i = 0; i < t->n; i++)
		if (t->nodes[i].data.serial && (!best || t->nodes[i].data.serial > best->data.serial))
			best = &t->nodes[i];
	return best;
}

uint64_t tree_next_serial(const struct tree *t)
{
	const struct tree_node *n = tree_current(t);

	return n ? n->data.serial + 1 : 1;
}

bool tree_has_tag(const struct tree_data *d, const char *tag)
{
	size_t n = strlen(tag);

	for (const char *p = d->tags; *p;) {
		size_t len = strcspn(p, ",");

		if (len == n && !memcmp(p, tag, n))
			return true;
		p += len + (p[len] == ',');
	}
	return false;
}

int tree_name_check(const char *name, struct err *e)
{
	size_t n = strlen(name);

	if (!n || n > BLOCK_SNAPSHOT_NAME_MAX)
		return err_set(e, -EINVAL, ERR_INVALID,
			"a snapshot's name has 1 to %d bytes; this one has %zu", BLOCK_SNAPSHOT_NAME_MAX, n);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '/')
			return err_set(e, -EINVAL, ERR_INVALID,
				"a snapshot's name has no '/' and no control characters");
	return 0;
}
