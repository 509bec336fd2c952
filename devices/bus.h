/* bus: maps port or memory addresses to devices. A machine has two: PIO and MMIO.
 *
 * Threading: any thread. Lookups run on vCPU threads under a read lock; ranges change at start, at the end, at a reset
 * or load, and when the guest configures a PCI function. A handler runs without the lock. A write handler may add and
 * remove ranges of its own bus. */
#ifndef CAIRN_DEVICES_BUS_H
#define CAIRN_DEVICES_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct bus;

/* Handlers of a range.
 * off: relative to the range's base; size: 1, 2, 4 or 8. An access never crosses the range's end;
 * the bus passes such an access to no handler. */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t off, unsigned size);
	void (*write)(void *dev, uint64_t off, unsigned size, uint64_t value);
};

struct bus *bus_new(void); /* returns NULL when memory is short */
void bus_free(struct bus *b);

/* Add a range.
 * ops, dev: borrowed until bus_remove().
 * Returns 0; -EEXIST when the range overlaps another; -EINVAL; -ENOMEM. */
int bus_add(struct bus *b, uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev);
/* Remove the range that starts at base and belongs to dev. After the return no other thread runs a
 * handler of that range, except when the caller is a handler itself. */
void bus_remove(struct bus *b, uint64_t base, void *dev);

/* Pass an access to its handler. Return false when no range claims it; a read then yields all
 * ones. */
bool bus_read(struct bus *b, uint64_t addr, unsigned size, uint64_t *ret_value);
bool bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t value);

#endif
