/* oom: the kernel's choice of a process to kill when memory runs out. */
#ifndef CAIRN_BASE_OOM_H
#define CAIRN_BASE_OOM_H

/* Drop the protection that the process has inherited from cairnd (OOMScoreAdjust= in cairnd.service), because the
 * process works for a user. A process without protection keeps its value. Errors are ignored. Takes no lock, so a
 * forked process may call it. */
void oom_protection_drop(void);

#endif
