/* cancel: ends the work when a signal asks for it. A wait of this process ends with EINTR; loops that read or list much
 * ask cancel_check().
 *
 * Threading: one thread. */
#ifndef CAIRN_TOOLS_ROOT_CANCEL_H
#define CAIRN_TOOLS_ROOT_CANCEL_H

#include <stdbool.h>

struct err;

/* Handle the signals that end a program. */
void cancel_begin(void);
/* Get SIGTERM when the process at the other end of a socket ends, which has to be the parent.
 * Returns false: it has ended already. */
bool cancel_with_parent(int sock);
/* Returns 0; -EINTR with a sentence: a signal came. */
int cancel_check(struct err *e);

#endif
