/* batch: the VMs that one job makes: all of them or none.
 *
 * A file in the state folder names them before the first one is there, and goes when all are whole: that is the one
 * step. A daemon that finds such a file at its start removes what it names, with the files of their disks: nobody was
 * told that these VMs exist. */
#ifndef CAIRN_API_JOBS_BATCH_H
#define CAIRN_API_JOBS_BATCH_H

#include <stdint.h>

struct batch;
struct definition;
struct err;
struct job;
struct vm;
struct vm_host;

/* Until batch_begin() nothing is done. */
struct batch *batch_new(struct vm_host *host);
/* def: complete, with its uuid; read alone. All of a batch have the same rights. */
void batch_plan(struct batch *b, const struct definition *def);
/* The file is there when it returns 0. */
int batch_begin(struct batch *b, struct err *e);
/* One that was planned, in the state folder and the registry: off, and the job's. def: taken on success.
 * Returns 0; -EEXIST for what somebody else took meanwhile; -errno. */
int batch_add(struct batch *b, struct definition *def, struct job *j, struct vm **ret_vm, struct err *e);
/* Of one that was added: for so many of the disks that it writes to there may be files, which are its own. */
void batch_made(struct batch *b, const struct vm *vm, unsigned files);
/* They stay, which no power cut undoes any more when done() comes, once, from the loop: from then on they are nobody's.
 * Returns 0; -errno: nothing has changed, and done() does not come. */
int batch_keep(struct batch *b, void (*done)(void *opaque), void *opaque, struct err *e);
/* Ends those that run, removes files, forgets all. done: once, from the loop; the VMs are gone then. */
void batch_undo(struct batch *b, void (*done)(void *opaque), void *opaque);
/* Not while it is kept or undone. NULL allowed. */
void batch_free(struct batch *b);

/* At the daemon's start, with all VMs there, and none looked at: those of a newer Cairn's batches are none of ours. */
void batch_leave_newer(struct vm_host *host);
/* Later, with those that run taken back. */
void batch_clear_up(struct vm_host *host);

#endif
