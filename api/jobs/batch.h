/* batch: the VMs that one job creates, all of them or none.
 *
 * A file in the state folder names them before the first one is defined. Removing that file when all are complete is
 * the atomic step. A daemon that finds such a file at its start removes the named VMs and the files of their disks: no
 * client knows of them yet. */
#ifndef CAIRN_API_JOBS_BATCH_H
#define CAIRN_API_JOBS_BATCH_H

#include <stdbool.h>

struct batch;
struct definition;
struct err;
struct job;
struct json_object;
struct vm;
struct vm_host;

/* Create an empty batch. Nothing is stored before batch_begin(). */
struct batch *batch_new(struct vm_host *host);
/* Plan a VM. def: complete, with its uuid; only read. All VMs of a batch have the same rights. */
void batch_plan(struct batch *b, const struct definition *def);
/* Write the batch's file. Returns 0 when the file is stored; -errno. */
int batch_begin(struct batch *b, struct err *e);
/* Define a planned VM, which is off and owned by the job. def: takes it on success.
 * Returns 0; -EEXIST: another client took its name or files meanwhile; -errno. */
int batch_add(struct batch *b, struct definition *def, struct job *j, struct vm **ret_vm, struct err *e);
/* Store an added VM's definition again, after the job changed it. Returns 0; -errno. */
int batch_redefine(struct batch *b, const struct vm *vm, struct err *e);
/* Record for how many of an added VM's writable disks files may exist; an error then removes these. */
void batch_made(struct batch *b, const struct vm *vm, unsigned files);
/* Note an error: batch_end() then undoes the batch. The first error counts. */
void batch_fail(struct batch *b, const struct err *e);
bool batch_has_failed(const struct batch *b);
/* End the job and the batch. After an error: end the VMs that run, remove their files, forget the VMs, and fail
 * the job. Otherwise keep the VMs; once no power cut undoes that, the job succeeds.
 * result_put: adds to the job's result, which has count, first and last. */
void batch_end(struct batch *b, struct job *j, void (*result_put)(void *opaque, struct json_object *o), void *opaque);
/* Free a batch that has not begun, or has ended. NULL allowed. */
void batch_free(struct batch *b);

/* Hide the VMs of a newer Cairn's batches from this daemon. Call it when all VMs are loaded and none is adopted. */
void batch_leave_newer(struct vm_host *host);
/* Remove the VMs of unfinished batches. Call it when the running VMs are adopted. */
void batch_clear_up(struct vm_host *host);

#endif
