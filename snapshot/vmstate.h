/* vmstate: how a VM's saved state lies in an address space of its own: a sparse file, or the
 * VM-state area of a qcow2 snapshot. All little-endian.
 *
 *   0            header, 4 KiB:
 *                  0  u8[8]  "CAIRNVMS"
 *                  8  u32    format version (VMSTATE_VERSION)
 *                 12  u32    bytes of a RAM block (VMSTATE_BLOCK_BYTES)
 *                 16  u64    where the sections begin (4096)
 *                 24  u64    bytes of sections
 *                 32  u64    where the table of checksums begins
 *                 40  u64    where RAM begins
 *                 48  u64    bytes of RAM
 *                 56  u8[16] the VM's uuid
 *                 72  u64    when it was taken, ns since the epoch
 *                 80  u64    where the definition begins
 *                 88  u64    bytes of definition (JSON; 0: none)
 *                 96  u32    CRC32C of the definition; 0: of before it was kept
 *               4092  u32    CRC32C of bytes 0..4091
 *   4 KiB        sections (snapshot/state.h), at most 12 MiB
 *   12 MiB+4 KiB the definition, at most 1 MiB
 *   16 MiB       CRC32C of each RAM block, u32, in order
 *   …            RAM, at an offset that depends only on its size (2 MiB-aligned): a later
 *                state of the same VM has each page at the same place. A block of zeros is
 *                absent (a hole) and has the checksum of zeros.
 *
 * The header is written last: a state without one is none. */
#ifndef CAIRN_SNAPSHOT_VMSTATE_H
#define CAIRN_SNAPSHOT_VMSTATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define VMSTATE_VERSION 1
#define VMSTATE_HEADER_BYTES 4096u
#define VMSTATE_BLOCK_BYTES 65536u
#define VMSTATE_CRC_PIECE_BLOCKS 1024u
#define VMSTATE_SECTIONS_MAX_BYTES (12ULL << 20)
#define VMSTATE_DEFINITION_MAX_BYTES (1ULL << 20)
#define VMSTATE_RAM_MAX_BYTES (1ULL << 40)

/* Where the bytes go. Synchronous; each moves all of len or fails with -errno; offsets and
 * lengths are multiples of 4096, and so is the memory. A hole reads as zeros. */
struct vmstate_store {
	int (*read)(struct vmstate_store *s, uint64_t off, void *buf, size_t len);
	int (*write)(struct vmstate_store *s, uint64_t off, const void *buf, size_t len);
	/* Everything written is on stable storage. */
	int (*sync)(struct vmstate_store *s);
	bool concurrent; /* write() may be called by several threads at a time */
};

/* A sparse file; fd borrowed. */
struct vmstate_file {
	struct vmstate_store store;
	int fd;
	atomic_bool direct;
};
void vmstate_file_init(struct vmstate_file *f, int fd);
/* Past the page cache, where the file system can: much is written once, and the kernel neither copies it nor
 * makes the writer wait for other programs' dirty pages. A flag of the open file, which others may share: to be
 * taken back. */
void vmstate_file_direct(struct vmstate_file *f, bool on);

struct vmstate_layout {
	uint64_t definition_offset, crc_offset, ram_offset, ram_bytes;
	uint64_t blocks;      /* RAM blocks, the last may be short */
	uint64_t total_bytes; /* of the whole address space */
	uint32_t zero_crc, zero_crc_last; /* of a block of zeros, and of a last, short one */
};
void vmstate_layout_of(uint64_t ram_bytes, struct vmstate_layout *ret);

struct vmstate_header {
	struct vmstate_layout layout;
	uint64_t sections_bytes;
	uint64_t definition_bytes;
	uint32_t definition_crc; /* 0: not known */
	uint8_t uuid[16];
	uint64_t realtime_ns;
};

struct vmstate_progress {
	/* Called after each piece. Non-zero: stop, and the work fails with -ECANCELED. NULL: none. */
	int (*step)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *opaque;
};

struct vmstate_result {
	uint64_t ram_bytes_written; /* blocks that were not zeros */
};

struct vmstate_source {
	const uint8_t *sections;
	size_t sections_bytes;
	const char *definition; /* JSON, or NULL */
	const uint8_t *ram;	/* stands still meanwhile */
	uint64_t ram_bytes;
	int ram_fd; /* what ram is a mapping of, at offset 0; its holes are not even read. -1: none */
	/* ram is a shared mapping of it, and is not wanted any more when all is well: what has been written is
	 * unmapped, and would be mapped again by whoever touches it. */
	bool unmap;
};

/* Write a whole state. h: uuid and time given; the rest is filled in. Returns 0 or -errno with
 * a sentence; without success there is no header. */
int vmstate_write(struct vmstate_store *s, struct vmstate_header *h, const struct vmstate_source *src,
	const struct vmstate_progress *p, struct vmstate_result *ret, struct err *e);

/* The same in parts, for whoever writes RAM himself: everything but RAM. crcs: of all blocks,
 * host order. h->layout is set by vmstate_layout_of(). */
int vmstate_write_rest(struct vmstate_store *s, struct vmstate_header *h,
	const struct vmstate_source *src, const uint32_t *crcs, struct err *e);

/* Read and check a header. Returns 0; -EINVAL when it is none (ERR_INVALID) or damaged (ERR_CORRUPT), -ENOTSUP
 * for a newer format; -EIO. */
int vmstate_read_header(struct vmstate_store *s, struct vmstate_header *ret, struct err *e);
/* The sections; caller frees. */
int vmstate_read_sections(struct vmstate_store *s, const struct vmstate_header *h, uint8_t **ret,
	struct err *e);
/* The definition with a NUL behind it, NULL when there is none; caller frees. -EINVAL (ERR_CORRUPT)
 * when it is not what was written. */
int vmstate_read_definition(struct vmstate_store *s, const struct vmstate_header *h, char **ret,
	struct err *e);
/* Checksums of all RAM blocks; caller frees. */
int vmstate_read_crcs(struct vmstate_store *s, const struct vmstate_header *h, uint32_t **ret,
	struct err *e);
/* Does a file go on as far as the table does? What is wrong with a block is found when it is read. */
int vmstate_check_whole(struct vmstate_store *s, const struct vmstate_header *h, struct err *e);
/* A page of the table: of the blocks from piece * VMSTATE_CRC_PIECE_BLOCKS on. dst: room for so many, page-aligned. */
int vmstate_read_crc_piece(struct vmstate_store *s, const struct vmstate_header *h, uint64_t piece,
	uint32_t *dst, struct err *e);
/* RAM blocks [first, first + n) into dst (page-aligned), in one read, each checked against its checksum.
 * Returns 0; -EIO with a sentence that names the block. */
int vmstate_read_blocks(struct vmstate_store *s, const struct vmstate_header *h, const uint32_t *crcs,
	uint64_t first, uint64_t n, uint8_t *dst, struct err *e);
size_t vmstate_block_len(const struct vmstate_layout *l, uint64_t block);
/* The checksum that a block has when it is zeros. */
uint32_t vmstate_zero_crc(const struct vmstate_layout *l, uint64_t block);
/* True when the block is all zeros: nothing to read into fresh memory. */
bool vmstate_block_is_zero(const struct vmstate_layout *l, const uint32_t *crcs, uint64_t block);

#endif
