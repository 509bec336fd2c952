#include "devices/legacy/flash_file.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x3148534c464e5243ULL
#define HEAD_BYTES 4096u
#define CHECKED_BYTES 24u
#define RECORDS 2

#define NAME "the file of UEFI variables"

struct record {
	uint64_t sequence;
	uint32_t off, len;
};

static off_t record_at(const struct flash_file *f, unsigned k)
{
	return (off_t)f->bytes + (off_t)k * (off_t)(HEAD_BYTES + f->bytes);
}

static bool record_range_ok(const struct flash_file *f, const struct record *r)
{
	return r->len && r->off % FLASH_BLOCK_BYTES == 0 && r->len % FLASH_BLOCK_BYTES == 0 &&
		range_inside(r->off, r->len, f->bytes);
}

/* Read record k and its data.
 * data: room for f->bytes.
 * Returns 1; 0: there is no complete record; -EINVAL: not a journal; -errno. */
static int record_read(const struct flash_file *f, unsigned k, struct record *ret, uint8_t *data)
{
	uint8_t head[HEAD_BYTES];
	int r = pread_full(f->fd, head, sizeof(head), record_at(f, k));

	if (r == -EIO) /* the file ends before */
		return 0;
	if (r < 0)
		return r;
	if (load_le64(head) != MAGIC)
		return bytes_are_zero(head, sizeof(head)) ? 0 : -EINVAL;
	*ret = (struct record){ load_le64(head + 8), load_le32(head + 16), load_le32(head + 20) };
	if (!record_range_ok(f, ret))
		return 0;
	r = pread_full(f->fd, data, ret->len, record_at(f, k) + HEAD_BYTES);
	if (r < 0)
		return r == -EIO ? 0 : r;
	return crc32c(crc32c(0, head, CHECKED_BYTES), data, ret->len) == load_le32(head + CHECKED_BYTES);
}

static int data_sync(int fd)
{
	return fdatasync(fd) < 0 ? -errno : 0;
}

/* Read both records, and redo their writes in order. *ret_found: there is one. */
static int journal_redo(struct flash_file *f, uint8_t *content, bool *ret_found)
{
	CLEANUP_FREE uint8_t *data = malloc((size_t)f->bytes * RECORDS);
	struct record rec[RECORDS];
	int there[RECORDS], r = 0;

	if (!data)
		return -ENOMEM;
	for (unsigned k = 0; k < RECORDS; k++) {
		there[k] = record_read(f, k, &rec[k], data + (size_t)k * f->bytes);
		if (there[k] < 0)
			return there[k];
	}
	*ret_found = there[0] || there[1];
	for (unsigned i = 0, first = there[0] && there[1] && rec[1].sequence < rec[0].sequence; i < RECORDS && !r; i++) {
		unsigned k = i ^ first;

		if (!there[k])
			continue;
		memcpy(content + rec[k].off, data + (size_t)k * f->bytes, rec[k].len);
		r = pwrite_full(f->fd, content + rec[k].off, rec[k].len, (off_t)rec[k].off);
		f->sequence = MAX(f->sequence, rec[k].sequence);
	}
	return r || !*ret_found ? r : data_sync(f->fd);
}

int flash_file_write(struct flash_file *f, const uint8_t *content, uint32_t off, uint32_t len)
{
	uint8_t head[HEAD_BYTES] = { 0 };
	off_t at = record_at(f, (f->sequence + 1) % RECORDS);
	int r;

	store_le64(head, MAGIC);
	store_le64(head + 8, f->sequence + 1);
	store_le32(head + 16, off);
	store_le32(head + 20, len);
	store_le32(head + CHECKED_BYTES, crc32c(crc32c(0, head, CHECKED_BYTES), content + off, len));
	r = pwrite_full(f->fd, content + off, len, at + HEAD_BYTES);
	if (!r)
		r = pwrite_full(f->fd, head, sizeof(head), at);
	/* This also syncs the content that the record before has, so that record is no longer needed. */
	if (!r)
		r = data_sync(f->fd);
	if (r < 0)
		return r;
	f->sequence++;
	return pwrite_full(f->fd, content + off, len, (off_t)off);
}

int flash_template_size(int fd, uint32_t *ret, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "boot.nvram_template");
	if (st.st_size < FLASH_MIN_BYTES || st.st_size > FLASH_MAX_BYTES || st.st_size % FLASH_BLOCK_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "boot.nvram_template: the file has %lld bytes; a template of UEFI variables has "
			"4 KiB to 4 MiB, a multiple of 4 KiB, as /usr/share/OVMF/OVMF_VARS_4M.fd", (long long)st.st_size);
	*ret = (uint32_t)st.st_size;
	return 0;
}

static int content_read(struct flash_file *f, uint8_t *content, bool *ret_found, struct err *e)
{
	struct stat st;
	int r = fstat(f->fd, &st) < 0 ? -errno : 0;

	if (!r && st.st_size && st.st_size < (off_t)f->bytes)
		return err_set(e, -EINVAL, ERR_INVALID, NAME " is truncated: it has %lld bytes instead of %u; restore it from a copy, or "
			"start the VM once with --reset-nvram to begin with new variables", (long long)st.st_size, f->bytes);
	if (!r && st.st_size)
		r = pread_full(f->fd, content, f->bytes, 0);
	if (!r && st.st_size > (off_t)f->bytes)
		r = journal_redo(f, content, ret_found);
	if (r == -EINVAL)
		return err_set(e, r, ERR_INVALID, NAME " is of another size (%lld bytes) than its template (%u bytes); give the template "
			"that it was made from as boot.nvram_template, or start the VM once with --reset-nvram", (long long)st.st_size, f->bytes);
	return r < 0 ? err_set_errno(e, r, NAME) : 0;
}

/* A new file's first record has all of it, so a crash leaves a new file or a complete one. */
static int template_copy(struct flash_file *f, int template_fd, uint8_t *content, struct err *e)
{
	int r = pread_full(template_fd, content, f->bytes, 0);

	if (r < 0)
		return err_set_errno(e, r, "boot.nvram_template");
	r = flash_file_write(f, content, 0, f->bytes);
	return r < 0 ? err_set_errno(e, r, NAME) : 0;
}

int flash_file_open(struct flash_file *f, int fd, int template_fd, uint8_t **ret_content, struct err *e)
{
	CLEANUP_FREE uint8_t *content = NULL;
	bool found = false;
	int r;

	*f = (struct flash_file){ .fd = fd };
	r = flash_template_size(template_fd, &f->bytes, e);
	if (r < 0)
		return r;
	content = calloc(1, f->bytes);
	if (!content)
		return err_set_errno(e, -ENOMEM, NAME);
	r = content_read(f, content, &found, e);
	if (!r && !found && bytes_are_zero(content, f->bytes))
		r = template_copy(f, template_fd, content, e);
	if (r < 0)
		return r;
	*ret_content = content;
	content = NULL;
	return 0;
}
