/* autostart: VMs that are started once the host has booted, by the first daemon since then: a VM that was
 * shut down stays off when a daemon follows another. By order, with delays, so many at a time
 * (api/policy/staged_run.h); from a managed save, if there is one.
 *
 * A VM's mark is autostart.json in its folder. boot.json beside the folders has the boot that was dealt
 * with, and whether all VMs were: a daemon that is killed meanwhile leaves the rest to the next. */
#ifndef CAIRN_API_POLICY_AUTOSTART_H
#define CAIRN_API_POLICY_AUTOSTART_H

#include <stdbool.h>

struct autostart;
struct err;
struct store_work;
struct vm;
struct vm_host;

#define AUTOSTART_FILE "autostart.json"

/* Keeps the mark; when w is done, vm->autostart is to be told. -errno: w stays the caller's. */
int autostart_keep(struct vm *vm, bool on, struct store_work *w, struct err *e);

/* The VMs are there: reads their marks, and which boot this is. Before VMs are taken back. */
void autostart_load(struct vm_host *host);
/* The loop runs soon: begins, if this boot is not dealt with yet. */
void autostart_go(struct vm_host *host);
/* NULL allowed. */
void autostart_free(struct autostart *a);

#endif
