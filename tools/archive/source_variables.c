#include "tools/archive/source.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "devices/legacy/flash_file.h"
#include "devices/legacy/flash_state.h"
#include "snapshot/image_state.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct variables {
	struct source source;
	uint8_t *content;
};

static int variables_read(struct source *source, void *buf, uint64_t off, size_t len, struct err *e)
{
	struct variables *v = container_of(source, struct variables, source);

	(void)e;
	memcpy(buf, v->content + off, len);
	return 0;
}

static void variables_free(struct source *source)
{
	struct variables *v = container_of(source, struct variables, source);

	free(source->extents);
	free(v->content);
	free(v);
}

/* ---- from a snapshot's VM state ---- */

static int sections_search(struct image_state *s, uint8_t **ret_content, uint32_t *ret_bytes, struct err *e)
{
	CLEANUP_FREE uint8_t *sections = NULL;
	struct state_section section;
	struct vmstate_header h;
	size_t pos = 0;
	int r = vmstate_read_header(&s->store, &h, e);

	if (!r)
		r = vmstate_read_sections(&s->store, &h, &sections, e);
	if (r < 0)
		return r;
	while ((r = state_section_next(sections, h.sections_bytes, &pos, &section, e)) > 0) {
		if (strcmp(section.name, "pflash") != 0)
			continue;
		if (section.version > FLASH_STATE_VERSION)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM state: its UEFI variables have version %u; " STATE_NEWER_REMEDY,
				section.version);
		r = flash_content_take(&section.content, ret_content, ret_bytes);
		if (r == -EINVAL)
			return err_set(e, r, ERR_CORRUPT, "VM state: its UEFI variables are malformed");
		return r < 0 ? err_set_errno(e, r, "VM state: its UEFI variables") : 0;
	}
	return r;
}

/* Find the snapshot on a disk. Returns 1 and its id; 0: the disk has no VM state of it; -errno with a sentence. */
static int state_find(struct block *disk, const char *snapshot, char ret_id[BLOCK_SNAPSHOT_ID_MAX + 1], struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	const struct block_snapshot_info *found = NULL;
	size_t n;
	int r = block_snapshot_list(disk, &list, &n, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(list[i].name, snapshot) || (!found && !strcmp(list[i].id, snapshot)))
			found = &list[i];
	if (!found || !found->vm_state_bytes)
		return 0;
	memcpy(ret_id, found->id, sizeof(found->id));
	return 1;
}

static int state_read(struct loop *l, const struct source_variables *v, uint8_t **ret_content, uint32_t *ret_bytes,
	struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < v->nsources && !r && !*ret_content; i++) {
		struct block *disk = v->sources[i] ? v->sources[i]->disk : NULL;
		char id[BLOCK_SNAPSHOT_ID_MAX + 1];
		struct image_state s;

		r = disk ? state_find(disk, v->snapshot, id, e) : 0;
		if (r <= 0)
			continue;
		image_state_init(&s, l, disk, id);
		r = sections_search(&s, ret_content, ret_bytes, e);
	}
	return r;
}

/* ---- from a file ---- */

static int template_read(int fd, uint8_t **ret_content, uint32_t *ret_bytes, struct err *e)
{
	struct flash_file f;
	int r = flash_template_size(fd, &f.bytes, e);

	if (r < 0)
		return r;
	*ret_content = malloc(f.bytes);
	*ret_bytes = f.bytes;
	r = *ret_content ? pread_full(fd, *ret_content, f.bytes, 0) : -ENOMEM;
	return r < 0 ? err_set_errno(e, r, "boot.nvram_template") : 0;
}

static int file_read_content(const struct source_variables *v, uint8_t **ret_content, uint32_t *ret_bytes, struct err *e)
{
	struct flash_file f;
	int r;

	if (v->fd < 0)
		return template_read(v->template_fd, ret_content, ret_bytes, e);
	r = flash_file_open(&f, v->fd, v->template_fd, ret_content, e);
	*ret_bytes = f.bytes;
	return r;
}

int source_of_variables(struct loop *l, const struct source_variables *v, const char *name, struct source **ret, struct err *e)
{
	struct variables *s = calloc(1, sizeof(*s));
	uint32_t bytes = 0;
	int r = 0;

	if (!s)
		return err_set_errno(e, -ENOMEM, "%s", name);
	s->source.read = variables_read;
	s->source.free = variables_free;
	if (*v->snapshot)
		r = state_read(l, v, &s->content, &bytes, e);
	if (!r && !s->content)
		r = *v->snapshot ? template_read(v->template_fd, &s->content, &bytes, e) : file_read_content(v, &s->content, &bytes, e);
	s->source.size_bytes = bytes;
	if (!r)
		r = source_add_extent(&s->source, 0, bytes) < 0 ? err_set_errno(e, -ENOMEM, "%s", name) : 0;
	if (r < 0)
		variables_free(&s->source);
	else
		*ret = &s->source;
	return r;
}
