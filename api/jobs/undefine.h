/* undefine: a VM is forgotten, with its images or without. What goes is written down first: a daemon that
 * does not live to end it is followed by one that does. */
#ifndef CAIRN_API_JOBS_UNDEFINE_H
#define CAIRN_API_JOBS_UNDEFINE_H

struct call;
struct vm_host;

#define UNDEFINE_FILE "undefine.json"

/* Handle vm-undefine. Answers the call. */
void undefine_begin(struct call *c);

/* At the daemon's start, with all VMs there. */
void undefine_resume_pending(struct vm_host *host);

#endif
