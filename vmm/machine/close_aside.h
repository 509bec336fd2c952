/* close_aside: close a file on a thread of its own. close() can wait as long as the file system does not answer.
 * Any thread. */
#ifndef CAIRN_VMM_MACHINE_CLOSE_ASIDE_H
#define CAIRN_VMM_MACHINE_CLOSE_ASIDE_H

#include <stdbool.h>

/* Returns false if no thread can be made; then the file stays open. */
bool close_aside(int fd);

#endif
