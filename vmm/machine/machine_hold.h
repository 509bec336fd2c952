/* machine_hold: holds back the requests to a disk, and waits for those in flight. Threading: the worker, except
 * machine_held_lock() and the functions behind it. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_HOLD_H
#define CAIRN_VMM_MACHINE_MACHINE_HOLD_H

#include <pthread.h>
#include <stdbool.h>

struct err;
struct machine;
struct machine_disk;

/* Hold back all requests to a disk that has a mirror, and wait for those in flight. Returns 0; -ETIMEDOUT with a
 * sentence: one of them takes longer than 10 s, and nothing is held. */
int machine_disk_hold(struct machine_disk *d, struct err *e);
/* Submit the requests that are held back. */
void machine_disk_release(struct machine_disk *d);
/* Like machine_disk_hold(), for a disk without a mirror. */
int machine_disk_gate(struct machine_disk *d, struct err *e);
void machine_disk_gate_end(struct machine_disk *d);

/* ---- disks that are held until the main thread gives them other images ---- */

/* Give the disks their images, and submit their requests. what, n: the arguments of machine_held_end(). */
typedef void machine_release_fn(struct machine *m, void *what, unsigned n);

struct machine_held {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool begun; /* the worker holds disks, or is about to */
	machine_release_fn *release; /* NULL: the main thread has nothing to release */
	void *what;
	unsigned n;
};

/* Announce that disks will be held. Waits while the main thread has the lock. */
void machine_held_begin(struct machine *m);
/* Let the main thread release the disks that are held. release: NULL: none is held. */
void machine_held_end(struct machine *m, machine_release_fn *release, void *what, unsigned n);
/* Main thread: wait until the worker can hold no disk, and release those that are held. A pause of the machine waits
 * for the requests of all disks, so it has the lock. */
void machine_held_lock(struct machine *m);
void machine_held_unlock(struct machine *m);
/* Main thread, after machine_held_end(): release the disks, unless a pause has released them. */
void machine_held_release(struct machine *m);

#endif
