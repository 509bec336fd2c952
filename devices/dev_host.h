/* dev_host: the services of the machine that devices use. The machine (vmm/) implements them; unit
 * tests have an implementation of their own.
 *
 * Threading: register handlers run on vCPU threads, several at a time, so each device has its own
 * lock. Doorbells, consoles and timers run on the loop that the device was given. The functions
 * here may be called from any thread unless their comment says otherwise. */
#ifndef CAIRN_DEVICES_DEV_HOST_H
#define CAIRN_DEVICES_DEV_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct dev_host;
struct loop;

/* Events that a device reports; the machine turns them into phases, events for the daemon, and log
 * lines. */
enum dev_event_kind {
	DEV_EVENT_POWEROFF,	/* the guest turned itself off (ACPI S5) */
	DEV_EVENT_RESET,	/* the guest asked for a reset */
	DEV_EVENT_PANICKED,	/* pvpanic; value: its bits */
	DEV_EVENT_DEBUG_EXIT,	/* the debug exit device; value: the byte written */
	DEV_EVENT_IO_ERROR,	/* value: errno; `stop`: the device's error policy demands a stop */
	DEV_EVENT_NEEDS_RESET,	/* the driver violated the ring protocol; the device has stopped */
	DEV_EVENT_WATCHDOG,	/* the guest did not reset the watchdog in time */
	DEV_EVENT_LINK_LOST,	/* an interface's peer has disconnected; detail has its kind */
	DEV_EVENT_TRAY,		/* the guest opened (value 1) or closed the tray of a CD drive */
	DEV_EVENT_BALLOON,	/* value: the memory that the balloon leaves to the guest, bytes */
};

struct dev_event {
	enum dev_event_kind kind;
	const char *device; /* the device's name: "vda" */
	int64_t value;
	bool is_write; /* IO_ERROR */
	bool stop;	/* IO_ERROR: pause the VM; the request stays queued until resume */
	bool ignored;	/* IO_ERROR: the guest has already got a success for the request */
	bool corrupt;	/* IO_ERROR: the image is corrupt; nothing more is written to it */
	const char *detail; /* a short sentence or NULL; borrowed during the call */
};

struct dev_host_ops {
	/* Set the level of a GSI (0..23; wired to the IOAPIC and, below 16, the PIC). For an
	 * edge-triggered line the caller sends a pulse: true, then false. */
	void (*irq_set)(struct dev_host *h, unsigned gsi, bool level);
	void (*msi_send)(struct dev_host *h, uint64_t addr, uint32_t data);
	/* Let KVM send the message whenever eventfd is signalled, also for a signal that nobody has read yet, without a
	 * thread of this process. eventfd: borrowed until msi_unlink(). NULL: not possible.
	 * Returns a number for msi_unlink(), or -errno. */
	int (*msi_link)(struct dev_host *h, int eventfd, uint64_t addr, uint32_t data);
	/* Undo msi_link(). On return, the messages of all earlier signals are at the interrupt controllers. */
	void (*msi_unlink)(struct dev_host *h, int eventfd, int link);
	/* Register an eventfd that KVM signals when the guest writes to gpa (size 0: any width),
	 * without an exit to userspace. eventfd: borrowed. Returns 0 or -errno. */
	int (*doorbell_add)(struct dev_host *h, uint64_t gpa, unsigned size, int eventfd);
	void (*doorbell_del)(struct dev_host *h, uint64_t gpa, unsigned size, int eventfd);
	void (*event)(struct dev_host *h, const struct dev_event *ev);
	/* Tell the dirty tracking that a device has written to [gpa, gpa+len) in RAM. Call it after each write, also if
	 * the memory was marked before: a copy of memory may take the block between that mark and the write. NULL:
	 * nothing tracks. */
	void (*ram_dirty)(struct dev_host *h, uint64_t gpa, uint64_t len);
	/* Fault in guest memory before the kernel uses it for I/O on a file. The kernel may hold
	 * the file's lock while it waits for a page, and that page may have to be read from the
	 * same file.
	 * write: the kernel will write to the memory. Called on a disk's thread; may block. NULL:
	 * never needed. */
	void (*ram_fetch)(struct dev_host *h, const struct iovec *iov, unsigned niov, bool write);
	/* Ask before a request that writes to guest memory. While a snapshot saves memory, the old content has to be
	 * copied first, for which there may be no room. Returns false then: keep the request until wake_fd (an eventfd)
	 * is signalled, and ask again. Never blocks for room. NULL: there is always room. */
	bool (*ram_make_room)(struct dev_host *h, const struct iovec *iov, unsigned niov, int wake_fd);
	/* Give whole pages of RAM, which the guest does not use, back to the host. The guest's next access reads
	 * zeros, or old content of the same guest. Returns false if there is no room to keep their old content for a
	 * snapshot, as ram_make_room() does. On the main loop. NULL: RAM cannot be returned to the host. */
	bool (*ram_give_back)(struct dev_host *h, uint64_t gpa, uint64_t len, int wake_fd);
	/* Let the guest access the memory of a screen at gpa without exits; bytes 0: no more. There is one such range.
	 * Returns 0 or -errno, also where there is RAM. On a vCPU's thread or the main thread. NULL: not possible. */
	int (*show)(struct dev_host *h, uint64_t gpa, uint64_t bytes, void *memory);
};

/* Guest RAM is one low and (above 4 GiB) one high range, each contiguous in this process's address
 * space. */
struct dev_ram_range {
	uint64_t gpa, bytes;
	uint8_t *host;
};

struct dev_host {
	const struct dev_host_ops *ops;
	struct dev_ram_range ram[2]; /* bytes 0: absent */
	struct loop *loop;	     /* the machine's main loop */
};

/* Return the host address of [gpa, gpa+len); NULL when any byte is not RAM. len may be any value
 * that a guest wrote. The running guest shares the memory, so read each field only once. */
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

/* Return the host address of memory that the device will write, and mark it as dirty; NULL when any byte is not RAM.
 * Unless the VM is paused, call ram_dirty() again after the write. */
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

static inline void dev_event(struct dev_host *h, const struct dev_event *ev)
{
	h->ops->event(h, ev);
}

#endif
