#include "devices/legacy/fw_cfg.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "snapshot/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* Offsets from FW_CFG_PORT. */
#define OFF_SELECTOR 0
#define OFF_DATA 1
#define OFF_DMA 4 /* big endian, 8 bytes; a write to the low half starts the transfer */

#define ID_TRADITIONAL 0x01
#define ID_DMA 0x02
#define DMA_SIGNATURE 0x51454d5520434647ULL /* "QEMU CFG" */

/* struct FWCfgDmaAccess, big endian: u32 control, u32 length, u64 address */
#define DMA_ACCESS_BYTES 16
#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u
/* A guest's DMA holds the device's lock and fills memory behind an item's end with zeros, so bound its length. */
#define DMA_MAX_BYTES (16u << 20)

/* The directory: u32 count, then for each file u32 size, u16 key, u16 reserved, char name[56]. Big endian. */
#define DIR_ENTRY_BYTES 64

struct item {
	uint16_t key;
	char name[FW_CFG_NAME_MAX + 1]; /* empty: no file */
	uint8_t *data; /* owned */
	uint32_t bytes;
};

struct fw_cfg {
	struct device dev;
	struct dev_host *host;
	struct bus *pio;
	struct item items[FW_CFG_ITEMS_MAX]; /* constant while vCPUs run */
	unsigned nitems, nfiles;

	pthread_mutex_t lock; /* protects all fields below */
	uint16_t selector;
	uint32_t offset; /* in the selected item; may lie behind its end */
	uint32_t dma_high; /* high half of the address of the next transfer's descriptor */
};

static struct item *item_find(struct fw_cfg *f, uint16_t key)
{
	for (unsigned i = 0; i < f->nitems; i++)
		if (f->items[i].key == key)
			return &f->items[i];
	return NULL;
}

/* ---- the guest's side ---- */

static void key_select(struct fw_cfg *f, uint16_t key)
{
	f->selector = key;
	f->offset = 0;
}

/* Copy the next bytes of the selected item to `to`, with zeros behind the item's end; NULL: skip them. */
static void item_advance(struct fw_cfg *f, uint8_t *to, uint32_t bytes)
{
	const struct item *i = item_find(f, f->selector);
	uint32_t left = i && f->offset < i->bytes ? i->bytes - f->offset : 0, n = MIN(left, bytes);

	if (to && n)
		memcpy(to, i->data + f->offset, n);
	if (to)
		memset(to + n, 0, bytes - n);
	f->offset = bytes > UINT32_MAX - f->offset ? UINT32_MAX : f->offset + bytes;
}

/* Carry out a transfer. Returns the descriptor's new control word. */
static uint32_t dma_transfer(struct fw_cfg *f, uint32_t control, uint32_t length, uint64_t gpa)
{
	uint8_t *to = NULL;

	if (control & DMA_SELECT)
		key_select(f, (uint16_t)(control >> 16));
	if (!(control & (DMA_READ | DMA_SKIP | DMA_WRITE)) || !length)
		return 0;
	if (length > DMA_MAX_BYTES || !(control & (DMA_READ | DMA_SKIP)))
		return DMA_ERROR; /* there are no items to write to */
	if (control & DMA_READ) {
		to = dev_ram_for_write(f->host, gpa, length);
		if (!to)
			return DMA_ERROR;
	}
	item_advance(f, to, length);
	if (to && f->host->ops->ram_dirty)
		f->host->ops->ram_dirty(f->host, gpa, length);
	return 0;
}

static void dma_start(struct fw_cfg *f, uint64_t gpa)
{
	uint8_t *p = dev_ram_for_write(f->host, gpa, DMA_ACCESS_BYTES), access[DMA_ACCESS_BYTES];
	uint32_t result;

	if (!p)
		return;
	/* The guest may change the descriptor meanwhile: read it once. */
	memcpy(access, p, sizeof(access));
	result = dma_transfer(f, load_be32(access), load_be32(access + 4), load_be64(access + 8));
	store_be32(p, result);
	if (f->host->ops->ram_dirty)
		f->host->ops->ram_dirty(f->host, gpa, 4);
}

static uint64_t fw_cfg_read(void *opaque, uint64_t off, unsigned size)
{
	struct fw_cfg *f = opaque;
	uint64_t v = 0;
	uint8_t byte;

	if (off >= OFF_DMA) {
		/* The guest sees the bytes of the signature in memory order. */
		for (unsigned i = 0; i < size && off + i < OFF_DMA + 8; i++)
			v |= (DMA_SIGNATURE >> (56 - 8 * (off - OFF_DMA + i)) & 0xff) << (8 * i);
		return v;
	}
	if (off > OFF_DATA || size != 1)
		return 0;
	LOCK_GUARD(&f->lock);
	item_advance(f, &byte, 1);
	return byte;
}

static void fw_cfg_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct fw_cfg *f = opaque;
	uint64_t gpa;

	LOCK_GUARD(&f->lock);
	if (off == OFF_SELECTOR && size == 2) {
		key_select(f, (uint16_t)value);
	} else if (off == OFF_DMA && size == 4) {
		f->dma_high = be32toh((uint32_t)value);
	} else if (off == OFF_DMA + 4 && size == 4) {
		gpa = (uint64_t)f->dma_high << 32 | be32toh((uint32_t)value);
		f->dma_high = 0;
		dma_start(f, gpa);
	}
}

static const struct bus_ops fw_cfg_bus_ops = { fw_cfg_read, fw_cfg_write };

/* ---- items ---- */

static int item_set(struct item *i, const void *data, size_t bytes, struct err *e)
{
	uint8_t *copy = malloc(bytes ? bytes : 1);

	if (!copy)
		return err_set_errno(e, -ENOMEM, "fw_cfg");
	if (bytes)
		memcpy(copy, data, bytes);
	free(i->data);
	i->data = copy;
	i->bytes = (uint32_t)bytes;
	return 0;
}

static int item_add(struct fw_cfg *f, uint16_t key, const char *name, const void *data, size_t bytes, struct err *e)
{
	struct item *i = &f->items[f->nitems];
	int r;

	if (bytes > FW_CFG_ITEM_MAX_BYTES || strlen(name) > FW_CFG_NAME_MAX)
		return err_set(e, -E2BIG, ERR_GENERIC, "fw_cfg: item 0x%x (%s) is too large", key, name);
	if (f->nitems == FW_CFG_ITEMS_MAX)
		return err_set(e, -ENOSPC, ERR_GENERIC, "fw_cfg: too many items");
	if (item_find(f, key))
		return err_set(e, -EEXIST, ERR_GENERIC, "fw_cfg: item 0x%x exists", key);
	r = item_set(i, data, bytes, e);
	if (r < 0)
		return r;
	i->key = key;
	snprintf(i->name, sizeof(i->name), "%s", name);
	f->nitems++;
	return 0;
}

int fw_cfg_add_item(struct device *d, uint16_t key, const void *data, size_t bytes, struct err *e)
{
	return item_add(container_of(d, struct fw_cfg, dev), key, "", data, bytes, e);
}

static int directory_update(struct fw_cfg *f, struct err *e)
{
	uint8_t dir[4 + FW_CFG_ITEMS_MAX * DIR_ENTRY_BYTES] = { 0 }, *p = dir + 4;

	store_be32(dir, f->nfiles);
	for (unsigned i = 0; i < f->nitems; i++) {
		if (!f->items[i].name[0])
			continue;
		store_be32(p, f->items[i].bytes);
		store_be16(p + 4, f->items[i].key);
		memcpy(p + 8, f->items[i].name, sizeof(f->items[i].name));
		p += DIR_ENTRY_BYTES;
	}
	return item_set(item_find(f, FW_CFG_FILE_DIR), dir, (size_t)(p - dir), e);
}

int fw_cfg_add_file(struct device *d, const char *name, const void *data, size_t bytes, struct err *e)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);
	int r = item_add(f, (uint16_t)(FW_CFG_FILE_FIRST + f->nfiles), name, data, bytes, e);

	if (r < 0)
		return r;
	f->nfiles++;
	return directory_update(f, e);
}

int fw_cfg_replace_file(struct device *d, const char *name, const void *data, size_t bytes, struct err *e)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);
	int r = 0;

	for (unsigned i = 0; i < f->nitems; i++) {
		if (strcmp(f->items[i].name, name))
			continue;
		r = bytes > FW_CFG_ITEM_MAX_BYTES ? err_set(e, -E2BIG, ERR_GENERIC, "fw_cfg: %s is too large", name) :
			item_set(&f->items[i], data, bytes, e);
		return r ? r : directory_update(f, e);
	}
	return 0;
}

int fw_cfg_replace_item(struct device *d, uint16_t key, const void *data, size_t bytes, struct err *e)
{
	return item_set(item_find(container_of(d, struct fw_cfg, dev), key), data, bytes, e);
}

/* ---- device ---- */

static void fw_cfg_reset(struct device *d)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);

	LOCK_GUARD(&f->lock);
	key_select(f, 0);
	f->dma_high = 0;
}

static void fw_cfg_save(struct device *d, struct state_writer *w)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);

	LOCK_GUARD(&f->lock);
	state_put_u16(w, f->selector);
	state_put_u32(w, f->offset);
	state_put_u32(w, f->dma_high);
}

/* Every value is possible: item_advance() checks the offset at each access. */
static int fw_cfg_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);
	uint16_t selector = state_u16(r);
	uint32_t offset = state_u32(r), dma_high = state_u32(r);

	(void)version;
	if (!state_reader_complete(r))
		return err_set(e, -EINVAL, ERR_CORRUPT, "fw_cfg: malformed state");
	LOCK_GUARD(&f->lock);
	f->selector = selector;
	f->offset = offset;
	f->dma_high = dma_high;
	return 0;
}

static void fw_cfg_free(struct device *d)
{
	struct fw_cfg *f = container_of(d, struct fw_cfg, dev);

	bus_remove(f->pio, FW_CFG_PORT, f);
	for (unsigned i = 0; i < f->nitems; i++)
		free(f->items[i].data);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static const struct device_ops fw_cfg_ops = {
	.type = "fw_cfg",
	.state_version = 1,
	.reset = fw_cfg_reset,
	.save = fw_cfg_save,
	.load = fw_cfg_load,
	.free = fw_cfg_free,
};

int fw_cfg_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e)
{
	struct fw_cfg *f = calloc(1, sizeof(*f));
	uint8_t id[4], none[4] = { 0 };
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "fw_cfg");
	f->dev.ops = &fw_cfg_ops;
	snprintf(f->dev.name, sizeof(f->dev.name), "fw_cfg");
	f->host = h;
	f->pio = pio;
	pthread_mutex_init(&f->lock, NULL);
	store_le32(id, ID_TRADITIONAL | ID_DMA);
	r = fw_cfg_add_item(&f->dev, FW_CFG_SIGNATURE, "QEMU", 4, e);
	if (!r)
		r = fw_cfg_add_item(&f->dev, FW_CFG_ID, id, sizeof(id), e);
	if (!r)
		r = fw_cfg_add_item(&f->dev, FW_CFG_FILE_DIR, none, sizeof(none), e);
	if (!r && (r = bus_add(pio, FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_bus_ops, f)) < 0)
		err_set_errno(e, r, "fw_cfg: port 0x%x", FW_CFG_PORT);
	if (r < 0) {
		fw_cfg_free(&f->dev);
		return r;
	}
	*ret_dev = &f->dev;
	return 0;
}
