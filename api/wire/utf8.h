/* text: strings from elsewhere, made fit to be kept, sent and shown. */
#ifndef CAIRN_API_WIRE_UTF8_H
#define CAIRN_API_WIRE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The code point that s[0] >= 0x80 begins; *len is set to the bytes it took. U+FFFD and 1
 * when malformed. left: bytes there are, at least 1. */
uint32_t utf8_next(const unsigned char *s, size_t left, size_t *len);

/* In place: bytes that are no UTF-8, and control characters, become '?'. A VM's process is
 * not to be trusted: what it says goes into files, and to terminals. */
void utf8_clean(char *s);

#endif
