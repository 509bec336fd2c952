/* autostart: starts the marked VMs once per boot of the host, in the order and with the delays and the parallelism of
 * api/policy/staged_run.h. A daemon that is started later in the same boot starts no VM again, so a VM that was shut
 * down stays off. A VM with a managed save continues from it.
 *
 * The mark is autostart.json in the VM's folder. boot.json beside the folders names the last handled boot and whether
 * its run is over. If a daemon was killed during the run, the next daemon starts the remaining VMs.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_POLICY_AUTOSTART_H
#define CAIRN_API_POLICY_AUTOSTART_H

#include <stdbool.h>

struct autostart;
struct err;
struct store_work;
struct vm;
struct vm_host;

#define AUTOSTART_FILE "autostart.json"

/* Store or remove a VM's mark. When w is done, the caller sets or clears VM_FACT_AUTOSTART. Returns 0; -errno, and then
 * the caller keeps w. */
int autostart_store(struct vm *vm, bool on, struct store_work *w, struct err *e);

/* Read the VMs' marks and the boot id. Call it after the VMs are loaded and before they are adopted. */
void autostart_load(struct vm_host *host);
/* Begin to start the marked VMs, unless a daemon has completed that in this boot. */
void autostart_go(struct vm_host *host);
/* Free the object at the daemon's end. NULL allowed. */
void autostart_free(struct autostart *a);

#endif
