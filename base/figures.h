/* figures: counters of a VM's devices. A device counts in an array of its own. When the VM's process shares a page with
 * the daemon (vmm/vm_page.h), the device repeats each change in the same place of an array on that page.
 *
 * Threading: one thread at a time changes an array's counters: the only one that does, or the holder of a lock. Any
 * thread or process may read them. Each counter is exact, but they are read one after the other. */
#ifndef CAIRN_BASE_FIGURES_H
#define CAIRN_BASE_FIGURES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Limits of the latency bins. A request counts in the first bin whose limit exceeds its latency; the last bin has
 * none. */
#define LATENCY_BINS 19
static const uint64_t latency_limits_ns[LATENCY_BINS - 1] = { 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000,
	5000000, 10000000, 20000000, 50000000, 100000000, 200000000, 500000000, 1000000000, 2000000000, 5000000000 };

/* Figures of a disk. */
enum disk_figure {
	DISK_RD_REQS, DISK_RD_BYTES, DISK_RD_NS,
	DISK_WR_REQS, DISK_WR_BYTES, DISK_WR_NS,
	DISK_FL_REQS, DISK_FL_NS,
	DISK_ERRORS,
	DISK_IN_FLIGHT, /* number of requests that the block layer has */
	DISK_RD_LATENCY, /* the first of LATENCY_BINS counters; the next two likewise */
	DISK_WR_LATENCY = DISK_RD_LATENCY + LATENCY_BINS,
	DISK_FL_LATENCY = DISK_WR_LATENCY + LATENCY_BINS,
	DISK_FIGURES = DISK_FL_LATENCY + LATENCY_BINS
};

/* Figures of an interface, in directions as the guest sees them. */
enum net_figure {
	NET_RX_BYTES, NET_RX_PACKETS, NET_RX_ERRORS, NET_RX_DROPS,
	NET_TX_BYTES, NET_TX_PACKETS, NET_TX_ERRORS, NET_TX_DROPS,
	NET_FIGURES
};

/* Figures of a vCPU. */
enum vcpu_figure { VCPU_EXITS_IO, VCPU_EXITS_MMIO, VCPU_EXITS_OTHER, VCPU_FIGURES };

/* Figures of a balloon, in the order of struct virtio_balloon_info. */
enum balloon_figure {
	BALLOON_DRIVER, BALLOON_TARGET, BALLOON_GUEST, BALLOON_REPORTED, BALLOON_PERIOD_S,
	BALLOON_STATS_S, BALLOON_KNOWN, BALLOON_STAT, /* the first statistic */
	BALLOON_FIGURES = BALLOON_STAT + 10
};

static inline uint64_t figure_get(const _Atomic uint64_t *counters, size_t i)
{
	return atomic_load_explicit(&counters[i], memory_order_relaxed);
}

/* Set counters[i]. shown: the array on the page; NULL: there is no page. */
static inline void figure_set(_Atomic uint64_t *counters, _Atomic uint64_t *shown, size_t i, uint64_t n)
{
	atomic_store_explicit(&counters[i], n, memory_order_relaxed);
	if (shown)
		atomic_store_explicit(&shown[i], n, memory_order_relaxed);
}

static inline void figure_add(_Atomic uint64_t *counters, _Atomic uint64_t *shown, size_t i, uint64_t n)
{
	figure_set(counters, shown, i, figure_get(counters, i) + n);
}

/* Repeat all counters on the page. The caller keeps other threads from changing them. */
static inline void figures_show(const _Atomic uint64_t *counters, _Atomic uint64_t *shown, size_t n)
{
	for (size_t i = 0; shown && i < n; i++)
		atomic_store_explicit(&shown[i], figure_get(counters, i), memory_order_relaxed);
}

/* Count a latency in the bins from `first` on. */
static inline void figure_latency(_Atomic uint64_t *counters, _Atomic uint64_t *shown, size_t first, uint64_t ns)
{
	size_t bin = 0;

	while (bin < LATENCY_BINS - 1 && ns >= latency_limits_ns[bin])
		bin++;
	figure_add(counters, shown, first + bin, 1);
}

#endif
