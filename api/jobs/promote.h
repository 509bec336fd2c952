/* promote: gives a live clone the name, the uuid, the ports, the permissions, the schedules and the autostart of the VM
 * that it was made of. That VM is stopped, and stays as NAME-old. docs/snapshots.md, "Life of a promotion", has the
 * order of the steps.
 *
 * PROMOTE_FILE in the clone's folder has the new names and definitions of both VMs. A daemon that finds it does the
 * remaining steps. At the end the file becomes PROMOTED_FILE, with which the promotion can be undone. Threading: the
 * daemon's loop. */
#ifndef CAIRN_API_JOBS_PROMOTE_H
#define CAIRN_API_JOBS_PROMOTE_H

#include <stdbool.h>

struct call;
struct err;
struct vm;
struct vm_host;

#define PROMOTE_FILE "promote.json"
#define PROMOTED_FILE "promoted.json"

/* Promote a clone that runs.
 * undo: vm was promoted, so let its NAME-old take everything back.
 * c: taken on success; answered with name, uuid, old, old-uuid, gap (ns) and, if there are any, warnings.
 * Returns 0; -EPERM, -EBUSY, -EEXIST, -ENOENT with the remedy. */
int promote_begin(struct vm *vm, bool undo, struct call *c, struct err *e);
/* Finish the promotions of an earlier daemon. Call it when the running VMs are adopted. Runs the loop until they are
 * over, at most for some seconds. */
void promote_resume_pending(struct vm_host *host);

#endif
