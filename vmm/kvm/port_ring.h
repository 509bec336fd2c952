/* port_ring: the bytes that a guest writes to one port while its firmware starts. KVM collects them in a ring
 * (KVM_CAP_COALESCED_PIO), so a byte costs no exit to this process. Reads, and wider writes, exit as ever.
 *
 * The ring is emptied after each exit of a vCPU, so the bytes come before all later effects of the vCPU. A timer
 * empties it, too, because a guest that halts has no more exits. When no byte has come for some seconds, KVM stops
 * collecting: each later write exits, and nothing has to look at the ring.
 *
 * Threading: main thread only, unless a comment says otherwise. */
#ifndef CAIRN_VMM_KVM_PORT_RING_H
#define CAIRN_VMM_KVM_PORT_RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bus;
struct kvm;
struct kvm_coalesced_mmio_ring;
struct kvm_run;
struct loop;
struct loop_timer;

struct port_ring {
	const struct kvm *kvm; /* borrowed */
	struct bus *bus;       /* borrowed; gets the bytes */
	uint16_t port;
	unsigned page; /* the ring's page in the mapping of a vCPU */
	bool collects; /* KVM puts the bytes into the ring */
	struct loop_timer *timer; /* NULL: KVM cannot collect */
	unsigned quiet; /* runs of the timer since the last byte */
	atomic_bool came; /* a byte has come since the timer ran */
	pthread_mutex_t lock; /* held while the ring is emptied */
	struct kvm_coalesced_mmio_ring *ring; /* borrowed; KVM writes all but `first`; NULL: none */
};

/* Prepare p, which is zeroed, for a port. Where KVM cannot collect, all calls below do nothing. */
void port_ring_init(struct port_ring *p, const struct kvm *k, struct loop *l, uint16_t port);
/* Let KVM collect until no byte has come for some seconds. If that fails, each write exits. vCPUs are parked. */
void port_ring_collect(struct port_ring *p);
/* Take the ring from the mapping of vCPU 0, which has no thread yet. */
void port_ring_attach(struct port_ring *p, struct bus *bus, struct kvm_run *run);
/* Start the timer before the vCPUs run, and stop it when they are parked. */
void port_ring_resume(struct port_ring *p);
void port_ring_pause(struct port_ring *p);
/* Write the collected bytes to the bus. Any thread. */
void port_ring_drain(struct port_ring *p);
/* Free the timer. The vCPUs' threads have ended. */
void port_ring_done(struct port_ring *p);

#endif
