/* machine_page: writes the machine's figures to the page that the process shares with the daemon (vmm/vm_page.h).
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_PAGE_H
#define CAIRN_VMM_MACHINE_MACHINE_PAGE_H

struct err;
struct machine;

/* Map the page, and write to it from now on; an earlier page is unmapped.
 * fd: borrowed. Returns 0; -EINVAL: the file is too small; -errno. */
int machine_page_take(struct machine *m, int fd, struct err *e);
/* Write all figures that no device or vCPU repeats by itself, and let those of the present devices repeat theirs. Call
 * before each message to the daemon. Without a page, nothing happens. */
void machine_page_update(struct machine *m);
/* Unmap the page. The devices and vCPUs have ended. */
void machine_page_done(struct machine *m);

#endif
