/* machine_hold: holds back the requests to a disk, and waits for those in flight. Threading: the worker. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_HOLD_H
#define CAIRN_VMM_MACHINE_MACHINE_HOLD_H

struct err;
struct machine_disk;

/* Hold back all requests to a disk that has a mirror, and wait for those in flight. Returns 0; -ETIMEDOUT with a
 * sentence: one of them takes longer than 10 s, and nothing is held. */
int machine_disk_hold(struct machine_disk *d, struct err *e);
/* Submit the requests that are held back. */
void machine_disk_release(struct machine_disk *d);
/* The same for a disk without a mirror. */
int machine_disk_gate(struct machine_disk *d, struct err *e);
void machine_disk_gate_end(struct machine_disk *d);

#endif
