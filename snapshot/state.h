/* state: the codec of the VM state. A stream is a sequence of sections, each with
 * a name, an instance, a version, its length and its CRC32C. All numbers are little-endian.
 *
 *   0  u32  0x43454353 ("SCEC")
 *   4  u16  version of the section's content
 *   6  u16  length of the name          (≤ 63)
 *   8  u16  length of the instance      (≤ 63)
 *  10  u16  reserved, 0
 *  12  u32  length of the content in bytes
 *  16  u32  CRC32C of bytes 0..15, name, instance and content
 *  20  name, instance, content, padded with zeros to a multiple of 8
 *
 * Reader and writer latch their first fault, like base/bytes.h: process a whole
 * record, then check once. */
#ifndef CAIRN_SNAPSHOT_STATE_H
#define CAIRN_SNAPSHOT_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define STATE_SECTION_MAX_BYTES (64u << 20)
#define STATE_NAME_MAX 63
#define STATE_NEWER_REMEDY "load it with the Cairn that saved it, or with a newer one" /* in errors about its version */

struct state_writer {
	uint8_t *buf; /* owned */
	size_t len, cap;
	size_t section; /* offset of the open section + 1; 0: none */
	bool failed;	/* out of memory, or a section above STATE_SECTION_MAX_BYTES */
};

void state_writer_init(struct state_writer *w);
void state_writer_done(struct state_writer *w);
void state_section_begin(struct state_writer *w, const char *name, const char *instance,
	uint16_t version);
void state_section_end(struct state_writer *w);
void state_put_u8(struct state_writer *w, uint8_t v);
void state_put_u16(struct state_writer *w, uint16_t v);
void state_put_u32(struct state_writer *w, uint32_t v);
void state_put_u64(struct state_writer *w, uint64_t v);
void state_put_bytes(struct state_writer *w, const void *p, size_t n);

/* The content of one section. */
struct state_reader {
	const uint8_t *buf; /* borrowed */
	size_t pos, len;
	bool failed; /* a read past the end, or the caller found the content malformed */
};

uint8_t state_u8(struct state_reader *r);
uint16_t state_u16(struct state_reader *r);
uint32_t state_u32(struct state_reader *r);
uint64_t state_u64(struct state_reader *r);
void state_bytes(struct state_reader *r, void *dst, size_t n);
/* Returns true if no read failed and no bytes are left. */
bool state_reader_complete(const struct state_reader *r);

struct state_section {
	char name[STATE_NAME_MAX + 1];
	char instance[STATE_NAME_MAX + 1];
	uint16_t version;
	struct state_reader content;
};

/* Take the section at *pos of buf, and advance *pos.
 * Returns 1; 0 at the end; -EINVAL with a sentence for a wrong magic, length, CRC or padding. */
int state_section_next(const uint8_t *buf, size_t len, size_t *pos, struct state_section *ret_s,
	struct err *e);

#endif
