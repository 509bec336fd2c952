/* vmstate: the layout of a VM's saved state in a separate address space: a sparse file, or the
 * VM-state area of a qcow2 snapshot. All numbers are little-endian.
 *
 *   0            header, 4 KiB:
 *                  0  u8[8]  "CAIRNVMS"
 *                  8  u32    format version (VMSTATE_VERSION)
 *                 12  u32    bytes of a RAM block (VMSTATE_BLOCK_BYTES)
 *                 16  u64    offset of the sections (4096)
 *                 24  u64    bytes of the sections
 *                 32  u64    offset of the checksums
 *                 40  u64    offset of RAM
 *                 48  u64    bytes of RAM
 *                 56  u8[16] the VM's uuid
 *                 72  u64    time of the save, ns since the epoch
 *                 80  u64    offset of the definition
 *                 88  u64    bytes of the definition (JSON; 0: none)
 *                 96  u32    CRC32C of the definition; 0: unknown (old writers)
 *                100  u32    1: the VM was paused when it was saved; 0: it ran, or unknown (old writers)
 *                104  u64    time that the guest has run, ns; 0: unknown (old writers)
 *               4092  u32    CRC32C of bytes 0..4091
 *   4 KiB        sections (snapshot/state.h), at most 12 MiB
 *   12 MiB+4 KiB the definition, at most 1 MiB
 *   16 MiB       checksum of each RAM block, u32, in order: its CRC32C, see vmstate_block_crc()
 *   …            RAM, at an offset that depends only on its size (2 MiB-aligned): a later
 *                state of the same VM has each page at the same place. A block of zeros is
 *                a hole and has the checksum of zeros; no other block has that checksum.
 *
 * The header is written last. A state without a header is invalid. */
#ifndef CAIRN_SNAPSHOT_VMSTATE_H
#define CAIRN_SNAPSHOT_VMSTATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct ram_view;

#define VMSTATE_VERSION 2 /* 1: without the section "cpu" and the machine version */
#define VMSTATE_HEADER_BYTES 4096u
#define VMSTATE_BLOCK_BYTES 65536u
#define VMSTATE_CRC_PIECE_BLOCKS 1024u
#define VMSTATE_SECTIONS_MAX_BYTES (12ULL << 20)
#define VMSTATE_DEFINITION_MAX_BYTES (1ULL << 20)
#define VMSTATE_RAM_MAX_BYTES (1ULL << 40)

/* Access to the address space. Synchronous. Each call transfers all of len or fails with -errno.
 * Offsets, lengths and memory are aligned to 4096. A hole reads as zeros. */
struct vmstate_store {
	int (*read)(struct vmstate_store *s, uint64_t off, void *buf, size_t len);
	int (*write)(struct vmstate_store *s, uint64_t off, const void *buf, size_t len);
	/* Make everything written durable. */
	int (*sync)(struct vmstate_store *s);
	bool concurrent; /* several threads may call write() at a time */
};

/* A store in a sparse file. fd: borrowed. */
struct vmstate_file {
	struct vmstate_store store;
	int fd;
	atomic_bool direct;
};
void vmstate_file_init(struct vmstate_file *f, int fd);
/* Bypass the page cache if the file system can. A state is large and written once; without the
 * cache, the kernel does not copy it, and the writer does not wait for other programs' dirty pages.
 * This is a flag of the open file, which other processes may share, so take it back at the end. */
void vmstate_file_direct(struct vmstate_file *f, bool on);

struct vmstate_layout {
	uint64_t definition_offset, crc_offset, ram_offset, ram_bytes;
	uint64_t blocks;      /* number of RAM blocks; the last may be shorter */
	uint64_t total_bytes; /* size of the whole address space */
	uint32_t zero_crc, zero_crc_last; /* checksum of a full block of zeros, and of a last, shorter one */
};
void vmstate_layout_of(uint64_t ram_bytes, struct vmstate_layout *ret);
/* Return the bytes of RAM in an address space of total_bytes; 0: no layout has this size. */
uint64_t vmstate_ram_bytes(uint64_t total_bytes);

struct vmstate_header {
	uint32_t version; /* set by a read; a write writes VMSTATE_VERSION */
	struct vmstate_layout layout;
	uint64_t sections_bytes;
	uint64_t definition_bytes;
	uint32_t definition_crc; /* 0: unknown */
	uint8_t uuid[16];
	uint64_t realtime_ns;
	uint64_t vm_clock_ns; /* time that the guest has run; 0: unknown */
	bool paused; /* the VM was paused when it was saved; false: it ran, or unknown */
};

struct vmstate_progress {
	/* Called after each piece. Non-zero: stop; the work then fails with -ECANCELED. NULL: not
	 * wanted. */
	int (*step)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *opaque;
};

struct vmstate_result {
	uint64_t ram_bytes_written; /* bytes of nonzero blocks that were written */
};

struct vmstate_source {
	const uint8_t *sections;
	size_t sections_bytes;
	const char *definition; /* JSON, or NULL */
	const uint8_t *ram;	/* must not change during the write */
	uint64_t ram_bytes;
	int ram_fd; /* the file that ram maps from offset 0; its holes are skipped. -1: none */
	/* ram is this private view, and ram_fd is unused. NULL: ram is no private view */
	const struct ram_view *view;
	/* Without a view: ram is a shared mapping of ram_fd that is not needed after success: unmap the written
	 * parts. A later access maps it again. */
	bool unmap;
};

/* Write a whole state. h: the caller sets uuid and times; the other fields are filled in. The header is
 * written when all else is durable; after a failure, discard the state. Returns 0 or -errno with a sentence. */
int vmstate_write(struct vmstate_store *s, struct vmstate_header *h, const struct vmstate_source *src,
	const struct vmstate_progress *p, struct vmstate_result *ret, struct err *e);

/* Write everything except RAM, for callers that write RAM themselves.
 * h: h->layout was set by vmstate_layout_of().
 * crcs: of all blocks, in host byte order.
 * Returns 0 or -errno with a sentence. */
int vmstate_write_rest(struct vmstate_store *s, struct vmstate_header *h,
	const struct vmstate_source *src, const uint32_t *crcs, struct err *e);

/* Read and check a header. Returns 0; -EINVAL if it is missing (ERR_INVALID) or damaged
 * (ERR_CORRUPT); -ENOTSUP for a newer format; the store's -errno. */
int vmstate_read_header(struct vmstate_store *s, struct vmstate_header *ret, struct err *e);
/* Read the sections. The caller frees *ret. Returns 0 or -errno with a sentence. */
int vmstate_read_sections(struct vmstate_store *s, const struct vmstate_header *h, uint8_t **ret,
	struct err *e);
/* Read the definition and add a NUL; *ret is NULL if there is none. The caller frees it.
 * Returns 0; -EINVAL (ERR_CORRUPT) if its checksum is wrong; -errno. */
int vmstate_read_definition(struct vmstate_store *s, const struct vmstate_header *h, char **ret,
	struct err *e);
/* Replace the definition of a complete state. If this is cut off, the state may have a damaged definition, which can be
 * replaced again. definition: JSON. paused: as in the header. Returns as vmstate_read_header(); -E2BIG: too long. */
int vmstate_change_definition(struct vmstate_store *s, const char *definition, bool paused, struct err *e);
/* Read the checksums of all RAM blocks. The caller frees *ret. Returns 0 or -errno with a sentence. */
int vmstate_read_crcs(struct vmstate_store *s, const struct vmstate_header *h, uint32_t **ret,
	struct err *e);
/* Check that the state has all its checksums, by reading the last page of them, so that a file that was
 * cut off before their end is refused. vmstate_read_blocks() finds missing or damaged RAM. Returns 0 or
 * -errno with a sentence. */
int vmstate_check_whole(struct vmstate_store *s, const struct vmstate_header *h, struct err *e);
/* Read a page of checksums, for the blocks from piece * VMSTATE_CRC_PIECE_BLOCKS on.
 * dst: room for VMSTATE_CRC_PIECE_BLOCKS of them, page-aligned.
 * Returns 0 or -errno with a sentence. */
int vmstate_read_crc_piece(struct vmstate_store *s, const struct vmstate_header *h, uint64_t piece,
	uint32_t *dst, struct err *e);
/* Read RAM blocks [first, first + n) in one read, and check each against its checksum. dst:
 * page-aligned.
 * Returns 0; -EIO: a checksum is wrong, and the sentence names the block; else the store's -errno, and the sentence
 * names block `first`. */
int vmstate_read_blocks(struct vmstate_store *s, const struct vmstate_header *h, const uint32_t *crcs,
	uint64_t first, uint64_t n, uint8_t *dst, struct err *e);
size_t vmstate_block_len(const struct vmstate_layout *l, uint64_t block);
/* Returns the checksum to store for a block with this content: its CRC32C. One block in 2^32 is not zero
 * but has the CRC32C of zeros. Readers would take it for zeros, so it gets the complement. */
uint32_t vmstate_block_crc(const struct vmstate_layout *l, uint64_t block, const uint8_t *data);
/* Returns the checksum of a block of zeros. */
uint32_t vmstate_zero_crc(const struct vmstate_layout *l, uint64_t block);
/* Returns true if the block is all zeros, so that fresh memory needs no read. */
bool vmstate_block_is_zero(const struct vmstate_layout *l, const uint32_t *crcs, uint64_t block);

#endif
