#include "snapshot/tree.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TREE_MAGIC 0x314e5243u
#define TREE_FIXED_BYTES 28u
#define SET_MAGIC 0x31535243u
#define SET_BYTES 44u

_Static_assert(TREE_FIXED_BYTES + TREE_TAGS_MAX + TREE_DESCRIPTION_MAX + 4 + SET_BYTES <=
		BLOCK_SNAPSHOT_EXTRA_MAX, "a node's data fits an entry");

static bool id_is_known(const struct tree_set *s)
{
	static const uint8_t none[TREE_SET_ID_BYTES];

	return memcmp(s->id, none, sizeof(none)) != 0;
}

/* Encode the set behind the other tree data. */
static void set_encode(const struct tree_set *s, struct block_snapshot_info *info)
{
	uint8_t *p = info->extra + info->extra_bytes;
	struct cursor c = cursor_over(p, SET_BYTES);

	if (!id_is_known(s) && s->mark == TREE_WHOLE)
		return;
	cursor_put_le32(&c, SET_MAGIC);
	cursor_put_le16(&c, SET_BYTES);
	cursor_put_u8(&c, s->mark);
	cursor_put_u8(&c, s->disks);
	cursor_put_bytes(&c, s->id, sizeof(s->id));
	cursor_put_bytes(&c, s->vm, sizeof(s->vm));
	cursor_put_le32(&c, crc32c(0, p, SET_BYTES - 4));
	info->extra_bytes += SET_BYTES;
}

/* Decode the set. at: the end of the other tree data. A damaged set counts as none. */
static void set_decode(const struct block_snapshot_info *info, size_t at, struct tree_set *ret)
{
	const uint8_t *p = info->extra + at;
	struct cursor c = cursor_over((void *)(uintptr_t)p, MIN(info->extra_bytes - at, SET_BYTES));
	struct tree_set s = { 0 };
	uint32_t magic = cursor_le32(&c);
	uint16_t bytes = cursor_le16(&c);

	s.mark = cursor_u8(&c);
	s.disks = cursor_u8(&c);
	cursor_bytes(&c, s.id, sizeof(s.id));
	cursor_bytes(&c, s.vm, sizeof(s.vm));
	if (cursor_le32(&c) == crc32c(0, p, MIN(info->extra_bytes - at, SET_BYTES - 4)) && cursor_ok(&c) &&
		magic == SET_MAGIC && bytes == SET_BYTES && s.mark <= TREE_REVERTING)
		*ret = s;
}

void tree_encode(const struct tree_data *d, struct block_snapshot_info *info)
{
	struct cursor c = cursor_over(info->extra, sizeof(info->extra));
	size_t tags = strnlen(d->tags, TREE_TAGS_MAX);
	size_t text = strnlen(d->description, TREE_DESCRIPTION_MAX);

	info->extra_bytes = TREE_FIXED_BYTES + tags + text + 4;
	cursor_put_le32(&c, TREE_MAGIC);
	cursor_put_le16(&c, (uint16_t)info->extra_bytes);
	cursor_put_u8(&c, d->state);
	cursor_put_u8(&c, d->disks_only);
	cursor_put_le64(&c, d->parent);
	cursor_put_le64(&c, d->serial);
	cursor_put_le16(&c, (uint16_t)tags);
	cursor_put_le16(&c, (uint16_t)text);
	cursor_put_bytes(&c, d->tags, tags);
	cursor_put_bytes(&c, d->description, text);
	cursor_put_le32(&c, crc32c(0, info->extra, info->extra_bytes - 4));
	set_encode(&d->set, info);
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
	d.disks_only = cursor_u8(&c) == 1 && d.state == TREE_SHUTOFF;
	d.parent = cursor_le64(&c);
	d.serial = cursor_le64(&c);
	tags = cursor_le16(&c);
	text = cursor_le16(&c);
	if (!cursor_ok(&c) || tags > TREE_TAGS_MAX || text > TREE_DESCRIPTION_MAX ||
		bytes != TREE_FIXED_BYTES + tags + text + 4 || bytes > info->extra_bytes ||
		d.state > TREE_PAUSED || d.serial > TREE_SERIAL_MAX)
		return false;
	cursor_bytes(&c, d.tags, tags);
	cursor_bytes(&c, d.description, text);
	if (cursor_le32(&c) != crc32c(0, info->extra, bytes - 4))
		return false;
	set_decode(info, bytes, &d.set);
	*ret = d;
	return true;
}

int tree_build(const struct block_snapshot_info *list, size_t n, struct tree *ret)
{
	struct tree_node *nodes = calloc(n + 1, sizeof(*nodes));

	if (!nodes)
		return -ENOMEM;
	*ret = (struct tree){ .nodes = nodes };
	for (size_t i = 0; i < n; i++) {
		struct tree_node *node = &nodes[ret->n];

		if (list[i].pinned)
			continue;
		node->info = list[i];
		node->ours = tree_decode(&list[i], &node->data);
		ret->n++;
	}
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
		if (!tree_is_hidden(&t->nodes[i]) && !strcmp(t->nodes[i].info.name, name))
			return &t->nodes[i];
	for (size_t i = 0; i < t->n; i++)
		if (!tree_is_hidden(&t->nodes[i]) && !strcmp(t->nodes[i].info.id, name))
			return &t->nodes[i];
	return NULL;
}

bool tree_descends(const struct tree *t, const struct tree_node *n, const struct tree_node *ancestor)
{
	/* An image may be damaged: its parents may form a circle. */
	for (size_t i = 0; n && i < t->n; i++) {
		n = tree_find_id(t, n->data.parent);
		if (n == ancestor)
			return true;
	}
	return false;
}

bool tree_is_hidden(const struct tree_node *n)
{
	return n->data.set.mark == TREE_MAKING || n->data.set.mark == TREE_DELETING;
}

bool tree_has_set(const struct tree_node *n)
{
	return id_is_known(&n->data.set);
}

struct tree_node *tree_find_part(const struct tree *t, const struct tree_node *of)
{
	for (size_t i = 0; i < t->n; i++) {
		struct tree_node *n = &t->nodes[i];

		if (tree_has_set(of) ? !memcmp(n->data.set.id, of->data.set.id, TREE_SET_ID_BYTES)
				     : !tree_has_set(n) && !strcmp(n->info.name, of->info.name))
			return n;
	}
	return NULL;
}

struct tree_node *tree_current(const struct tree *t)
{
	struct tree_node *best = NULL;

	for (size_t i = 0; i < t->n; i++)
		if (!tree_is_hidden(&t->nodes[i]) && t->nodes[i].data.serial && (!best || t->nodes[i].data.serial > best->data.serial))
			best = &t->nodes[i];
	return best;
}

uint64_t tree_next_serial(const struct tree *t)
{
	uint64_t max = 0;

	for (size_t i = 0; i < t->n; i++)
		max = MAX(max, t->nodes[i].data.serial);
	return max + 1;
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
	if (strchr(name, '/') || !utf8_is_clean(name))
		return err_set(e, -EINVAL, ERR_INVALID, "a snapshot's name has no '/' and no control characters");
	if (!utf8_is_plain_name(name))
		return err_set(e, -EINVAL, ERR_INVALID,
			"a snapshot's name has no invisible characters, and does not begin or end with a space");
	return 0;
}
