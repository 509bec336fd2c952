/* uuid: a VM's or network's UUID, 16 bytes; all zeros stand for none. */
#ifndef CAIRN_BASE_UUID_H
#define CAIRN_BASE_UUID_H

#include <stdbool.h>
#include <stdint.h>

struct err;

#define UUID_BYTES 16
#define UUID_TEXT 37 /* size of a UUID as text, with the NUL */

bool uuid_is_set(const uint8_t uuid[UUID_BYTES]);
/* Set a random UUID (RFC 4122, section 4.4). Returns 0 or -errno. */
int uuid_make(uint8_t uuid[UUID_BYTES], struct err *e);
void uuid_print(const uint8_t uuid[UUID_BYTES], char text[UUID_TEXT]);
/* Parse a UUID, with or without dashes, in upper or lower case. Returns 0; -EINVAL. */
int uuid_parse(const char *text, uint8_t uuid[UUID_BYTES]);

#endif
