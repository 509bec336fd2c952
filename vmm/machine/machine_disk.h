/* machine_disk: opens and closes a disk of the machine, with its loop.
 *
 * Threading: main thread; no thread of the disk runs. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_DISK_H
#define CAIRN_VMM_MACHINE_MACHINE_DISK_H

#include <stdbool.h>
#include <stdint.h>

struct block;
struct disk_io;
struct err;
struct machine;
struct machine_disk;
struct stat;
struct vm_disk;
struct vm_disk_more;

#define DISK_LOOP_ENTRIES 256
/* Of a VM without disks, for those that are attached later. A smaller ring takes 8 KiB instead of 28, and a full one
 * only more system calls. */
#define DISK_LOOP_ENTRIES_SPARE 64
/* Create a disk's loop. name: of its thread, truncated; entries: of loop_new(). Returns 0 or -errno. */
int machine_disk_loop(struct disk_io *io, const char *name, unsigned entries, struct err *e);
/* Start or stop the thread of a disk's loop. The machine may run. Call the first with all signals blocked. */
int machine_disk_io_start(struct machine *m, struct disk_io *io);
void machine_disk_io_stop(struct disk_io *io);
/* Start the thread if the loop has disks, with all signals blocked. Without it, no disk of the loop would work. Returns
 * 0 or -errno. */
int machine_disk_io_begin(struct machine *m, struct disk_io *io, struct err *e);
/* Record the image's device and inode. Call before the block layer takes the fd. */
void machine_disk_identify(struct machine_disk *d, int fd);
void machine_disk_identify_by(struct machine_disk *d, const struct stat *st);
/* Open the disk that is the machine's next one, and its layers, in the loop of d->io, which is created if there is none
 * yet.
 * fds: the fds that came with the configuration; those that are taken are replaced by -1.
 * d: half-built after an error; machine_disk_close() frees it in every case. Returns 0 or -errno. */
int machine_disk_open(const struct machine *m, const struct vm_disk *c, const struct vm_disk_more *more, struct machine_disk *d, int *fds,
	struct err *e);
void machine_disk_close(struct machine_disk *d);
/* Return poll_max_ns of struct virtio_blk_config. */
uint32_t machine_disk_poll_max_ns(const struct vm_disk_more *more);
/* Let the disk continue with another image of the same size, while its loop's thread does not run and no request is in
 * flight. The caller closes the one before. */
void machine_disk_set_block(struct machine_disk *d, struct block *block);
/* Tell the guest the disk's new size. Any thread. */
void machine_disk_resized(const struct machine_disk *d, uint64_t size_bytes);
/* Return the disk that has the VM's snapshots, the first qcow2 disk that the guest may write to; NULL: none. */
struct machine_disk *machine_snapshot_disk(struct machine *m);
/* Get the offset in a fork's state file at which the source passes tables of its disk i on (block/qcow2/warm.h).
 * Returns false for a disk that has no place there. Any thread. */
bool machine_disk_warm_at(unsigned i, uint64_t *ret);
/* Close the fork's state file, from which a clone's disks read tables: it holds the source's RAM, which the clone does
 * not read any more. The disks' threads may run. */
void machine_disks_close_warm(struct machine *m);

#endif
