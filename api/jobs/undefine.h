/* undefine: removes a VM, with or without its images. The plan is stored first, so that the next daemon finishes it
 * after a crash. */
#ifndef CAIRN_API_JOBS_UNDEFINE_H
#define CAIRN_API_JOBS_UNDEFINE_H

struct call;
struct vm_host;

#define UNDEFINE_FILE "undefine.json"

/* Handle vm-undefine. Answers the call. */
void undefine_begin(struct call *c);

/* Finish the undefines of an earlier daemon. Call it when all VMs are loaded. */
void undefine_resume_pending(struct vm_host *host);

#endif
