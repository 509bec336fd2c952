#include "devices/legacy/pflash.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/legacy/flash_state.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Commands, in the order of the data sheet. */
enum {
	CMD_PROGRAM = 0x10,
	CMD_ERASE = 0x20,
	CMD_PROGRAM_2 = 0x40,
	CMD_CLEAR_STATUS = 0x50,
	CMD_LOCK = 0x60,
	CMD_STATUS = 0x70,
	CMD_ID = 0x90,
	CMD_CFI = 0x98,
	CMD_CONFIRM = 0xd0,
	CMD_BUFFER = 0xe8,
	CMD_ARRAY = 0xff,
	LOCK_SET = 0x01,
};

#define STATUS_READY 0x80
#define STATUS_FAILED 0x30 /* in erase and program: a command sequence that is wrong */
#define BLOCKS_MAX (FLASH_MAX_BYTES / FLASH_BLOCK_BYTES)
#define MAKER 0x89 /* Intel; the device numbers are QEMU's of this size */
#define DEVICE_ID 0x18

/* The command that waits for its next write, and the result of reads. */
struct pflash_mode {
	uint8_t command; /* CMD_ARRAY: none */
	uint8_t cycle;	 /* writes of this command so far; 0: it is complete, and reads yield its result */
	uint8_t status;
	uint16_t count;	 /* CMD_BUFFER: bytes to come */
	uint32_t at;	 /* CMD_BUFFER: of the first byte; CMD_ERASE: of the block */
	uint16_t filled; /* CMD_BUFFER: bytes in the buffer */
	uint8_t buffer[FLASH_BUFFER_BYTES];
};

struct pflash {
	struct device dev;
	struct bus *mmio;
	uint64_t gpa;
	uint8_t *view; /* borrowed */
	int view_fd;   /* borrowed */
	uint8_t *array, *other; /* both halves of view_fd, mapped here */
	uint32_t bytes;

	pthread_mutex_t lock; /* protects all fields below */
	struct flash_file file;
	struct pflash_mode mode;
	uint8_t shown; /* the command whose result the guest reads, and its status */
	uint8_t shown_status;
	uint64_t dirty[BLOCKS_MAX / 64]; /* blocks that the file does not have yet */
	bool failing; /* the last write of the file failed */
};

/* ---- the file ---- */

static bool block_is_dirty(const struct pflash *p, uint32_t n)
{
	return p->dirty[n / 64] >> n % 64 & 1;
}

static void write_result(struct pflash *p, int r)
{
	if (r < 0 && !p->failing)
		log_error(p->dev.name, "cannot write the UEFI variables: %s; they are written again with the next change", strerror(-r));
	if (!r && p->failing)
		log_info(p->dev.name, "the UEFI variables are written again");
	p->failing = r < 0;
}

/* Write all dirty blocks, each run of them at once. */
static void blocks_write(struct pflash *p)
{
	uint32_t n = p->bytes / FLASH_BLOCK_BYTES;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t end = i;
		int r;

		while (end < n && block_is_dirty(p, end))
			end++;
		if (end == i)
			continue;
		r = flash_file_write(&p->file, p->array, i * FLASH_BLOCK_BYTES, (end - i) * FLASH_BLOCK_BYTES);
		write_result(p, r);
		if (r < 0)
			return;
		for (; i < end; i++)
			p->dirty[i / 64] &= ~(1ULL << i % 64);
	}
}

/* ---- the guest's reads ---- */

static uint8_t id_byte(uint32_t off)
{
	static const uint8_t id[] = { MAKER, DEVICE_ID, 0 };

	return (off & 0xff) < sizeof(id) ? id[off & 0xff] : 0;
}

/* The query table: "QRY", the command set, voltages and times, the size and the one region of blocks. */
static uint8_t cfi_byte(const struct pflash *p, uint32_t off)
{
	uint32_t blocks = p->bytes / FLASH_BLOCK_BYTES - 1;

	switch (off & 0xff) {
	case 0x10:
		return 'Q';
	case 0x11:
		return 'R';
	case 0x12:
		return 'Y';
	case 0x13: /* Intel's extended command set */
		return 0x01;
	case 0x15: /* its table */
		return 0x31;
	case 0x1b: /* 4.5 to 5.5 V */
		return 0x45;
	case 0x1c:
		return 0x55;
	case 0x1f:
	case 0x20:
	case 0x21:
		return 0x07;
	case 0x23:
	case 0x24:
	case 0x25:
		return 0x04;
	case 0x27: /* log2 of the size */
		return (uint8_t)(31 - __builtin_clz(p->bytes));
	case 0x28: /* 8 and 16 bits */
		return 0x02;
	case 0x2a: /* log2 of the buffer */
		return 8;
	case 0x2c: /* regions */
		return 1;
	case 0x2d:
		return (uint8_t)blocks;
	case 0x2e:
		return (uint8_t)(blocks >> 8);
	case 0x2f: /* size of a block, in units of 256 bytes */
		return FLASH_BLOCK_BYTES >> 8 & 0xff;
	case 0x31:
		return 'P';
	case 0x32:
		return 'R';
	case 0x33:
		return 'I';
	case 0x34:
		return '1';
	case 0x35:
		return '0';
	}
	return 0;
}

static void other_fill(struct pflash *p, uint8_t kind)
{
	if (kind == CMD_STATUS)
		memset(p->other, p->mode.status, p->bytes);
	for (uint32_t i = 0; kind != CMD_STATUS && i < p->bytes; i++)
		p->other[i] = kind == CMD_ID ? id_byte(i) : cfi_byte(p, i);
}

/* Show the result of the mode's command. A vCPU that reads meanwhile gets the old or the new content. */
static void view_update(struct pflash *p)
{
	uint8_t kind = p->mode.command;

	if (kind != CMD_ARRAY && kind != CMD_ID && kind != CMD_CFI)
		kind = CMD_STATUS;
	if (kind == p->shown && (kind != CMD_STATUS || p->mode.status == p->shown_status))
		return;
	if (kind != CMD_ARRAY)
		other_fill(p, kind);
	if ((kind == CMD_ARRAY) != (p->shown == CMD_ARRAY) &&
		mmap(p->view, p->bytes, PROT_READ, MAP_SHARED | MAP_FIXED, p->view_fd, kind == CMD_ARRAY ? 0 : (off_t)p->bytes) ==
			MAP_FAILED)
		return;
	p->shown = kind;
	p->shown_status = p->mode.status;
}

/* ---- commands ---- */

static void array_mode(struct pflash *p)
{
	p->mode = (struct pflash_mode){ .command = CMD_ARRAY, .status = p->mode.status };
	blocks_write(p);
}

static void sequence_failed(struct pflash *p)
{
	p->mode.status |= STATUS_READY | STATUS_FAILED;
	array_mode(p);
}

static void command_done(struct pflash *p)
{
	p->mode.cycle = 0;
	p->mode.status |= STATUS_READY;
}

/* As QEMU, and unlike a chip, this sets bits, too. */
static void program(struct pflash *p, uint32_t off, const uint8_t *data, uint32_t len)
{
	memcpy(p->array + off, data, len);
	for (uint32_t n = off / FLASH_BLOCK_BYTES; n <= (off + len - 1) / FLASH_BLOCK_BYTES; n++)
		p->dirty[n / 64] |= 1ULL << n % 64;
}

static void erase(struct pflash *p, uint32_t off)
{
	uint32_t n = off / FLASH_BLOCK_BYTES;

	memset(p->array + n * FLASH_BLOCK_BYTES, FLASH_ERASED, FLASH_BLOCK_BYTES);
	p->dirty[n / 64] |= 1ULL << n % 64;
}

static void command_begin(struct pflash *p, uint32_t off, uint8_t command)
{
	struct pflash_mode *m = &p->mode;

	switch (command) {
	case CMD_ERASE:
	case CMD_PROGRAM:
	case CMD_PROGRAM_2:
	case CMD_LOCK:
	case CMD_BUFFER:
		m->command = command;
		m->cycle = 1;
		m->at = off;
		m->filled = m->count = 0;
		if (command == CMD_BUFFER)
			m->status |= STATUS_READY; /* the buffer is free */
		return;
	case CMD_STATUS:
	case CMD_ID:
	case CMD_CFI:
		m->command = command;
		return;
	case CMD_CLEAR_STATUS:
		m->status = 0;
		break;
	}
	array_mode(p);
}

static void buffer_put(struct pflash *p, uint32_t off, unsigned size, uint64_t value)
{
	struct pflash_mode *m = &p->mode;

	if (!m->filled)
		m->at = off;
	if (off != m->at + m->filled || size > m->count) {
		sequence_failed(p);
		return;
	}
	store_le(m->buffer + m->filled, size, value);
	m->filled = (uint16_t)(m->filled + size);
	m->count = (uint16_t)(m->count - size);
	if (!m->count)
		m->cycle = 3;
}

static void buffer_next(struct pflash *p, uint32_t off, unsigned size, uint64_t value)
{
	struct pflash_mode *m = &p->mode;

	switch (m->cycle) {
	case 1: /* one less than the number of writes, each as wide as this one */
		m->count = (uint16_t)(((value & 0xff) + 1) * size);
		m->cycle = 2;
		if (((value & 0xff) + 1) * size > FLASH_BUFFER_BYTES)
			sequence_failed(p);
		return;
	case 2:
		buffer_put(p, off, size, value);
		return;
	}
	if ((uint8_t)value != CMD_CONFIRM) {
		sequence_failed(p);
		return;
	}
	program(p, m->at, m->buffer, m->filled);
	command_done(p);
}

static void command_next(struct pflash *p, uint32_t off, unsigned size, uint64_t value)
{
	uint8_t data[8];

	switch (p->mode.command) {
	case CMD_PROGRAM:
	case CMD_PROGRAM_2:
		store_le(data, size, value);
		program(p, off, data, size);
		command_done(p);
		return;
	case CMD_ERASE:
		if ((uint8_t)value != CMD_CONFIRM)
			break;
		erase(p, p->mode.at);
		command_done(p);
		return;
	case CMD_LOCK: /* blocks have no locks */
		if ((uint8_t)value != CMD_CONFIRM && (uint8_t)value != LOCK_SET)
			break;
		command_done(p);
		return;
	case CMD_BUFFER:
		buffer_next(p, off, size, value);
		return;
	}
	if ((uint8_t)value == CMD_ARRAY)
		array_mode(p);
	else
		sequence_failed(p);
}

static void pflash_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pflash *p = opaque;

	LOCK_GUARD(&p->lock);
	if (p->mode.cycle)
		command_next(p, (uint32_t)off, size, value);
	else
		command_begin(p, (uint32_t)off, (uint8_t)value);
	view_update(p);
}

/* KVM serves reads from the view; only a read that crosses its end comes here. */
static uint64_t pflash_read(void *opaque, uint64_t off, unsigned size)
{
	struct pflash *p = opaque;

	LOCK_GUARD(&p->lock);
	return load_le((p->shown == CMD_ARRAY ? p->array : p->other) + off, size);
}

static const struct bus_ops pflash_bus_ops = { pflash_read, pflash_write };

/* ---- device ---- */

static void pflash_reset(struct device *d)
{
	struct pflash *p = container_of(d, struct pflash, dev);

	LOCK_GUARD(&p->lock);
	p->mode.status = 0;
	array_mode(p);
	view_update(p);
}

static void pflash_pause(struct device *d)
{
	struct pflash *p = container_of(d, struct pflash, dev);

	LOCK_GUARD(&p->lock);
	blocks_write(p);
}

static bool block_is_erased(const uint8_t *block)
{
	return block[0] == FLASH_ERASED && !memcmp(block, block + 1, FLASH_BLOCK_BYTES - 1);
}

/* Format: devices/legacy/flash_state.h. */
static void pflash_save(struct device *d, struct state_writer *w)
{
	struct pflash *p = container_of(d, struct pflash, dev);
	const struct pflash_mode *m = &p->mode;

	LOCK_GUARD(&p->lock);
	state_put_u32(w, p->bytes);
	state_put_u8(w, m->command);
	state_put_u8(w, m->cycle);
	state_put_u8(w, m->status);
	state_put_u16(w, m->count);
	state_put_u32(w, m->at);
	state_put_u16(w, m->filled);
	state_put_bytes(w, m->buffer, m->filled);
	for (uint32_t i = 0; i < p->bytes / FLASH_BLOCK_BYTES; i++) {
		if (block_is_erased(p->array + i * FLASH_BLOCK_BYTES))
			continue;
		state_put_u32(w, i);
		state_put_bytes(w, p->array + i * FLASH_BLOCK_BYTES, FLASH_BLOCK_BYTES);
	}
}

/* Return whether the writes so far can have led here: buffer_put() trusts count and filled. */
static bool mode_ok(const struct pflash_mode *m, uint32_t bytes)
{
	static const uint8_t cycles[256] = { [CMD_PROGRAM] = 1, [CMD_PROGRAM_2] = 1, [CMD_ERASE] = 1, [CMD_LOCK] = 1,
		[CMD_BUFFER] = 3 };
	bool other = m->command == CMD_ARRAY || m->command == CMD_STATUS || m->command == CMD_ID || m->command == CMD_CFI;

	return m->cycle <= cycles[m->command] && (other || cycles[m->command]) && m->filled + m->count <= FLASH_BUFFER_BYTES &&
		range_inside(m->at, m->filled ? m->filled : 1, bytes) && (m->cycle != 1 || (!m->filled && !m->count)) &&
		(m->cycle != 2 || m->count) && (m->cycle != 3 || (m->filled && !m->count));
}

static int malformed(struct err *e)
{
	return err_set(e, -EINVAL, ERR_CORRUPT, "pflash: malformed state");
}

static int mode_take(struct state_reader *r, uint32_t bytes, struct pflash_mode *m)
{
	m->command = state_u8(r);
	m->cycle = state_u8(r);
	m->status = state_u8(r);
	m->count = state_u16(r);
	m->at = state_u32(r);
	m->filled = state_u16(r);
	if (r->failed || m->filled > FLASH_BUFFER_BYTES)
		return -EINVAL;
	state_bytes(r, m->buffer, m->filled);
	return r->failed || !mode_ok(m, bytes) ? -EINVAL : 0;
}

/* Take the new content, and write the blocks that differ as one record, so that a crash leaves no mixture. */
static void content_replace(struct pflash *p, const uint8_t *content)
{
	uint32_t n = p->bytes / FLASH_BLOCK_BYTES, first = n, last = 0;

	for (uint32_t i = 0; i < n; i++) {
		size_t at = (size_t)i * FLASH_BLOCK_BYTES;

		if (!memcmp(p->array + at, content + at, FLASH_BLOCK_BYTES))
			continue;
		memcpy(p->array + at, content + at, FLASH_BLOCK_BYTES);
		first = MIN(first, i);
		last = i;
	}
	for (uint32_t i = first; i <= last && i < n; i++)
		p->dirty[i / 64] |= 1ULL << i % 64;
	blocks_write(p);
}

static int pflash_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct pflash *p = container_of(d, struct pflash, dev);
	uint32_t bytes = state_u32(r);
	struct pflash_mode mode = { 0 };
	CLEANUP_FREE uint8_t *content = malloc(p->bytes);

	(void)version;
	if (!content)
		return err_set_errno(e, -ENOMEM, "pflash");
	if (r->failed)
		return malformed(e);
	if (bytes != p->bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "VM state: saved with %u KiB of UEFI variables; this VM has %u KiB; give the "
			"template that the saved VM had as boot.nvram_template", bytes / 1024, p->bytes / 1024);
	if (mode_take(r, bytes, &mode) < 0 || flash_blocks_take(r, content, bytes) < 0)
		return malformed(e);
	LOCK_GUARD(&p->lock);
	p->mode = mode;
	content_replace(p, content);
	view_update(p);
	return 0;
}

static void pflash_free(struct device *d)
{
	struct pflash *p = container_of(d, struct pflash, dev);

	bus_remove(p->mmio, p->gpa, p);
	munmap(p->array, 2 * (size_t)p->bytes);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_ops pflash_ops = {
	.type = "pflash",
	.state_version = FLASH_STATE_VERSION,
	.reset = pflash_reset,
	.pause = pflash_pause,
	.save = pflash_save,
	.load = pflash_load,
	.free = pflash_free,
};

int pflash_new(struct dev_host *h, struct bus *mmio, const struct pflash_config *c, struct device **ret_dev, struct err *e)
{
	size_t bytes = c->file.bytes;
	void *both = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->view_fd, 0);
	struct pflash *p = calloc(1, sizeof(*p));
	int r = both == MAP_FAILED || !p ? -ENOMEM : bus_add(mmio, c->gpa, bytes, &pflash_bus_ops, p);

	(void)h;
	if (r < 0) {
		if (both != MAP_FAILED)
			munmap(both, 2 * bytes);
		free(p);
		return err_set_errno(e, r, "pflash");
	}
	p->dev.ops = &pflash_ops;
	snprintf(p->dev.name, sizeof(p->dev.name), "pflash");
	p->mmio = mmio;
	p->gpa = c->gpa;
	p->view = c->view;
	p->view_fd = c->view_fd;
	p->array = both;
	p->other = p->array + bytes;
	p->bytes = (uint32_t)bytes;
	p->file = c->file;
	p->mode.command = p->shown = CMD_ARRAY;
	pthread_mutex_init(&p->lock, NULL);
	memcpy(p->array, c->content, bytes);
	*ret_dev = &p->dev;
	return 0;
}
