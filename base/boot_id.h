/* boot_id: tells one boot of the host from another. Any thread. */
#ifndef CAIRN_BASE_BOOT_ID_H
#define CAIRN_BASE_BOOT_ID_H

#include <stdbool.h>

#define BOOT_ID_TEXT 64

/* Read the random UUID of the host's boot. Returns false, with an empty text, if the kernel has none. */
bool boot_id_read(char id[BOOT_ID_TEXT]);

#endif
