#include "snapshot/vmstate.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/ram_write.h"
#include "snapshot/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTIONS_OFFSET 4096ULL
#define DEFINITION_OFFSET (SECTIONS_OFFSET + VMSTATE_SECTIONS_MAX_BYTES)
#define CRC_OFFSET (16 * MIB)
#define RAM_ALIGN (2 * MIB)
#define PAGE_BYTES 4096u
#define HEADER_CRC_OFFSET (VMSTATE_HEADER_BYTES - 4)

/* CRC32C of a block of zeros. A constant, because a process's first long checksum builds a table,
 * which would take 0.03 ms at every clone's start. */
#define ZERO_CRC 0x72c0c4a4u

/* ---- computing the layout ---- */

void vmstate_layout_of(uint64_t ram_bytes, struct vmstate_layout *l)
{
	static const uint8_t zeros[VMSTATE_BLOCK_BYTES];
	size_t last = ram_bytes % VMSTATE_BLOCK_BYTES;

	l->definition_offset = DEFINITION_OFFSET;
	l->crc_offset = CRC_OFFSET;
	l->blocks = DIV_ROUND_UP(ram_bytes, VMSTATE_BLOCK_BYTES);
	l->ram_offset = ROUND_UP(CRC_OFFSET + 4 * l->blocks, RAM_ALIGN);
	l->ram_bytes = ram_bytes;
	l->total_bytes = l->ram_offset + ram_bytes;
	l->zero_crc = ZERO_CRC;
	l->zero_crc_last = last ? crc32c(0, zeros, last) : ZERO_CRC;
}

uint64_t vmstate_ram_bytes(uint64_t total_bytes)
{
	struct vmstate_layout l = { .ram_offset = CRC_OFFSET };

	/* The offset of RAM depends on the number of checksums before it, and so on the bytes of RAM. Start
	 * with the smallest offset: each step grows it until it no longer changes. */
	for (uint64_t before = 0; l.ram_offset != before && l.ram_offset < total_bytes;) {
		before = l.ram_offset;
		vmstate_layout_of(total_bytes - before, &l);
	}
	return l.total_bytes == total_bytes ? l.ram_bytes : 0;
}

uint32_t vmstate_zero_crc(const struct vmstate_layout *l, uint64_t block)
{
	return block + 1 == l->blocks ? l->zero_crc_last : l->zero_crc;
}

uint32_t vmstate_block_crc(const struct vmstate_layout *l, uint64_t block, const uint8_t *data)
{
	static const uint8_t zeros[VMSTATE_BLOCK_BYTES];
	size_t len = vmstate_block_len(l, block);
	uint32_t zero = vmstate_zero_crc(l, block), crc;

	if (!memcmp(data, zeros, len))
		return zero;
	crc = crc32c(0, data, len);
	return crc == zero ? ~zero : crc;
}

size_t vmstate_block_len(const struct vmstate_layout *l, uint64_t block)
{
	return (size_t)MIN(VMSTATE_BLOCK_BYTES, l->ram_bytes - block * VMSTATE_BLOCK_BYTES);
}

bool vmstate_block_is_zero(const struct vmstate_layout *l, const uint32_t *crcs, uint64_t block)
{
	return crcs[block] == vmstate_zero_crc(l, block);
}

/* ---- a store in a file ---- */

static int file_store_read(struct vmstate_store *s, uint64_t off, void *buf, size_t len)
{
	return pread_full(container_of(s, struct vmstate_file, store)->fd, buf, len, (off_t)off);
}

static int flags_change(int fd, int set, int clear)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, (flags | set) & ~clear) < 0 ? -errno : 0;
}

static int file_store_write(struct vmstate_store *s, uint64_t off, const void *buf, size_t len)
{
	struct vmstate_file *f = container_of(s, struct vmstate_file, store);
	int r = pwrite_full(f->fd, buf, len, (off_t)off);

	/* Some file systems accept O_DIRECT but need a larger alignment than a page. */
	if (r == -EINVAL) {
		vmstate_file_direct(f, false);
		r = pwrite_full(f->fd, buf, len, (off_t)off);
	}
	return r;
}

static int file_store_sync(struct vmstate_store *s)
{
	return fdatasync(container_of(s, struct vmstate_file, store)->fd) < 0 ? -errno : 0;
}

void vmstate_file_init(struct vmstate_file *f, int fd)
{
	f->store = (struct vmstate_store){ .read = file_store_read, .write = file_store_write,
		.sync = file_store_sync, .concurrent = true };
	f->fd = fd;
	atomic_init(&f->direct, false);
}

void vmstate_file_direct(struct vmstate_file *f, bool on)
{
	if (on != f->direct && !flags_change(f->fd, on ? O_DIRECT : 0, on ? 0 : O_DIRECT))
		f->direct = on;
}

/* ---- encoding and parsing the header ---- */

static void header_encode(const struct vmstate_header *h, uint8_t b[VMSTATE_HEADER_BYTES])
{
	memset(b, 0, VMSTATE_HEADER_BYTES);
	memcpy(b, "CAIRNVMS", 8);
	store_le32(b + 8, VMSTATE_VERSION);
	store_le32(b + 12, VMSTATE_BLOCK_BYTES);
	store_le64(b + 16, SECTIONS_OFFSET);
	store_le64(b + 24, h->sections_bytes);
	store_le64(b + 32, h->layout.crc_offset);
	store_le64(b + 40, h->layout.ram_offset);
	store_le64(b + 48, h->layout.ram_bytes);
	memcpy(b + 56, h->uuid, sizeof(h->uuid));
	store_le64(b + 72, h->realtime_ns);
	store_le64(b + 80, h->layout.definition_offset);
	store_le64(b + 88, h->definition_bytes);
	store_le32(b + 96, h->definition_crc);
	store_le32(b + 100, h->paused);
	store_le64(b + 104, h->vm_clock_ns);
	store_le32(b + HEADER_CRC_OFFSET, crc32c(0, b, HEADER_CRC_OFFSET));
}

/* Parse and check a header. The layout follows from the RAM size, so a header with other offsets is damaged, or not
 * Cairn's. */
static int header_parse(const uint8_t *b, struct vmstate_header *h, struct err *e)
{
	uint64_t ram = load_le64(b + 48);

	if (memcmp(b, "CAIRNVMS", 8))
		return err_set(e, -EINVAL, ERR_INVALID, "this is not a saved state of a VM");
	if (load_le32(b + HEADER_CRC_OFFSET) != crc32c(0, b, HEADER_CRC_OFFSET))
		return err_set(e, -EINVAL, ERR_CORRUPT, "the saved state's header is damaged (checksum)");
	if (load_le32(b + 8) > VMSTATE_VERSION || !load_le32(b + 8))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the saved state has format %u; this Cairn reads up to %u; " STATE_NEWER_REMEDY, load_le32(b + 8),
			VMSTATE_VERSION);
	if (!ram || ram > VMSTATE_RAM_MAX_BYTES || ram % 4096)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the saved state's memory size is impossible");
	memset(h, 0, sizeof(*h));
	h->version = load_le32(b + 8);
	vmstate_layout_of(ram, &h->layout);
	h->sections_bytes = load_le64(b + 24);
	h->definition_bytes = load_le64(b + 88);
	h->definition_crc = load_le32(b + 96);
	if (load_le32(b + 12) != VMSTATE_BLOCK_BYTES || load_le64(b + 16) != SECTIONS_OFFSET ||
		load_le64(b + 32) != h->layout.crc_offset || load_le64(b + 40) != h->layout.ram_offset ||
		load_le64(b + 80) != h->layout.definition_offset || !h->sections_bytes ||
		h->sections_bytes > VMSTATE_SECTIONS_MAX_BYTES ||
		h->definition_bytes > VMSTATE_DEFINITION_MAX_BYTES)
		return err_set(e, -EINVAL, ERR_CORRUPT, "the saved state's header contradicts itself");
	memcpy(h->uuid, b + 56, sizeof(h->uuid));
	h->realtime_ns = load_le64(b + 72);
	h->paused = load_le32(b + 100) & 1;
	h->vm_clock_ns = load_le64(b + 104);
	return 0;
}

static int header_read(struct vmstate_store *s, uint8_t b[VMSTATE_HEADER_BYTES], struct vmstate_header *ret, struct err *e)
{
	int r = s->read(s, 0, b, VMSTATE_HEADER_BYTES);

	if (r < 0)
		return err_set_errno(e, r, "cannot read the saved state's header");
	return header_parse(b, ret, e);
}

int vmstate_read_header(struct vmstate_store *s, struct vmstate_header *ret, struct err *e)
{
	_Alignas(PAGE_BYTES) uint8_t b[VMSTATE_HEADER_BYTES];

	return header_read(s, b, ret, e);
}

/* ---- writing a state ---- */

/* Allocate whole pages for len bytes, with zeros behind them. NULL if out of memory. */
static void *pages_new(uint64_t len, uint64_t *ret_padded)
{
	uint8_t *b = aligned_alloc(PAGE_BYTES, *ret_padded = ROUND_UP(len, PAGE_BYTES));

	if (b)
		memset(b + len, 0, *ret_padded - len);
	return b;
}

static int piece_write(struct vmstate_store *s, uint64_t off, const void *p, uint64_t len)
{
	CLEANUP_FREE uint8_t *b = NULL;
	uint64_t padded;

	if (!len)
		return 0;
	b = pages_new(len, &padded);
	if (!b)
		return -ENOMEM;
	memcpy(b, p, len);
	return s->write(s, off, b, padded);
}

static int crcs_write(struct vmstate_store *s, const struct vmstate_layout *l, const uint32_t *crcs)
{
	uint64_t padded;
	CLEANUP_FREE uint32_t *le = pages_new(4 * l->blocks, &padded);

	if (!le)
		return -ENOMEM;
	for (uint64_t i = 0; i < l->blocks; i++)
		le[i] = htole32(crcs[i]);
	return s->write(s, l->crc_offset, le, padded);
}

/* Write the header after everything else is durable. */
static int header_write(struct vmstate_store *s, const uint8_t b[VMSTATE_HEADER_BYTES])
{
	int r = s->sync(s);

	if (!r)
		r = s->write(s, 0, b, VMSTATE_HEADER_BYTES);
	return r < 0 ? r : s->sync(s);
}

static int rest_write(struct vmstate_store *s, struct vmstate_header *h,
	const struct vmstate_source *src, const uint32_t *crcs)
{
	_Alignas(PAGE_BYTES) uint8_t b[VMSTATE_HEADER_BYTES];
	int r;

	h->sections_bytes = src->sections_bytes;
	h->definition_bytes = src->definition ? strlen(src->definition) : 0;
	if (h->sections_bytes > VMSTATE_SECTIONS_MAX_BYTES ||
		h->definition_bytes > VMSTATE_DEFINITION_MAX_BYTES)
		return -E2BIG;
	h->definition_crc = h->definition_bytes ? crc32c(0, src->definition, h->definition_bytes) : 0;
	r = piece_write(s, SECTIONS_OFFSET, src->sections, h->sections_bytes);
	if (!r)
		r = piece_write(s, h->layout.definition_offset, src->definition, h->definition_bytes);
	if (!r)
		r = crcs_write(s, &h->layout, crcs);
	header_encode(h, b);
	return r < 0 ? r : header_write(s, b);
}

int vmstate_change_definition(struct vmstate_store *s, const char *definition, bool paused, struct err *e)
{
	_Alignas(PAGE_BYTES) uint8_t b[VMSTATE_HEADER_BYTES];
	size_t len = strlen(definition);
	struct vmstate_header h;
	int r = header_read(s, b, &h, e);

	if (r < 0)
		return r;
	if (len > VMSTATE_DEFINITION_MAX_BYTES)
		return err_set(e, -E2BIG, ERR_INVALID, "the definition is longer than 1 MiB");
	r = piece_write(s, h.layout.definition_offset, definition, len);
	/* Keep the fields of a header that this Cairn does not know. */
	store_le64(b + 88, len);
	store_le32(b + 96, crc32c(0, definition, len));
	store_le32(b + 100, (load_le32(b + 100) & ~1u) | paused);
	store_le32(b + HEADER_CRC_OFFSET, crc32c(0, b, HEADER_CRC_OFFSET));
	if (!r)
		r = header_write(s, b);
	return r < 0 ? err_set_errno(e, r, "cannot change the saved state") : 0;
}

static int write_failed(int r, struct err *e)
{
	if (r == -ECANCELED)
		return err_set(e, r, ERR_CANCELLED, "saving was cancelled");
	if (r == -E2BIG)
		return err_set(e, r, ERR_GENERIC, "the state of the VM's devices is too large to save");
	return r < 0 ? err_set_errno(e, r, "cannot save the VM's state") : 0;
}

int vmstate_write_rest(struct vmstate_store *s, struct vmstate_header *h,
	const struct vmstate_source *src, const uint32_t *crcs, struct err *e)
{
	return write_failed(rest_write(s, h, src, crcs), e);
}

int vmstate_write(struct vmstate_store *s, struct vmstate_header *h, const struct vmstate_source *src,
	const struct vmstate_progress *p, struct vmstate_result *ret, struct err *e)
{
	uint32_t *crcs;
	int r;

	vmstate_layout_of(src->ram_bytes, &h->layout);
	ret->ram_bytes_written = 0;
	crcs = calloc(h->layout.blocks, sizeof(*crcs));
	r = crcs ? ram_write(s, &h->layout, src, crcs, p, &ret->ram_bytes_written) : -ENOMEM;
	if (!r)
		r = rest_write(s, h, src, crcs);
	free(crcs);
	return write_failed(r, e);
}

/* ---- reading a state ---- */

static int piece_read(struct vmstate_store *s, uint64_t off, uint64_t len, void **ret, struct err *e)
{
	uint64_t padded = ROUND_UP(len, PAGE_BYTES);
	uint8_t *b = NULL;
	int r = posix_memalign((void **)&b, PAGE_BYTES, padded + 1) ? -ENOMEM : s->read(s, off, b, padded);

	if (r < 0) {
		free(b);
		return err_set_errno(e, r, "cannot read the saved state");
	}
	b[len] = 0;
	*ret = b;
	return 0;
}

int vmstate_read_sections(struct vmstate_store *s, const struct vmstate_header *h, uint8_t **ret,
	struct err *e)
{
	void *p = NULL;
	int r = piece_read(s, SECTIONS_OFFSET, h->sections_bytes, &p, e);

	if (!r)
		*ret = p;
	return r;
}

int vmstate_read_definition(struct vmstate_store *s, const struct vmstate_header *h, char **ret,
	struct err *e)
{
	void *p = NULL;
	int r = h->definition_bytes
		? piece_read(s, h->layout.definition_offset, h->definition_bytes, &p, e) : 0;

	if (!r && h->definition_crc && h->definition_crc != crc32c(0, p, h->definition_bytes)) {
		free(p);
		return err_set(e, -EINVAL, ERR_CORRUPT,
			"the definition in the saved state is damaged (checksum); use a copy of the file");
	}
	if (!r)
		*ret = p;
	return r;
}

int vmstate_read_crcs(struct vmstate_store *s, const struct vmstate_header *h, uint32_t **ret,
	struct err *e)
{
	uint32_t *c;
	void *p;
	int r = piece_read(s, h->layout.crc_offset, 4 * h->layout.blocks, &p, e);

	if (r < 0)
		return r;
	c = p;
	for (uint64_t i = 0; i < h->layout.blocks; i++)
		c[i] = le32toh(c[i]);
	*ret = c;
	return 0;
}

int vmstate_read_crc_piece(struct vmstate_store *s, const struct vmstate_header *h, uint64_t piece,
	uint32_t *dst, struct err *e)
{
	int r = s->read(s, h->layout.crc_offset + piece * PAGE_BYTES, dst, PAGE_BYTES);

	if (r < 0)
		return err_set_errno(e, r, "cannot read the checksums of the saved memory");
	for (unsigned i = 0; i < VMSTATE_CRC_PIECE_BLOCKS; i++)
		dst[i] = le32toh(dst[i]);
	return 0;
}

int vmstate_check_whole(struct vmstate_store *s, const struct vmstate_header *h, struct err *e)
{
	_Alignas(PAGE_BYTES) uint32_t last[VMSTATE_CRC_PIECE_BLOCKS];

	return vmstate_read_crc_piece(s, h, (h->layout.blocks - 1) / VMSTATE_CRC_PIECE_BLOCKS, last, e);
}

int vmstate_read_blocks(struct vmstate_store *s, const struct vmstate_header *h, const uint32_t *crcs,
	uint64_t first, uint64_t n, uint8_t *dst, struct err *e)
{
	uint64_t off = first * VMSTATE_BLOCK_BYTES;
	int r = s->read(s, h->layout.ram_offset + off, dst,
		(size_t)(MIN((first + n) * VMSTATE_BLOCK_BYTES, h->layout.ram_bytes) - off));

	if (r < 0)
		return err_set_errno(e, r, "cannot read block %llu of the saved memory",
			(unsigned long long)first);
	for (uint64_t b = first; b < first + n; b++, dst += VMSTATE_BLOCK_BYTES)
		if (vmstate_block_crc(&h->layout, b, dst) != crcs[b])
			return err_set(e, -EIO, ERR_CORRUPT,
				"block %llu of the saved memory (at %llu MiB) is damaged: wrong checksum",
				(unsigned long long)b, (unsigned long long)(b * VMSTATE_BLOCK_BYTES / MIB));
	return 0;
}
