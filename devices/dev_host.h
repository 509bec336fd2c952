/* dev_host: all that a device sees of the machine. The machine (vmm/) fills it in;
 * unit tests give one of their own.
 *
 * Threads: register handlers run on vCPU threads, several at a time: a device locks
 * itself. Doorbells, consoles and timers run on the loop the device was given. The
 * functions here may be called from any thread unless they say otherwise. */
#ifndef CAIRN_DEVICES_DEV_HOST_H
#define CAIRN_DEVICES_DEV_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct dev_host;
struct loop;

/* What a device tells the machine; the machine makes states, events and log lines of it. */
enum dev_event_kind {
	DEV_EVENT_POWEROFF,	/* the guest turned itself off (ACPI S5) */
	DEV_EVENT_RESET,	/* the guest asked for a reset */
	DEV_EVENT_PANICKED,	/* pvpanic; value: its bits */
	DEV_EVENT_DEBUG_EXIT,	/* the test device; value: the byte written */
	DEV_EVENT_IO_ERROR,	/* value: errno; the device's error policy is in `stop` */
	DEV_EVENT_NEEDS_RESET,	/* the guest's driver broke a ring; the device has stopped */
	DEV_EVENT_WATCHDOG,	/* the guest did not look after it in time */
	DEV_EVENT_LINK_LOST,	/* what an interface was plugged into is gone; detail says what */
};

struct dev_event {
	enum dev_event_kind kind;
	const char *device; /* its name: "vda" */
	int64_t value;
	bool is_write; /* IO_ERROR */
	bool stop;	/* IO_ERROR: pause the VM; the request stays queued until resume */
	bool ignored;	/* IO_ERROR: the guest was told that all is well */
	bool corrupt;	/* IO_ERROR: the image is; nothing more is written to it */
	const char *detail; /* a short sentence or NULL; borrowed during the call */
};

struct dev_host_ops {
	/* Set the level of a GSI (0..23; wired to IOAPIC and, below 16, PIC). Edge-triggered
	 * lines are pulsed by the caller: true, then false. */
	void (*irq_set)(struct dev_host *h, unsigned gsi, bool level);
	void (*msi_send)(struct dev_host *h, uint64_t addr, uint32_t data);
	/* An eventfd that KVM signals when the guest writes to gpa (size 0: any width).
	 * The write no longer exits. fd borrowed. Return 0 or -errno. */
	int (*doorbell_add)(struct dev_host *h, uint64_t gpa, unsigned size, int eventfd);
	void (*doorbell_del)(struct dev_host *h, uint64_t gpa, unsigned size, int eventfd);
	void (*event)(struct dev_host *h, const struct dev_event *ev);
	/* [gpa, gpa+len) in RAM is about to be written by a device: for dirty tracking.
	 * NULL while nothing tracks. */
	void (*ram_dirty)(struct dev_host *h, uint64_t gpa, uint64_t len);
	/* Memory that is about to be handed to the kernel for I/O on a file: have it in place first. The
	 * kernel may hold the file's lock while it waits for a page, which may have to come out of that
	 * very file. write: the kernel will write to it. On a disk's thread; may wait. NULL: never needed. */
	void (*ram_fetch)(struct dev_host *h, const struct iovec *iov, unsigned niov, bool write);
};

/* Guest RAM is one low and (above 4 GiB) one high range; each is contiguous in our
 * address space. */
struct dev_ram_range {
	uint64_t gpa, bytes;
	uint8_t *host;
};

struct dev_host {
	const struct dev_host_ops *ops;
	struct dev_ram_range ram[2]; /* bytes 0: absent */
	struct loop *loop;	     /* the machine's main loop */
};

/* The host address of [gpa, gpa+len), or NULL when any byte of it is not RAM. len may
 * be anything a guest wrote. The memory is shared with the running guest: read each
 * field once. */
static inline void *dev_ram(const struct dev_host *h, uint64_t gpa, uint64_t len)
{
	for (int i = 0; i < 2; i++) {
		const struct dev_ram_range *r = &h->ram[i];

		if (gpa >= r->gpa && gpa - r->gpa <= r->bytes && len <= r->bytes - (gpa - r->gpa) &&
			r->bytes)
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

/* The same, for memory that the device will write. */
static inline void *dev_ram_for_write(struct dev_host *h, uint64_t gpa, uint64_t len)
{
	void *p = dev_ram(h, gpa, len);

	if (p && h->ops->ram_dirty)
		h->ops->ram_dirty(h, gpa, len);
	return p;
}

static inline void dev_irq_set(struct dev_host *h, unsigned gsi, bool level)
{
	h->ops->irq_set(h, gsi, level);
}

static inline void dev_irq_pulse(struct dev_host *h, unsigned gsi)
{
	h->ops->irq_set(h, gsi, true);
	h->ops->irq_set(h, gsi, false);
}

static inline void dev_event(struct dev_host *h, const struct dev_event *ev)
{
	h->ops->event(h, ev);
}

#endif
