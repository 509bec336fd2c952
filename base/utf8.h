/* utf8: makes strings from untrusted sources safe to store, send and print. */
#ifndef CAIRN_BASE_UTF8_H
#define CAIRN_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode the code point at s, where s[0] >= 0x80. left: bytes available, at least 1. Sets *len to the bytes
 * used. A malformed sequence gives U+FFFD and a length of 1. */
uint32_t utf8_next(const unsigned char *s, size_t left, size_t *len);

/* Whether s is valid and has no control character: those below U+0020 and those from U+007F to U+009F. A terminal
 * obeys all of them. */
bool utf8_is_clean(const char *s);
/* Replace each invalid byte and each control character by '?', in place. Texts from a VM's process are
 * untrusted, and they end up in files and on terminals. */
void utf8_clean(char *s);

#endif
