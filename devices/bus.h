/* bus: which device answers at which port or address. Two of them: PIO and MMIO.
 *
 * Lookups run on vCPU threads and take a read lock; adding and removing happen at
 * start or when the guest moves a BAR. A handler runs outside the lock's write side
 * and may not add or remove ranges of its own bus from inside a read. */
#ifndef CAIRN_DEVICES_BUS_H
#define CAIRN_DEVICES_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct bus;

/* off: from the range's base; size: 1, 2, 4 or 8; an access never crosses the range's
 * end (the bus splits none: it gives such an access to nobody). */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t value);
};

struct bus *bus_new(void); /* NULL: out of memory */
void bus_free(struct bus *b);

/* ops, dev: borrowed until bus_remove(). Returns 0; -EEXIST when it overlaps; -EINVAL;
 * -ENOMEM. */
int bus_add(struct bus *b, uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev);
/* Remove the range that starts at base and belongs to dev. After it returns no handler of
 * that range is running on another thread, except when called from a handler. */
void bus_remove(struct bus *b, uint64_t base, void *dev);

/* False when nobody claims it: the value read is then all ones. */
bool bus_read(struct bus *b, uint64_t addr, unsigned size, uint64_t *ret_value);
bool bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t value);

#endif
