#include "fixture.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/virtio/virtio.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct fixture *fx_of(struct dev_host *h)
{
	return container_of(h, struct fixture, host);
}

static void fake_irq_set(struct dev_host *h, unsigned gsi, bool level)
{
	struct fixture *f = fx_of(h);

	assert_true(gsi < 24);
	pthread_mutex_lock(&f->lock);
	f->raises[gsi] += level && !f->level[gsi];
	f->level[gsi] = level;
	pthread_mutex_unlock(&f->lock);
}

static void fake_msi_send(struct dev_host *h, uint64_t addr, uint32_t data)
{
	struct fixture *f = fx_of(h);

	(void)addr;
	pthread_mutex_lock(&f->lock);
	f->msi_data[f->nmsi++ % ARRAY_SIZE(f->msi_data)] = data;
	pthread_mutex_unlock(&f->lock);
}

static int fake_doorbell_add(struct dev_host *h, uint64_t gpa, unsigned size, int fd)
{
	struct fixture *f = fx_of(h);

	assert_int_equal(size, 0);
	pthread_mutex_lock(&f->lock);
	assert_true(f->ndoorbells < ARRAY_SIZE(f->doorbells));
	f->doorbells[f->ndoorbells].gpa = gpa;
	f->doorbells[f->ndoorbells++].fd = fd;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static void fake_doorbell_del(struct dev_host *h, uint64_t gpa, unsigned size, int fd)
{
	struct fixture *f = fx_of(h);
	bool found = false;

	(void)size;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->ndoorbells; i++) {
		if (f->doorbells[i].gpa == gpa && f->doorbells[i].fd == fd) {
			f->doorbells[i] = f->doorbells[--f->ndoorbells];
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&f->lock);
	assert_true(found);
}

static void fake_event(struct dev_host *h, const struct dev_event *ev)
{
	struct fixture *f = fx_of(h);

	pthread_mutex_lock(&f->lock);
	f->events[f->nevents % 64] = *ev;
	snprintf(f->details[f->nevents % 64], 128, "%s", ev->detail ? ev->detail : "");
	f->nevents++;
	pthread_mutex_unlock(&f->lock);
}

static void fake_ram_dirty(struct dev_host *h, uint64_t gpa, uint64_t len)
{
	struct fixture *f = fx_of(h);

	assert_non_null(dev_ram(h, gpa, len));
	pthread_mutex_lock(&f->lock);
	f->dirty_bytes += len;
	pthread_mutex_unlock(&f->lock);
}

static const struct dev_host_ops fake_ops = {
	.irq_set = fake_irq_set,
	.msi_send = fake_msi_send,
	.doorbell_add = fake_doorbell_add,
	.doorbell_del = fake_doorbell_del,
	.event = fake_event,
	.ram_dirty = fake_ram_dirty,
};

static int fake_msi_link(struct dev_host *h, int fd, uint64_t addr, uint32_t data)
{
	struct fixture *f = fx_of(h);
	int i = 0;

	f->nlinked++;
	if (f->link_error)
		return f->link_error;
	assert_int_equal(fx_linked(f, fd), -1);
	while (f->links[i].fd >= 0)
		assert_true(++i < (int)ARRAY_SIZE(f->links));
	f->links[i].fd = fd;
	f->links[i].addr = addr;
	f->links[i].data = data;
	return i;
}

static void fake_msi_unlink(struct dev_host *h, int fd, int link)
{
	struct fixture *f = fx_of(h);

	assert_int_equal(f->links[link].fd, fd);
	f->links[link].fd = -1;
}

void fx_link_msi(struct fixture *f)
{
	static struct dev_host_ops ops;

	ops = fake_ops;
	ops.msi_link = fake_msi_link;
	ops.msi_unlink = fake_msi_unlink;
	f->host.ops = &ops;
}

int64_t fx_linked(const struct fixture *f, int fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(f->links); i++)
		if (f->links[i].fd == fd)
			return f->links[i].data;
	return -1;
}

static void *ram_map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

void fx_init(struct fixture *f)
{
	struct pci_host_config c = { .ecam_base = FX_ECAM, .mmio32_base = FX_MMIO32,
		.mmio32_bytes = 16 << 20, .mmio64_base = FX_MMIO64, .mmio64_bytes = 1ULL << 32 };
	int r;

	memset(f, 0, sizeof(*f));
	log_set_level(LOG_LEVEL_ERROR); /* the malformed rings below provoke messages on purpose */
	pthread_mutex_init(&f->lock, NULL);
	f->host.ops = &fake_ops;
	for (size_t i = 0; i < ARRAY_SIZE(f->links); i++)
		f->links[i].fd = -1;
	f->host.ram[0] = (struct dev_ram_range){ 0, FX_LOW_BYTES, ram_map(FX_LOW_BYTES) };
	f->host.ram[1] =
		(struct dev_ram_range){ FX_HIGH_GPA, FX_HIGH_BYTES, ram_map(FX_HIGH_BYTES) };
	/* Linux gives the locked memory of a freed ring back to a user other than root some time later. */
	for (unsigned i = 0; (r = loop_new(64, &f->host.loop, NULL)) == -ENOMEM && geteuid() != 0 && i < 3000; i++)
		usleep(10000);
	assert_int_equal(r, 0);
	f->pio = bus_new();
	f->mmio = bus_new();
	f->next_gpa = 0x10000;
	assert_int_equal(
		pci_host_new(&f->host, f->pio, f->mmio, &c, &f->pci, &f->pci_dev, NULL), 0);
}

void fx_done(struct fixture *f)
{
	f->pci_dev->ops->free(f->pci_dev);
	loop_free(f->host.loop);
	bus_free(f->pio);
	bus_free(f->mmio);
	munmap(f->host.ram[0].host, FX_LOW_BYTES);
	munmap(f->host.ram[1].host, FX_HIGH_BYTES);
	pthread_mutex_destroy(&f->lock);
}

uint64_t fx_alloc(struct fixture *f, uint64_t bytes, uint64_t align)
{
	uint64_t at = ROUND_UP(f->next_gpa, align);

	assert_true(at + bytes <= FX_LOW_BYTES);
	f->next_gpa = at + bytes;
	memset(fx_ram(f, at), 0, bytes);
	return at;
}

void *fx_ram(struct fixture *f, uint64_t gpa)
{
	void *p = dev_ram(&f->host, gpa, 1);

	assert_non_null(p);
	return p;
}

void fx_wait(struct fixture *f, const unsigned *what, unsigned n)
{
	uint64_t end = loop_now_ns() + 25000000000ULL * TEST_SLOW;

	while (__atomic_load_n(what, __ATOMIC_ACQUIRE) < n) {
		assert_true(loop_now_ns() < end);
		loop_run_once(f->host.loop, 10000000);
	}
}

void fx_run(struct fixture *f, unsigned rounds)
{
	while (rounds--)
		loop_run_once(f->host.loop, 0);
}

unsigned fx_count_events(struct fixture *f, enum dev_event_kind kind)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MIN(f->nevents, 64u); i++)
		n += f->events[i].kind == kind;
	return n;
}

/* ---- accesses ---- */

uint32_t fx_in(struct fixture *f, uint16_t port, unsigned size)
{
	uint64_t v;

	bus_read(f->pio, port, size, &v);
	return (uint32_t)v;
}

void fx_out(struct fixture *f, uint16_t port, unsigned size, uint32_t v)
{
	bus_write(f->pio, port, size, v);
}

uint64_t fx_read(struct fixture *f, uint64_t gpa, unsigned size)
{
	uint64_t v;

	bus_read(f->mmio, gpa, size, &v);
	return v;
}

void fx_write(struct fixture *f, uint64_t gpa, unsigned size, uint64_t v)
{
	uint64_t one = 1;

	for (unsigned i = 0; i < f->ndoorbells; i++) {
		if (f->doorbells[i].gpa == gpa) {
			assert_int_equal(write(f->doorbells[i].fd, &one, sizeof(one)), 8);
			return;
		}
	}
	bus_write(f->mmio, gpa, size, v);
}

uint32_t fx_cfg_read(struct fixture *f, unsigned slot, unsigned off, unsigned size)
{
	fx_out(f, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	return fx_in(f, (uint16_t)(0xcfc + (off & 3)), size);
}

void fx_cfg_write(struct fixture *f, unsigned slot, unsigned off, unsigned size, uint32_t v)
{
	fx_out(f, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	fx_out(f, (uint16_t)(0xcfc + (off & 3)), size, v);
}

/* ---- state ---- */

void fx_save(struct device *d, struct fx_state *s)
{
	struct state_writer w;
	struct state_section sec;
	size_t pos = 0;

	state_writer_init(&w);
	state_section_begin(&w, d->ops->type, d->name, d->ops->state_version);
	d->ops->save(d, &w);
	state_section_end(&w);
	assert_false(w.failed);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &sec, NULL), 1);
	s->len = sec.content.len;
	s->buf = malloc(s->len + 1);
	assert_non_null(s->buf);
	if (s->len)
		memcpy(s->buf, sec.content.buf, s->len);
	state_writer_done(&w);
}

int fx_load(struct device *d, const struct fx_state *s)
{
	/* A block of its own, so that the sanitizer sees a read past its end. */
	uint8_t *copy = malloc(s->len ? s->len : 1);
	struct state_reader r = { .buf = copy, .len = s->len };
	struct err e = { 0 };
	int ret;

	assert_non_null(copy);
	memcpy(copy, s->buf, s->len);
	d->ops->reset(d);
	ret = d->ops->load(d, &r, d->ops->state_version, &e);
	if (ret)
		assert_true(ret == -22 && e.msg[0]);
	free(copy);
	return ret;
}

static void device_pause(struct device *d)
{
	if (d->ops->pause)
		d->ops->pause(d);
}

static void device_resume(struct device *d)
{
	if (d->ops->resume)
		d->ops->resume(d);
}

static uint32_t xorshift(uint32_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 17;
	*s ^= *s << 5;
	return *s;
}

static void state_fuzz(struct fixture *f, struct device *d, const struct fx_state *good,
	unsigned flips)
{
	struct fx_state bad = { .buf = malloc(good->len), .len = good->len };
	uint32_t seed = 0x1badcafe;

	assert_non_null(bad.buf);
	for (unsigned i = 0; i < flips; i++) {
		unsigned n = 1 + xorshift(&seed) % 4;

		memcpy(bad.buf, good->buf, good->len);
		while (n--)
			bad.buf[xorshift(&seed) % good->len] ^=
				(uint8_t)(1u << xorshift(&seed) % 8);
		bad.len = xorshift(&seed) % 8 ? good->len : xorshift(&seed) % good->len;
		if (fx_load(d, &bad) == 0) {
			assert_int_equal(bad.len, good->len);
			device_resume(d);
			fx_run(f, 3);
			device_pause(d);
		}
	}
	free(bad.buf);
}

void fx_state_test(struct fixture *f, struct device *d, unsigned flips)
{
	struct fx_state first, second;
	uint8_t *ram = malloc(FX_LOW_BYTES);

	assert_non_null(ram);
	device_pause(d);
	fx_save(d, &first);
	memcpy(ram, f->host.ram[0].host, FX_LOW_BYTES);
	d->ops->reset(d);
	assert_int_equal(fx_load(d, &first), 0);
	fx_save(d, &second);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.buf, second.buf, first.len);
	if (first.len && flips)
		state_fuzz(f, d, &first, flips);
	memcpy(f->host.ram[0].host, ram, FX_LOW_BYTES);
	assert_int_equal(fx_load(d, &first), 0);
	device_resume(d);
	free(ram);
	free(first.buf);
	free(second.buf);
}

/* ---- virtio driver ---- */

static void drv_find_capabilities(struct drv *d)
{
	for (unsigned cap = fx_cfg_read(d->f, d->slot, 0x34, 1); cap;
		cap = fx_cfg_read(d->f, d->slot, cap + 1, 1)) {
		unsigned bar = fx_cfg_read(d->f, d->slot, cap + 4, 1);
		uint64_t base, off = fx_cfg_read(d->f, d->slot, cap + 8, 4);

		if (fx_cfg_read(d->f, d->slot, cap, 1) == 0x11) {
			d->msix = fx_cfg_read(d->f, d->slot, 0x10 + 4 * (bar & 7), 4) & ~0xfu;
			continue;
		}
		base = fx_cfg_read(d->f, d->slot, 0x10 + 4 * bar, 4) & ~0xfu;
		switch (fx_cfg_read(d->f, d->slot, cap + 3, 1)) {
		case 1:
			d->common = base + off;
			break;
		case 2:
			d->notify = base + off;
			d->notify_stride = fx_cfg_read(d->f, d->slot, cap + 16, 4);
			break;
		case 3:
			d->isr = base + off;
			break;
		case 4:
			d->device = base + off;
			break;
		default:
			break;
		}
	}
	assert_true(d->common && d->notify && d->isr && d->msix);
}

static void drv_msix(struct drv *d)
{
	unsigned n = (unsigned)fx_read(d->f, d->common + 18, 2) + 1;

	for (unsigned cap = fx_cfg_read(d->f, d->slot, 0x34, 1); cap;
		cap = fx_cfg_read(d->f, d->slot, cap + 1, 1)) {
		if (fx_cfg_read(d->f, d->slot, cap, 1) == 0x11)
			fx_cfg_write(d->f, d->slot, cap + 2, 2, 0x8000);
	}
	for (unsigned v = 0; v < n; v++) {
		fx_write(d->f, d->msix + 16 * v, 4, FX_MSI_ADDR);
		fx_write(d->f, d->msix + 16 * v + 4, 4, 0);
		fx_write(d->f, d->msix + 16 * v + 8, 4, d->slot << 8 | v);
		fx_write(d->f, d->msix + 16 * v + 12, 4, 0);
	}
	fx_write(d->f, d->common + 16, 2, n - 1);
	for (unsigned q = 0; q + 1 < n; q++) {
		fx_write(d->f, d->common + 22, 2, q);
		fx_write(d->f, d->common + 26, 2, q);
		assert_int_equal(fx_read(d->f, d->common + 26, 2), q);
	}
}

void drv_init(struct drv *d, struct fixture *f, unsigned slot, uint64_t wanted, bool msix)
{
	uint64_t offered;

	memset(d, 0, sizeof(*d));
	d->f = f;
	d->slot = slot;
	drv_find_capabilities(d);
	fx_write(f, d->common + 20, 1, 0);
	assert_int_equal(drv_status(d), 0);
	fx_write(f, d->common + 20, 1, VIRTIO_STATUS_ACKNOWLEDGE);
	fx_write(f, d->common + 20, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	fx_write(f, d->common, 4, 1);
	offered = fx_read(f, d->common + 4, 4) << 32;
	fx_write(f, d->common, 4, 0);
	offered |= fx_read(f, d->common + 4, 4);
	d->features = offered & (wanted | VIRTIO_F_VERSION_1);
	fx_write(f, d->common + 8, 4, 0);
	fx_write(f, d->common + 12, 4, (uint32_t)d->features);
	fx_write(f, d->common + 8, 4, 1);
	fx_write(f, d->common + 12, 4, d->features >> 32);
	fx_write(f, d->common + 20, 1, 11);
	assert_int_equal(drv_status(d), 11);
	if (msix)
		drv_msix(d);
}

void drv_queue_setup(struct drv *d, unsigned q, unsigned size)
{
	struct drv_queue *dq = &d->q[q];
	struct fixture *f = d->f;

	*dq = (struct drv_queue){ .drv = d, .index = q, .size = size };
	dq->desc = fx_alloc(f, 16ULL * size, 4096);
	dq->avail = fx_alloc(f, 6 + 2ULL * size, 4096);
	dq->used = fx_alloc(f, 6 + 8ULL * size, 4096);
	fx_write(f, d->common + 22, 2, q);
	fx_write(f, d->common + 24, 2, size);
	assert_int_equal(fx_read(f, d->common + 24, 2), size);
	fx_write(f, d->common + 32, 4, (uint32_t)dq->desc);
	fx_write(f, d->common + 36, 4, dq->desc >> 32);
	fx_write(f, d->common + 40, 4, (uint32_t)dq->avail);
	fx_write(f, d->common + 44, 4, dq->avail >> 32);
	fx_write(f, d->common + 48, 8, dq->used);
	dq->notify = d->notify + d->notify_stride * fx_read(f, d->common + 30, 2);
	fx_write(f, d->common + 28, 2, 1);
	assert_int_equal(fx_read(f, d->common + 28, 2), 1);
}

void drv_ok(struct drv *d)
{
	fx_write(d->f, d->common + 20, 1, 15);
	assert_int_equal(drv_status(d), 15);
}

uint8_t drv_status(struct drv *d)
{
	return (uint8_t)fx_read(d->f, d->common + 20, 1);
}

static void desc_put(struct fixture *f, uint64_t table, unsigned i, uint64_t addr, uint32_t len,
	uint16_t flags, uint16_t next)
{
	uint8_t *p = fx_ram(f, table + 16ULL * i);

	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, flags);
	store_le16(p + 14, next);
}

void drv_desc(struct drv_queue *q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
	uint16_t next)
{
	desc_put(q->drv->f, q->desc, i, addr, len, flags, next);
}

void drv_publish(struct drv_queue *q, unsigned head)
{
	uint8_t *a = fx_ram(q->drv->f, q->avail);

	store_le16(a + 4 + 2 * (q->avail_idx % q->size), (uint16_t)head);
	q->avail_idx++;
	__atomic_store_n((uint16_t *)(void *)(a + 2), q->avail_idx, __ATOMIC_RELEASE);
}

unsigned drv_add(struct drv_queue *q, const struct drv_sg *sg, unsigned n, bool indirect)
{
	struct fixture *f = q->drv->f;
	unsigned head = q->next_desc;
	uint64_t table = indirect ? fx_alloc(f, 16ULL * n, 16) : 0;

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (uint16_t)((i + 1 < n) | (sg[i].writable ? 2 : 0));
		unsigned at = indirect ? i : (q->next_desc + i) % q->size;
		unsigned next = indirect ? i + 1 : (at + 1) % q->size;

		desc_put(f, indirect ? table : q->desc, at, sg[i].gpa, sg[i].len, flags,
			(uint16_t)next);
	}
	if (indirect)
		drv_desc(q, head, table, 16 * n, 4, 0);
	q->next_desc = (uint16_t)((q->next_desc + (indirect ? 1 : n)) % q->size);
	drv_publish(q, head);
	return head;
}

void drv_kick(struct drv_queue *q)
{
	fx_write(q->drv->f, q->notify, 2, q->index);
}

static uint16_t ring_load(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

bool drv_wants_kick(struct drv_queue *q, uint16_t old)
{
	const uint8_t *u = fx_ram(q->drv->f, q->used);

	__sync_synchronize(); /* tsan does not know the other kind of fence */
	if (q->drv->features & VIRTIO_F_EVENT_IDX) {
		uint16_t event = ring_load(u + 4 + 8 * q->size);

		return (uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old);
	}
	return !(ring_load(u) & 1);
}

uint16_t drv_used_idx(struct drv_queue *q)
{
	const uint8_t *u = fx_ram(q->drv->f, q->used);

	return ring_load(u + 2);
}

unsigned drv_wait(struct drv_queue *q, uint32_t *ret_len)
{
	uint64_t end = loop_now_ns() + 25000000000ULL * TEST_SLOW;
	const uint8_t *u = fx_ram(q->drv->f, q->used), *e;

	while (drv_used_idx(q) == q->last_used) {
		assert_true(loop_now_ns() < end);
		loop_run_once(q->drv->f->host.loop, 10000000);
	}
	e = u + 4 + 8 * (q->last_used++ % q->size);
	if (ret_len)
		*ret_len = load_le32(e + 4);
	return load_le32(e);
}
