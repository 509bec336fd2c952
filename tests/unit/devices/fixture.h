/* fixture: a minimal machine for unit tests of devices: RAM in two ranges, two buses, a PCI host,
 * recorded interrupts, events and doorbells; and a virtio driver that uses the PCI registers as a
 * guest does. */
#ifndef CAIRN_TESTS_DEVICES_FIXTURE_H
#define CAIRN_TESTS_DEVICES_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/pci/pci.h"

#include <pthread.h>

#define FX_LOW_BYTES (8u << 20)
#define FX_HIGH_BYTES (1u << 20)
#define FX_HIGH_GPA (4ULL << 30)
#define FX_ECAM 0xb0000000ULL
#define FX_MMIO32 0xc0000000ULL
#define FX_MMIO64 0x800000000ULL
#define FX_MSI_ADDR 0xfee00000u

struct fixture {
	struct dev_host host;
	struct bus *pio, *mmio;
	struct pci_host *pci;
	struct device *pci_dev;
	uint64_t next_gpa; /* used by fx_alloc() */

	pthread_mutex_t lock;
	bool level[24];
	unsigned raises[24];
	unsigned nmsi;
	uint32_t msi_data[4096]; /* the last ones; the index wraps */
	unsigned nevents;
	struct dev_event events[64];
	char details[64][128];
	unsigned ndoorbells;
	struct {
		uint64_t gpa;
		int fd;
	} doorbells[64];
	uint64_t dirty_bytes;
	unsigned nlinked; /* calls of msi_link() */
	int link_error; /* msi_link() fails with it */
	struct {
		int fd; /* -1: unused */
		uint64_t addr;
		uint32_t data;
	} links[16];
};

void fx_init(struct fixture *f);
void fx_done(struct fixture *f);
/* Have a KVM that takes eventfds for MSI messages: f->links. It does not read them. */
void fx_link_msi(struct fixture *f);
/* Return the data of the message to which fd is linked; -1: none. */
int64_t fx_linked(const struct fixture *f, int fd);
/* Allocate zeroed guest memory below 4 GiB. */
uint64_t fx_alloc(struct fixture *f, uint64_t bytes, uint64_t align);
void *fx_ram(struct fixture *f, uint64_t gpa);
/* Run the main loop until *what is at least n, at most 5 s. */
void fx_wait(struct fixture *f, const unsigned *what, unsigned n);
void fx_run(struct fixture *f, unsigned rounds);
unsigned fx_count_events(struct fixture *f, enum dev_event_kind kind);

uint32_t fx_in(struct fixture *f, uint16_t port, unsigned size);
void fx_out(struct fixture *f, uint16_t port, unsigned size, uint32_t v);
uint64_t fx_read(struct fixture *f, uint64_t gpa, unsigned size);
/* Write: ring a doorbell's eventfd as KVM would, or write to the bus. */
void fx_write(struct fixture *f, uint64_t gpa, unsigned size, uint64_t v);
uint32_t fx_cfg_read(struct fixture *f, unsigned slot, unsigned off, unsigned size);
void fx_cfg_write(struct fixture *f, unsigned slot, unsigned off, unsigned size, uint32_t v);

/* Check that save → reset → load → save yields the same bytes, then that `flips` damaged copies are
 * refused or do no harm. The device ends in its original state, paused and resumed. */
void fx_state_test(struct fixture *f, struct device *d, unsigned flips);
struct fx_state {
	uint8_t *buf;
	size_t len;
};
void fx_save(struct device *d, struct fx_state *ret_s);
int fx_load(struct device *d, const struct fx_state *s);

/* ---- virtio driver ---- */

struct drv_queue {
	struct drv *drv;
	unsigned index, size;
	uint64_t desc, avail, used, notify;
	uint16_t avail_idx, last_used, next_desc;
};

struct drv {
	struct fixture *f;
	unsigned slot;
	uint64_t common, isr, device, notify, msix;
	unsigned notify_stride;
	uint64_t features;
	struct drv_queue q[18];
};

struct drv_sg {
	uint64_t gpa;
	uint32_t len;
	bool writable;
};

/* Find the capabilities and negotiate up to FEATURES_OK with `wanted` & offered, always with
 * VERSION_1. msix: queue q gets vector q, configuration the last. */
void drv_init(struct drv *d, struct fixture *f, unsigned slot, uint64_t wanted, bool msix);
void drv_queue_setup(struct drv *d, unsigned q, unsigned size);
void drv_ok(struct drv *d);
uint8_t drv_status(struct drv *d);
void drv_desc(struct drv_queue *q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
	uint16_t next);
/* Make a request available, as a chain or through an indirect table. Returns its head. */
unsigned drv_add(struct drv_queue *q, const struct drv_sg *sg, unsigned n, bool indirect);
/* Make the chain at head available. */
void drv_publish(struct drv_queue *q, unsigned head);
void drv_kick(struct drv_queue *q);
/* Return whether the device wants a doorbell for the requests added since `old` (the earlier
 * avail_idx). */
bool drv_wants_kick(struct drv_queue *q, uint16_t old);
uint16_t drv_used_idx(struct drv_queue *q);
/* Run the loop until a request completes. Returns its head and length. */
unsigned drv_wait(struct drv_queue *q, uint32_t *ret_len);

#endif
