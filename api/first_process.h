/* first_process: the first process of a container (PID 1) becomes the parent of processes whose own parent has ended,
 * and has to reap them. If cairnd is the first process, it does that, and a child of it is the daemon. */
#ifndef CAIRN_API_FIRST_PROCESS_H
#define CAIRN_API_FIRST_PROCESS_H

/* If this is the first process, fork: the child returns and becomes the daemon. This process passes signals on to it,
 * reaps all processes, and ends with the daemon's status. Call it before the process has threads. */
void first_process_stay(void);

#endif
