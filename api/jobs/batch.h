/* batch: the VMs that one job creates, all of them or none.
 *
 * A file in the state folder names them before the first one is defined. When all are complete, its key "vms" becomes
 * "end" in place, which is the atomic step, and then the file is removed. A daemon that finds a file with the key "vms"
 * at its start removes the named VMs and the files of their disks: no client was told that they are complete. The file
 * names these files, too, because a power cut may damage a VM's definition.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_BATCH_H
#define CAIRN_API_JOBS_BATCH_H

#include <stdbool.h>
#include <stdint.h>

struct batch;
struct definition;
struct err;
struct job;
struct json_object;
struct owner_claim;
struct quota_new;
struct vm;
struct vm_host;

/* Create an empty batch. Nothing is stored before batch_begin(). */
struct batch *batch_new(struct vm_host *host);
/* Note, before batch_begin(), that batch_redefine() may be called: a definition may be younger than the VM's files. */
void batch_redefines(struct batch *b);
/* Add a VM to the plan, before batch_begin(). def: complete, with its uuid; only read. All VMs of a batch have the same
 * rights. */
void batch_plan(struct batch *b, const struct definition *def);
/* Claim room in the quotas for all VMs of the batch, whose definer is that of `def`. Returns 0; -EDQUOT. */
int batch_claim(struct batch *b, const struct definition *def, const struct quota_new *what, struct err *e);
/* Change the claim of each VM that is not added yet. Returns 0; -EDQUOT: nothing has changed. */
int batch_claim_change(struct batch *b, uint64_t image_bytes, uint64_t snapshots, struct err *e);
/* Let a creator own the planned VMs. To be called before batch_begin(). owners: a claim that has reserved an entry for
 * each of these VMs; taken; NULL: they get no owner. */
void batch_set_owners(struct batch *b, struct owner_claim *owners);
/* Write the batch's file. Returns 0: the file is in place, even if the daemon is killed then; -errno. */
int batch_begin(struct batch *b, struct err *e);
/* Define a planned VM, which is off and takes its share of the claim; the job becomes its owner. def: taken on
 * success.
 * Returns 0; -EEXIST: another VM has taken the name, the uuid or a MAC address meanwhile; -errno. */
int batch_add(struct batch *b, struct definition *def, struct job *j, struct vm **ret_vm, struct err *e);
/* Store an added VM's definition again, after the job changed it. Returns 0; -errno. */
int batch_redefine(struct batch *b, const struct vm *vm, struct err *e);
/* Record for how many of an added VM's writable disks files may exist. If the batch fails, these files are removed. */
void batch_made(struct batch *b, const struct vm *vm, unsigned files);
/* Note an error: batch_end() then undoes the batch. The first error counts. */
void batch_fail(struct batch *b, const struct err *e);
bool batch_has_failed(const struct batch *b);
/* Set whether the job has other work, too: then batch_end() concludes the job only when that is over (`awaits` is false
 * again), which may happen inside the call. */
void batch_await(struct batch *b, bool awaits);
/* End the job and the batch. After batch_fail(): stop the VMs that run, remove the files of their disks, undefine the
 * VMs, and fail the job. Otherwise keep the VMs, and conclude the job with success once that is on stable storage.
 * result_put: adds members to the job's result, which already has count, first and last. Call it as long as nobody
 * else may remove the VMs. end_put: adds the members that are known only when the job succeeds; the VMs may be gone.
 * NULL: nothing. */
void batch_end(struct batch *b, struct job *j, void (*result_put)(void *opaque, struct json_object *o),
	void (*end_put)(void *opaque, struct json_object *o), void *opaque);
/* Free a batch before batch_begin() or after its end. NULL allowed. */
void batch_free(struct batch *b);

/* Remove from the registry, but not from disk, the VMs of batches that a newer Cairn began. Call it when all VMs are
 * loaded and none is adopted. */
void batch_leave_newer(struct vm_host *host);
/* Mark the VMs of unfinished batches of an earlier daemon as incomplete, so that nothing else begins to work on them.
 * Call it before the running VMs are adopted. */
void batch_mark(struct vm_host *host);
/* Begin to remove the VMs of unfinished batches of an earlier daemon. Call it when the running VMs are adopted. */
void batch_clear_up(struct vm_host *host);

#endif
